//! What one subscriber saw of each stream: gaps, repetitions, disorder.
//! Always true: a message that comes first after a later one of its stream is out of order; one that came before is a
//! duplicate. Gaps are remembered one by one up to a bound; beyond it late messages count as duplicates.
use super::stamp::StreamId;
use std::collections::{BTreeSet, HashMap};

const GAPS_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
struct Stream {
    /// One more than the highest sequence number seen.
    next: u32,
    gaps: BTreeSet<u32>,
    distinct: u64,
}

#[derive(Debug, Default)]
pub(super) struct Order {
    streams: HashMap<StreamId, Stream, foldhash::fast::RandomState>,
    pub duplicates: u64,
    pub out_of_order: u64,
}

impl Order {
    /// `true` if it is the first time.
    pub(super) fn saw(&mut self, stream: StreamId, sequence: u32) -> bool {
        let state = self.streams.entry(stream).or_default();
        if sequence >= state.next {
            let room = GAPS_MAX.saturating_sub(state.gaps.len());
            state.gaps.extend((state.next..sequence).take(room));
            state.next = sequence.saturating_add(1);
        } else if state.gaps.remove(&sequence) {
            self.out_of_order += 1;
        } else {
            self.duplicates += 1;
            return false;
        }
        state.distinct += 1;
        true
    }

    /// Different messages of a stream that came.
    #[must_use]
    pub(super) fn distinct(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |stream| stream.distinct)
    }
}

/// For members of a group, who share a stream: each must see it in order, and gaps are what the others got.
#[derive(Debug, Default)]
pub(super) struct GroupOrder {
    last: HashMap<StreamId, u32, foldhash::fast::RandomState>,
    pub out_of_order: u64,
}

impl GroupOrder {
    pub(super) fn saw(&mut self, stream: StreamId, sequence: u32) {
        match self.last.entry(stream) {
            std::collections::hash_map::Entry::Occupied(mut last) => {
                self.out_of_order += u64::from(sequence < *last.get());
                last.insert(sequence.max(*last.get()));
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_repetitions_and_disorder_are_distinguished() {
        let mut order = Order::default();
        for sequence in [0, 1, 3, 3, 2, 1, 6] {
            order.saw(0, sequence);
        }
        order.saw(1, 0);
        assert_eq!((order.duplicates, order.out_of_order), (2, 1));
        assert_eq!((order.distinct(0), order.distinct(1), order.distinct(2)), (5, 1, 0));
    }

    #[test]
    fn what_the_others_of_a_group_got_is_no_disorder() {
        let mut order = GroupOrder::default();
        for sequence in [5, 9, 10, 7, 12] {
            order.saw(3, sequence);
        }
        assert_eq!(order.out_of_order, 1);
    }
}
