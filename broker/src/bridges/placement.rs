//! Which node runs a bridge.
//! Always true: nodes that see the same set of serving nodes agree, and bridges are spread over them; when the set
//! changes, only the bridges of the node that left or came move. This decides who tries; that only one succeeds is
//! kept by the claim on the bridge's local client identifier.
use crate::broker::Broker;
use mosquorum_cluster::{fnv::fnv1a, ids::NodeId};

pub(super) fn is_here(broker: &Broker, name: &str) -> bool {
    if broker.drain.is_on() || !broker.consensus.available() || !broker.peers.ready() || !broker.peers.may_serve() {
        return false;
    }
    !is_elsewhere(broker, name)
}

/// Whether another node should run it. A node that does not know stays with what it has; one that hands its clients over
/// does not count.
pub(super) fn is_elsewhere(broker: &Broker, name: &str) -> bool {
    if !broker.clustered {
        return false;
    }
    let own = broker.consensus.origin().node;
    let state = broker.consensus.state().read();
    let serving = state.nodes().map(|(node, _)| node).filter(|node| state.takes_bridges(*node));
    preferred(name, serving).is_some_and(|node| node != own)
}

/// The highest of all (bridge, node) hashes.
fn preferred(name: &str, nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    nodes.max_by_key(|node| (weight(name, *node), node.0))
}

/// FNV-1a with a final mix: the same on every node and in every version.
fn weight(name: &str, node: NodeId) -> u64 {
    let hash = fnv1a(name.bytes().chain(node.0.to_string().into_bytes()));
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_are_spread_and_only_those_of_a_node_that_left_move() {
        let names: Vec<String> = (0..300).map(|i| format!("bridge-{i}")).collect();
        let among = |nodes: &[u64]| -> Vec<u64> {
            let nodes = || nodes.iter().map(|n| NodeId(*n));
            names.iter().map(|name| preferred(name, nodes()).unwrap().0).collect()
        };
        let (all, without) = (among(&[1, 2, 3]), among(&[1, 3]));
        for node in [1, 2, 3] {
            let count = all.iter().filter(|n| **n == node).count();
            assert!((60..=140).contains(&count), "node {node} has {count}");
        }
        assert!(all.iter().zip(&without).all(|(before, after)| before == after || *before == 2));
    }
}
