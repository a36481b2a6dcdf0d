//! What changed since the last cut, for writing behind.
//! Always true: a cut belongs to one applied index; written over the durable form of the cut before it, it gives the
//! durable form of the state; what came and went between two cuts does not appear.
//! Taking a cut copies references and small records only; they are encoded when the operations are asked for. The notes
//! of what changed grow until then; a state that is never written is made by [`State::in_memory`] and keeps none.
use super::{
    SessionPlace, State,
    messages::MessageId,
    queue::Entry,
    records::{EntryRecord, HeaderRecord, Key, MetaRecord, SessionRecord, Value},
    session::{Session, Unwritten},
};
use crate::ids::LogIndex;
use mosquorum_proto::mqtt::{TopicFilter, Utf8};

/// A consistent cut.
#[derive(Debug, Default)]
pub struct Changes {
    applied: LogIndex,
    gone: Vec<Key>,
    /// Ended sessions and messages without references have many keys: kept short until asked for.
    ended: Vec<Ended>,
    gone_messages: Vec<MessageId>,
    new: Vec<(Key, Value)>,
}

/// A session that was written and is no more.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) client_id: Utf8,
    pub(super) filters: Vec<TopicFilter>,
    pub(super) entries: Vec<u64>,
}

impl Changes {
    /// The state's index at the cut.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Keys to remove first, then keys with their values; a key may be in both parts.
    pub fn into_ops(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let ended = self.ended.into_iter().flat_map(Ended::keys);
        let messages = self.gone_messages.into_iter().map(Key::Message);
        let gone = self.gone.into_iter().chain(ended).chain(messages).map(|key| (key.encode(), None));
        gone.chain(self.new.into_iter().map(|(key, value)| (key.encode(), Some(value.encode()))))
    }
}

impl Ended {
    fn keys(self) -> impl Iterator<Item = Key> {
        let Self { client_id, filters, entries } = self;
        let whole = [Key::Session(client_id.clone()), Key::Header(client_id.clone()), Key::Inbound(client_id.clone())];
        let also = client_id.clone();
        let filters = filters.into_iter().map(move |filter| Key::Subscription(also.clone(), filter));
        let entries = entries.into_iter().map(move |seq| Key::Entry(client_id.clone(), seq));
        whole.into_iter().chain(filters).chain(entries)
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
        self.nodes.unwritten.clear();
    }

    /// Everything that changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes =
            Changes { applied: self.applied, ended: std::mem::take(&mut self.ended), ..Changes::default() };
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
                        changes.new.push((Key::Message(id), Value::Message(kept.message.clone())));
                    }
                    changes.new.push((Key::Retained(topic), Value::Retained(id)));
                }
                None => changes.gone.push(Key::Retained(topic)),
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
        let gone = queue.removed.drain(..).map(|seq| Key::Entry(client_id.clone(), seq));
        changes.gone.extend(gone);
        let released = std::mem::take(&mut queue.released);
        let from = queue.written_before;
        queue.written_before = queue.tail();
        let entries = released.iter().filter_map(|seq| queue.get(*seq)).chain(queue.iter_from(from));
        for entry in entries {
            let id = entry.place().map(|place| (messages.id(place), messages.mark_written(place)));
            if let (Some((id, true)), Some(message)) = (id, entry.message()) {
                changes.new.push((Key::Message(id), Value::Message(message.clone())));
            }
            changes.new.push(entry_record(&client_id, entry, id.map(|(id, _)| id)));
        }
    }

    /// The whole state as one cut, for a snapshot; nothing is noted as written.
    #[must_use]
    pub fn all_records(&self) -> Changes {
        let mut new = vec![(Key::Meta, Value::Meta(self.meta_record()))];
        new.extend(self.nodes.records.iter().map(|(node, record)| (Key::Node(*node), Value::Node(record.clone()))));
        let sessions = self.sessions.in_order();
        let mut messages = std::collections::BTreeMap::new();
        let retained = || self.retained.iter().map(|(_, kept)| (self.messages.id(kept.place), &kept.message));
        let queued = |session: &&Session| {
            let entries = session.queue.iter_from(0);
            let held = entries.filter_map(|entry| Some((self.messages.id(entry.place()?), entry.message()?.clone())));
            held.collect::<Vec<_>>()
        };
        messages.extend(sessions.iter().flat_map(queued));
        messages.extend(retained().map(|(id, message)| (id, message.clone())));
        new.extend(messages.into_iter().map(|(id, message)| (Key::Message(id), Value::Message(message))));
        new.extend(sessions.iter().map(|session| session_record(session)));
        for session in &sessions {
            let client_id = &session.client_id;
            let key = |filter: &TopicFilter| Key::Subscription(client_id.clone(), filter.clone());
            new.extend(session.subscriptions.iter().map(|(filter, r)| (key(filter), Value::Subscription(*r))));
            new.push(header_record(session));
            if !session.inbound.is_empty() {
                new.push((Key::Inbound(client_id.clone()), Value::Inbound(session.inbound.clone())));
            }
            let id = |entry: &Entry| entry.place().map(|place| self.messages.id(place));
            new.extend(session.queue.iter_from(0).map(|entry| entry_record(client_id, entry, id(entry))));
        }
        let topics = self.retained.iter().map(|(topic, kept)| (topic, self.messages.id(kept.place)));
        new.extend(topics.map(|(topic, id)| (Key::Retained(topic.clone()), Value::Retained(id))));
        let groups = self.groups.iter().filter(|(_, group)| group.cursor != 0);
        new.extend(groups.map(|(filter, group)| (Key::Group(filter.clone()), Value::Group(group.cursor))));
        Changes { applied: self.applied, new, ..Changes::default() }
    }

    /// All records, ordered by key: for tests and for comparing states.
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
        let mut digest = 0xCBF2_9CE4_8422_2325_u64;
        let mut add = |bytes: &[u8]| {
            for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
                digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            }
        };
        for (key, value) in self.full_records() {
            add(&key);
            add(&value);
        }
        digest
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
    };
    (Key::Session(session.client_id.clone()), Value::Session(Box::new(record)))
}

fn header_record(session: &Session) -> (Key, Value) {
    let queue = &session.queue;
    let record = HeaderRecord { next_seq: queue.tail(), dup_before: queue.dup_before(), sweep_at: session.sweep_at };
    (Key::Header(session.client_id.clone()), Value::Header(record))
}

fn entry_record(client_id: &Utf8, entry: &Entry, message: Option<MessageId>) -> (Key, Value) {
    let record = EntryRecord {
        message,
        state: entry.state(),
        qos: entry.qos(),
        retain: entry.options().retain,
        identifier: entry.identifier(),
        extra: entry.extra().cloned(),
    };
    (Key::Entry(client_id.clone(), entry.seq()), Value::Entry(record))
}
