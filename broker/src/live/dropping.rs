//! Whose messages are being dropped: one line in the log when it begins, and again while it goes on.
//! Bound: so many clients are remembered; of more at the same time nothing is said (the counters count them all).
use crate::logging::lines;
use mosquorum_proto::mqtt::Utf8;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// So long nothing more is said of a client.
const SILENCE: Duration = Duration::from_secs(60);
const CLIENTS_MAX: usize = 1024;

#[derive(Default)]
pub struct Dropping(Mutex<HashMap<Utf8, Instant>>);

impl Dropping {
    /// A message for this client was dropped.
    pub fn note(&self, client_id: &Utf8) {
        if self.is_news(client_id, Instant::now()) {
            lines::outgoing_dropped(client_id);
        }
    }

    fn is_news(&self, client_id: &Utf8, now: Instant) -> bool {
        let mut logged = self.0.lock();
        if let Some(at) = logged.get_mut(client_id) {
            let is_news = now.duration_since(*at) >= SILENCE;
            if is_news {
                *at = now;
            }
            return is_news;
        }
        if logged.len() >= CLIENTS_MAX {
            logged.retain(|_, at| now.duration_since(*at) < SILENCE);
        }
        let has_room = logged.len() < CLIENTS_MAX;
        if has_room {
            logged.insert(client_id.detached(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_once_a_minute_and_a_crowd_not_at_all() {
        let (dropping, start) = (Dropping::default(), Instant::now());
        let client = |number: usize| Utf8::from(format!("c{number}"));
        assert!(dropping.is_news(&client(0), start));
        assert!(!dropping.is_news(&client(0), start + SILENCE / 2));
        assert!(dropping.is_news(&client(0), start + SILENCE));
        for number in 1..CLIENTS_MAX {
            assert!(dropping.is_news(&client(number), start + SILENCE));
        }
        assert!(!dropping.is_news(&client(CLIENTS_MAX), start + SILENCE));
        assert!(dropping.is_news(&client(CLIENTS_MAX), start + 2 * SILENCE));
    }
}
