//! The end of what the state knows of a node that was taken out of the cluster.
//! Always true: a node that did not hand its clients over keeps its sessions until no lease of its can last, since it may
//! serve on as long as that: a lease counts grants of voters that did not know of its removal, and after the commit
//! these are no majority any more. Whoever leads sees to it, so a change of the leader forgets nothing.
use crate::{ids::NodeId, live::lease::LeaseTimes, node::shared::NodeParts, raft::Engine, state::Command};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) async fn run(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaving = Leaving::default();
    while engine.view().stopped.is_none() {
        every.tick().await;
        if !engine.is_leader() {
            leaving = Leaving::default();
            continue;
        }
        // In this order: a node of the state is a member before.
        let (_, membership) = engine.replica.applied();
        let known = shared.state.read().nodes().map(|(node, _)| node).collect::<BTreeSet<_>>();
        let gone = known.into_iter().filter(|node| !membership.record.nodes.contains_key(&node.0));
        for node in leaving.due(gone.collect(), Instant::now()) {
            now(&shared, node);
        }
    }
}

/// Proposes it: nothing of the node goes on.
pub(crate) fn now(shared: &NodeParts, node: NodeId) {
    shared.proposer.propose(Command::NodeRemoved { node });
}

/// Nodes that are no members any more, and since when this leader knows.
#[derive(Default)]
struct Leaving(BTreeMap<NodeId, Instant>);

impl Leaving {
    /// Those whose leases are over. Named again later, should the proposal be lost.
    fn due(&mut self, gone: BTreeSet<NodeId>, now: Instant) -> Vec<NodeId> {
        self.0.retain(|node, _| gone.contains(node));
        let quiet = LeaseTimes::default().quiet();
        let mut due = Vec::new();
        for node in gone {
            let since = self.0.entry(node).or_insert(now);
            if now.duration_since(*since) >= quiet {
                *since = now;
                due.push(node);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_forgotten_when_no_lease_of_its_can_last() {
        let (mut leaving, quiet, begin) = (Leaving::default(), LeaseTimes::default().quiet(), Instant::now());
        let gone = |nodes: &[u64]| nodes.iter().map(|node| NodeId(*node)).collect::<BTreeSet<_>>();
        let millisecond = Duration::from_millis(1);
        assert!(leaving.due(gone(&[2]), begin).is_empty());
        assert!(leaving.due(gone(&[2, 3]), begin + quiet - millisecond).is_empty());
        assert_eq!(leaving.due(gone(&[2, 3]), begin + quiet), [NodeId(2)]);
        assert!(leaving.due(gone(&[3]), begin + quiet + millisecond).is_empty());
        // Under the same number only after a change of the leader, and then from the beginning.
        assert_eq!(leaving.due(gone(&[2, 3]), begin + 2 * quiet), [NodeId(3)]);
    }
}
