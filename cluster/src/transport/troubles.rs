//! What went wrong on the way to an address last, and how long nobody tries there again.
//! Always true: whoever refused us (another certificate, or none of ours is wanted) is asked again only after a pause that
//! doubles up to [`PAUSE_MAX`]; a peer that answers is without trouble. At most [`ADDRESSES_MAX`] are remembered.
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A reason older than this says nothing about now.
const RECENT: Duration = Duration::from_secs(10);
const ADDRESSES_MAX: usize = 256;

/// Why a call to another node has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// One of the two ends does not accept the other.
    #[error("{0}")]
    Refused(String),
    /// It was not reached, or did not answer in time.
    #[error("{0}")]
    Unreachable(String),
}

#[derive(Default)]
pub(super) struct Troubles(Mutex<HashMap<String, Trouble>>);

struct Trouble {
    why: String,
    at: Instant,
    /// Pause after the last refusal; zero: it was not refused.
    pause: Duration,
}

impl Troubles {
    /// Why nobody connects there now.
    pub(super) fn pause(&self, address: &str, now: Instant) -> Option<String> {
        let known = self.0.lock();
        let trouble = known.get(address)?;
        (now.saturating_duration_since(trouble.at) < trouble.pause).then(|| trouble.why.clone())
    }

    /// It was not reached: whoever tries pauses by itself.
    pub(super) fn unreached(&self, address: &str, why: String, now: Instant) {
        self.note(address, Trouble { why, at: now, pause: Duration::ZERO });
    }

    /// It was reached and refused us, or we it.
    pub(super) fn refused(&self, address: &str, why: String, now: Instant) {
        let before = self.0.lock().get(address).map_or(Duration::ZERO, |trouble| trouble.pause);
        self.note(address, Trouble { why, at: now, pause: (before * 2).clamp(PAUSE_MIN, PAUSE_MAX) });
    }

    pub(super) fn works(&self, address: &str) {
        self.0.lock().remove(address);
    }

    /// What went wrong there a moment ago.
    pub(super) fn recent(&self, address: &str, now: Instant) -> Option<CallError> {
        let known = self.0.lock();
        let trouble = known.get(address)?;
        let is_recent = now.saturating_duration_since(trouble.at) < RECENT;
        is_recent.then(|| match trouble.pause.is_zero() {
            true => CallError::Unreachable(trouble.why.clone()),
            false => CallError::Refused(trouble.why.clone()),
        })
    }

    fn note(&self, address: &str, trouble: Trouble) {
        let mut known = self.0.lock();
        if known.len() >= ADDRESSES_MAX && !known.contains_key(address) {
            known.clear();
        }
        known.insert(address.to_owned(), trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_refuses_is_asked_ever_more_rarely_until_it_answers() {
        let (troubles, mut now) = (Troubles::default(), Instant::now());
        let end = now + Duration::from_secs(30);
        let mut attempts = 0;
        while now < end {
            if troubles.pause("a:1", now).is_none() {
                attempts += 1;
                troubles.refused("a:1", "BadCertificate".into(), now);
            }
            now += Duration::from_millis(1);
        }
        assert!((10..20).contains(&attempts), "{attempts} attempts in 30 s");
        assert_eq!(troubles.recent("a:1", now), Some(CallError::Refused("BadCertificate".into())));
        troubles.works("a:1");
        assert!(troubles.pause("a:1", now).is_none() && troubles.recent("a:1", now).is_none());
    }

    #[test]
    fn one_that_is_not_reached_may_be_tried_at_once() {
        let (troubles, now) = (Troubles::default(), Instant::now());
        troubles.unreached("a:1", "Connection refused".into(), now);
        assert!(troubles.pause("a:1", now).is_none());
        for number in 0..1000 {
            troubles.unreached(&format!("{number}:1"), String::new(), now);
        }
        assert!(troubles.0.lock().len() <= ADDRESSES_MAX);
    }
}
