//! Whether a node gets what those that grant its lease have applied.
//! Always true: an entry that another node had applied [`LAG_MAX`] ago and that is not applied here makes the lag too
//! long; a node without news of others has none.
//!
//! Pings may pass where entries do not (packet loss, a link cut one way): such a node would keep its lease, and its
//! clients would wait for what others have long got. It ends its incarnation instead; they come back elsewhere. Who serves
//! nobody yet may lag as long as it takes.
use std::time::Duration;

pub(crate) const LAG_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// The latest entry that others are known to have applied, and a moment by which they had not said so.
    newest: (u64, Duration),
    /// As `newest` was when this node had applied all before it.
    awaited: Option<(u64, Duration)>,
}

impl Lag {
    /// Another node has applied the log up to `applied`, as it answered a ping sent at `sent`; this one up to `own`.
    pub(crate) fn observe(&mut self, sent: Duration, applied: u64, own: u64) {
        if applied > self.newest.0 {
            self.newest = (applied, sent);
        }
        self.look(own);
    }

    /// Whether it has become too long.
    pub(crate) fn is_too_long(&mut self, now: Duration, own: u64) -> bool {
        self.look(own);
        self.awaited.is_some_and(|(_, since)| now.saturating_sub(since) > LAG_MAX)
    }

    fn look(&mut self, own: u64) {
        if self.awaited.is_some_and(|(index, _)| own >= index) {
            self.awaited = None;
        }
        if self.awaited.is_none() && self.newest.0 > own {
            self.awaited = Some(self.newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_entry_that_others_had_three_seconds_ago_is_too_much() {
        let mut lag = Lag::default();
        lag.observe(at(1000), 7, 6);
        lag.observe(at(2000), 9, 6);
        assert!(!lag.is_too_long(at(4000), 6));
        assert!(lag.is_too_long(at(4001), 6));
        assert!(!lag.is_too_long(at(4001), 7), "the next one is awaited since it was known of");
        assert!(lag.is_too_long(at(5001), 7));
        assert!(!lag.is_too_long(at(60_000), 9));
    }

    #[test]
    fn a_node_that_follows_never_lags() {
        let mut lag = Lag::default();
        for index in 1..1000 {
            lag.observe(at(index * 150), index * 10, index * 10 - 5);
            assert!(!lag.is_too_long(at(index * 150 + 100), index * 10));
        }
        assert!(!Lag::default().is_too_long(at(60_000), 0), "nothing is known of others");
    }
}
