//! Making the state of its durable form.
//! Always true: the records may come in any order; what is derived (trees, groups, deadlines, references) is built again
//! and equals what it was, in particular the order of subscriptions to one filter. In the order of keys, as stores give
//! them, parts find their session at once, and ordered tables are made in one go. Of messages beyond a budget only
//! what the state depends on is kept, unless a topic or a shared subscription needs them: those are asked for again.
use super::State;
use crate::ids::{LogIndex, Millis};
use crate::state::{
    LoopId, Message,
    deadlines::{Deadline, Deadlines},
    messages::{Held, MessageId, Place, Size},
    queue::{NewBody, NewEntry, expiry_of},
    records::{EntryRecord, Key, LoadError, Record, SessionRecord, Value},
    retained::RetainedHandler,
    session::{Session, SubscriptionRecord},
    sessions::SessionPlace,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::sync::Arc;

/// Parts that wait until all records are there.
#[derive(Default)]
struct Parts {
    has_meta: bool,
    /// The session that the last part belonged to.
    near: SessionPlace,
    messages: HashMap<MessageId, Loaded, RandomState>,
    /// Bytes of messages that may still be kept in memory.
    budget: u64,
    deadlines: Vec<(Millis, Deadline)>,
    subscriptions: Vec<(u64, SessionPlace, TopicFilter, SubscriptionRecord)>,
    entries: Vec<(SessionPlace, u64, EntryRecord)>,
    /// Of sessions that have not come yet.
    early: Vec<(Key, Value)>,
    retained: Vec<MessageId>,
    groups: Vec<(TopicFilter, u64)>,
    marks: Vec<(u64, LoopId)>,
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
        let records = records.into_iter().map(|(key, value)| Record::read(key.as_ref(), value.as_ref()));
        Self::load_within(applied, records, u64::MAX, |_| None::<V>)
    }

    /// As [`State::load`], with about `budget` bytes of messages in memory; `fetch` gives the value of a key again.
    /// # Errors
    /// As there, and that of the first record.
    pub fn load_within<V: AsRef<[u8]>>(
        applied: LogIndex,
        records: impl IntoIterator<Item = Result<Record, LoadError>>,
        budget: u64,
        fetch: impl Fn(&[u8]) -> Option<V>,
    ) -> Result<Self, LoadError> {
        let mut state = Self::default();
        let mut parts = Parts { budget, ..Parts::default() };
        for record in records {
            let Record(key, value) = record?;
            state.sort_record(key, value, &mut parts);
        }
        for (key, value) in std::mem::take(&mut parts.early) {
            state.sort_record(key, value, &mut parts);
        }
        if let Some(client_id) = parts.early.first().and_then(|(key, _)| key.client_id()) {
            return Err(LoadError::SessionMissing(client_id.clone()));
        }
        if !parts.has_meta && applied != LogIndex::default() {
            return Err(LoadError::MetaMissing);
        }
        state.now.index = applied;
        state.link(parts, &|id| {
            let value = fetch(&id.key()).ok_or(LoadError::MessageMissing(id.0))?;
            id.read(value.as_ref())
        })?;
        Ok(state)
    }

    fn sort_record(&mut self, key: Key, value: Value, parts: &mut Parts) {
        if let Some(client_id) = key.client_id() {
            return match self.find_near(client_id, &mut parts.near) {
                Some(place) => self.sort_part(place, key, value, parts),
                None => parts.early.push((key, value)),
            };
        }
        match (key, value) {
            (_, Value::Meta(meta)) => {
                parts.has_meta = true;
                self.now.time = meta.time;
                self.messages.restore_next_id(meta.next_message);
                self.counters = meta.counters;
            }
            (Key::Node(node), Value::Node(record)) => self.nodes.restore(node, record),
            (Key::Message(id), Value::Message(message)) => {
                parts.messages.insert(id, Loaded::new(message, &mut parts.budget));
            }
            (Key::Session(client_id), Value::Session(record)) => self.load_session(client_id, *record, parts),
            (Key::Retained(_), Value::Retained(id)) => parts.retained.push(id),
            (Key::Group(filter), Value::Group(cursor)) => parts.groups.push((filter, cursor)),
            (Key::LoopId(_), Value::LoopId(number, mark)) => parts.marks.push((number, mark)),
            (Key::Admission(name), Value::Admission(record)) => self.admissions.restore(name, record),
            (Key::Lost(incarnation), Value::Lost(at)) => self.connections.restore_over(incarnation, at),
            (Key::Replay(turn), Value::Replay(replay)) => self.replays.restore(turn, replay),
            // `Value::decode` gives the kind that the key has.
            _ => {}
        }
    }

    /// In the order of keys, parts of one kind come in the order of their sessions: looking there first reads memory in
    /// its order, and hashes nothing.
    fn find_near(&self, client_id: &Utf8, near: &mut SessionPlace) -> Option<SessionPlace> {
        let is_it = |place: &SessionPlace| {
            self.sessions.at(*place as usize).is_some_and(|session| session.client_id() == client_id)
        };
        let place = [*near, *near + 1].into_iter().find(is_it).or_else(|| self.sessions.find(client_id))?;
        *near = place;
        Some(place)
    }

    /// A part of a session.
    fn sort_part(&mut self, place: SessionPlace, key: Key, value: Value, parts: &mut Parts) {
        let session = &mut self.sessions[place];
        match (key, value) {
            (Key::Subscription(_, filter), Value::Subscription(record)) => {
                parts.subscriptions.push((record.since, place, filter, record));
            }
            (Key::Header(client_id), Value::Header(header)) => {
                session.queue_mut().restore(header.next_seq, header.dup_before);
                session.set_sweep_at(header.sweep_at);
                parts.deadlines.extend(header.sweep_at.map(|at| (at, Deadline::Sweep(client_id))));
            }
            (Key::Inbound(_), Value::Inbound(ids)) => session.restore_inbound(ids),
            (Key::Entry(_, seq), Value::Entry(record)) => parts.entries.push((place, seq, record)),
            // `Value::decode` gives the kind that the key has.
            _ => {}
        }
    }

    fn load_session(&mut self, client_id: Utf8, record: SessionRecord, parts: &mut Parts) {
        parts.deadlines.extend(record.will_due.map(|at| (at, Deadline::Will(client_id.clone()))));
        parts.deadlines.extend(record.expires_at.map(|at| (at, Deadline::Session(client_id.clone()))));
        let place = self.sessions.add(Session::restored(client_id, record));
        let session = &self.sessions[place];
        if let Some(owner) = session.owner() {
            self.connections.add(&owner, session.epoch(), place);
        } else if session.is_unsettled() {
            self.connections.note_unsettled(session.epoch(), place);
        }
    }

    fn link(&mut self, mut parts: Parts, fetch: &Fetch<'_>) -> Result<(), LoadError> {
        self.deadlines = Deadlines::new(std::mem::take(&mut parts.deadlines));
        parts.subscriptions.sort_unstable_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        for (_, place, filter, record) in std::mem::take(&mut parts.subscriptions) {
            self.routes.insert(place, &self.sessions[place], &filter, &record);
            self.sessions[place].put_subscription(filter, record);
        }
        // Mostly they are in order.
        parts.entries.sort_by_key(|(place, seq, _)| (*place, *seq));
        for (place, seq, record) in std::mem::take(&mut parts.entries) {
            self.load_entry(place, seq, record, &mut parts, fetch)?;
        }
        let places: Vec<SessionPlace> = self.sessions.iter().map(|(place, _)| place).collect();
        for place in places {
            self.sessions[place].begin_again();
        }
        for id in std::mem::take(&mut parts.retained) {
            let place = self.load_message(id, &mut parts)?;
            let message = parts.message(id, fetch)?;
            RetainedHandler::new(&mut self.retained, &mut self.messages, &mut self.deadlines).keep(message, place);
        }
        for (filter, cursor) in std::mem::take(&mut parts.groups) {
            self.routes.set_cursor(&filter, cursor);
        }
        self.seen.restore(std::mem::take(&mut parts.marks));
        // A message that nothing refers to would stay for ever.
        let unused = parts.messages.iter().filter(|(_, loaded)| loaded.place.is_none());
        self.messages.restore_removed(unused.map(|(id, _)| *id).collect());
        Ok(())
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
        if let Some(group) = extra.as_ref().and_then(|extra| extra.group.as_ref()).and_then(|f| self.routes.group(f)) {
            extra = Some(group.mark().clone());
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
        self.sessions[session].queue_mut().restore_entry(seq, new);
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
