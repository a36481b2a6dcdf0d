//! Sessions of the replicated state: what is kept for a client identifier, and the table of all of them.
//! Always true: at most one record per client identifier; a record whose interval is 0 exists only while its client is
//! connected, and a little longer if its node is gone.
//! Bounds: 65,535 inbound QoS 2 identifiers; filters as many as the client subscribes to (the broker limits them).
use super::{Door, Owner, Queue, QueueLimits, members::Presence};
use crate::ids::{Epoch, LogIndex, Millis};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use mosquorum_proto::mqtt::{PacketId, QoS, RetainHandling, TopicFilter, Utf8, Will};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher,
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
    pub(super) client_id: Utf8,
    pub(super) username: Option<Utf8>,
    pub(super) epoch: Epoch,
    pub(super) owner: Option<Owner>,
    pub(super) expiry_seconds: u32,
    pub(super) disconnected_at: Option<Millis>,
    pub(super) subscriptions: BTreeMap<TopicFilter, SubscriptionRecord>,
    pub(super) queue: Queue,
    /// Ascending.
    pub(super) inbound: Vec<PacketId>,
    pub(super) will: Option<Box<Will>>,
    pub(super) will_due: Option<Millis>,
    pub(super) expires_at: Option<Millis>,
    /// When its queue is searched for expired messages.
    pub(super) sweep_at: Option<Millis>,
    pub(super) limits: QueueLimits,
    pub(super) door: Door,

    // Not part of the state, or derived from the above.
    /// How many of the subscriptions are shared.
    pub(super) shared: usize,
    pub(super) unwritten: Unwritten,
    /// The session is in the durable form.
    pub(super) written: bool,
    /// It is no more, but for the room that it takes (`remains`).
    pub(super) ended: bool,
    /// The entry of the log that last announced new messages.
    pub(super) grew_at: LogIndex,
    /// The publish that last reached the session, and its place among the matches (merging).
    pub(super) matched: (u64, usize),
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
    /// As [`super::DurableMatch::takes_turns`].
    pub(super) fn takes_turns(&self) -> bool {
        Presence::of(self).takes_turns()
    }
    /// The connection ended with its node, and what follows from that is still to come.
    pub(super) fn is_unsettled(&self) -> bool {
        let expires = self.expiry_seconds != NEVER && self.expires_at.is_none();
        self.owner.is_none() && (expires || (self.will.is_some() && self.will_due.is_none()))
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
}

/// Where a session is in the table. The same session may have different places on different nodes, so nothing that
/// matters depends on it.
pub(super) type SessionPlace = u32;

#[derive(Clone, Default)]
pub(super) struct Sessions {
    places: Vec<Option<Box<Session>>>,
    free: Vec<SessionPlace>,
    by_client_id: HashTable<SessionPlace>,
    hasher: RandomState,
}

impl Sessions {
    pub(super) fn find(&self, client_id: &str) -> Option<SessionPlace> {
        let hash = self.hasher.hash_one(client_id);
        self.by_client_id.find(hash, |place| self[*place].client_id.as_str() == client_id).copied()
    }

    pub(super) fn get(&self, client_id: &str) -> Option<&Session> {
        self.find(client_id).map(|place| &self[place])
    }

    /// The client identifier must not be in the table.
    pub(super) fn add(&mut self, session: Session) -> SessionPlace {
        let hash = self.hasher.hash_one(session.client_id.as_str());
        let session = Some(Box::new(session));
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = session;
                place
            }
            None => {
                self.places.push(session);
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 sessions in memory")
            }
        };
        let (places, hasher) = (&self.places, &self.hasher);
        let rehash = |place: &SessionPlace| {
            places[*place as usize].as_ref().map_or(0, |session| hasher.hash_one(session.client_id.as_str()))
        };
        self.by_client_id.insert_unique(hash, place, rehash);
        place
    }

    /// The session is no longer found; its place stays taken until it is removed.
    pub(super) fn lay_aside(&mut self, place: SessionPlace) {
        let hash = self.hasher.hash_one(self[place].client_id.as_str());
        if let Ok(entry) = self.by_client_id.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        self[place].ended = true;
    }

    pub(super) fn remove(&mut self, place: SessionPlace) -> Box<Session> {
        if !self[place].ended {
            self.lay_aside(place);
        }
        self.free.push(place);
        self.places[place as usize].take().expect(IN_USE)
    }

    pub(super) fn contains(&self, place: SessionPlace) -> bool {
        self.at(place as usize).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.by_client_id.len()
    }

    /// Every place is smaller.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// What is at a place, if anything.
    pub(super) fn at(&self, place: usize) -> Option<&Session> {
        self.places.get(place)?.as_deref().filter(|session| !session.ended)
    }

    pub(super) fn queue_at(&mut self, place: usize) -> Option<&mut Queue> {
        Some(&mut self.places.get_mut(place)?.as_deref_mut().filter(|session| !session.ended)?.queue)
    }

    /// In no particular order: sort where order matters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionPlace, &Session)> {
        let all = self.places.iter().zip(0..).filter_map(|(session, place)| Some((place, &**session.as_ref()?)));
        all.filter(|(_, session)| !session.ended)
    }

    pub(super) fn in_order(&self) -> Vec<&Session> {
        let mut all: Vec<&Session> = self.iter().map(|(_, session)| session).collect();
        all.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        all
    }
}

const IN_USE: &str = "places are given out for sessions in the table and forgotten when these end";

impl std::ops::Index<SessionPlace> for Sessions {
    type Output = Session;
    fn index(&self, place: SessionPlace) -> &Session {
        self.places[place as usize].as_deref().expect(IN_USE)
    }
}
impl std::ops::IndexMut<SessionPlace> for Sessions {
    fn index_mut(&mut self, place: SessionPlace) -> &mut Session {
        self.places[place as usize].as_deref_mut().expect(IN_USE)
    }
}
