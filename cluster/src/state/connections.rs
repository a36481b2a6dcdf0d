//! Which sessions have a connection where, and which of these connections are over with their node.
//! Always true: a session is listed as owned as long as it notes an owner; incarnations that are over are listed as long as
//! sessions are owned by them.
//! Not here: what follows from a lost connection (`lost`).
use super::{Owner, Session, members::NodeIncarnation, sessions::SessionPlace};
use crate::ids::{Epoch, Incarnation, Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub(super) struct Connections {
    /// Sessions that note a connection, by where it is and in the order in which they were made.
    owned: BTreeMap<(NodeId, Incarnation, Epoch), SessionPlace>,
    /// Of a node, incarnations up to this one are over, since then.
    over: BTreeMap<NodeIncarnation, Millis>,
    /// Sessions that have left such a connection and that are still to be seen to ([`Session::is_unsettled`]).
    unsettled: BTreeMap<Epoch, SessionPlace>,
    /// Lives that must be written again; past ones included.
    unwritten: BTreeSet<NodeIncarnation>,
}

impl Connections {
    pub(super) fn add(&mut self, owner: &Owner, epoch: Epoch, place: SessionPlace) {
        self.owned.insert((owner.node, owner.incarnation, epoch), place);
    }

    pub(super) fn remove(&mut self, owner: &Owner, epoch: Epoch) {
        self.owned.remove(&(owner.node, owner.incarnation, epoch));
    }

    pub(super) fn len(&self) -> usize {
        self.owned.len()
    }

    /// The session's connection, while there is one.
    #[inline]
    pub(super) fn of(&self, session: &Session) -> Option<Owner> {
        session.owner().filter(|owner| self.lost_since(owner).is_none())
    }

    /// Whether this is the session of the connection of `epoch`.
    pub(super) fn is_owned(&self, session: &Session, epoch: Epoch) -> bool {
        session.epoch() == epoch && self.of(session).is_some()
    }

    /// Since when the connection is over, if it is over with its node.
    #[inline]
    pub(super) fn lost_since(&self, owner: &Owner) -> Option<Millis> {
        self.over_since(&(owner.node, owner.incarnation))
    }

    pub(super) fn is_over(&self, incarnation: &NodeIncarnation) -> bool {
        self.over_since(incarnation).is_some()
    }

    /// Since when the incarnation is over, while sessions note it as that of their connection.
    #[inline]
    fn over_since(&self, (node, incarnation): &NodeIncarnation) -> Option<Millis> {
        if self.over.is_empty() {
            return None;
        }
        let after = (*node, *incarnation)..=(*node, Incarnation(u64::MAX));
        self.over.range(after).next().map(|(_, since)| *since)
    }

    fn first_owned(&self, node: NodeId, upto: Incarnation) -> Option<(Epoch, SessionPlace)> {
        let incarnations = (node, Incarnation(0), Epoch(0))..=(node, upto, Epoch(u64::MAX));
        self.owned.range(incarnations).next().map(|((_, _, epoch), place)| (*epoch, *place))
    }

    /// Whether sessions are listed that have lost their connection, or might.
    pub(super) fn any_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// Whether sessions are still to be seen to.
    pub(super) fn has_work(&self) -> bool {
        !self.over.is_empty() || !self.unsettled.is_empty()
    }

    /// The node's incarnations up to this one are over. Whether that changes anything for a session.
    pub(super) fn lose(&mut self, node: NodeId, upto: Incarnation, now: Millis) -> bool {
        if self.first_owned(node, upto).is_none() || self.is_over(&(node, upto)) {
            return false;
        }
        self.over.insert((node, upto), now);
        self.unwritten.insert((node, upto));
        true
    }

    /// Of the first incarnation that is over and of those that have left already, the session that connected first.
    pub(super) fn next_lost(&mut self) -> Option<SessionPlace> {
        let mut owned = None;
        while let Some((incarnation, _)) = self.over.first_key_value() {
            let incarnation = *incarnation;
            owned = self.first_owned(incarnation.0, incarnation.1);
            if owned.is_some() {
                break;
            }
            self.over.remove(&incarnation);
            self.unwritten.insert(incarnation);
        }
        let unsettled = self.unsettled.first_key_value().map(|(epoch, place)| (*epoch, *place));
        owned.into_iter().chain(unsettled).min_by_key(|(epoch, _)| *epoch).map(|(_, place)| place)
    }

    /// The session of this epoch has left, and its turn is still to come.
    pub(super) fn note_unsettled(&mut self, epoch: Epoch, place: SessionPlace) {
        self.unsettled.insert(epoch, place);
    }

    /// Its turn has come; whether it was still to come.
    pub(super) fn take_unsettled(&mut self, epoch: Epoch, place: SessionPlace) -> bool {
        let is_listed = self.unsettled.get(&epoch) == Some(&place);
        if is_listed {
            self.unsettled.remove(&epoch);
        }
        is_listed
    }

    #[cfg(test)]
    pub(super) fn is_unsettled(&self, epoch: Epoch, place: SessionPlace) -> bool {
        self.unsettled.get(&epoch) == Some(&place)
    }

    #[cfg(test)]
    pub(super) fn place_of(&self, owner: &Owner, epoch: Epoch) -> Option<SessionPlace> {
        self.owned.get(&(owner.node, owner.incarnation, epoch)).copied()
    }
}

/// The durable form.
impl Connections {
    pub(super) fn restore_over(&mut self, incarnation: NodeIncarnation, since: Millis) {
        self.over.insert(incarnation, since);
    }

    /// Incarnations that are over, since when.
    pub(super) fn over(&self) -> impl Iterator<Item = (NodeIncarnation, Millis)> {
        self.over.iter().map(|(incarnation, since)| (*incarnation, *since))
    }

    /// What must be written again; `None`: it is no longer listed.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (NodeIncarnation, Option<Millis>)> {
        let over = &self.over;
        std::mem::take(&mut self.unwritten)
            .into_iter()
            .map(|incarnation| (incarnation, over.get(&incarnation).copied()))
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }
}
