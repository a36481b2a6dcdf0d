//! Which messages are referred to, by how many queue entries and retained topics, and under which number they are written.
//! Always true: a place is in use exactly as long as something refers to it; numbers grow and are never used again.
//! Not here: the messages themselves (whoever refers to one holds it).

/// A message's number in the durable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct MessageId(pub(super) u64);

/// Where a message is counted. The same message may have different places on different nodes.
pub(super) type Place = u32;

#[derive(Clone)]
struct Counted {
    id: MessageId,
    references: u32,
    bytes: u32,
    /// The message is in the durable form.
    written: bool,
}

#[derive(Clone, Default)]
pub(super) struct MessageStore {
    places: Vec<Counted>,
    free: Vec<Place>,
    bytes: u64,
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
        let counted = Counted { id, references: 0, bytes, written };
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

    pub(super) fn refer(&mut self, place: Place) {
        self.places[place as usize].references += 1;
    }

    pub(super) fn release(&mut self, place: Place) {
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

    #[cfg(test)]
    pub(super) fn references(&self, place: Place) -> u32 {
        self.places[place as usize].references
    }
}
