//! Messages that go round: out through this bridge, back in through it, and out again.
//! Always true: only copies that came in are dropped, only after [`ROUNDS_MAX`] rounds that followed each other within
//! [`ROUND_TIME`], and only until there was none for [`CALM`]; whoever is told of a drop can count it. Without marks in
//! the messages a round cannot be told from two sides that publish the same in turn; so many, so fast, are taken for one.
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// Messages that are watched; further ones are not while these are fresh.
const WATCHED_MAX: usize = 1024;
const ROUNDS_MAX: u32 = 100;
const ROUND_TIME: Duration = Duration::from_millis(500);
const CALM: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
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
    cut: bool,
}

#[derive(Default)]
pub(super) struct Storms {
    watched: HashMap<u64, Watched>,
}

impl Storms {
    pub(super) fn went_out(&mut self, topic: &str, payload: &[u8], now: Duration) {
        if self.watched.len() >= WATCHED_MAX {
            self.watched.retain(|_, watched| now < watched.last + CALM);
        }
        let key = key(topic, payload);
        if let Some(watched) = self.watched.get_mut(&key) {
            (watched.out, watched.last) = (true, now);
        } else if self.watched.len() < WATCHED_MAX {
            self.watched.insert(key, Watched { rounds: 0, out: true, last_in: now, last: now, cut: false });
        }
    }

    pub(super) fn came_in(&mut self, topic: &str, payload: &[u8], now: Duration) -> Verdict {
        let Some(watched) = self.watched.get_mut(&key(topic, payload)) else { return Verdict::Pass };
        let since = now.saturating_sub(watched.last_in);
        if watched.cut && since < CALM {
            (watched.last_in, watched.last) = (now, now);
            return Verdict::Drop;
        }
        let follows = watched.out && since < ROUND_TIME;
        (watched.rounds, watched.cut) = match (follows, watched.out) {
            (true, _) => (watched.rounds + 1, false),
            // Another copy of the same round.
            (false, false) if since < ROUND_TIME => (watched.rounds, false),
            _ => (0, false),
        };
        (watched.out, watched.last_in, watched.last) = (false, now, now);
        watched.cut = watched.rounds >= ROUNDS_MAX;
        if watched.cut { Verdict::Storm } else { Verdict::Pass }
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
    fn what_goes_round_is_cut_until_it_is_calm() {
        let mut storms = Storms::default();
        for round in 0..u64::from(ROUNDS_MAX) - 1 {
            storms.went_out("a", b"x", at(round * 10));
            assert_eq!(storms.came_in("a", b"x", at(round * 10 + 5)), Verdict::Pass, "{round}");
        }
        storms.went_out("a", b"x", at(1000));
        assert_eq!(storms.came_in("a", b"x", at(1001)), Verdict::Storm);
        storms.went_out("a", b"x", at(1002));
        assert_eq!(storms.came_in("a", b"x", at(1900)), Verdict::Drop);
        assert_eq!(storms.came_in("a", b"y", at(1900)), Verdict::Pass);
        assert_eq!(storms.came_in("a", b"x", at(3000)), Verdict::Pass);
    }

    #[test]
    fn repeats_of_one_side_and_slow_turns_pass() {
        let mut storms = Storms::default();
        for number in 0..1000 {
            assert_eq!(storms.came_in("in", b"x", at(number)), Verdict::Pass);
            storms.went_out("out", b"x", at(number));
            storms.went_out("both", b"x", at(number * 600));
            assert_eq!(storms.came_in("both", b"x", at(number * 600 + 300)), Verdict::Pass);
        }
    }

    #[test]
    fn only_so_many_are_watched() {
        let mut storms = Storms::default();
        for number in 0..2 * WATCHED_MAX {
            storms.went_out(&number.to_string(), b"x", at(0));
        }
        assert_eq!(storms.watched.len(), WATCHED_MAX);
        storms.went_out("new", b"x", at(5000));
        assert_eq!(storms.watched.len(), 1);
    }
}
