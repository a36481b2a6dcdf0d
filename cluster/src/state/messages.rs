//! Which messages are referred to, by how many queue entries and retained topics, and under which number they are written.
//! Always true: a place is in use exactly as long as something refers to it; numbers grow and are never used again; what
//! is counted as in memory is what somebody who refers to it holds. Room for counting follows what is counted: it comes and
//! goes in chunks, and the lowest ones are filled first.
//! Not here: the messages themselves (whoever refers to one holds it, or knows that it is in the durable form).

/// A message's number in the durable form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MessageId(pub(super) u64);

/// Where a message is counted. The same message may have different places on different nodes.
pub(super) type Place = u32;

use super::Message;
use std::collections::BTreeSet;

/// Places that get their room together.
const CHUNK: usize = if cfg!(test) { 4 } else { 1024 };

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

#[derive(Clone)]
struct Chunk {
    places: Vec<Counted>,
    /// Those of them that are not in use.
    free: Vec<u16>,
}

impl Chunk {
    fn new() -> Self {
        Self { places: Vec::with_capacity(CHUNK), free: Vec::new() }
    }

    fn used(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[derive(Clone, Default)]
pub(super) struct MessageStore {
    /// Place `p` is in chunk `p / CHUNK`; one that is not there has no place in use.
    chunks: Vec<Option<Box<Chunk>>>,
    /// Chunks that are there and have room.
    roomy: BTreeSet<u32>,
    /// Those that are not there.
    gone: BTreeSet<u32>,
    /// Places not in use in the chunks that are there.
    room: usize,
    used: usize,
    bytes: u64,
    memory: u64,
    memory_here: u64,
    next_id: u64,
    /// Written once, no longer referred to.
    removed: Vec<MessageId>,
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
        self.place(Counted { id, references: 0, here: 0, size, written })
    }

    fn place(&mut self, counted: Counted) -> Place {
        let number = match self.roomy.first() {
            Some(number) => *number,
            None => self.add_chunk(),
        };
        let chunk = self.chunks[number as usize].as_mut().expect(IN_USE);
        let within = match chunk.free.pop() {
            Some(within) => {
                chunk.places[usize::from(within)] = counted;
                usize::from(within)
            }
            None => {
                chunk.places.push(counted);
                chunk.places.len() - 1
            }
        };
        if chunk.used() == CHUNK {
            self.roomy.remove(&number);
        }
        self.room -= 1;
        self.used += 1;
        u32::try_from(number as usize * CHUNK + within).expect("fewer than 2^32 messages in memory")
    }

    fn add_chunk(&mut self) -> u32 {
        let number = self.gone.pop_first().unwrap_or_else(|| {
            self.chunks.push(None);
            u32::try_from(self.chunks.len() - 1).expect("fewer than 2^32 messages in memory")
        });
        self.chunks[number as usize] = Some(Box::new(Chunk::new()));
        self.roomy.insert(number);
        self.room += CHUNK;
        number
    }

    /// The place is not in use any more. A chunk of which none is goes, if a whole one of room is left.
    fn free(&mut self, place: Place) {
        let (number, within) = (place / CHUNK as u32, place as usize % CHUNK);
        let chunk = self.chunks[number as usize].as_mut().expect(IN_USE);
        if chunk.used() == CHUNK {
            self.roomy.insert(number);
        }
        chunk.free.push(u16::try_from(within).expect("a chunk has fewer places"));
        self.room += 1;
        self.used -= 1;
        let empty = chunk.used() == 0;
        if empty && self.room >= 2 * CHUNK {
            self.chunks[number as usize] = None;
            self.roomy.remove(&number);
            self.gone.insert(number);
            self.room -= CHUNK;
        }
    }

    fn at(&self, place: Place) -> &Counted {
        let chunk = self.chunks[place as usize / CHUNK].as_ref().expect(IN_USE);
        &chunk.places[place as usize % CHUNK]
    }

    fn at_mut(&mut self, place: Place) -> &mut Counted {
        let chunk = self.chunks[place as usize / CHUNK].as_mut().expect(IN_USE);
        &mut chunk.places[place as usize % CHUNK]
    }

    pub(super) fn refer(&mut self, held: Held) {
        let counted = self.at_mut(held.place);
        counted.references += 1;
        counted.here += u32::from(held.here);
        if held.here && counted.here == 1 {
            self.memory_here += u64::from(counted.size.memory);
        }
    }

    /// Somebody releases the message and still refers to it.
    pub(super) fn put_out(&mut self, place: Place) {
        let counted = self.at_mut(place);
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
        let counted = self.at_mut(place);
        counted.references -= 1;
        if counted.references == 0 {
            let Counted { id, size, written, .. } = *counted;
            self.bytes -= u64::from(size.payload);
            self.memory -= u64::from(size.memory);
            if written {
                self.removed.push(id);
            }
            self.free(place);
        }
    }

    pub(super) fn id(&self, place: Place) -> MessageId {
        self.at(place).id
    }

    /// The number that the next message will get.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn restore_next_id(&mut self, next_id: u64) {
        self.next_id = next_id;
    }

    /// What was written and is no longer referred to.
    pub(super) fn take_removed(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.removed)
    }

    /// For loading: nothing refers to these.
    pub(super) fn restore_removed(&mut self, mut removed: Vec<MessageId>) {
        removed.sort_unstable();
        self.removed = removed;
    }

    /// Notes that the message is being written; `false` if it was already.
    pub(super) fn mark_written(&mut self, place: Place) -> bool {
        !std::mem::replace(&mut self.at_mut(place).written, true)
    }

    /// Every place is smaller.
    pub(super) fn places(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    pub(super) fn len(&self) -> usize {
        self.used
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
        self.at(place).size.memory
    }

    #[cfg(test)]
    pub(super) fn references(&self, place: Place) -> (u32, u32) {
        let counted = self.at(place);
        (counted.references, counted.here)
    }

    /// Places that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().flatten().count() * CHUNK
    }
}

const IN_USE: &str = "a chunk is there as long as one of its places is in use";

#[cfg(test)]
mod tests {
    use super::*;

    fn store_with(messages: usize) -> (MessageStore, Vec<Place>) {
        let mut store = MessageStore::default();
        let places = (0..messages).map(|_| add(&mut store)).collect();
        (store, places)
    }

    fn add(store: &mut MessageStore) -> Place {
        let id = MessageId(store.next_id);
        store.next_id += 1;
        let place = store.add_written(id, Size { payload: 1, memory: 2 });
        store.refer(Held { place, here: true });
        place
    }

    fn release(store: &mut MessageStore, place: Place) {
        store.release(Held { place, here: true });
    }

    #[test]
    fn room_goes_with_what_was_counted_in_whatever_order_and_whoever_stays() {
        for order in 0..3 {
            let (mut store, mut places) = store_with(100 * CHUNK);
            match order {
                0 => {}
                1 => places.reverse(),
                _ => places.sort_unstable_by_key(|place| (place % 7, *place)),
            }
            let kept = places.split_off(places.len() - 2);
            for place in places {
                release(&mut store, place);
                assert!(
                    store.capacity() <= 2 * CHUNK + store.len() * CHUNK,
                    "{} for {}",
                    store.capacity(),
                    store.len()
                );
            }
            assert!(store.len() == 2 && store.capacity() <= 3 * CHUNK, "{order}: {}", store.capacity());
            assert!(kept.iter().all(|place| store.references(*place) == (1, 1)));
            assert_eq!((store.bytes(), store.memory_here()), (2, 4));
        }
    }

    #[test]
    fn low_places_are_used_first_so_that_high_ones_become_free() {
        let (mut store, places) = store_with(10 * CHUNK);
        places.iter().skip(1).for_each(|place| release(&mut store, *place));
        let again: Vec<Place> = (0..CHUNK).map(|_| add(&mut store)).collect();
        assert!(again.iter().all(|place| (*place as usize) < 2 * CHUNK), "{again:?}");
    }

    #[test]
    fn one_message_that_comes_and_goes_moves_no_room() {
        for full in 0..3 * CHUNK {
            let (mut store, _) = store_with(full);
            let place = add(&mut store);
            release(&mut store, place);
            let capacity = store.capacity();
            for _ in 0..10 {
                let place = add(&mut store);
                assert_eq!(store.capacity(), capacity);
                release(&mut store, place);
                assert_eq!(store.capacity(), capacity);
            }
        }
    }
}
