//! One session's outgoing messages, in order, with their packet identifiers.
//! Always true: positions (`seq`) grow by one and are never used again; the packet identifier follows from the position,
//! so it is committed with the entry and survives every failure; entries leave only by acknowledgement, expiry or the
//! end of their reason to be here. The front entry is alive; removed ones in between are at most about half of all.
//! In flight ("window") are the first entries: while the client is connected as many as may be sent at once, otherwise
//! those that have been sent. Everything beyond counts against the limits.
//! A message that was written may be evicted: then the entry is here and the message in the durable form only. Those that
//! came through a shared subscription stay, since they may have to move to another member.
//! Bounds: `messages` and `bytes` of the limits, plus retained messages of new subscriptions; about 48 bytes an entry.
use super::{
    DeliveryOptions, DropReason, Message, QueueLimits,
    messages::{Held, Place},
};
use crate::ids::Millis;
use mosquorum_proto::mqtt::{PacketId, QoS, TopicFilter};
use smallvec::SmallVec;
use std::{collections::VecDeque, sync::Arc};

/// Packet identifiers that there are: 1 to 65,535.
const PACKET_IDS: u64 = 65_535;
/// Removed entries that are tolerated before the queue is packed.
const GAPS_MAX: usize = 32;
/// A queue keeps room for this many entries, and for four times those that it has.
const IDLE_CAPACITY_MAX: usize = 256;
/// The first entries of a queue, which are wanted next, keep their messages.
const KEPT_HERE: usize = if cfg!(test) { 1 } else { 64 };
/// An entry that does not expire.
const NEVER: Millis = Millis(u64::MAX);

/// Where an entry is in its exchange of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum EntryState {
    /// To be published, or published and not yet acknowledged.
    Queued,
    /// QoS 2 after PUBREC: only PUBREL and PUBCOMP remain, the message is gone.
    Released,
}

/// What few entries have.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Extra {
    /// The shared subscription (whole filter) that the entry came through.
    pub(super) group: Option<TopicFilter>,
    /// Identifiers of merged subscriptions; replaces `identifier`.
    pub(super) identifiers: SmallVec<[u32; 2]>,
}

#[derive(Debug, Clone)]
pub struct Entry {
    seq: u64,
    /// `None` once evicted, released or removed.
    message: Option<Arc<Message>>,
    extra: Option<Arc<Extra>>,
    expires_at: Millis,
    place: Place,
    /// 0 = none.
    identifier: u32,
    bytes: u32,
    qos: QoS,
    retain: bool,
    state: Inner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    Queued,
    /// Queued, with the message in the durable form only.
    Evicted,
    Released,
    Removed,
}

impl Entry {
    /// Position in the session's queue; later entries have larger ones.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
    /// The identifier to send it with; 0 for QoS 0.
    #[must_use]
    pub fn packet_id(&self) -> PacketId {
        if self.qos == QoS::AtMostOnce { 0 } else { packet_id_of(self.seq) }
    }
    /// `None` once released, and while it is in the durable form only: see [`super::State::body`].
    #[must_use]
    pub fn message(&self) -> Option<&Arc<Message>> {
        self.message.as_ref()
    }
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }
    #[must_use]
    pub fn options(&self) -> DeliveryOptions {
        let identifiers = match &self.extra {
            Some(extra) if !extra.identifiers.is_empty() => extra.identifiers.clone(),
            _ => (self.identifier != 0).then_some(self.identifier).into_iter().collect(),
        };
        DeliveryOptions { qos: self.qos, retain: self.retain, identifiers }
    }
    #[must_use]
    pub fn state(&self) -> EntryState {
        if self.state == Inner::Released { EntryState::Released } else { EntryState::Queued }
    }
    /// The whole `$share/...` filter if it came through one.
    #[must_use]
    pub fn group(&self) -> Option<&TopicFilter> {
        self.extra.as_ref()?.group.as_ref()
    }
    /// `None` once released.
    pub(super) fn held(&self) -> Option<Held> {
        let here = self.message.is_some();
        (here || self.state == Inner::Evicted).then_some(Held { place: self.place, here })
    }
    pub(super) fn retain(&self) -> bool {
        self.retain
    }
    pub(super) fn identifier(&self) -> u32 {
        self.identifier
    }
    pub(super) fn extra(&self) -> Option<&Arc<Extra>> {
        self.extra.as_ref()
    }
    fn is_alive(&self) -> bool {
        self.state != Inner::Removed
    }
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }
    fn expires(&self) -> bool {
        self.expires_at != NEVER
    }
}

/// When a message expires, if ever.
pub(super) fn expiry_of(message: &Message) -> Option<Millis> {
    let seconds = message.expiry_seconds?;
    Some(Millis(message.received_at.0.saturating_add(u64::from(seconds) * 1000)))
}

fn packet_id_of(seq: u64) -> PacketId {
    // At most 65,535.
    (seq % PACKET_IDS + 1) as PacketId
}

/// The message of an entry to be added.
pub(super) enum NewBody {
    Here(Arc<Message>),
    /// In the durable form only.
    Stored {
        bytes: u32,
        expires_at: Option<Millis>,
    },
    Released,
}

/// An entry to be added.
pub(super) struct NewEntry {
    pub(super) body: NewBody,
    pub(super) place: Place,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifier: u32,
    pub(super) extra: Option<Arc<Extra>>,
}

/// An entry that left, and whether it may have been sent.
pub(super) struct Removed {
    pub(super) entry: Entry,
    pub(super) maybe_sent: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// Ordered by `seq`, removed ones included.
    entries: VecDeque<Entry>,
    next_seq: u64,
    dup_before: u64,
    alive: usize,
    bytes: u64,
    expiring: usize,
    /// Entries at the front that are in flight, removed ones included; `window_alive` without them.
    window: usize,
    window_alive: usize,
    bytes_beyond: u64,
    /// In flight at most; 0 = no limit.
    inflight_max: u16,
    connected: bool,
    /// For the durable form: entries before this were written; of those, the ones that changed or went since.
    written_before: u64,
    released: Vec<u64>,
    removed: Vec<u64>,
    /// Entries before this were evicted if they can be.
    put_out_before: u64,
}

impl Queue {
    /// Entries, released ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.alive
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.alive == 0
    }
    /// Payload bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
    /// The position that the next entry will get.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.next_seq
    }
    /// Entries before this position may have been sent on an earlier connection: they carry DUP when sent again.
    #[must_use]
    pub fn dup_before(&self) -> u64 {
        self.dup_before
    }

    /// Entries from a position on, in order.
    pub fn iter_from(&self, seq: u64) -> impl Iterator<Item = &Entry> {
        let start = match self.entries.front() {
            Some(front) if front.seq < seq => self.entries.partition_point(|entry| entry.seq < seq),
            _ => 0,
        };
        self.entries.range(start..).filter(|entry| entry.is_alive())
    }

    #[must_use]
    pub fn get(&self, seq: u64) -> Option<&Entry> {
        self.index_of(seq).map(|index| &self.entries[index])
    }

    /// Whether an earlier entry, not acknowledged for 65,535 positions, has the same packet identifier: then this one
    /// must not be sent yet [MQTT-2.2.1-3].
    #[must_use]
    pub fn is_blocked(&self, seq: u64) -> bool {
        let Some(front) = self.entries.front() else { return false };
        let mut earlier = seq;
        while let Some(candidate) = earlier.checked_sub(PACKET_IDS).filter(|candidate| *candidate >= front.seq) {
            if self.index_of(candidate).is_some_and(|index| self.entries[index].qos != QoS::AtMostOnce) {
                return true;
            }
            earlier = candidate;
        }
        false
    }

    /// Why another message of this size would be refused.
    pub(super) fn refuses(&self, limits: &QueueLimits) -> Option<DropReason> {
        if self.next_is_in_flight() {
            return None;
        }
        let beyond = self.alive - self.window_alive;
        if limits.messages != 0 && beyond >= limits.messages as usize {
            return Some(DropReason::QueueFull);
        }
        (limits.bytes != 0 && self.bytes_beyond >= limits.bytes).then_some(DropReason::QueueBytes)
    }

    fn next_is_in_flight(&self) -> bool {
        self.connected && self.window == self.entries.len() && self.window_has_room()
    }

    fn window_has_room(&self) -> bool {
        self.inflight_max == 0 || self.window_alive < usize::from(self.inflight_max)
    }

    #[inline]
    pub(super) fn push(&mut self, new: NewEntry) {
        let NewEntry { body, place, qos, retain, identifier, extra } = new;
        let (message, bytes, expires_at, state) = match body {
            NewBody::Here(message) => {
                let (bytes, expires_at) = (message.payload.len() as u32, expiry_of(&message));
                (Some(message), bytes, expires_at, Inner::Queued)
            }
            NewBody::Stored { bytes, expires_at } => (None, bytes, expires_at, Inner::Evicted),
            NewBody::Released => (None, 0, None, Inner::Released),
        };
        let expires_at = expires_at.unwrap_or(NEVER);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.append(Entry { seq, message, extra, expires_at, place, identifier, bytes, qos, retain, state });
    }

    fn append(&mut self, entry: Entry) {
        if self.next_is_in_flight() {
            self.window += 1;
            self.window_alive += 1;
        } else {
            self.bytes_beyond += u64::from(entry.bytes);
        }
        self.alive += 1;
        self.bytes += u64::from(entry.bytes);
        self.expiring += usize::from(entry.expires());
        self.entries.push_back(entry);
    }

    /// The entry in flight under a packet identifier: the earliest one that has it.
    pub(super) fn find(&self, packet_id: PacketId) -> Option<&Entry> {
        let front = self.entries.front()?.seq;
        if packet_id == 0 {
            return self.iter_from(front).find(|entry| entry.qos == QoS::AtMostOnce);
        }
        let wanted = u64::from(packet_id) - 1;
        let mut seq = front + (wanted + PACKET_IDS - front % PACKET_IDS) % PACKET_IDS;
        while seq < self.next_seq {
            if let Some(index) = self.index_of(seq)
                && self.entries[index].qos != QoS::AtMostOnce
            {
                return Some(&self.entries[index]);
            }
            seq += PACKET_IDS;
        }
        None
    }

    fn index_of(&self, seq: u64) -> Option<usize> {
        let front = self.entries.front()?.seq;
        let guess = usize::try_from(seq.checked_sub(front)?).ok()?;
        let index = match self.entries.get(guess) {
            Some(entry) if entry.seq == seq => guess,
            _ => self.entries.binary_search_by_key(&seq, |entry| entry.seq).ok()?,
        };
        self.entries[index].is_alive().then_some(index)
    }

    /// PUBREC came: the message is no longer needed. Returns the reference to it.
    pub(super) fn release(&mut self, seq: u64) -> Option<Held> {
        let index = self.index_of(seq)?;
        let entry = &mut self.entries[index];
        let held = entry.held();
        entry.message = None;
        entry.state = Inner::Released;
        let bytes = std::mem::take(&mut entry.bytes);
        self.expiring -= usize::from(entry.expires());
        entry.expires_at = NEVER;
        self.bytes -= u64::from(bytes);
        if index >= self.window {
            self.bytes_beyond -= u64::from(bytes);
        }
        if seq < self.written_before {
            self.released.push(seq);
        }
        held
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Entry> {
        let index = self.index_of(seq)?;
        let entry = self.take(index);
        self.tidy();
        Some(entry)
    }

    /// Removes the entries that `which` chooses, knowing whether each may have been sent.
    pub(super) fn remove_where(&mut self, mut which: impl FnMut(&Entry, bool) -> bool) -> Vec<Removed> {
        let mut removed = Vec::new();
        let first_beyond = self.entries.get(self.window).map_or(self.next_seq, |entry| entry.seq);
        let sent_before = if self.connected { first_beyond.max(self.dup_before) } else { self.dup_before };
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            let maybe_sent = entry.seq < sent_before;
            if entry.is_alive() && which(entry, maybe_sent) {
                removed.push(Removed { entry: self.take(index), maybe_sent });
            }
        }
        self.tidy();
        removed
    }

    /// Positions between which entries were written.
    pub(super) fn written(&self) -> std::ops::Range<u64> {
        let front = self.entries.front().map_or(self.next_seq, |entry| entry.seq);
        front..self.written_before.max(front)
    }

    /// Positions of entries that were written and went since.
    pub(super) fn take_removed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.removed)
    }

    /// Entries that are new or changed; from now on they count as written.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = &Entry> {
        let released = std::mem::take(&mut self.released);
        let from = std::mem::replace(&mut self.written_before, self.next_seq);
        let queue = &*self;
        released.into_iter().filter_map(|seq| queue.get(seq)).chain(queue.iter_from(from))
    }

    /// Takes entries out of a queue that is not used any more: nothing is counted.
    pub(super) fn take_first(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    /// Takes the entry out and leaves a gap; `tidy` must follow.
    fn take(&mut self, index: usize) -> Entry {
        let entry = &mut self.entries[index];
        let seq = entry.seq;
        let gap = Entry { message: None, extra: None, state: Inner::Removed, bytes: 0, expires_at: NEVER, ..*entry };
        let entry = std::mem::replace(entry, gap);
        self.alive -= 1;
        self.bytes -= u64::from(entry.bytes);
        self.expiring -= usize::from(entry.expires());
        if seq < self.written_before {
            self.removed.push(seq);
        }
        if index < self.window {
            self.window_alive -= 1;
            self.extend_window();
        } else {
            self.bytes_beyond -= u64::from(entry.bytes);
        }
        entry
    }

    /// The next entries move up when something in flight is done.
    fn extend_window(&mut self) {
        while let Some(entry) = self.entries.get(self.window) {
            if !self.may_be_in_flight(entry) || !self.window_has_room() {
                break;
            }
            if entry.is_alive() {
                self.bytes_beyond -= u64::from(entry.bytes);
                self.window_alive += 1;
            }
            self.window += 1;
        }
    }

    fn may_be_in_flight(&self, entry: &Entry) -> bool {
        self.connected || entry.seq < self.dup_before
    }

    fn tidy(&mut self) {
        while self.entries.front().is_some_and(|entry| !entry.is_alive()) {
            self.entries.pop_front();
            self.window = self.window.saturating_sub(1);
        }
        let gaps = self.entries.len() - self.alive;
        if gaps > GAPS_MAX && gaps * 2 > self.entries.len() {
            self.entries.retain(Entry::is_alive);
            self.set_window();
        }
        let capacity = self.entries.capacity();
        if capacity > IDLE_CAPACITY_MAX {
            match self.entries.len() {
                0 => self.entries = VecDeque::new(),
                // So that as many must come, or half of them go, before room is made or given back again.
                len if len < capacity / 4 => self.entries.shrink_to((2 * len).max(IDLE_CAPACITY_MAX)),
                _ => {}
            }
        }
    }

    /// The client is there: from now on `inflight_max` entries count as in flight.
    pub(super) fn connect(&mut self, inflight_max: u16) {
        self.connected = true;
        self.inflight_max = inflight_max;
        self.set_window();
    }

    /// The client is gone; entries before `dup_before` may have reached it.
    pub(super) fn disconnect(&mut self, dup_before: u64) {
        self.connected = false;
        self.set_dup_before(dup_before);
    }

    pub(super) fn set_dup_before(&mut self, dup_before: u64) {
        self.dup_before = dup_before.clamp(self.dup_before, self.next_seq);
        self.set_window();
    }

    fn set_window(&mut self) {
        (self.window, self.window_alive) = (0, 0);
        self.bytes_beyond = self.bytes;
        self.extend_window();
    }

    pub(super) fn has_expiring(&self) -> bool {
        self.expiring > 0
    }

    /// Removes entries that expired before delivery began [MQTT-3.3.2-5]; returns them and when the next one expires.
    pub(super) fn sweep(&mut self, now: Millis) -> (Vec<Removed>, Option<Millis>) {
        if self.expiring == 0 {
            return (Vec::new(), None);
        }
        let mut next = None;
        let removed = self.remove_where(|entry, maybe_sent| {
            if !entry.expires() || maybe_sent {
                return false;
            }
            let at = entry.expires_at;
            if at > now {
                next = Some(next.map_or(at, |earlier: Millis| earlier.min(at)));
            }
            at <= now
        });
        (removed, next)
    }
}

/// Putting out.
impl Queue {
    /// Evicts messages that were written, at most `most` of them, and tells `freed` of each. The first ones stay.
    /// `false` if there may be more.
    pub(super) fn put_out(&mut self, most: &mut usize, mut freed: impl FnMut(Place, Arc<Message>)) -> bool {
        if self.put_out_before >= self.written_before || self.entries.len() <= KEPT_HERE {
            return true;
        }
        let from = self.entries.partition_point(|entry| entry.seq < self.put_out_before).max(KEPT_HERE);
        for entry in self.entries.range_mut(from..) {
            if entry.seq >= self.written_before {
                break;
            }
            if *most == 0 {
                return false;
            }
            self.put_out_before = entry.seq + 1;
            *most -= 1;
            let moves = entry.group().is_some();
            if let Some(message) = entry.message.take_if(|_| !moves) {
                entry.state = Inner::Evicted;
                freed(entry.place, message);
            }
        }
        true
    }
}

/// Loading.
impl Queue {
    pub(super) fn restore(&mut self, next_seq: u64, dup_before: u64) {
        self.next_seq = next_seq;
        self.dup_before = dup_before;
        self.written_before = next_seq;
    }

    /// Entries must come in order; `connect` or `disconnect` must follow.
    pub(super) fn restore_entry(&mut self, seq: u64, new: NewEntry) {
        let next_seq = std::mem::replace(&mut self.next_seq, seq);
        self.push(new);
        self.next_seq = next_seq.max(seq + 1);
        self.written_before = self.next_seq;
    }
}

#[cfg(test)]
impl Queue {
    /// Counts everything again.
    pub(super) fn check(&self) {
        let alive = || self.entries.iter().filter(|entry| entry.is_alive());
        assert_eq!(self.alive, alive().count());
        assert_eq!(self.bytes, alive().map(|entry| u64::from(entry.bytes)).sum::<u64>());
        assert_eq!(self.expiring, alive().filter(|entry| entry.expires()).count());
        assert!(self.entries.front().is_none_or(Entry::is_alive));
        let room = self.entries.capacity();
        assert!(room <= IDLE_CAPACITY_MAX || room <= 4 * self.entries.len().max(1) + 4, "room for {room}");
        assert!(self.entries.iter().is_sorted_by(|a, b| a.seq < b.seq));
        let mut again = self.clone();
        again.set_window();
        assert_eq!(self.window_alive, again.window_alive, "in flight");
        assert_eq!(self.bytes_beyond, again.bytes_beyond, "bytes beyond those in flight");
    }
}
