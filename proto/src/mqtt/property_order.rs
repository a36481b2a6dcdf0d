//! In which order the properties of a message came, so that a subscriber gets them as they were published. The standard
//! asks this of User Properties among themselves only [MQTT-3.3.2-18]; Mosquitto keeps the whole order.
//! Always true: the usual order is the value 0; any bits make sense.
//! Not here: the properties that a server sets or counts down, which come last.
use serde::{Deserialize, Serialize};

/// Property identifiers in the usual order; the code of each is its place, from 1 on.
const USUAL: [u8; 5] = [0x08, 0x09, 0x01, 0x03, 0x26];
const CODE_BITS: u32 = 3;
const CODES_MAX: u32 = 10;

/// The order of a message's properties, if it is not the usual one: a code for each of the first ten, the first one
/// lowest. Further ones follow in the usual order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropertyOrder(u32);

impl PropertyOrder {
    /// Property identifiers as they came; that of the User Property once for each.
    pub(super) fn identifiers(self) -> impl Iterator<Item = u8> {
        let codes = (0..CODES_MAX).map(move |place| self.0 >> (CODE_BITS * place) & 7);
        codes.filter_map(|code| USUAL.get((code as usize).checked_sub(1)?).copied())
    }

    /// For nodes to send each other.
    #[must_use]
    pub fn to_bits(self) -> u32 {
        self.0
    }

    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// What a decoder has seen so far.
#[derive(Default)]
pub(super) struct SeenOrder {
    bits: u32,
    codes: u32,
    last: u32,
    is_unusual: bool,
}

impl SeenOrder {
    /// Identifiers of other properties are skipped.
    pub(super) fn push(&mut self, identifier: u8) {
        let Some(code) = (1..).zip(USUAL).find_map(|(code, usual)| (usual == identifier).then_some(code)) else {
            return;
        };
        self.is_unusual |= code < self.last;
        self.last = code;
        if self.codes < CODES_MAX {
            self.bits |= code << (CODE_BITS * self.codes);
            self.codes += 1;
        }
    }

    pub(super) fn order(&self) -> PropertyOrder {
        PropertyOrder(if self.is_unusual { self.bits } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(identifiers: &[u8]) -> PropertyOrder {
        let mut seen = SeenOrder::default();
        identifiers.iter().for_each(|identifier| seen.push(*identifier));
        seen.order()
    }

    #[test]
    fn an_unusual_order_is_remembered_and_the_usual_one_costs_nothing() {
        assert_eq!(order(&[0x08, 0x02, 0x01, 0x26, 0x26]), PropertyOrder::default());
        let mixed = [0x26, 0x03, 0x26, 0x08];
        assert!(order(&mixed).identifiers().eq(mixed));
        assert_eq!(order(&[0x26; 100]), PropertyOrder::default());
        let long = [&[0x26; 20][..], &[0x01]].concat();
        assert!(order(&long).identifiers().eq([0x26; 10]), "the first ten");
        assert!(PropertyOrder::from_bits(u32::MAX).identifiers().next().is_none());
    }
}
