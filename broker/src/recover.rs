//! `mosquorum recover`: what a survivor of a lost majority has, and making it a cluster of its own.
//! Always true: without `--force-new-cluster` nothing is decided; what may be lost is said before and after.
use crate::{config::Settings, persistent};
use mosquorum_cluster::recover::{Survivor, recover};

/// The text for the operator.
/// # Errors
/// One line: why it cannot be done, or, without `force`, everything that has to be known first.
pub fn run(settings: &Settings, force: bool) -> Result<String, String> {
    if settings.cluster.links.is_none() {
        return Err(
            "Error: the configuration file has no cluster_listener: recover is for nodes of a cluster.".to_owned()
        );
    }
    let survivor = recover(&persistent::raft_settings(settings), force).map_err(|error| format!("Error: {error}"))?;
    if survivor.made.is_some() { Ok(report(&survivor)) } else { Err(report(&survivor)) }
}

fn report(survivor: &Survivor) -> String {
    let Survivor { name, node, last: (term, index), committed, sessions, retained, .. } = survivor;
    let hex = |id: &[u8; 16]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let others: Vec<String> = survivor.others.iter().map(|(node, name)| format!("{name} (n{node})")).collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    let mut text = format!(
        "node {name} (n{node}) of cluster {}\n\
         its log ends with entry {index} of term {term}; it knows entries up to {committed} as committed\n\
         it has {sessions} sessions and {retained} retained messages; other members: {others}\n\
         lost: whatever other members acknowledged that is not in this log. Of several survivors take the one whose\n\
         log ends with the highest term, and of those with the highest entry.\n",
        hex(&survivor.cluster)
    );
    match &survivor.made {
        Some(made) => text.push_str(&format!(
            "done: it is now the only member of the new cluster {}. Start it. Never start another member of the old\n\
             cluster with its old data: move its data directory away, and it joins the new cluster.",
            hex(made)
        )),
        None => text.push_str(
            "nothing of the cluster was changed. If the majority is lost for good, and no other member runs or will ever be started\n\
             with its old data, repeat this with --force-new-cluster.",
        ),
    }
    text
}
