//! Nodes that come, go down and leave.
//! Always true: when an incarnation is over, its connections are (`lost`); they end uncleanly at that entry's time.
use super::{
    Effect, Origin, Outcome, State,
    nodes::{NodeRecord, Standing},
};
use crate::ids::{Incarnation, NodeId};
use mosquorum_proto::mqtt::Utf8;

impl State {
    pub(super) fn node_up(&mut self, origin: Origin, name: &Utf8, out: &mut Vec<Effect>) -> Outcome {
        let Origin { node, incarnation } = origin;
        let record = self.nodes.change(node);
        record.name = name.clone();
        record.standing = Standing::Serving;
        if let Some(before) = incarnation.0.checked_sub(1) {
            self.lose(node, Incarnation(before), out);
        }
        self.route_changes.all_changed();
        out.push(Effect::NodeChanged { node, incarnation, up: true });
        Outcome::Done
    }

    /// Until it says that it stays, or its incarnation ends.
    pub(super) fn node_draining(&mut self, node: NodeId) -> Outcome {
        if self.takes_bridges(node) {
            self.nodes.change(node).standing = Standing::Draining;
        }
        Outcome::Done
    }

    pub(super) fn node_stays(&mut self, node: NodeId) -> Outcome {
        if self.nodes.records.get(&node).is_some_and(|record| record.standing == Standing::Draining) {
            self.nodes.change(node).standing = Standing::Serving;
        }
        Outcome::Done
    }

    pub(super) fn node_down(&mut self, node: NodeId, incarnation: Incarnation, out: &mut Vec<Effect>) -> Outcome {
        let changed = self.nodes.set_down(node, incarnation);
        self.lose(node, incarnation, out);
        if changed {
            self.route_changes.all_changed();
            out.push(Effect::NodeChanged { node, incarnation, up: false });
        }
        Outcome::Done
    }

    /// What remains is the fact that the node is gone, since its identifier is never used again, and its name for operators.
    pub(super) fn node_removed(&mut self, node: NodeId, out: &mut Vec<Effect>) -> Outcome {
        let record = self.nodes.change(node);
        let was_serving = record.standing.is_serving();
        let incarnation = record.incarnation;
        let name = std::mem::take(&mut record.name);
        *record = NodeRecord { name, incarnation, standing: Standing::Removed, ..NodeRecord::default() };
        self.lose(node, Incarnation(u64::MAX), out);
        self.route_changes.all_changed();
        if was_serving {
            out.push(Effect::NodeChanged { node, incarnation, up: false });
        }
        Outcome::Done
    }

    /// The incarnation under which a node serves, if it does.
    #[must_use]
    pub fn serving(&self, node: NodeId) -> Option<Incarnation> {
        let record = self.nodes.records.get(&node)?;
        record.standing.is_serving().then_some(record.incarnation)
    }

    /// Whether the node serves and means to go on: bridges, and clients of other nodes, may go there.
    #[must_use]
    pub fn takes_bridges(&self, node: NodeId) -> bool {
        self.nodes.records.get(&node).is_some_and(|record| record.standing == Standing::Serving)
    }

    /// Nodes that left for good, the last one first.
    pub fn removed(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        let records = self.nodes.records.iter().rev().filter(|(_, record)| record.standing == Standing::Removed);
        records.map(|(node, record)| (*node, record))
    }

    /// All nodes that ever sent a batch and were not removed.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        let records = self.nodes.records.iter().filter(|(_, record)| record.standing != Standing::Removed);
        records.map(|(node, record)| (*node, record))
    }
}
