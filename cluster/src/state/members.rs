//! The durable members of one shared group, and what publishers must know of them without a look at each.
//! Always true: counts and lists are those that a walk over the members would find.
use super::{
    session::{Options, Session},
    sessions::SessionPlace,
};
use crate::ids::{Incarnation, NodeId};
use mosquorum_proto::mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};

/// One incarnation of a node.
pub(super) type NodeIncarnation = (NodeId, Incarnation);

#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) session: SessionPlace,
    pub(super) options: Options,
    presence: Presence,
}

/// What a member's session is to its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Presence {
    /// Where it is connected, as far as the session notes.
    incarnation: Option<NodeIncarnation>,
    /// It takes turns without a connection, too.
    offline: bool,
    /// QoS 0 messages are raised to the QoS of its subscription.
    raises: bool,
    /// It keeps QoS 0 messages while it is away.
    keeps: bool,
}

impl Presence {
    pub(super) fn of(session: &Session) -> Self {
        let limits = session.limits();
        Self {
            incarnation: session.owner().map(|owner| (owner.node, owner.incarnation)),
            offline: limits.shared_offline,
            raises: limits.upgrade_qos,
            keeps: limits.queue_qos0,
        }
    }

    pub(super) fn takes_turns(&self) -> bool {
        self.incarnation.is_some() || self.offline
    }
}

/// How many members are what, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    offline: usize,
    raises: usize,
    keeps: usize,
}

impl Counts {
    fn count(&mut self, member: &Member, change: impl Fn(&mut usize)) {
        let Presence { offline, raises, keeps, .. } = member.presence;
        let counted = [
            (offline, &mut self.offline),
            (raises && member.options.qos != QoS::AtMostOnce, &mut self.raises),
            (keeps, &mut self.keeps),
        ];
        counted.into_iter().filter(|(is_one, _)| *is_one).for_each(|(_, number)| change(number));
    }
}

/// Members whose sessions note the same incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Connected {
    /// Ascending. A list, since one is looked up by its place in it.
    members: Vec<u64>,
    counts: Counts,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    /// By the time of subscription, which no two members share.
    all: BTreeMap<u64, Member>,
    /// Those that take turns now ([`Session::takes_turns`]).
    ready: BTreeSet<u64>,
    counts: Counts,
    connected: BTreeMap<NodeIncarnation, Connected>,
}

/// What publishers must know of a group's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupStanding {
    pub members: usize,
    /// Those that take turns now.
    pub ready: usize,
    /// A member keeps QoS 0 messages, or gets them with a higher QoS.
    pub queues_qos0: bool,
    /// How many are connected to which node.
    pub connected: Vec<(NodeId, usize)>,
}

impl Members {
    /// Whether it is one more.
    pub(super) fn insert(&mut self, since: u64, session: SessionPlace, options: Options, presence: Presence) -> bool {
        let known = self.remove(since);
        let member = Member { session, options, presence };
        self.all.insert(since, member);
        if presence.takes_turns() {
            self.ready.insert(since);
        }
        self.counts.count(&member, |number| *number += 1);
        if let Some(incarnation) = presence.incarnation {
            let connected = self.connected.entry(incarnation).or_default();
            connected.counts.count(&member, |number| *number += 1);
            if let Err(place) = connected.members.binary_search(&since) {
                connected.members.insert(place, since);
            }
        }
        !known
    }

    /// Whether it was one.
    pub(super) fn remove(&mut self, since: u64) -> bool {
        let Some(member) = self.all.remove(&since) else { return false };
        self.ready.remove(&since);
        self.counts.count(&member, |number| *number -= 1);
        if let Some(incarnation) = member.presence.incarnation
            && let Some(connected) = self.connected.get_mut(&incarnation)
        {
            connected.counts.count(&member, |number| *number -= 1);
            if let Ok(place) = connected.members.binary_search(&since) {
                connected.members.remove(place);
            }
            if connected.members.is_empty() {
                self.connected.remove(&incarnation);
            }
        }
        true
    }

    pub(super) fn set_presence(&mut self, since: u64, presence: Presence) {
        if let Some(Member { session, options, .. }) = self.all.get(&since).copied() {
            self.insert(since, session, options, presence);
        }
    }

    pub(super) fn all(&self) -> &BTreeMap<u64, Member> {
        &self.all
    }

    pub(super) fn ready(&self) -> &BTreeSet<u64> {
        &self.ready
    }

    /// As things stand when incarnations that `is_over` names are over.
    pub(super) fn standing(&self, is_over: impl Fn(&NodeIncarnation) -> bool) -> GroupStanding {
        let mut standing =
            GroupStanding { members: self.all.len(), ready: self.counts.offline, ..GroupStanding::default() };
        let mut keep_away = self.counts.keeps;
        for (incarnation, connected) in self.connected.iter().filter(|(incarnation, _)| !is_over(incarnation)) {
            standing.ready += connected.members.len() - connected.counts.offline;
            keep_away -= connected.counts.keeps;
            match standing.connected.last_mut() {
                Some((node, members)) if *node == incarnation.0 => *members += connected.members.len(),
                _ => standing.connected.push((incarnation.0, connected.members.len())),
            }
        }
        standing.queues_qos0 = self.counts.raises > 0 || keep_away > 0;
        standing
    }

    /// Those that are connected to the node, one after the other from the `turn`-th on, each once.
    pub(super) fn connected_to(
        &self,
        node: NodeId,
        turn: usize,
        is_over: impl Fn(&NodeIncarnation) -> bool,
    ) -> impl Iterator<Item = &Member> {
        let incarnations = self.connected.range((node, Incarnation(0))..=(node, Incarnation(u64::MAX)));
        let lists: Vec<&[u64]> = incarnations
            .filter(|(incarnation, _)| !is_over(incarnation))
            .map(|(_, connected)| &connected.members[..])
            .collect();
        let total: usize = lists.iter().map(|list| list.len()).sum();
        (0..total).filter_map(move |step| {
            let mut place = (turn % total + step) % total;
            for list in &lists {
                match list.get(place) {
                    Some(since) => return self.all.get(since),
                    None => place -= list.len(),
                }
            }
            None
        })
    }
}
