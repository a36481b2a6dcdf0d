//! What the broker reads of the state while it routes and delivers.
use super::{
    Message, Owner, Session, State,
    members::{GroupStanding, Member},
    session::Options,
};
use crate::ids::{Incarnation, LogIndex, Millis, NodeId};
use mosquorum_proto::mqtt::{QoS, TopicFilter};
use std::num::NonZeroU32;

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
    /// The last incarnation that a node served under, as far as the state knows.
    pub fn last_incarnation(&self, node: NodeId) -> Incarnation {
        self.nodes.records.get(&node).map_or(Incarnation(0), |record| record.incarnation)
    }

    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The largest time of an entry.
    #[must_use]
    pub fn time(&self) -> Millis {
        self.time
    }

    /// Changes whenever a durable subscription, or who is connected where, may route otherwise.
    #[must_use]
    pub fn subscriptions_version(&self) -> u64 {
        self.route_changes.version()
    }

    /// Adds the filters of which that is so since a version; `false`: any topic may route otherwise.
    #[must_use]
    pub fn subscriptions_since(&self, version: u64, into: &mut Vec<TopicFilter>) -> bool {
        self.route_changes.since(version, into)
    }

    /// This state takes the place of another one.
    pub fn succeed(&mut self, former: &Self) {
        self.route_changes.succeed(&former.route_changes);
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
        self.tree.has_match(topic) || self.groups.has_match(topic)
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
        self.groups.matches(topic, |filter, group| {
            group.members.all().values().for_each(|member| f(self.member_match(filter, member)));
        });
    }

    pub(super) fn member_match<'a>(&'a self, filter: &'a TopicFilter, member: &Member) -> DurableMatch<'a> {
        let session = &self.sessions[member.session];
        let owner = self.connection_of(session);
        DurableMatch { session, owner, subscription: member.options.into(), group: Some(filter) }
    }

    /// Every durable subscription that matches, but those of shared groups.
    pub fn for_each_ordinary_match<'a>(&'a self, topic: &str, mut f: impl FnMut(DurableMatch<'a>)) {
        self.tree.matches(topic, |place, options| {
            let session = &self.sessions[*place];
            if session.ended {
                return;
            }
            let owner = self.connection_of(session);
            f(DurableMatch { session, owner, subscription: (*options).into(), group: None });
        });
    }

    /// Every shared group with durable members that matches; takes no longer for more members.
    pub fn for_each_durable_group<'a>(&'a self, topic: &str, mut f: impl FnMut(&'a TopicFilter, GroupStanding)) {
        self.groups
            .matches(topic, |filter, group| f(filter, group.members.standing(|incarnation| self.is_over(incarnation))));
    }

    /// Members of a group (by its whole filter) that are connected to the node, from the `turn`-th on, each once.
    pub fn connected_members<'a>(
        &'a self,
        filter: &TopicFilter,
        node: NodeId,
        turn: usize,
    ) -> impl Iterator<Item = DurableMatch<'a>> {
        let group = self.groups.find(filter);
        group.into_iter().flat_map(move |(filter, group)| {
            let members = group.members.connected_to(node, turn, |incarnation| self.is_over(incarnation));
            members.map(move |member| self.member_match(filter, member))
        })
    }

    /// Durable members of a shared group (by its whole filter): all, and how many of them take their turn now.
    #[must_use]
    pub fn group_members(&self, filter: &TopicFilter) -> (usize, usize) {
        let Some(group) = self.groups.get(filter) else { return (0, 0) };
        (group.members.all().len(), group.members.ready().len())
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
    pub fn deliver(&self, message: &Message, upgrade_qos: bool) -> super::DeliveryOptions {
        super::DeliveryOptions {
            qos: if upgrade_qos { self.qos } else { self.qos.min(message.qos) },
            retain: self.retain_as_published && message.retain,
            identifiers: self.identifier.into_iter().collect(),
        }
    }
}
