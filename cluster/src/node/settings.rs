//! The settings that a node needs to take part in consensus. Text was made into these values by the configuration.
use crate::{facade::ClientListener, transport::PemPaths};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

#[derive(Debug, Clone)]
pub struct RaftSettings {
    /// Where log, state store and identity are.
    pub data_dir: PathBuf,
    /// Name of this node; its replacement after the loss of its disk comes under the same name.
    pub name: String,
    /// `cluster_advertise`: how others reach this node, `host:port`.
    pub advertise: String,
    /// `cluster_listener`. `None`: a node alone, which nobody can join.
    pub listen: Option<SocketAddr>,
    /// Where clients reach this node, for other nodes that hand theirs over.
    pub client_listeners: Vec<ClientListener>,
    /// `cluster_peer`: addresses of nodes of the cluster; this node's own may be among them.
    pub peers: Vec<String>,
    /// `cluster_allow`: names and hosts that may join besides those of `peers` and of members; `*` stands for any characters.
    pub allow: Vec<String>,
    /// `cluster_new`: without another peer this node forms a cluster of its own. Otherwise it waits to be added to one. Of a
    /// node that does not listen it is always so.
    pub found_alone: bool,
    /// `None`: `cluster_insecure true`.
    pub tls: Option<PemPaths>,
    /// The snapshot file, if it is to have a name of its own (`persistence_file` of a node alone).
    pub snapshot_path: Option<PathBuf>,
    pub persistence: Persistence,
    /// `cluster_commit_timeout`: how long a membership command of an operator waits for its majority.
    pub commit_timeout: Duration,
    /// A snapshot is made when the log has grown by so much since the last one, and by the size of that. Default 256 MiB.
    pub snapshot_log_bytes: u64,
    /// `autosave_interval`: at most so long between snapshots while there are changes.
    pub autosave_interval: Option<Duration>,
    /// `autosave_on_changes`: a snapshot once so many log entries came since the last one.
    pub autosave_entries: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    #[default]
    Disk,
    /// `persistence false` of a node alone: the same way through memory, gone at exit.
    Memory,
}

impl RaftSettings {
    /// A node alone on disk with default bounds.
    #[must_use]
    pub fn alone(data_dir: PathBuf, name: &str) -> Self {
        Self {
            data_dir,
            name: name.to_owned(),
            advertise: String::new(),
            listen: None,
            client_listeners: Vec::new(),
            peers: Vec::new(),
            allow: Vec::new(),
            found_alone: true,
            tls: None,
            snapshot_path: None,
            persistence: Persistence::Disk,
            commit_timeout: Duration::from_secs(10),
            snapshot_log_bytes: 256 << 20,
            autosave_interval: None,
            autosave_entries: None,
        }
    }

    /// The listed peers without this node, sorted.
    pub(crate) fn other_peers(&self) -> Vec<String> {
        let mut others: Vec<String> = self.peers.iter().filter(|peer| **peer != self.advertise).cloned().collect();
        others.sort();
        others.dedup();
        others
    }

    /// Everybody who forms the cluster, this node included, sorted: must be equal on all of them.
    pub(crate) fn forming_set(&self) -> Vec<String> {
        let mut all = self.other_peers();
        all.push(self.advertise.clone());
        all.sort();
        all
    }
}
