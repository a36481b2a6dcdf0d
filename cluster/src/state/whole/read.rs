//! What the broker reads of the state while it routes and delivers.
use super::State;
use crate::{
    ids::{Incarnation, LogIndex, Millis, NodeId},
    state::{
        Counters, DeliveryOptions, Door, Message, NodeRecord, NodeRules, Owner, Session, Standing, Totals, Word,
        members::{GroupStanding, Member, NodeIncarnation},
        session::Options,
    },
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};
use std::{num::NonZeroU32, sync::Arc};

/// A durable subscription that matches a topic.
#[derive(Debug, Clone, Copy)]
pub struct DurableMatch<'a> {
    pub session: &'a Session,
    /// Its connection, while there is one.
    pub owner: Option<Owner>,
    pub subscription: SubscriptionOptions,
    /// The whole filter of the shared group of which the session is a member: one of the members gets the message.
    pub group: Option<&'a TopicFilter>,
}

impl DurableMatch<'_> {
    /// Whether QoS 0 messages go through the log for this subscription.
    #[must_use]
    pub fn queues_qos0(&self) -> bool {
        let limits = self.session.limits();
        let raised = limits.upgrade_qos && self.subscription.qos != QoS::AtMostOnce;
        raised || (limits.queue_qos0 && self.owner.is_none())
    }
}

/// What a delivery depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub identifier: Option<u32>,
}

impl From<Options> for SubscriptionOptions {
    fn from(options: Options) -> Self {
        let Options { identifier, qos, no_local, retain_as_published } = options;
        Self { qos, no_local, retain_as_published, identifier: identifier.map(NonZeroU32::get) }
    }
}

impl State {
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.now.index
    }

    /// The largest time of an entry.
    #[must_use]
    pub fn time(&self) -> Millis {
        self.now.time
    }

    /// Changes whenever a durable subscription, or who is connected where, may route otherwise.
    #[must_use]
    pub fn subscriptions_version(&self) -> u64 {
        self.routes.changes().version()
    }

    /// Adds the filters of which that is so since a version; `false`: any topic may route otherwise.
    #[must_use]
    pub fn subscriptions_since(&self, version: u64, into: &mut Vec<TopicFilter>) -> bool {
        self.routes.changes().since(version, into)
    }

    /// This state takes the place of another one.
    pub fn succeed(&mut self, former: &Self) {
        self.routes.succeed(&former.routes);
    }

    /// Spares effects that only another node's connections care about. Not part of the state.
    pub fn only_effects_for(&mut self, node: NodeId) {
        self.effects_for = Some(node);
    }

    /// The client's session.
    #[must_use]
    pub fn session(&self, client_id: &str) -> Option<&Session> {
        self.sessions.get(client_id)
    }

    /// Whether anything is kept for the client.
    #[must_use]
    pub fn has_record(&self, client_id: &str) -> bool {
        self.sessions.get(client_id).is_some()
    }

    /// All records, ordered by client identifier. Takes long: see [`State::walk_sessions`].
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.in_order().into_iter()
    }

    /// Whether any durable subscription matches, shared ones included.
    #[must_use]
    pub fn matches_durable(&self, topic: &str) -> bool {
        self.routes.has_match(topic)
    }

    /// Whether a QoS 0 message must go through the log: because somebody who is away keeps QoS 0 too, or because a
    /// subscription raises its QoS. (A retained one must in any case.)
    #[must_use]
    pub fn queues_qos0(&self, topic: &str) -> bool {
        let mut queues = false;
        self.for_each_ordinary_match(topic, |found| queues |= found.queues_qos0());
        self.for_each_durable_group(topic, |_, group| queues |= group.queues_qos0);
        queues
    }

    /// Every durable subscription that matches, in the order in which their entries are queued; of shared groups all
    /// members. With `merge_overlapping` in its limits a session is to get one delivery for all of its own.
    pub fn for_each_durable_match<'a>(&'a self, topic: &str, mut f: impl FnMut(DurableMatch<'a>)) {
        self.for_each_ordinary_match(topic, &mut f);
        self.routes.groups().matches(topic, |filter, group| {
            group.members().all().values().for_each(|member| f(self.member_match(filter, member)));
        });
    }

    /// The session's connection, while there is one.
    #[must_use]
    pub fn connection_of(&self, session: &Session) -> Option<Owner> {
        self.connections.of(session)
    }

    pub(super) fn is_over(&self, incarnation: &NodeIncarnation) -> bool {
        self.connections.is_over(incarnation)
    }

    pub(super) fn member_match<'a>(&'a self, filter: &'a TopicFilter, member: &Member) -> DurableMatch<'a> {
        let session = &self.sessions[member.session];
        let owner = self.connection_of(session);
        DurableMatch { session, owner, subscription: member.options.into(), group: Some(filter) }
    }

    /// Every durable subscription that matches, but those of shared groups.
    pub fn for_each_ordinary_match<'a>(&'a self, topic: &str, mut f: impl FnMut(DurableMatch<'a>)) {
        self.routes.ordinary(topic, |place, options| {
            let session = &self.sessions[place];
            if session.is_ended() {
                return;
            }
            let owner = self.connection_of(session);
            f(DurableMatch { session, owner, subscription: (*options).into(), group: None });
        });
    }

    /// Every shared group with durable members that matches; takes no longer for more members.
    pub fn for_each_durable_group<'a>(&'a self, topic: &str, mut f: impl FnMut(&'a TopicFilter, GroupStanding)) {
        self.routes.groups().matches(topic, |filter, group| {
            f(filter, group.members().standing(|incarnation| self.is_over(incarnation)));
        });
    }

    /// Members of a group (by its whole filter) that are connected to the node, from the `turn`-th on, each once.
    pub fn connected_members<'a>(
        &'a self,
        filter: &TopicFilter,
        node: NodeId,
        turn: usize,
    ) -> impl Iterator<Item = DurableMatch<'a>> {
        let group = self.routes.groups().find(filter);
        group.into_iter().flat_map(move |(filter, group)| {
            let members = group.members().connected_to(node, turn, |incarnation| self.is_over(incarnation));
            members.map(move |member| self.member_match(filter, member))
        })
    }

    /// Durable members of a shared group (by its whole filter): all, and how many of them take their turn now.
    #[must_use]
    pub fn group_members(&self, filter: &TopicFilter) -> (usize, usize) {
        let Some(group) = self.routes.group(filter) else { return (0, 0) };
        (group.members().all().len(), group.members().ready().len())
    }
}

/// What topics keep.
impl State {
    /// The retained message of one topic.
    #[must_use]
    pub fn retained(&self, topic: &TopicName, now: Millis) -> Option<&Arc<Message>> {
        self.retained.message(topic, now)
    }

    /// Adds at most `limit` retained messages that match, in order of topics, beginning after `after`, and looks at no more
    /// than 1000 names for it; returns where to go on (there may be none yet), `None` at the end. Nothing for a shared subscription (MQTT 5.0 section 4.8.2). Expired ones are left out,
    /// as far as the time of the log tells.
    pub fn retained_matches(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        limit: usize,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        self.retained.find(filter, after, limit, self.now.time, into)
    }
}

/// Nodes.
impl State {
    /// The last incarnation that a node served under, as far as the state knows.
    pub fn last_incarnation(&self, node: NodeId) -> Incarnation {
        self.nodes.get(node).map_or(Incarnation(0), |record| record.incarnation)
    }

    /// The incarnation under which a node serves, if it does.
    #[must_use]
    pub fn serving(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.serving(node)
    }

    /// Whether the node serves and means to go on: bridges, and clients of other nodes, may go there.
    #[must_use]
    pub fn takes_bridges(&self, node: NodeId) -> bool {
        self.nodes.get(node).is_some_and(|record| record.standing == Standing::Serving)
    }

    /// Nodes that left for good, the last one first.
    pub fn removed(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter().rev().filter(|(_, record)| record.standing == Standing::Removed)
    }

    /// All nodes that ever sent a batch and were not removed.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter().filter(|(_, record)| record.standing != Standing::Removed)
    }

    /// What the node told last.
    #[must_use]
    pub fn rules_of(&self, node: NodeId) -> NodeRules {
        self.nodes.rules_of(node)
    }

    /// Whether all serving nodes other than `here` have rules of this fingerprint at this door, as far as they have the door:
    /// then it does not matter which of them a client without a connection comes back to.
    #[must_use]
    pub fn rules_agree(&self, here: NodeId, door: Door, fingerprint: u64) -> bool {
        self.nodes.rules_agree(here, door, fingerprint)
    }

    /// What an operator said last about each name.
    pub fn admissions(&self) -> impl Iterator<Item = (&Utf8, &Word)> {
        self.admissions.iter().map(|(name, admission)| (name, &admission.word))
    }
}

/// How much there is, and what is still to be done.
impl State {
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Records of client identifiers.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        let (ordinary, shared) = self.routes.counts();
        Totals {
            sessions: self.sessions.len(),
            connected: self.connections.len(),
            disconnected: self.sessions.len() - self.connections.len(),
            subscriptions: ordinary + shared,
            shared_subscriptions: shared,
            retained: self.retained.len(),
            messages: self.messages.len(),
            message_bytes: self.messages.bytes(),
            message_memory: self.messages.memory_here(),
            message_memory_saved: self.messages.memory() - self.messages.memory_here(),
        }
    }

    /// Whether ticks have something to go on with.
    pub(super) fn has_work(&self) -> bool {
        !self.replays.is_empty() || self.connections.has_work() || self.sessions.has_aside()
    }

    /// When the next [`crate::state::Command::Tick`] has something to do; 0: at once.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.has_work() {
            return Some(Millis(0));
        }
        self.deadlines.next()
    }

    /// Whether the last tick left something that was due.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.next_deadline().is_some_and(|due| due <= self.now.time)
    }

    /// Units of long work that the last entry did ([`crate::state::STEP_WORK`]).
    #[must_use]
    pub fn work_of_last_entry(&self) -> usize {
        self.steps.used()
    }
}

impl DurableMatch<'_> {
    /// Whether it has its turn in shared groups: otherwise messages come to it only if nobody of the group has.
    #[must_use]
    pub fn takes_turns(&self) -> bool {
        self.owner.is_some() || self.session.limits().shared_offline
    }
}

impl SubscriptionOptions {
    /// How a message goes through this subscription alone.
    #[must_use]
    pub fn deliver(&self, message: &Message, upgrade_qos: bool) -> DeliveryOptions {
        DeliveryOptions {
            qos: if upgrade_qos { self.qos } else { self.qos.min(message.qos) },
            retain: self.retain_as_published && message.retain,
            identifiers: self.identifier.into_iter().collect(),
        }
    }
}
