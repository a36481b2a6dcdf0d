//! Sessions whose connection's node is gone. All connections of an incarnation end with one entry of the log; what follows
//! from that for each session is seen to in steps.
//! Always true: from that entry on such a session counts as without a connection, whoever looks at it; intervals count
//! from that entry's time; wills are published in the order in which the connections were made. A session that a message
//! reaches before its turn leaves its connection then, so that what its queue notes is what it would have noted at once;
//! its will and its end wait for its turn (`unsettled`): they may reach others, who would bring up theirs in between.
//! A connection of the same client, and an operator's word about it, see to it first.
use super::{
    Effect, Owner, Session, SessionPlace, State,
    members::{Member, NodeIncarnation},
    publish::Barred,
};
use crate::ids::{Epoch, Incarnation, Millis, NodeId};
use mosquorum_proto::mqtt::TopicFilter;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub(super) struct Lost {
    /// Of a node, incarnations up to this one are over, since then. Listed while sessions are owned by them.
    pub(super) incarnations: BTreeMap<(NodeId, Incarnation), Millis>,
    /// Sessions that have left such a connection and that are still to be seen to ([`Session::is_unsettled`]).
    pub(super) unsettled: BTreeMap<Epoch, SessionPlace>,
    /// Lives that must be written again; past ones included.
    pub(super) unwritten: BTreeSet<(NodeId, Incarnation)>,
}

impl Lost {
    pub(super) fn is_empty(&self) -> bool {
        self.incarnations.is_empty() && self.unsettled.is_empty()
    }

    /// Since when the connection is over, if it is over with its node.
    fn since(&self, owner: &Owner) -> Option<Millis> {
        self.over_since(&(owner.node, owner.incarnation))
    }

    /// Since when the incarnation is over, while sessions note it as that of their connection.
    fn over_since(&self, (node, incarnation): &NodeIncarnation) -> Option<Millis> {
        if self.incarnations.is_empty() {
            return None;
        }
        let after = (*node, *incarnation)..=(*node, Incarnation(u64::MAX));
        self.incarnations.range(after).next().map(|(_, since)| *since)
    }
}

impl State {
    /// The session's connection, while there is one.
    #[must_use]
    pub fn connection_of(&self, session: &Session) -> Option<Owner> {
        session.owner.filter(|owner| self.lost.since(owner).is_none())
    }

    pub(super) fn is_over(&self, incarnation: &NodeIncarnation) -> bool {
        self.lost.over_since(incarnation).is_some()
    }

    /// The node's incarnations up to this one are over.
    pub(super) fn lose(&mut self, node: NodeId, upto: Incarnation, out: &mut Vec<Effect>) {
        if self.first_owned(node, upto).is_some() && !self.is_over(&(node, upto)) {
            self.lost.incarnations.insert((node, upto), self.time);
            self.lost.unwritten.insert((node, upto));
            self.route_changes.all_changed();
        }
        self.go_on_with_lost(out);
    }

    fn first_owned(&self, node: NodeId, upto: Incarnation) -> Option<(Epoch, SessionPlace)> {
        let incarnations = (node, Incarnation(0), Epoch(0))..=(node, upto, Epoch(u64::MAX));
        self.owned.range(incarnations).next().map(|((_, _, epoch), place)| (*epoch, *place))
    }

    /// One step of seeing to lost sessions.
    pub(super) fn go_on_with_lost(&mut self, out: &mut Vec<Effect>) {
        while self.steps.left() > 0
            && let Some(place) = self.next_lost()
        {
            // What its queue is to it is found out anew.
            self.steps.take(1 + self.sessions[place].queue.len() / 64);
            self.see_to_lost(place, out);
        }
    }

    /// Of the first incarnation that is over and of those that have left already, the session that connected first.
    fn next_lost(&mut self) -> Option<SessionPlace> {
        let mut owned = None;
        while let Some((incarnation, _)) = self.lost.incarnations.first_key_value() {
            let incarnation = *incarnation;
            owned = self.first_owned(incarnation.0, incarnation.1);
            if owned.is_some() {
                break;
            }
            self.lost.incarnations.remove(&incarnation);
            self.lost.unwritten.insert(incarnation);
        }
        let unsettled = self.lost.unsettled.first_key_value().map(|(epoch, place)| (*epoch, *place));
        owned.into_iter().chain(unsettled).min_by_key(|(epoch, _)| *epoch).map(|(_, place)| place)
    }

    /// The session is seen to now, if it has lost its connection with its node. It may end.
    pub(super) fn see_to_lost(&mut self, place: SessionPlace, out: &mut Vec<Effect>) {
        self.detach_lost(place);
        let epoch = self.sessions[place].epoch;
        if self.lost.unsettled.get(&epoch) == Some(&place) {
            self.lost.unsettled.remove(&epoch);
            self.settle(place, &[], out);
        }
    }

    /// If the session's connection is over with its node, it is without one from now on; whether it was over.
    pub(super) fn detach_lost(&mut self, place: SessionPlace) -> bool {
        let session = &self.sessions[place];
        let Some(since) = session.owner.and_then(|owner| self.lost.since(&owner)) else { return false };
        let (tail, epoch) = (session.queue.tail(), session.epoch);
        self.leave(place, tail, since);
        if self.sessions[place].is_unsettled() {
            self.lost.unsettled.insert(epoch, place);
        }
        true
    }

    /// Of shared groups, members that were chosen are replaced while their node is gone and others are there.
    pub(super) fn pass_over_lost(&mut self, barred: Barred<'_>) {
        if self.lost.incarnations.is_empty() {
            return;
        }
        let mut chosen = std::mem::take(&mut self.chosen);
        // One may have been chosen by several groups: whoever comes first has it leave its connection.
        let mut left = BTreeSet::new();
        for (member, extra) in &mut chosen {
            if let Some(group) = extra.group.clone() {
                *member = self.member_here(*member, &group, barred, &mut left);
            }
        }
        self.chosen = chosen;
    }

    /// As [`State::pass_over_lost`], for one group and at most [`super::steps::Steps::little`] members. Notes who has `left`.
    pub(super) fn member_here(
        &mut self,
        mut member: Member,
        group: &TopicFilter,
        barred: Barred<'_>,
        left: &mut BTreeSet<SessionPlace>,
    ) -> Member {
        for _ in 0..self.steps.little().max(1) {
            if self.detach_lost(member.session) {
                left.insert(member.session);
            }
            if !left.contains(&member.session) || self.sessions[member.session].takes_turns() {
                break;
            }
            self.steps.take(1);
            let Some((next, _)) = self.groups.choose_of(group, (barred, &self.sessions)) else { break };
            member = next;
        }
        member
    }
}
