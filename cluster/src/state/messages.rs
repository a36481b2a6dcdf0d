//! Which messages are referred to, by how many queue entries and retained topics, and under which number they are written.
//! Always true: a place is in use exactly as long as something refers to it; numbers grow and are never used again; what
//! is counted as in memory is what somebody who refers to it holds.
//! Not here: the messages themselves (whoever refers to one holds it, or knows that it is in the durable form).

/// A message's number in the durable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MessageId(pub(super) u64);

/// Where a message is counted. The same message may have different places on different nodes.
pub(super) type Place = u32;

use super::Message;

/// What a message takes in memory beside its payload, topic and properties, about.
const OVERHEAD_BYTES: usize = 320;

/// Somebody's reference to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: Place,
    /// It holds the message too; otherwise that is in the durable form only.
    pub(super) here: bool,
}

#[derive(Clone)]
struct Counted {
    id: MessageId,
    references: u32,
    /// Those that hold the message.
    here: u32,
    size: Size,
    /// The message is in the durable form.
    written: bool,
}

/// How large a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Its payload, which limits count.
    pub(super) payload: u32,
    /// What it takes in memory, about.
    pub(super) memory: u32,
}

impl Size {
    pub(super) fn of(message: &Message) -> Self {
        let saturated = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let memory = OVERHEAD_BYTES + message.payload.len() + message.description_bytes();
        Self { payload: saturated(message.payload.len()), memory: saturated(memory) }
    }
}

#[derive(Clone, Default)]
pub(super) struct MessageStore {
    places: Vec<Counted>,
    free: Vec<Place>,
    bytes: u64,
    memory: u64,
    memory_here: u64,
    pub(super) next_id: u64,
    /// Written once, no longer referred to.
    pub(super) removed: Vec<MessageId>,
}

impl MessageStore {
    /// A place for a new message that nothing refers to yet: call `refer` before anything else.
    pub(super) fn add(&mut self, message: &Message) -> Place {
        let id = MessageId(self.next_id);
        self.next_id += 1;
        self.add_with(id, Size::of(message), false)
    }

    /// For loading: a message that is in the durable form.
    pub(super) fn add_written(&mut self, id: MessageId, size: Size) -> Place {
        self.add_with(id, size, true)
    }

    fn add_with(&mut self, id: MessageId, size: Size, written: bool) -> Place {
        self.bytes += u64::from(size.payload);
        self.memory += u64::from(size.memory);
        let counted = Counted { id, references: 0, here: 0, size, written };
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = counted;
                place
            }
            None => {
                self.places.push(counted);
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 messages in memory")
            }
        }
    }

    pub(super) fn refer(&mut self, held: Held) {
        let counted = &mut self.places[held.place as usize];
        counted.references += 1;
        if held.here {
            counted.here += 1;
            if counted.here == 1 {
                self.memory_here += u64::from(counted.size.memory);
            }
        }
    }

    /// Somebody lets go of the message and still refers to it.
    pub(super) fn put_out(&mut self, place: Place) {
        let counted = &mut self.places[place as usize];
        counted.here -= 1;
        if counted.here == 0 {
            self.memory_here -= u64::from(counted.size.memory);
        }
    }

    pub(super) fn release(&mut self, held: Held) {
        let Held { place, here } = held;
        if here {
            self.put_out(place);
        }
        let counted = &mut self.places[place as usize];
        counted.references -= 1;
        if counted.references == 0 {
            self.bytes -= u64::from(counted.size.payload);
            self.memory -= u64::from(counted.size.memory);
            if counted.written {
                self.removed.push(counted.id);
            }
            self.free.push(place);
        }
    }

    pub(super) fn id(&self, place: Place) -> MessageId {
        self.places[place as usize].id
    }

    /// Notes that the message is being written; `false` if it was already.
    pub(super) fn mark_written(&mut self, place: Place) -> bool {
        !std::mem::replace(&mut self.places[place as usize].written, true)
    }

    /// Every place is smaller.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What all messages would take in memory, about.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    /// What the messages in memory take, about.
    pub(super) fn memory_here(&self) -> u64 {
        self.memory_here
    }

    pub(super) fn memory_of(&self, place: Place) -> u32 {
        self.places[place as usize].size.memory
    }

    #[cfg(test)]
    pub(super) fn references(&self, place: Place) -> (u32, u32) {
        let counted = &self.places[place as usize];
        (counted.references, counted.here)
    }
}
