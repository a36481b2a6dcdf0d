//! Nodes that come, go down and leave.
//! Always true: when an incarnation is over, no session is owned by it; such sessions end uncleanly at that entry's time.
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
        self.close_all(|owner| owner.node == node && owner.incarnation < incarnation, out);
        self.version += 1;
        out.push(Effect::NodeChanged { node, incarnation, up: true });
        Outcome::Done
    }

    pub(super) fn node_down(&mut self, node: NodeId, incarnation: Incarnation, out: &mut Vec<Effect>) -> Outcome {
        let changed = self.nodes.set_down(node, incarnation);
        self.close_all(|owner| owner.node == node && owner.incarnation <= incarnation, out);
        if changed {
            self.version += 1;
            out.push(Effect::NodeChanged { node, incarnation, up: false });
        }
        Outcome::Done
    }

    /// What remains is the fact that the node is gone, since its identifier is never used again.
    pub(super) fn node_removed(&mut self, node: NodeId, out: &mut Vec<Effect>) -> Outcome {
        let record = self.nodes.change(node);
        let was_serving = record.standing == Standing::Serving;
        let incarnation = record.incarnation;
        *record = NodeRecord { incarnation, standing: Standing::Removed, ..NodeRecord::default() };
        self.close_all(|owner| owner.node == node, out);
        self.version += 1;
        if was_serving {
            out.push(Effect::NodeChanged { node, incarnation, up: false });
        }
        Outcome::Done
    }

    /// The incarnation under which a node serves, if it does.
    #[must_use]
    pub fn serving(&self, node: NodeId) -> Option<Incarnation> {
        let record = self.nodes.records.get(&node)?;
        (record.standing == Standing::Serving).then_some(record.incarnation)
    }

    /// All nodes that ever sent a batch and were not removed.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        let records = self.nodes.records.iter().filter(|(_, record)| record.standing != Standing::Removed);
        records.map(|(node, record)| (*node, record))
    }
}
