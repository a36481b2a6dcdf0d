//! What a chaos run does to a cluster besides killing and stopping its processes: links, clocks, disks and membership.
//! Not here: which fault comes when (`chaos`).
use super::{Cluster, Cut, configuration::node_name, network::Namespaces};
use std::{io, path::Path};

/// The variable that names a node's clock file to the test build.
pub(super) const CLOCK_VARIABLE: &str = "MOSQUORUM_CLOCK_FILE";

/// The test build reads its clock file at least so often.
pub const CLOCK_READ_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

impl Cluster {
    /// Cuts the links between `nodes` and all other nodes; clients still reach them.
    /// # Errors
    /// When the nodes have no namespaces or nft fails.
    pub fn partition(&self, nodes: &[usize]) -> io::Result<Cut> {
        self.network()?.partition(nodes)
    }

    /// Cuts the link between two nodes, both ways.
    /// # Errors
    /// When the nodes have no namespaces or nft fails.
    pub fn cut_pair(&self, a: usize, b: usize) -> io::Result<Cut> {
        self.network()?.cut_pair(a, b)
    }

    /// Loses what one node sends to another, not what the other sends.
    /// # Errors
    /// When the nodes have no namespaces or nft fails.
    pub fn cut_one_way(&self, from: usize, to: usize) -> io::Result<Cut> {
        self.network()?.cut_one_way(from, to)
    }

    /// Loses so many percent of the packets between a node and the other nodes; none of its clients'.
    /// # Errors
    /// When the nodes have no namespaces or nft fails.
    pub fn lose(&self, node: usize, percent: u32) -> io::Result<Cut> {
        self.network()?.lose(node, percent)
    }

    /// Takes one cut back; returns how many packets it dropped.
    /// # Errors
    /// When nft fails.
    pub fn heal_cut(&self, cut: Cut) -> io::Result<u64> {
        self.network()?.heal_cut(cut)
    }

    /// Takes every cut back; returns how many packets were dropped.
    /// # Errors
    /// When nft fails.
    pub fn heal(&self) -> io::Result<u64> {
        self.namespaces.as_ref().map_or(Ok(0), Namespaces::heal)
    }

    fn network(&self) -> io::Result<&Namespaces> {
        self.namespaces.as_ref().ok_or_else(|| io::Error::other("nodes without namespaces"))
    }

    /// Puts a node's wall clock so many milliseconds off, and lets its clocks run so many millionths faster. The node
    /// knows within [`CLOCK_READ_EVERY`]; it stays so over restarts.
    /// # Errors
    /// When the cluster's clocks cannot be set or the file cannot be written.
    pub fn set_clock(&self, node: usize, offset_ms: i64, ppm: i32) -> io::Result<()> {
        let file = self.nodes[node].clock.as_ref().ok_or_else(|| io::Error::other("nodes without clock files"))?;
        write_clock(file, offset_ms, ppm)
    }

    /// The disk of a node is lost: kill -9, and its data folder is empty. False if it did not run. Started again it
    /// joins as a new node.
    /// # Errors
    /// When a file cannot be removed.
    pub fn wipe(&mut self, node: usize) -> io::Result<bool> {
        let ran = self.kill(node);
        for entry in std::fs::read_dir(&self.nodes[node].folder)? {
            let path = entry?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        Ok(ran)
    }

    /// How many nodes vote, as a node reports; `None` if it does not answer.
    pub async fn voters(&self, node: usize) -> Option<usize> {
        let status = self.status(node).await?;
        Some(status["members"].as_array()?.iter().filter(|member| member["voter"] == true).count())
    }

    /// The command that takes a node out of the cluster, through another node. Needs nothing of the cluster while it
    /// runs, so faults go on meanwhile. A node that was removed runs on, serves nobody and never again belongs to the
    /// cluster, unless it is added again and its folder is emptied.
    #[must_use]
    pub fn removal(&self, node: usize, through: usize) -> tokio::process::Command {
        self.mosquorum(through, &format!("cluster remove {} --drain 1", node_name(node)))
    }

    /// The command that lets a node that was removed join again, through another node. It waits for the node to join, if
    /// that runs; if not, its name is noted all the same.
    #[must_use]
    pub fn addition(&self, node: usize, through: usize) -> tokio::process::Command {
        self.mosquorum(through, &format!("cluster add {} {}", node_name(node), self.cluster_address(node)))
    }
}

/// By a rename: the broker never reads half of it.
pub(super) fn write_clock(file: &Path, offset_ms: i64, ppm: i32) -> io::Result<()> {
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, format!("{offset_ms} {ppm}"))?;
    std::fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{ClusterOptions, binary};

    /// No broker is started: any program will do.
    fn prepared(options: ClusterOptions) -> Cluster {
        let mut options = options;
        options.binary = Some("/bin/true".into());
        Cluster::prepare(options).expect("files are made")
    }

    #[test]
    fn every_node_has_a_clock_of_its_own() {
        let options = ClusterOptions::new("clocks", 2).clocks();
        assert_eq!(options.build, binary::Build::Faults);
        let cluster = prepared(options);
        cluster.set_clock(1, -2_592_000_000, 500).expect("the file is written");
        let text = |node: usize| {
            let environment = cluster.environment(node);
            let file = environment.into_iter().find(|(key, _)| key == CLOCK_VARIABLE).expect("it is set").1;
            std::fs::read_to_string(file).expect("the file is there")
        };
        assert_eq!((text(0).as_str(), text(1).as_str()), ("0 0", "-2592000000 500"));
        assert!(prepared(ClusterOptions::new("no-clocks", 2)).set_clock(0, 1, 0).is_err());
    }

    #[test]
    fn wiping_leaves_an_empty_folder() {
        let mut cluster = prepared(ClusterOptions::new("wipe", 2));
        let folder = cluster.data_folder(0).to_path_buf();
        std::fs::create_dir(folder.join("log")).expect("a folder");
        std::fs::write(folder.join("log/1"), "x").expect("a file");
        std::fs::write(folder.join("lock"), "").expect("a file");
        assert!(!cluster.wipe(0).expect("files are removed"), "it did not run");
        assert_eq!(std::fs::read_dir(folder).expect("the folder is there").count(), 0);
    }
}
