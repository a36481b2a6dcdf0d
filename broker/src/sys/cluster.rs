//! `$SYS/broker/cluster/...`: how the cluster looks from this node.
use mosquorum_cluster::{ClusterStatus, ids::NodeId, state::Counters};
use std::time::Duration;

/// Names below `$SYS/broker/cluster/`, and their texts. `commit`: what commits of
/// this node's proposals took lately, `None` before the first.
pub(super) fn texts(
    status: &ClusterStatus,
    available: bool,
    commit: Option<Duration>,
    drops: &Counters,
) -> Vec<(String, String)> {
    let name_of = |node: NodeId| status.members.iter().find(|member| member.node == node).map(|member| &*member.name);
    let leader = status.leader.and_then(name_of).unwrap_or_default();
    let voters = status.members.iter().filter(|member| member.voter).count();
    let mut texts: Vec<(String, String)> = [
        ("name", status.name.clone()),
        ("state", state(status).to_owned()),
        ("leader", leader.to_owned()),
        ("available", u8::from(available).to_string()),
        ("term", status.term.to_string()),
        ("log/committed", status.commit.0.to_string()),
        ("log/applied", status.applied.0.to_string()),
        ("log/snapshot", status.snapshot.0.to_string()),
        ("members/count", status.members.len().to_string()),
        ("members/voters", voters.to_string()),
        ("drops/queue_full", drops.dropped_queue_full.to_string()),
        ("drops/queue_bytes", drops.dropped_queue_bytes.to_string()),
        ("drops/expired", drops.dropped_expired.to_string()),
        ("drops/session_ended", drops.dropped_session_ended.to_string()),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into();
    if let Some(took) = commit {
        texts.push(("latency/milliseconds".to_owned(), format!("{:.3}", took.as_secs_f64() * 1000.0)));
    }
    for member in &status.members {
        let role = if member.voter { "voter" } else { "learner" };
        let lag = member.lag.map_or_else(String::new, |lag| format!(", {lag} entries behind"));
        texts.push((format!("members/{}", member.name), format!("{role} at {}{lag}", member.address)));
    }
    texts
}

fn state(status: &ClusterStatus) -> &'static str {
    let is_voter = || status.members.iter().any(|member| member.node == status.node && member.voter);
    match status.leader {
        Some(leader) if leader == status.node => "leader",
        None => "no leader",
        Some(_) if is_voter() => "follower",
        Some(_) => "learner",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_cluster::MemberStatus;

    fn status(node: u64, leader: Option<u64>) -> ClusterStatus {
        let member = |node: u64, voter| MemberStatus {
            node: NodeId(node),
            name: format!("node-{node}"),
            address: format!("host-{node}:1"),
            voter,
            lag: None,
        };
        ClusterStatus {
            node: NodeId(node),
            name: format!("node-{node}"),
            leader: leader.map(NodeId),
            members: vec![member(1, true), member(2, true), member(3, false)],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn a_node_says_what_it_is_and_who_leads() {
        let text = |node, leader, name: &str| {
            let texts = texts(&status(node, leader), true, None, &Counters::default());
            texts.into_iter().find(|(known, _)| known == name).map(|(_, text)| text)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(text(1, Some(1), "state"), some("leader"));
        assert_eq!(text(2, Some(1), "state"), some("follower"));
        assert_eq!(text(3, Some(1), "state"), some("learner"));
        assert_eq!(text(2, None, "state"), some("no leader"));
        assert_eq!(text(2, Some(1), "leader"), some("node-1"));
        assert_eq!(text(2, Some(1), "members/node-3"), some("learner at host-3:1"));
        assert_eq!(text(2, Some(1), "latency/milliseconds"), None);
    }
}
