//! What applying an entry tells the broker of this node.
//! Always true: effects never decide anything about the state, so a node may leave out those of others.
use super::{Effect, Message};
use crate::ids::NodeId;
use mosquorum_proto::mqtt::TopicFilter;
use std::sync::Arc;

/// Those of the entry that is being applied.
pub(super) struct Effects<'a> {
    list: &'a mut Vec<Effect>,
    /// Of those that concern one node only, this one's alone are wanted.
    only_for: Option<NodeId>,
    /// Where the entry comes from.
    origin: NodeId,
}

impl<'a> Effects<'a> {
    pub(super) fn new(list: &'a mut Vec<Effect>, only_for: Option<NodeId>, origin: NodeId) -> Self {
        Self { list, only_for, origin }
    }

    /// Whether what concerns this node alone is wanted.
    #[inline]
    pub(super) fn are_for(&self, node: NodeId) -> bool {
        self.only_for.is_none_or(|this| this == node)
    }

    /// Adds an effect unless it concerns another node only.
    #[inline]
    pub(super) fn add(&mut self, effect: Effect) {
        let wanted = match &effect {
            Effect::QueueGrew { owner } | Effect::DeliverNow { owner, .. } => self.are_for(owner.node),
            Effect::ChooseAgain { node, .. } => self.are_for(*node),
            _ => true,
        };
        if wanted {
            self.list.push(effect);
        }
    }

    /// The node that the entry comes from is to choose another member.
    pub(super) fn choose_again(&mut self, message: &Arc<Message>, group: &TopicFilter) {
        let (node, message, group) = (self.origin, message.clone(), group.clone());
        self.add(Effect::ChooseAgain { node, message, group });
    }
}
