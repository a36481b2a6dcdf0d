//! Messages that wait in queues and are kept in the durable form only, so that memory does not grow with what waits.
//! Always true: only what a completed cut holds is evicted, so the durable form has it as long as an entry refers to it;
//! whether a message is here or there changes nothing that applying a command depends on.
use super::State;
use crate::state::{
    Entry, EntryState, Message,
    messages::MessageId,
    records::{Key, LoadError, Value},
};
use std::sync::Arc;

/// Entries of queues that are looked at in one step, and sessions.
const STEP_ENTRIES: usize = 4096;
const STEP_SESSIONS: usize = 65_536;

/// The message of a queue's entry.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    Here(&'a Arc<Message>),
    /// In the durable form, under [`MessageId::key`].
    Stored(MessageId),
    /// It is no longer needed.
    Released,
}

/// Where putting out goes on.
#[derive(Debug, Default)]
pub struct Evicted {
    next_session: usize,
}

impl MessageId {
    /// Its key in the durable form.
    #[must_use]
    pub fn key(self) -> Vec<u8> {
        Key::Message(self).encode()
    }

    /// The message from its value in the durable form.
    /// # Errors
    /// The value is damaged.
    pub fn read(self, value: &[u8]) -> Result<Arc<Message>, LoadError> {
        match Value::decode(&Key::Message(self), value)? {
            Value::Message(message) => Ok(message),
            _ => Err(LoadError::MessageMissing(self.0)),
        }
    }
}

impl State {
    #[must_use]
    pub fn body<'a>(&self, entry: &'a Entry) -> Body<'a> {
        match (entry.message(), entry.held()) {
            (Some(message), _) => Body::Here(message),
            (None, Some(held)) if entry.state() == EntryState::Queued => Body::Stored(self.messages.id(held.place)),
            _ => Body::Released,
        }
    }

    /// What the entry's message takes in memory when it is there, about.
    #[must_use]
    pub fn memory_of(&self, entry: &Entry) -> u64 {
        entry.held().map_or(0, |held| u64::from(self.messages.memory_of(held.place)))
    }

    /// One step of putting out messages that wait, until at most `budget` bytes are left in memory or nothing more can
    /// go. Everything up to the last cut must be in the durable form by now. Returns what the caller is to drop (outside
    /// of locks), `None` when it is done.
    pub fn put_out(&mut self, budget: u64, at: &mut Evicted) -> Option<Vec<Arc<Message>>> {
        let Self { sessions, messages, .. } = self;
        if at.next_session >= sessions.places() || messages.memory_here() <= budget {
            return None;
        }
        let (mut most, mut freed) = (STEP_ENTRIES, Vec::new());
        let until = sessions.places().min(at.next_session + STEP_SESSIONS);
        while at.next_session < until && messages.memory_here() > budget {
            let done = sessions.queue_at(at.next_session).is_none_or(|queue| {
                queue.put_out(&mut most, |place, message| {
                    messages.put_out(place);
                    freed.push(message);
                })
            });
            if !done {
                break;
            }
            at.next_session += 1;
        }
        Some(freed)
    }
}
