//! What waits for each client: messages that are queued, acknowledged, or removed because they expired.
//! Always true: every queue entry refers to its message as long as it holds it; an acknowledgement that does not fit its
//! entry changes nothing; what is dropped is counted.
//! Not here: who gets a message (`routing`), the queue itself (`queue`).
use super::{
    AckKind, ConnectCommand, Counters, DropReason, Effect, Entry, EntryState, MessageId, Moment, Owner, Session,
    SubscriptionRecord,
    deadlines::{Deadline, Deadlines},
    effects::Effects,
    gone::Gone,
    lives::LifeHandler,
    messages::{Held, MessageStore, Place},
    publish::Publishing,
    queue::{Extra, NewBody, NewEntry, Removed, expiry_of},
    retained::{RetainedHandler, RetainedMessages},
    sessions::{SessionPlace, Sessions},
};
use crate::ids::{Epoch, Millis};
use mosquorum_proto::mqtt::{PacketId, QoS, TopicFilter, Utf8};
use std::sync::Arc;

/// Queues are searched for expired messages at multiples of this: it costs time in proportion to a queue's length.
const SWEEP_INTERVAL_MILLIS: u64 = 5_000;

/// Changes what waits for clients.
pub(super) struct QueueHandler<'a> {
    sessions: &'a mut Sessions,
    messages: &'a mut MessageStore,
    deadlines: &'a mut Deadlines,
    counters: &'a mut Counters,
    now: Moment,
}

impl<'a> QueueHandler<'a> {
    #[inline]
    pub(super) fn new(
        sessions: &'a mut Sessions,
        messages: &'a mut MessageStore,
        deadlines: &'a mut Deadlines,
        counters: &'a mut Counters,
        now: Moment,
    ) -> Self {
        Self { sessions, messages, deadlines, counters, now }
    }

    #[inline]
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    #[inline]
    pub(super) fn sessions(&self) -> &Sessions {
        self.sessions
    }

    pub(super) fn lives(&mut self) -> LifeHandler<'_> {
        LifeHandler::new(self.sessions, self.deadlines, self.counters, self.now)
    }

    #[inline]
    pub(super) fn retained<'h>(&'h mut self, topics: &'h mut RetainedMessages) -> RetainedHandler<'h> {
        RetainedHandler::new(topics, self.messages, self.deadlines)
    }
}

/// Entries that come and go.
impl QueueHandler<'_> {
    /// Adds to the queue without looking at its limits.
    pub(super) fn enqueue(
        &mut self,
        publishing: &mut Publishing<'_>,
        place: SessionPlace,
        (qos, retain, identifier, extra): (QoS, bool, u32, Option<Arc<Extra>>),
        out: &mut Effects<'_>,
    ) {
        let message = publishing.message;
        let counted = *publishing.place.get_or_insert_with(|| self.messages.add(message));
        self.messages.refer(Held { place: counted, here: true });
        let body = NewBody::Here(message.clone());
        let session = &mut self.sessions[place];
        session.queue_mut().push(NewEntry { body, place: counted, qos, retain, identifier, extra });
        if let Some(owner) = session.owner()
            && session.note_growth(self.now.index)
        {
            out.add(Effect::QueueGrew { owner });
        }
        self.sessions.unwritten(place).header = true;
        if let Some(at) = expiry_of(message) {
            self.sweep_by(place, at);
        }
    }

    /// Packet identifier 0 with [`AckKind::PubAck`] stands for the earliest QoS 0 entry: it has been sent.
    pub(super) fn acknowledge(&mut self, place: SessionPlace, acks: &[(PacketId, AckKind)]) {
        for (packet_id, kind) in acks {
            self.acknowledge_one(place, *packet_id, *kind);
        }
    }

    fn acknowledge_one(&mut self, place: SessionPlace, packet_id: PacketId, kind: AckKind) {
        let queue = self.sessions[place].queue_mut();
        let Some(entry) = queue.find(packet_id) else { return };
        let (seq, qos, state) = (entry.seq(), entry.qos(), entry.state());
        let held = match kind {
            AckKind::PubRec if qos == QoS::ExactlyOnce && state == EntryState::Queued => queue.release(seq),
            AckKind::PubAck if qos != QoS::ExactlyOnce => queue.remove(seq).and_then(|entry| entry.held()),
            AckKind::PubComp if state == EntryState::Released => queue.remove(seq).and_then(|entry| entry.held()),
            AckKind::PubRecError if qos == QoS::ExactlyOnce => queue.remove(seq).and_then(|entry| entry.held()),
            _ => return,
        };
        if let Some(held) = held {
            self.messages.release(held);
        }
        self.sessions.unwritten(place).header = true;
    }

    /// Takes entries out of a queue; what they hold is still to be released.
    pub(super) fn take_out(&mut self, place: SessionPlace, which: impl FnMut(&Entry, bool) -> bool) -> Vec<Removed> {
        self.sessions[place].queue_mut().remove_where(which)
    }

    /// Notes that entries of the queue came or went.
    pub(super) fn note_changed(&mut self, place: SessionPlace) {
        self.sessions.unwritten(place).header = true;
    }

    pub(super) fn release(&mut self, held: Held) {
        self.messages.release(held);
    }

    /// Counts messages that were not queued or removed, and tells the owner's node.
    pub(super) fn note_dropped(&mut self, place: SessionPlace, reason: DropReason, count: u32, out: &mut Effects<'_>) {
        if count > 0 {
            self.counters.add_dropped(reason, u64::from(count));
            let client_id = self.sessions[place].client_id().clone();
            out.add(Effect::Dropped { client_id, reason, count });
        }
    }

    pub(super) fn message_id(&self, place: Place) -> MessageId {
        self.messages.id(place)
    }

    /// The number that the next message will get.
    pub(super) fn next_message_id(&self) -> MessageId {
        MessageId(self.messages.next_id())
    }
}

/// QoS 2 packet identifiers of publishers.
impl QueueHandler<'_> {
    /// `false` if the identifier is in use.
    pub(super) fn add_inbound(&mut self, place: SessionPlace, packet_id: PacketId) -> bool {
        let is_new = self.sessions[place].add_inbound(packet_id);
        if is_new {
            self.sessions.unwritten(place).inbound = true;
        }
        is_new
    }

    /// Whether it was in use.
    pub(super) fn remove_inbound(&mut self, place: SessionPlace, packet_id: PacketId) -> bool {
        let existed = self.sessions[place].remove_inbound(packet_id);
        if existed {
            self.sessions.unwritten(place).inbound = true;
        }
        existed
    }

    pub(super) fn forget_inbound(&mut self, place: SessionPlace) {
        self.sessions[place].forget_inbound();
        self.sessions.unwritten(place).inbound = true;
    }
}

/// Messages that expire.
impl QueueHandler<'_> {
    /// The queue's search is due.
    pub(super) fn sweep(&mut self, place: SessionPlace, out: &mut Effects<'_>) {
        let session = &mut self.sessions[place];
        session.set_sweep_at(None);
        let (removed, next) = session.queue_mut().sweep(self.now.time);
        for held in removed.iter().filter_map(|removed| removed.entry.held()) {
            self.messages.release(held);
        }
        self.note_dropped(place, DropReason::Expired, removed.len() as u32, out);
        self.sessions.unwritten(place).header = true;
        if let Some(next) = next {
            self.sweep_by(place, next);
        }
    }

    /// The queue is to be searched soon after `at`, or before.
    fn sweep_by(&mut self, place: SessionPlace, at: Millis) {
        let at = Millis((at.0 / SWEEP_INTERVAL_MILLIS).saturating_add(1).saturating_mul(SWEEP_INTERVAL_MILLIS));
        let session = &mut self.sessions[place];
        if session.sweep_at().is_some_and(|earlier| earlier <= at) {
            return;
        }
        if let Some(later) = session.set_sweep_at(Some(at)) {
            self.deadlines.forget(later, Deadline::Sweep(session.client_id().clone()));
        }
        self.deadlines.insert(at, Deadline::Sweep(session.client_id().clone()));
        self.sessions.unwritten(place).header = true;
    }

    pub(super) fn forget_sweep(&mut self, place: SessionPlace) {
        let session: &mut Session = &mut self.sessions[place];
        if let Some(at) = session.set_sweep_at(None) {
            self.deadlines.forget(at, Deadline::Sweep(session.client_id().clone()));
        }
    }
}

/// What the handlers around this one change of a session: their parts, and the note that they must be written again.
impl QueueHandler<'_> {
    /// As [`Session::attach`].
    pub(super) fn attach(&mut self, place: SessionPlace, command: &ConnectCommand, epoch: Epoch) {
        self.sessions[place].attach(command, epoch);
        let unwritten = self.sessions.unwritten(place);
        (unwritten.core, unwritten.header) = (true, true);
    }

    /// As [`Session::detach`]. QoS 0 is not sent twice.
    pub(super) fn detach(&mut self, place: SessionPlace, sent_before: u64, since: Millis) -> Option<Owner> {
        let owner = self.sessions[place].detach(sent_before, since);
        let unwritten = self.sessions.unwritten(place);
        (unwritten.core, unwritten.header) = (true, true);
        let sent = self.take_out(place, |entry, maybe_sent| maybe_sent && entry.qos() == QoS::AtMostOnce);
        for held in sent.iter().filter_map(|removed| removed.entry.held()) {
            self.messages.release(held);
        }
        if self.sessions[place].queue().has_expiring() {
            self.sweep_by(place, self.now.time);
        }
        owner
    }

    /// As [`Session::put_subscription`].
    pub(super) fn put_subscription(&mut self, place: SessionPlace, filter: &TopicFilter, record: SubscriptionRecord) {
        self.sessions[place].put_subscription(filter.clone(), record);
        self.sessions.unwritten(place).filters.insert(filter.clone());
    }

    /// As [`Session::take_subscription`].
    pub(super) fn take_subscription(
        &mut self,
        place: SessionPlace,
        filter: &TopicFilter,
    ) -> Option<SubscriptionRecord> {
        let record = self.sessions[place].take_subscription(filter)?;
        self.sessions.unwritten(place).filters.insert(filter.clone());
        Some(record)
    }

    /// As [`Session::match_of`].
    #[inline]
    pub(super) fn match_of(&mut self, place: SessionPlace, publish: u64, next: usize) -> Option<usize> {
        self.sessions[place].match_of(publish, next)
    }
}

/// Sessions that come and go.
impl QueueHandler<'_> {
    /// The client identifier must be free.
    pub(super) fn begin_session(&mut self, client_id: Utf8) -> SessionPlace {
        self.sessions.add(Session::new(client_id))
    }

    /// Nothing must be left of it elsewhere.
    pub(super) fn remove_session(&mut self, place: SessionPlace) {
        let session = self.sessions.remove(place);
        if session.is_written() {
            self.sessions.note_gone(Gone::whole(*session));
        }
    }

    /// What is left of it is cleared later.
    pub(super) fn lay_session_aside(&mut self, place: SessionPlace) {
        let session = &mut self.sessions[place];
        if session.is_written() {
            let gone = Gone::unstripped(session);
            self.sessions.note_gone(gone);
        }
        self.sessions.lay_aside(place);
    }

    /// Takes a subscription out of the session that was laid aside first.
    pub(super) fn pop_aside_subscription(&mut self) -> Option<(SessionPlace, TopicFilter, SubscriptionRecord)> {
        let (place, session) = self.sessions.first_aside()?;
        session.pop_subscription().map(|(filter, record)| (place, filter, record))
    }

    /// Gives back the room of one entry of the session that was laid aside first; `false` if it has none.
    pub(super) fn clear_one_aside(&mut self) -> bool {
        let Some(entry) = self.sessions.first_aside().and_then(|(_, session)| session.queue_mut().take_first()) else {
            return false;
        };
        if let Some(held) = entry.held() {
            self.messages.release(held);
        }
        true
    }

    /// All that was laid aside first has been cleared.
    pub(super) fn remove_aside(&mut self) {
        self.sessions.remove_first_aside();
    }
}
