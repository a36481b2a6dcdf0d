//! What changed since the last cut, for writing behind.
//! Always true: a cut belongs to one applied index; written over the durable form of the cut before it, it gives the
//! durable form of the state; what came and went between two cuts does not appear.
//! Taking a cut copies references and small records only; they are encoded when the operations are asked for. The notes
//! of what changed grow until then; a state that is never written is made by [`State::in_memory`] and keeps none.
use super::{
    Message, SessionPlace, State,
    messages::{MessageId, MessageStore},
    queue::Entry,
    records::{EntryRecord, HeaderRecord, Key, MetaRecord, SessionRecord, Value},
    session::{Session, Unwritten},
};
use crate::{fnv::fnv1a, ids::LogIndex};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::sync::Arc;

/// A consistent cut.
#[derive(Debug, Default)]
pub struct Changes {
    applied: LogIndex,
    gone: Vec<Key>,
    gone_of_sessions: Vec<Gone>,
    gone_messages: Vec<MessageId>,
    new: Vec<(Key, Value)>,
    // There may be many of these, so they are kept short until they are asked for.
    new_messages: Vec<(MessageId, Arc<Message>)>,
    new_entries: Vec<(Utf8, Vec<(u64, EntryRecord)>)>,
}

/// What was written of a session and is no more.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub(super) client_id: Utf8,
    /// Not only parts of the session, but the session.
    pub(super) whole: bool,
    pub(super) filters: Vec<TopicFilter>,
    pub(super) entries: Vec<u64>,
    /// And all in here, of which some may not have been written.
    pub(super) entries_from: std::ops::Range<u64>,
}

impl Changes {
    /// The state's index at the cut.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Keys to remove first, then keys with their values; a key may be in both parts.
    pub fn into_ops(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let of_sessions = self.gone_of_sessions.into_iter().flat_map(Gone::keys);
        let messages = self.gone_messages.into_iter().map(Key::Message);
        let gone = self.gone.into_iter().chain(of_sessions).chain(messages).map(|key| (key.encode(), None));
        let messages = self.new_messages.into_iter().map(|(id, message)| (Key::Message(id), Value::Message(message)));
        let entries = self.new_entries.into_iter().flat_map(|(client_id, entries)| {
            let key = move |seq| Key::Entry(client_id.clone(), seq);
            entries.into_iter().map(move |(seq, record)| (key(seq), Value::Entry(record)))
        });
        let new = self.new.into_iter().chain(messages).chain(entries);
        gone.chain(new.map(|(key, value)| (key.encode(), Some(value.encode()))))
    }
}

impl Gone {
    fn keys(self) -> impl Iterator<Item = Key> {
        let Self { client_id, whole, filters, entries, entries_from } = self;
        let keys = [Key::Session(client_id.clone()), Key::Header(client_id.clone()), Key::Inbound(client_id.clone())];
        let also = client_id.clone();
        let filters = filters.into_iter().map(move |filter| Key::Subscription(also.clone(), filter));
        let entries = entries.into_iter().chain(entries_from).map(move |seq| Key::Entry(client_id.clone(), seq));
        keys.into_iter().filter(move |_| whole).chain(filters).chain(entries)
    }
}

impl State {
    /// Notes that a session must be written again; the caller says which part.
    pub(super) fn unwritten(&mut self, place: SessionPlace) -> &mut Unwritten {
        let unwritten = &mut self.sessions[place].unwritten;
        if !unwritten.listed {
            unwritten.listed = true;
            self.sessions_unwritten.push(place);
        }
        unwritten
    }

    /// A state of which no cuts are taken.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { in_memory: true, ..Self::default() }
    }

    /// Nothing was written before, so nothing has to be removed either.
    pub(super) fn forget_changes(&mut self) {
        for place in std::mem::take(&mut self.sessions_unwritten) {
            if self.sessions.contains(place) {
                self.sessions[place].unwritten = Unwritten::default();
            }
        }
        self.retained_unwritten.clear();
        self.groups.unwritten.clear();
        self.lost.unwritten.clear();
        self.replays.unwritten.clear();
        self.nodes.unwritten.clear();
        self.admissions.unwritten.clear();
        self.seen.forget_unwritten();
    }

    /// How many sessions and topics the next cut has to look at.
    #[must_use]
    pub fn unwritten_parts(&self) -> usize {
        self.sessions_unwritten.len() + self.retained_unwritten.len() + self.ended.len()
    }

    /// Everything that changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes { applied: self.applied, ..Changes::default() };
        changes.gone_of_sessions = std::mem::take(&mut self.ended);
        changes.new.push((Key::Meta, Value::Meta(self.meta_record())));
        for place in std::mem::take(&mut self.sessions_unwritten) {
            if self.sessions.contains(place) {
                self.take_session(place, &mut changes);
            }
        }
        for topic in std::mem::take(&mut self.retained_unwritten) {
            match self.retained.get(topic.as_str()) {
                Some(kept) => {
                    let id = self.messages.id(kept.place);
                    if self.messages.mark_written(kept.place) {
                        changes.new_messages.push((id, kept.message.clone()));
                    }
                    changes.new.push((Key::Retained(topic), Value::Retained(id)));
                }
                None => changes.gone.push(Key::Retained(topic)),
            }
        }
        for turn in std::mem::take(&mut self.replays.unwritten) {
            match self.replays.get(turn) {
                Some(replay) => changes.new.push((Key::Replay(turn), Value::Replay(replay.clone()))),
                None => changes.gone.push(Key::Replay(turn)),
            }
        }
        for incarnation in std::mem::take(&mut self.lost.unwritten) {
            match self.lost.incarnations.get(&incarnation) {
                Some(at) => changes.new.push((Key::Lost(incarnation), Value::Lost(*at))),
                None => changes.gone.push(Key::Lost(incarnation)),
            }
        }
        for filter in std::mem::take(&mut self.groups.unwritten) {
            match self.groups.get(&filter) {
                Some(group) if group.cursor != 0 => {
                    changes.new.push((Key::Group(filter), Value::Group(group.cursor)));
                }
                // It is gone, or was made again and nobody had a turn yet.
                _ => changes.gone.push(Key::Group(filter)),
            }
        }
        for node in std::mem::take(&mut self.nodes.unwritten) {
            changes.new.extend(self.nodes.records.get(&node).map(|r| (Key::Node(node), Value::Node(r.clone()))));
        }
        for name in std::mem::take(&mut self.admissions.unwritten) {
            match self.admissions.names.get(&name) {
                Some(record) => changes.new.push((Key::Admission(name), Value::Admission(record.clone()))),
                None => changes.gone.push(Key::Admission(name)),
            }
        }
        let marks = self.seen.take_unwritten().into_iter();
        changes.new.extend(marks.map(|(slot, (number, mark))| (Key::LoopId(slot), Value::LoopId(number, mark))));
        changes.gone_messages = std::mem::take(&mut self.messages.removed);
        changes
    }

    fn take_session(&mut self, place: SessionPlace, changes: &mut Changes) {
        let Self { sessions, messages, .. } = self;
        let session = &mut sessions[place];
        let unwritten = std::mem::take(&mut session.unwritten);
        let client_id = session.client_id.clone();
        if unwritten.core || !session.written {
            session.written = true;
            changes.new.push(session_record(session));
        }
        if unwritten.header {
            changes.new.push(header_record(session));
        }
        if unwritten.inbound {
            if session.inbound.is_empty() {
                changes.gone.push(Key::Inbound(client_id.clone()));
            } else {
                changes.new.push((Key::Inbound(client_id.clone()), Value::Inbound(session.inbound.clone())));
            }
        }
        for filter in unwritten.filters {
            let record = session.subscriptions.get(&filter).copied();
            let key = Key::Subscription(client_id.clone(), filter);
            match record {
                Some(record) => changes.new.push((key, Value::Subscription(record))),
                None => changes.gone.push(key),
            }
        }
        let queue = &mut session.queue;
        if !queue.removed.is_empty() {
            let entries = std::mem::take(&mut queue.removed);
            let (client_id, filters) = (client_id.clone(), Vec::new());
            let gone = Gone { client_id, whole: false, filters, entries, entries_from: 0..0 };
            changes.gone_of_sessions.push(gone);
        }
        let released = std::mem::take(&mut queue.released);
        let from = queue.written_before;
        queue.written_before = queue.tail();
        let mut records = Vec::new();
        for entry in released.iter().filter_map(|seq| queue.get(*seq)).chain(queue.iter_from(from)) {
            if let (Some(held), Some(message)) = (entry.held(), entry.message())
                && messages.mark_written(held.place)
            {
                changes.new_messages.push((messages.id(held.place), message.clone()));
            }
            records.push(entry_record(entry, messages));
        }
        if !records.is_empty() {
            changes.new_entries.push((client_id, records));
        }
    }

    /// The whole state as one cut, messages that were evicted excepted; nothing is noted as written.
    #[must_use]
    pub fn all_records(&self) -> Changes {
        let mut changes = Changes { applied: self.applied, ..Changes::default() };
        let mut seen = vec![false; self.messages.places()];
        let new = &mut changes.new;
        new.push((Key::Meta, Value::Meta(self.meta_record())));
        new.extend(self.nodes.records.iter().map(|(node, record)| (Key::Node(*node), Value::Node(record.clone()))));
        let admissions = self.admissions.names.iter();
        new.extend(admissions.map(|(name, record)| (Key::Admission(name.clone()), Value::Admission(record.clone()))));
        for (_, session) in self.sessions.iter() {
            let client_id = &session.client_id;
            new.push(session_record(session));
            new.push(header_record(session));
            let key = |filter: &TopicFilter| Key::Subscription(client_id.clone(), filter.clone());
            new.extend(session.subscriptions.iter().map(|(filter, r)| (key(filter), Value::Subscription(*r))));
            if !session.inbound.is_empty() {
                new.push((Key::Inbound(client_id.clone()), Value::Inbound(session.inbound.clone())));
            }
            let mut records = Vec::with_capacity(session.queue.len());
            for entry in session.queue.iter_from(0) {
                if let (Some(held), Some(message)) = (entry.held(), entry.message())
                    && !std::mem::replace(&mut seen[held.place as usize], true)
                {
                    changes.new_messages.push((self.messages.id(held.place), message.clone()));
                }
                records.push(entry_record(entry, &self.messages));
            }
            changes.new_entries.push((client_id.clone(), records));
        }
        for (topic, kept) in self.retained.iter() {
            let id = self.messages.id(kept.place);
            if !std::mem::replace(&mut seen[kept.place as usize], true) {
                changes.new_messages.push((id, kept.message.clone()));
            }
            new.push((Key::Retained(topic.clone()), Value::Retained(id)));
        }
        new.extend(self.replays.iter().map(|(turn, replay)| (Key::Replay(turn), Value::Replay(replay.clone()))));
        new.extend(self.lost.incarnations.iter().map(|(incarnation, at)| (Key::Lost(*incarnation), Value::Lost(*at))));
        let groups = self.groups.iter().filter(|(_, group)| group.cursor != 0);
        new.extend(groups.map(|(filter, group)| (Key::Group(filter.clone()), Value::Group(group.cursor))));
        new.extend(self.seen.all().map(|(slot, (number, mark))| (Key::LoopId(slot), Value::LoopId(number, mark))));
        changes
    }

    /// All records, ordered by key, for comparing states; without messages that were evicted.
    #[must_use]
    pub fn full_records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let records = self.all_records().into_ops();
        let mut records: Vec<_> = records.filter_map(|(key, value)| Some((key, value?))).collect();
        records.sort_unstable();
        records
    }

    /// Equal for equal states: FNV-1a over all records.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let records = self.full_records();
        let parts = records.iter().flat_map(|(key, value)| [key, value]);
        fnv1a(parts.flat_map(|part| (part.len() as u64).to_le_bytes().into_iter().chain(part.iter().copied())))
    }

    fn meta_record(&self) -> MetaRecord {
        MetaRecord {
            applied: self.applied,
            time: self.time,
            next_message: self.messages.next_id,
            counters: self.counters.clone(),
        }
    }
}

fn session_record(session: &Session) -> (Key, Value) {
    let record = SessionRecord {
        username: session.username.clone(),
        epoch: session.epoch,
        owner: session.owner,
        expiry_seconds: session.expiry_seconds,
        disconnected_at: session.disconnected_at,
        will: session.will.clone(),
        will_due: session.will_due,
        expires_at: session.expires_at,
        limits: session.limits,
        door: session.door,
    };
    (Key::Session(session.client_id.clone()), Value::Session(Box::new(record)))
}

fn header_record(session: &Session) -> (Key, Value) {
    let queue = &session.queue;
    let record = HeaderRecord { next_seq: queue.tail(), dup_before: queue.dup_before(), sweep_at: session.sweep_at };
    (Key::Header(session.client_id.clone()), Value::Header(record))
}

fn entry_record(entry: &Entry, messages: &MessageStore) -> (u64, EntryRecord) {
    let record = EntryRecord {
        message: entry.held().map(|held| messages.id(held.place)),
        state: entry.state(),
        qos: entry.qos(),
        retain: entry.retain(),
        identifier: entry.identifier(),
        extra: entry.extra().cloned(),
    };
    (entry.seq(), record)
}
