//! Nodes that come, go down and leave.
//! Always true: when an incarnation is over, its connections are (`lost`); they end uncleanly at that entry's time.
use super::{Effect, Origin, connect::SessionHandler, effects::Effects, nodes::Nodes};
use crate::ids::{Incarnation, NodeId};
use mosquorum_proto::mqtt::Utf8;

/// Changes who serves, and what that means for sessions.
pub(super) struct NodeHandler<'a> {
    nodes: &'a mut Nodes,
    sessions: SessionHandler<'a>,
}

impl<'a> NodeHandler<'a> {
    pub(super) fn new(nodes: &'a mut Nodes, sessions: SessionHandler<'a>) -> Self {
        Self { nodes, sessions }
    }

    pub(super) fn nodes(&mut self) -> &mut Nodes {
        self.nodes
    }

    pub(super) fn sessions(&mut self) -> &mut SessionHandler<'a> {
        &mut self.sessions
    }

    pub(super) fn node_up(&mut self, origin: Origin, name: &Utf8, out: &mut Effects<'_>) {
        let Origin { node, incarnation } = origin;
        self.nodes.set_serving(node, name);
        if let Some(before) = incarnation.0.checked_sub(1) {
            self.sessions.lose(node, Incarnation(before), out);
        }
        self.sessions.routing().note_all_changed();
        out.add(Effect::NodeChanged { node, incarnation, up: true });
    }

    pub(super) fn node_down(&mut self, node: NodeId, incarnation: Incarnation, out: &mut Effects<'_>) {
        let changed = self.nodes.set_down(node, incarnation);
        self.sessions.lose(node, incarnation, out);
        if changed {
            self.sessions.routing().note_all_changed();
            out.add(Effect::NodeChanged { node, incarnation, up: false });
        }
    }

    pub(super) fn node_removed(&mut self, node: NodeId, out: &mut Effects<'_>) {
        let (incarnation, was_serving) = self.nodes.set_removed(node);
        self.sessions.lose(node, Incarnation(u64::MAX), out);
        self.sessions.routing().note_all_changed();
        if was_serving {
            out.add(Effect::NodeChanged { node, incarnation, up: false });
        }
    }
}

impl Nodes {
    /// The incarnation under which a node serves, if it does.
    pub(super) fn serving(&self, node: NodeId) -> Option<Incarnation> {
        let record = self.get(node)?;
        record.standing.is_serving().then_some(record.incarnation)
    }
}
