//! What changed since the last cut, for writing behind.
//! Always true: a cut belongs to one applied index; written over the durable form of the cut before it, it gives the
//! durable form of the state; what came and went between two cuts does not appear.
//! Taking a cut copies references and small records only; they are encoded when the operations are asked for. The notes
//! of what changed grow until then; a state that is never written is made by [`State::in_memory`] and keeps none.
use super::State;
use crate::state::{
    Message, Session,
    gone::Gone,
    messages::{MessageId, MessageStore},
    queue::Entry,
    records::{EntryRecord, HeaderRecord, Key, MetaRecord, Value},
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

impl Changes {
    /// The state's index at the cut.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// `None`: it is no more.
    fn put(&mut self, key: Key, value: Option<Value>) {
        match value {
            Some(value) => self.new.push((key, value)),
            None => self.gone.push(key),
        }
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

impl State {
    /// A state of which no cuts are taken.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { in_memory: true, ..Self::default() }
    }

    /// Nothing was written before, so nothing has to be removed either.
    pub(super) fn forget_changes(&mut self) {
        self.sessions.forget_unwritten();
        self.retained.forget_unwritten();
        self.routes.forget_unwritten();
        self.connections.forget_unwritten();
        self.replays.forget_unwritten();
        self.nodes.forget_unwritten();
        self.admissions.forget_unwritten();
        self.seen.forget_unwritten();
    }

    /// How many sessions and topics the next cut has to look at.
    #[must_use]
    pub fn unwritten_parts(&self) -> usize {
        self.sessions.unwritten_count() + self.retained.unwritten_count()
    }

    /// Everything that changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes { applied: self.now.index, ..Changes::default() };
        changes.gone_of_sessions = self.sessions.take_gone();
        changes.new.push(self.meta_record());
        self.sessions.take_unwritten(|session| take_session(session, &mut self.messages, &mut changes));
        for (topic, kept) in self.retained.take_unwritten() {
            let value = kept.map(|kept| {
                let id = self.messages.id(kept.place);
                if self.messages.mark_written(kept.place) {
                    changes.new_messages.push((id, kept.message.clone()));
                }
                Value::Retained(id)
            });
            changes.put(Key::Retained(topic), value);
        }
        for (turn, replay) in self.replays.take_unwritten() {
            changes.put(Key::Replay(turn), replay.map(|replay| Value::Replay(replay.clone())));
        }
        for (incarnation, since) in self.connections.take_unwritten() {
            changes.put(Key::Lost(incarnation), since.map(Value::Lost));
        }
        for (filter, cursor) in self.routes.take_unwritten() {
            changes.put(Key::Group(filter), cursor.map(Value::Group));
        }
        let nodes = self.nodes.take_unwritten();
        changes.new.extend(nodes.map(|(node, record)| (Key::Node(node), Value::Node(record.clone()))));
        for (name, word) in self.admissions.take_unwritten() {
            changes.put(Key::Admission(name), word.map(|word| Value::Admission(word.clone())));
        }
        let marks = self.seen.take_unwritten().into_iter();
        changes.new.extend(marks.map(|(slot, (number, mark))| (Key::LoopId(slot), Value::LoopId(number, mark))));
        changes.gone_messages = self.messages.take_removed();
        changes
    }

    /// The whole state as one cut, messages that were evicted excepted; nothing is noted as written.
    #[must_use]
    pub fn all_records(&self) -> Changes {
        let mut changes = Changes { applied: self.now.index, ..Changes::default() };
        let mut seen = vec![false; self.messages.places()];
        changes.new.push(self.meta_record());
        let nodes = self.nodes.iter();
        changes.new.extend(nodes.map(|(node, record)| (Key::Node(node), Value::Node(record.clone()))));
        let words = self.admissions.iter();
        changes.new.extend(words.map(|(name, word)| (Key::Admission(name.clone()), Value::Admission(word.clone()))));
        for (_, session) in self.sessions.iter() {
            self.put_session(session, &mut seen, &mut changes);
        }
        for (topic, kept) in self.retained.iter() {
            let id = self.messages.id(kept.place);
            if !std::mem::replace(&mut seen[kept.place as usize], true) {
                changes.new_messages.push((id, kept.message.clone()));
            }
            changes.new.push((Key::Retained(topic.clone()), Value::Retained(id)));
        }
        let new = &mut changes.new;
        new.extend(self.replays.iter().map(|(turn, replay)| (Key::Replay(turn), Value::Replay(replay.clone()))));
        new.extend(self.connections.over().map(|(incarnation, at)| (Key::Lost(incarnation), Value::Lost(at))));
        let groups = self.routes.groups().iter().filter(|(_, group)| group.cursor() != 0);
        new.extend(groups.map(|(filter, group)| (Key::Group(filter.clone()), Value::Group(group.cursor()))));
        new.extend(self.seen.all().map(|(slot, (number, mark))| (Key::LoopId(slot), Value::LoopId(number, mark))));
        changes
    }

    /// `seen`: places of messages that are there already.
    fn put_session(&self, session: &Session, seen: &mut [bool], changes: &mut Changes) {
        let client_id = session.client_id();
        let new = &mut changes.new;
        new.push(session_record(session));
        new.push(header_record(session));
        let key = |filter: &TopicFilter| Key::Subscription(client_id.clone(), filter.clone());
        new.extend(session.subscriptions().iter().map(|(filter, r)| (key(filter), Value::Subscription(*r))));
        if !session.inbound().is_empty() {
            new.push((Key::Inbound(client_id.clone()), Value::Inbound(session.inbound().to_vec())));
        }
        let mut records = Vec::with_capacity(session.queue().len());
        for entry in session.queue().iter_from(0) {
            if let (Some(held), Some(message)) = (entry.held(), entry.message())
                && !std::mem::replace(&mut seen[held.place as usize], true)
            {
                changes.new_messages.push((self.messages.id(held.place), message.clone()));
            }
            records.push(entry_record(entry, &self.messages));
        }
        changes.new_entries.push((client_id.clone(), records));
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

    fn meta_record(&self) -> (Key, Value) {
        let record = MetaRecord {
            applied: self.now.index,
            time: self.now.time,
            next_message: self.messages.next_id(),
            counters: self.counters.clone(),
        };
        (Key::Meta, Value::Meta(record))
    }
}

fn take_session(session: &mut Session, messages: &mut MessageStore, changes: &mut Changes) {
    let unwritten = std::mem::take(session.unwritten_mut());
    let client_id = session.client_id().clone();
    if !session.mark_written() || unwritten.core {
        changes.new.push(session_record(session));
    }
    if unwritten.header {
        changes.new.push(header_record(session));
    }
    if unwritten.inbound {
        let ids = Some(session.inbound()).filter(|ids| !ids.is_empty());
        changes.put(Key::Inbound(client_id.clone()), ids.map(|ids| Value::Inbound(ids.to_vec())));
    }
    for filter in unwritten.filters {
        let record = session.subscriptions().get(&filter).copied();
        changes.put(Key::Subscription(client_id.clone(), filter), record.map(Value::Subscription));
    }
    let queue = session.queue_mut();
    let entries = queue.take_removed();
    if !entries.is_empty() {
        changes.gone_of_sessions.push(Gone::entries(client_id.clone(), entries));
    }
    let mut records = Vec::new();
    for entry in queue.take_unwritten() {
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

fn session_record(session: &Session) -> (Key, Value) {
    (Key::Session(session.client_id().clone()), Value::Session(Box::new(session.record())))
}

fn header_record(session: &Session) -> (Key, Value) {
    let queue = session.queue();
    let record = HeaderRecord { next_seq: queue.tail(), dup_before: queue.dup_before(), sweep_at: session.sweep_at() };
    (Key::Header(session.client_id().clone()), Value::Header(record))
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
