//! LoopIds of messages that travel over bridges, and which of them have been here.
//! Always true: the last [`SEEN_MAX`] marks are remembered, in the order in which they came; of one mark that is
//! remembered only the first message is delivered. Older ones are forgotten: a message that is still going round then
//! is delivered again, once per [`SEEN_MAX`] others.
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// LoopIds remembered; about 5 MiB.
pub const SEEN_MAX: usize = 65_536;

/// What makes a message recognisable wherever it comes by: the cluster that it was published to, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LoopId {
    pub origin: [u8; 16],
    pub number: u64,
}

impl LoopId {
    /// 24 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.origin);
        bytes[16..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (origin, number) = bytes.split_at_checked(16)?;
        Some(Self { origin: origin.try_into().ok()?, number: u64::from_be_bytes(number.try_into().ok()?) })
    }
}

/// Hexadecimal, origin and number joined by a hyphen.
impl fmt::Display for LoopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:x}", u128::from_be_bytes(self.origin), self.number)
    }
}

/// The text is no mark.
#[derive(Debug, PartialEq, Eq)]
pub struct NoMark;

impl FromStr for LoopId {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let (origin, number) = text.split_once('-').ok_or(NoMark)?;
        let digits = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if origin.len() != 32 || !digits(origin, 32) || !digits(number, 16) {
            return Err(NoMark);
        }
        let origin = u128::from_str_radix(origin, 16).map_err(|_| NoMark)?.to_be_bytes();
        Ok(Self { origin, number: u64::from_str_radix(number, 16).map_err(|_| NoMark)? })
    }
}

/// A ring: the n-th mark is in slot n modulo [`SEEN_MAX`].
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    ring: Vec<LoopId>,
    known: HashSet<LoopId, RandomState>,
    /// How many came so far.
    count: u64,
    /// The first that is not yet written.
    unwritten: u64,
}

impl Seen {
    /// `false` if it was here before.
    pub(super) fn insert(&mut self, mark: LoopId) -> bool {
        if !self.known.insert(mark) {
            return false;
        }
        match self.ring.get_mut(slot(self.count)) {
            Some(oldest) => {
                self.known.remove(&std::mem::replace(oldest, mark));
            }
            None => self.ring.push(mark),
        }
        self.count += 1;
        true
    }

    /// Slot, number of the mark and mark, from the first that is remembered and not before `from`.
    fn from(&self, from: u64) -> impl Iterator<Item = (u32, (u64, LoopId))> + '_ {
        let first = self.count.saturating_sub(self.ring.len() as u64).max(from);
        (first..self.count).map(|number| (slot(number) as u32, (number, self.ring[slot(number)])))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, (u64, LoopId))> + '_ {
        self.from(0)
    }

    pub(super) fn take_unwritten(&mut self) -> Vec<(u32, (u64, LoopId))> {
        let from = std::mem::replace(&mut self.unwritten, self.count);
        self.from(from).collect()
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten = self.count;
    }

    /// LoopIds with their numbers, in any order.
    pub(super) fn restore(&mut self, mut marks: Vec<(u64, LoopId)>) {
        marks.sort_unstable_by_key(|(number, _)| *number);
        let Some((first, _)) = marks.first().copied() else { return };
        // Slots before the first were never used, or all are.
        self.ring = vec![LoopId { origin: [0; 16], number: 0 }; marks.len()];
        for (number, mark) in &marks {
            let slot = slot(*number);
            if let Some(place) = self.ring.get_mut(slot) {
                *place = *mark;
                self.known.insert(*mark);
            }
        }
        self.count = first + marks.len() as u64;
        self.unwritten = self.count;
    }
}

fn slot(number: u64) -> usize {
    (number % SEEN_MAX as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> LoopId {
        LoopId { origin: [7; 16], number }
    }

    #[test]
    fn a_mark_reads_as_it_was_written() {
        let mark = LoopId { origin: *b"0123456789abcdef", number: u64::MAX };
        assert_eq!(mark.to_string().parse(), Ok(mark));
        assert_eq!(LoopId::from_bytes(&mark.to_bytes()), Some(mark));
        for wrong in ["", "-", "00-1", "0x123456789abcdef0123456789abcdef0-1", "00000000000000000000000000000000-"] {
            assert_eq!(wrong.parse::<LoopId>(), Err(NoMark), "{wrong}");
        }
        assert_eq!(LoopId::from_bytes(&[0; 23]), None);
    }

    #[test]
    fn each_is_new_once_until_it_is_forgotten() {
        let mut seen = Seen::default();
        for number in 0..SEEN_MAX as u64 {
            assert!(seen.insert(mark(number)));
            assert!(!seen.insert(mark(number)));
        }
        assert!(seen.insert(mark(u64::MAX)), "the ring is full");
        assert!(!seen.insert(mark(1)));
        assert!(seen.insert(mark(0)), "the oldest was forgotten");
    }

    #[test]
    fn what_was_written_in_parts_is_restored_as_a_whole() {
        for total in [0, 5, SEEN_MAX as u64 - 1, SEEN_MAX as u64 + 10] {
            let (mut seen, mut written) = (Seen::default(), std::collections::BTreeMap::new());
            for number in 0..total {
                seen.insert(mark(number));
                if number % 1000 == 0 {
                    written.extend(seen.take_unwritten());
                }
            }
            written.extend(seen.take_unwritten());
            let mut restored = Seen::default();
            restored.restore(written.into_values().collect());
            assert_eq!((restored.ring.clone(), restored.count), (seen.ring.clone(), seen.count), "{total}");
            assert!(restored.insert(mark(total)) && (total == 0 || !restored.insert(mark(total - 1))));
        }
    }
}
