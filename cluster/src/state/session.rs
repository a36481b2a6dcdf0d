//! What the replicated state keeps for one client identifier.
//! Always true: a record whose interval is 0 exists only while its client is connected, and a little longer if its node is
//! gone; how many subscriptions are shared is counted with each that comes and goes.
//! Not here: the table of all sessions (`sessions`), what follows elsewhere from a change (the handlers).
//! Bounds: 65,535 inbound QoS 2 identifiers; filters as many as the client subscribes to (the broker limits them).
use super::{ConnectCommand, Door, Owner, Queue, QueueLimits, members::Presence, records::SessionRecord};
use crate::ids::{Epoch, LogIndex, Millis};
use mosquorum_proto::mqtt::{PacketId, QoS, RetainHandling, TopicFilter, Utf8, Will};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

/// Session Expiry Interval that never ends (MQTT 5.0 section 3.1.2.11.2).
pub const NEVER: u32 = u32::MAX;

/// One durable subscription of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionRecord {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
    pub identifier: Option<NonZeroU32>,
    /// When it was made, as epochs count; replacing it keeps this. Orders the subscriptions to one filter.
    pub(super) since: u64,
}

/// What a delivery needs to know of a subscription; small, since there is one per filter in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) identifier: Option<NonZeroU32>,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
}

impl SubscriptionRecord {
    pub(super) fn options(&self) -> Options {
        let Self { qos, no_local, retain_as_published, identifier, .. } = *self;
        Options { identifier, qos, no_local, retain_as_published }
    }
}

/// What of a session must be written again.
#[derive(Debug, Clone, Default)]
pub(super) struct Unwritten {
    /// The session is in the list of those to look at.
    pub(super) listed: bool,
    pub(super) core: bool,
    pub(super) header: bool,
    pub(super) inbound: bool,
    pub(super) filters: BTreeSet<TopicFilter>,
}

/// What the cluster keeps for one client identifier.
#[derive(Debug, Clone)]
pub struct Session {
    client_id: Utf8,
    username: Option<Utf8>,
    epoch: Epoch,
    owner: Option<Owner>,
    expiry_seconds: u32,
    disconnected_at: Option<Millis>,
    subscriptions: BTreeMap<TopicFilter, SubscriptionRecord>,
    queue: Queue,
    /// Ascending.
    inbound: Vec<PacketId>,
    will: Option<Box<Will>>,
    will_due: Option<Millis>,
    expires_at: Option<Millis>,
    /// When its queue is searched for expired messages.
    sweep_at: Option<Millis>,
    limits: QueueLimits,
    door: Door,

    // Not part of the state, or derived from the above.
    /// How many of the subscriptions are shared.
    shared: usize,
    unwritten: Unwritten,
    /// The session is in the durable form.
    written: bool,
    /// It is no more, but for the room that it takes (`remains`).
    ended: bool,
    /// The entry of the log that last announced new messages.
    grew_at: LogIndex,
    /// The publish that last reached the session, and its place among the matches (merging).
    matched: (u64, usize),
}

impl Session {
    pub(super) fn new(client_id: Utf8) -> Self {
        Self {
            client_id,
            username: None,
            epoch: Epoch::default(),
            owner: None,
            expiry_seconds: 0,
            disconnected_at: None,
            subscriptions: BTreeMap::new(),
            queue: Queue::default(),
            inbound: Vec::new(),
            will: None,
            will_due: None,
            expires_at: None,
            sweep_at: None,
            limits: QueueLimits::default(),
            door: Door::default(),
            shared: 0,
            unwritten: Unwritten::default(),
            written: false,
            ended: false,
            grew_at: LogIndex::default(),
            matched: (0, 0),
        }
    }

    #[must_use]
    pub fn client_id(&self) -> &Utf8 {
        &self.client_id
    }
    #[must_use]
    pub fn username(&self) -> Option<&Utf8> {
        self.username.as_ref()
    }
    /// Of the last connection.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The connection, while there is one; for a while also one whose node is gone ([`super::State::connection_of`]).
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }
    /// The listener of the last connection.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.owner.is_some()
    }
    /// Seconds after the connection's end; 0: the session ends with it, `u32::MAX`: never.
    #[must_use]
    pub fn expiry_seconds(&self) -> u32 {
        self.expiry_seconds
    }
    #[must_use]
    pub fn disconnected_at(&self) -> Option<Millis> {
        self.disconnected_at
    }
    #[must_use]
    pub fn subscriptions(&self) -> &BTreeMap<TopicFilter, SubscriptionRecord> {
        &self.subscriptions
    }
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
    #[must_use]
    pub fn limits(&self) -> &QueueLimits {
        &self.limits
    }
    #[must_use]
    pub fn will(&self) -> Option<&Will> {
        self.will.as_deref()
    }
    /// QoS 2 packet identifiers received from the client and not yet released, ascending.
    #[must_use]
    pub fn inbound(&self) -> &[PacketId] {
        &self.inbound
    }
}

/// The connection.
impl Session {
    /// A connection has the session from now on.
    pub(super) fn attach(&mut self, command: &ConnectCommand, epoch: Epoch) {
        self.username = command.username.clone();
        self.epoch = epoch;
        self.owner = Some(command.owner);
        self.expiry_seconds = command.expiry_seconds;
        self.disconnected_at = None;
        self.will = command.will.clone().map(Box::new);
        self.limits = command.limits;
        self.door = command.door;
        self.queue.connect(command.limits.inflight);
    }

    /// There has been no connection since then; which one there was. What was `sent_before` may have reached the client.
    pub(super) fn detach(&mut self, sent_before: u64, since: Millis) -> Option<Owner> {
        let owner = self.owner.take();
        self.disconnected_at = Some(since);
        self.queue.disconnect(sent_before);
        owner
    }

    /// As [`super::DurableMatch::takes_turns`].
    pub(super) fn takes_turns(&self) -> bool {
        Presence::of(self).takes_turns()
    }
    /// The connection ended with its node, and what follows from that is still to come.
    pub(super) fn is_unsettled(&self) -> bool {
        let expires = self.expiry_seconds != NEVER && self.expires_at.is_none();
        self.owner.is_none() && (expires || (self.will.is_some() && self.will_due.is_none()))
    }
}

/// What waits for the end of the session, or for time to pass.
impl Session {
    /// A session that ends with its connection can not be made to last.
    pub(super) fn change_expiry(&mut self, seconds: u32) {
        if self.expiry_seconds != 0 {
            self.expiry_seconds = seconds;
        }
    }
    pub(super) fn take_will(&mut self) -> Option<Box<Will>> {
        self.will.take()
    }
    pub(super) fn will_due(&self) -> Option<Millis> {
        self.will_due
    }
    pub(super) fn set_will_due(&mut self, at: Option<Millis>) -> Option<Millis> {
        std::mem::replace(&mut self.will_due, at)
    }
    pub(super) fn expires_at(&self) -> Option<Millis> {
        self.expires_at
    }
    pub(super) fn set_expires_at(&mut self, at: Option<Millis>) -> Option<Millis> {
        std::mem::replace(&mut self.expires_at, at)
    }
    pub(super) fn sweep_at(&self) -> Option<Millis> {
        self.sweep_at
    }
    pub(super) fn set_sweep_at(&mut self, at: Option<Millis>) -> Option<Millis> {
        std::mem::replace(&mut self.sweep_at, at)
    }
}

/// Subscriptions.
impl Session {
    /// The one that it replaces, if any.
    pub(super) fn put_subscription(
        &mut self,
        filter: TopicFilter,
        record: SubscriptionRecord,
    ) -> Option<SubscriptionRecord> {
        let is_shared = filter.share_name().is_some();
        let before = self.subscriptions.insert(filter, record);
        self.shared += usize::from(is_shared && before.is_none());
        before
    }

    pub(super) fn take_subscription(&mut self, filter: &TopicFilter) -> Option<SubscriptionRecord> {
        let record = self.subscriptions.remove(filter)?;
        self.shared -= usize::from(filter.share_name().is_some());
        Some(record)
    }

    /// Any one of a session that has ended.
    pub(super) fn pop_subscription(&mut self) -> Option<(TopicFilter, SubscriptionRecord)> {
        self.subscriptions.pop_first()
    }

    /// How many of them are shared.
    pub(super) fn shared(&self) -> usize {
        self.shared
    }
}

/// What publishers send, and what is sent to the client.
impl Session {
    #[inline]
    pub(super) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Notes that the entry of the log brings new messages; `false` if that is noted.
    #[inline]
    pub(super) fn note_growth(&mut self, index: LogIndex) -> bool {
        std::mem::replace(&mut self.grew_at, index) != index
    }

    /// The place among the matches that a publish has for the session already; otherwise notes that it has this one.
    #[inline]
    pub(super) fn match_of(&mut self, publish: u64, next: usize) -> Option<usize> {
        if self.matched.0 == publish {
            return Some(self.matched.1);
        }
        self.matched = (publish, next);
        None
    }

    /// `false` if the identifier is in use.
    pub(super) fn add_inbound(&mut self, packet_id: PacketId) -> bool {
        match self.inbound.binary_search(&packet_id) {
            Ok(_) => false,
            Err(place) => {
                self.inbound.insert(place, packet_id);
                true
            }
        }
    }

    pub(super) fn remove_inbound(&mut self, packet_id: PacketId) -> bool {
        let found = self.inbound.binary_search(&packet_id);
        if let Ok(place) = found {
            self.inbound.remove(place);
        }
        found.is_ok()
    }

    pub(super) fn forget_inbound(&mut self) {
        self.inbound = Vec::new();
    }
}

/// The durable form.
impl Session {
    /// The record of the session without its parts.
    pub(super) fn record(&self) -> SessionRecord {
        SessionRecord {
            username: self.username.clone(),
            epoch: self.epoch,
            owner: self.owner,
            expiry_seconds: self.expiry_seconds,
            disconnected_at: self.disconnected_at,
            will: self.will.clone(),
            will_due: self.will_due,
            expires_at: self.expires_at,
            limits: self.limits,
            door: self.door,
        }
    }

    /// Its parts are still to come.
    pub(super) fn restored(client_id: Utf8, record: SessionRecord) -> Self {
        Self {
            username: record.username,
            epoch: record.epoch,
            owner: record.owner,
            expiry_seconds: record.expiry_seconds,
            disconnected_at: record.disconnected_at,
            will: record.will,
            will_due: record.will_due,
            expires_at: record.expires_at,
            limits: record.limits,
            door: record.door,
            written: true,
            ..Self::new(client_id)
        }
    }

    pub(super) fn restore_inbound(&mut self, ids: Vec<PacketId>) {
        self.inbound = ids;
    }

    /// All parts are there.
    pub(super) fn begin_again(&mut self) {
        self.queue.connect(self.limits.inflight);
        if !self.is_connected() {
            self.queue.disconnect(0);
        }
    }

    #[inline]
    pub(super) fn unwritten_mut(&mut self) -> &mut Unwritten {
        &mut self.unwritten
    }

    #[cfg(test)]
    pub(super) fn unwritten(&self) -> &Unwritten {
        &self.unwritten
    }

    pub(super) fn is_written(&self) -> bool {
        self.written
    }

    /// Whether it was before.
    pub(super) fn mark_written(&mut self) -> bool {
        std::mem::replace(&mut self.written, true)
    }

    /// The session is no more, but for the room that it takes.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    #[inline]
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }
}
