//! Making the state of its durable form.
//! Always true: the records may come in any order; what is derived (trees, groups, deadlines, references) is built again
//! and equals what it was, in particular the order of subscriptions to one filter. Of messages beyond a budget only
//! what the state depends on is kept, unless a topic or a shared subscription needs them: those are asked for again.
use super::{
    Mark, Message, Owner, SessionPlace, State,
    expiry::Deadline,
    messages::{Held, MessageId, Place, Size},
    queue::{NewBody, NewEntry, expiry_of},
    records::{EntryRecord, HeaderRecord, Key, LoadError, SessionRecord, Value},
    session::{Session, SubscriptionRecord},
};
use crate::ids::{LogIndex, Millis};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mosquorum_proto::mqtt::{PacketId, TopicFilter, Utf8};
use std::{collections::BTreeMap, sync::Arc};

/// Parts that wait until all records are there.
#[derive(Default)]
struct Parts {
    has_meta: bool,
    messages: HashMap<MessageId, Loaded, RandomState>,
    /// Bytes of messages that may still be kept in memory.
    budget: u64,
    subscriptions: Vec<(u64, Utf8, TopicFilter, SubscriptionRecord)>,
    headers: Vec<(Utf8, HeaderRecord)>,
    inbound: Vec<(Utf8, Vec<PacketId>)>,
    entries: BTreeMap<(Utf8, u64), EntryRecord>,
    retained: Vec<MessageId>,
    groups: Vec<(TopicFilter, u64)>,
    marks: Vec<(u64, Mark)>,
}

/// A message of the durable form.
struct Loaded {
    /// `None`: beyond the budget.
    message: Option<Arc<Message>>,
    size: Size,
    expires_at: Option<Millis>,
    /// Once something refers to it.
    place: Option<Place>,
}

impl State {
    /// The state after `applied` from all its records.
    /// # Errors
    /// [`LoadError`] when a record cannot be read or another one that it needs is missing.
    pub fn load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        applied: LogIndex,
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, LoadError> {
        Self::load_within(applied, records, u64::MAX, |_| None::<V>)
    }

    /// As [`State::load`], with about `budget` bytes of messages in memory; `fetch` gives the value of a key again.
    /// # Errors
    /// As there.
    pub fn load_within<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        applied: LogIndex,
        records: impl IntoIterator<Item = (K, V)>,
        budget: u64,
        fetch: impl Fn(&[u8]) -> Option<V>,
    ) -> Result<Self, LoadError> {
        let mut state = Self::default();
        let mut parts = Parts { budget, ..Parts::default() };
        for (key, value) in records {
            let key = Key::decode(key.as_ref())?;
            let value = Value::decode(&key, value.as_ref())?;
            state.sort_record(key, value, &mut parts);
        }
        if !parts.has_meta && applied != LogIndex::default() {
            return Err(LoadError::MetaMissing);
        }
        state.applied = applied;
        state.link(parts, &|id| {
            let value = fetch(&id.key()).ok_or(LoadError::MessageMissing(id.0))?;
            id.read(value.as_ref())
        })?;
        Ok(state)
    }

    fn sort_record(&mut self, key: Key, value: Value, parts: &mut Parts) {
        match (key, value) {
            (_, Value::Meta(meta)) => {
                parts.has_meta = true;
                self.time = meta.time;
                self.messages.next_id = meta.next_message;
                self.counters = meta.counters;
            }
            (Key::Node(node), Value::Node(record)) => {
                self.nodes.records.insert(node, record);
            }
            (Key::Message(id), Value::Message(message)) => {
                parts.messages.insert(id, Loaded::new(message, &mut parts.budget));
            }
            (Key::Session(client_id), Value::Session(record)) => self.load_session(client_id, *record),
            (Key::Subscription(client_id, filter), Value::Subscription(record)) => {
                parts.subscriptions.push((record.since, client_id, filter, record));
            }
            (Key::Header(client_id), Value::Header(header)) => parts.headers.push((client_id, header)),
            (Key::Inbound(client_id), Value::Inbound(ids)) => parts.inbound.push((client_id, ids)),
            (Key::Entry(client_id, seq), Value::Entry(record)) => {
                parts.entries.insert((client_id, seq), record);
            }
            (Key::Retained(_), Value::Retained(id)) => parts.retained.push(id),
            (Key::Group(filter), Value::Group(cursor)) => parts.groups.push((filter, cursor)),
            (Key::Mark(_), Value::Mark(number, mark)) => parts.marks.push((number, mark)),
            (Key::Admission(name), Value::Admission(record)) => {
                self.admissions.names.insert(name, record);
            }
            (Key::Lost(life), Value::Lost(at)) => {
                self.lost.lives.insert(life, at);
            }
            (Key::Replay(turn), Value::Replay(replay)) => self.replays.restore(turn, replay),
            // `Value::decode` gives the kind that the key has.
            _ => {}
        }
    }

    fn load_session(&mut self, client_id: Utf8, record: SessionRecord) {
        if let Some(at) = record.will_due {
            self.deadlines.insert((at, Deadline::Will(client_id.clone())));
        }
        if let Some(at) = record.expires_at {
            self.deadlines.insert((at, Deadline::Session(client_id.clone())));
        }
        let (owner, epoch) = (record.owner, record.epoch);
        let place = self.sessions.add(Session {
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
            ..Session::new(client_id)
        });
        if let Some(Owner { node, incarnation, .. }) = owner {
            self.connected += 1;
            self.owned.insert((node, incarnation, epoch), place);
        } else if self.sessions[place].is_unsettled() {
            self.lost.unsettled.insert(epoch, place);
        }
    }

    fn link(&mut self, mut parts: Parts, fetch: &Fetch<'_>) -> Result<(), LoadError> {
        for (client_id, header) in std::mem::take(&mut parts.headers) {
            let place = self.loaded(&client_id)?;
            let session = &mut self.sessions[place];
            session.queue.restore(header.next_seq, header.dup_before);
            session.sweep_at = header.sweep_at;
            if let Some(at) = header.sweep_at {
                self.deadlines.insert((at, Deadline::Sweep(client_id)));
            }
        }
        for (client_id, ids) in std::mem::take(&mut parts.inbound) {
            let place = self.loaded(&client_id)?;
            self.sessions[place].inbound = ids;
        }
        parts.subscriptions.sort_unstable_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        for (_, client_id, filter, record) in std::mem::take(&mut parts.subscriptions) {
            let place = self.loaded(&client_id)?;
            self.index_subscription(place, &filter, &record);
            self.sessions[place].shared += usize::from(filter.share_name().is_some());
            self.sessions[place].subscriptions.insert(filter, record);
        }
        for ((client_id, seq), record) in std::mem::take(&mut parts.entries) {
            let place = self.loaded(&client_id)?;
            self.load_entry(place, seq, record, &mut parts, fetch)?;
        }
        let places: Vec<SessionPlace> = self.sessions.iter().map(|(place, _)| place).collect();
        for place in places {
            let session = &mut self.sessions[place];
            session.queue.connect(session.limits.inflight);
            if !session.is_connected() {
                session.queue.disconnect(0);
            }
        }
        for id in std::mem::take(&mut parts.retained) {
            let place = self.load_message(id, &mut parts)?;
            let message = parts.message(id, fetch)?;
            self.keep_retained(message, place);
        }
        for (filter, cursor) in std::mem::take(&mut parts.groups) {
            self.groups.set_cursor(&filter, cursor);
        }
        self.seen.restore(std::mem::take(&mut parts.marks));
        // A message that nothing refers to would stay for ever.
        let unused = parts.messages.iter().filter(|(_, loaded)| loaded.place.is_none());
        self.messages.removed = unused.map(|(id, _)| *id).collect();
        self.messages.removed.sort_unstable();
        Ok(())
    }

    fn loaded(&self, client_id: &Utf8) -> Result<SessionPlace, LoadError> {
        self.sessions.find(client_id).ok_or_else(|| LoadError::SessionMissing(client_id.clone()))
    }

    fn load_entry(
        &mut self,
        session: SessionPlace,
        seq: u64,
        record: EntryRecord,
        parts: &mut Parts,
        fetch: &Fetch<'_>,
    ) -> Result<(), LoadError> {
        let EntryRecord { message, state: _, qos, retain, identifier, mut extra } = record;
        // Entries of one group share the group's mark.
        if let Some(group) = extra.as_ref().and_then(|extra| extra.group.as_ref()).and_then(|f| self.groups.get(f)) {
            extra = Some(group.mark.clone());
        }
        let (body, place) = match message {
            Some(id) => {
                let place = self.load_message(id, parts)?;
                let moves = extra.as_ref().is_some_and(|extra| extra.group.is_some());
                let body = match parts.messages.get(&id) {
                    Some(Loaded { message: None, size, expires_at, .. }) if !moves => {
                        NewBody::Stored { bytes: size.payload, expires_at: *expires_at }
                    }
                    _ => NewBody::Here(parts.message(id, fetch)?),
                };
                self.messages.refer(Held { place, here: matches!(body, NewBody::Here(_)) });
                (body, place)
            }
            None => (NewBody::Released, 0),
        };
        let new = NewEntry { body, place, qos, retain, identifier, extra };
        self.sessions[session].queue.restore_entry(seq, new);
        Ok(())
    }

    /// The message's place; nothing refers to it yet.
    fn load_message(&mut self, id: MessageId, parts: &mut Parts) -> Result<Place, LoadError> {
        let loaded = parts.messages.get_mut(&id).ok_or(LoadError::MessageMissing(id.0))?;
        Ok(*loaded.place.get_or_insert_with(|| self.messages.add_written(id, loaded.size)))
    }
}

/// Reads a message again.
type Fetch<'a> = dyn Fn(MessageId) -> Result<Arc<Message>, LoadError> + 'a;

impl Loaded {
    fn new(message: Arc<Message>, budget: &mut u64) -> Self {
        let size = Size::of(&message);
        let (expires_at, left) = (expiry_of(&message), budget.checked_sub(u64::from(size.memory)));
        *budget = left.unwrap_or(0);
        Self { message: left.map(|_| message), size, expires_at, place: None }
    }
}

impl Parts {
    fn message(&mut self, id: MessageId, fetch: &Fetch<'_>) -> Result<Arc<Message>, LoadError> {
        let loaded = self.messages.get_mut(&id).ok_or(LoadError::MessageMissing(id.0))?;
        match &loaded.message {
            Some(message) => Ok(message.clone()),
            None => Ok(loaded.message.insert(fetch(id)?).clone()),
        }
    }
}
