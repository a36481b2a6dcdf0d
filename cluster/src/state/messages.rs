//! Which messages are referred to, by how many queue entries and retained topics, and under which number they are written.
//! Always true: a place is in use exactly as long as something refers to it; numbers grow and are never used again; what
//! is counted as in memory is what somebody who refers to it holds.
//! Not here: the messages themselves (whoever refers to one holds it, or knows that it is in the durable form).

/// A message's number in the durable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MessageId(pub(super) u64);

/// Where a message is counted. The same message may have different places on different nodes.
pub(super) type Place = u32;

/// What a message takes in memory beside its payload, about.
const OVERHEAD_BYTES: u64 = 320;

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
    bytes: u32,
    /// The message is in the durable form.
    written: bool,
}

/// What a message with a payload of so many bytes takes in memory, about.
pub(super) fn memory_of(payload_bytes: u32) -> u64 {
    messages_memory(1, u64::from(payload_bytes))
}

pub(super) fn messages_memory(messages: u64, payload_bytes: u64) -> u64 {
    payload_bytes + messages * OVERHEAD_BYTES
}

#[derive(Clone, Default)]
pub(super) struct MessageStore {
    places: Vec<Counted>,
    free: Vec<Place>,
    bytes: u64,
    bytes_here: u64,
    pub(super) next_id: u64,
    /// Written once, no longer referred to.
    pub(super) removed: Vec<MessageId>,
}

impl MessageStore {
    /// A place for a new message that nothing refers to yet: call `refer` before anything else.
    pub(super) fn add(&mut self, bytes: usize) -> Place {
        let id = MessageId(self.next_id);
        self.next_id += 1;
        self.add_with(id, bytes, false)
    }

    /// For loading: a message that is in the durable form.
    pub(super) fn add_written(&mut self, id: MessageId, bytes: usize) -> Place {
        self.add_with(id, bytes, true)
    }

    fn add_with(&mut self, id: MessageId, bytes: usize, written: bool) -> Place {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes += u64::from(bytes);
        let counted = Counted { id, references: 0, here: 0, bytes, written };
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
                self.bytes_here += memory_of(counted.bytes);
            }
        }
    }

    /// Somebody lets go of the message and still refers to it.
    pub(super) fn put_out(&mut self, place: Place) {
        let counted = &mut self.places[place as usize];
        counted.here -= 1;
        if counted.here == 0 {
            self.bytes_here -= memory_of(counted.bytes);
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
            self.bytes -= u64::from(counted.bytes);
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

    /// What the messages in memory take, about.
    pub(super) fn bytes_here(&self) -> u64 {
        self.bytes_here
    }

    #[cfg(test)]
    pub(super) fn references(&self, place: Place) -> (u32, u32) {
        let counted = &self.places[place as usize];
        (counted.references, counted.here)
    }
}
