//! Messages that go round: out through this bridge, back in through it, and out again.
//! Always true: copies are dropped only after [`ROUNDS_MAX`] rounds that followed each other within [`ROUND_TIME`], and
//! only for [`CUT_TIME`], in which each of them must have come by; whoever gets a drop back can count it. Without loop ids
//! in the messages a round cannot be distinguished from two sides that publish the same in turn; so many, so fast, are taken for
//! one. In a ring the same message goes round both ways, and each bridge sees one out and the other in: both are dropped.
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// Messages that are watched; further ones are not while these are fresh.
const WATCHED_MAX: usize = 1024;
const ROUNDS_MAX: u32 = 100;
const ROUND_TIME: Duration = Duration::from_millis(500);
const CUT_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum StormAction {
    Pass,
    /// The first that is dropped.
    Storm,
    Drop,
}

struct Watched {
    rounds: u32,
    /// It went out since it last came in.
    out: bool,
    last_in: Duration,
    last: Duration,
    cut_until: Duration,
}

#[derive(Default)]
pub(super) struct Storms {
    watched: HashMap<u64, Watched>,
}

impl Storms {
    pub(super) fn goes_out(&mut self, topic: &str, payload: &[u8], now: Duration) -> StormAction {
        if self.watched.len() >= WATCHED_MAX {
            self.watched.retain(|_, watched| now < watched.last + CUT_TIME);
        }
        let key = key(topic, payload);
        if let Some(watched) = self.watched.get_mut(&key) {
            if now < watched.cut_until {
                return StormAction::Drop;
            }
            (watched.out, watched.last) = (true, now);
        } else if self.watched.len() < WATCHED_MAX {
            let new = Watched { rounds: 0, out: true, last_in: now, last: now, cut_until: Duration::ZERO };
            self.watched.insert(key, new);
        }
        StormAction::Pass
    }

    pub(super) fn comes_in(&mut self, topic: &str, payload: &[u8], now: Duration) -> StormAction {
        let Some(watched) = self.watched.get_mut(&key(topic, payload)) else { return StormAction::Pass };
        if now < watched.cut_until {
            return StormAction::Drop;
        }
        let fast = now.saturating_sub(watched.last_in) < ROUND_TIME;
        watched.rounds = match (fast, watched.out) {
            (true, true) => watched.rounds + 1,
            // Another copy of the same round.
            (true, false) => watched.rounds,
            (false, _) => 0,
        };
        (watched.out, watched.last_in, watched.last) = (false, now, now);
        if watched.rounds < ROUNDS_MAX {
            return StormAction::Pass;
        }
        (watched.rounds, watched.cut_until) = (0, now + CUT_TIME);
        StormAction::Storm
    }
}

fn key(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_goes_round_is_cut_both_ways_and_not_for_ever() {
        let mut storms = Storms::default();
        for round in 0..u64::from(ROUNDS_MAX) - 1 {
            assert_eq!(storms.goes_out("a", b"x", at(round * 10)), StormAction::Pass);
            assert_eq!(storms.comes_in("a", b"x", at(round * 10 + 5)), StormAction::Pass, "{round}");
        }
        assert_eq!(storms.goes_out("a", b"x", at(1000)), StormAction::Pass);
        assert_eq!(storms.comes_in("a", b"x", at(1001)), StormAction::Storm);
        assert_eq!(storms.goes_out("a", b"x", at(1002)), StormAction::Drop);
        assert_eq!(storms.comes_in("a", b"x", at(1900)), StormAction::Drop);
        assert_eq!(storms.comes_in("a", b"y", at(1900)), StormAction::Pass);
        assert_eq!(storms.goes_out("a", b"x", at(2001)), StormAction::Pass);
        assert_eq!(storms.comes_in("a", b"x", at(2002)), StormAction::Pass);
    }

    #[test]
    fn repeats_of_one_side_and_slow_turns_pass() {
        let mut storms = Storms::default();
        for number in 0..1000 {
            assert_eq!(storms.comes_in("in", b"x", at(number)), StormAction::Pass);
            assert_eq!(storms.goes_out("out", b"x", at(number)), StormAction::Pass);
            assert_eq!(storms.goes_out("both", b"x", at(number * 600)), StormAction::Pass);
            assert_eq!(storms.comes_in("both", b"x", at(number * 600 + 300)), StormAction::Pass);
        }
    }

    #[test]
    fn only_so_many_are_watched() {
        let mut storms = Storms::default();
        for number in 0..2 * WATCHED_MAX {
            storms.goes_out(&number.to_string(), b"x", at(0));
        }
        assert_eq!(storms.watched.len(), WATCHED_MAX);
        storms.goes_out("new", b"x", at(5000));
        assert_eq!(storms.watched.len(), 1);
    }
}
