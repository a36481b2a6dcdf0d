//! How long a bridge waits before it tries again: a constant, or a jittered backoff between a base and a cap.
//! Always true: a connection that stood for long enough forgets the failures before it.
use std::time::Duration;

/// `restart_timeout`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartTimeout {
    Constant(Duration),
    /// Each wait is drawn between the base and three times the last wait, up to the cap. A connection that stood for
    /// `stable` begins anew.
    Jitter {
        base: Duration,
        cap: Duration,
        stable: Duration,
    },
}

#[derive(Debug, Clone)]
pub struct Backoff {
    timeout: RestartTimeout,
    last: Duration,
}

impl Backoff {
    #[must_use]
    pub fn new(timeout: RestartTimeout) -> Self {
        Self { timeout, last: Duration::ZERO }
    }

    /// A connection has ended that stood for so long.
    pub fn connected_for(&mut self, stood: Duration) {
        if let RestartTimeout::Jitter { stable, .. } = self.timeout
            && stood >= stable
        {
            self.last = Duration::ZERO;
        }
    }

    /// The next wait; `random` is any number, evenly distributed.
    pub fn next(&mut self, random: u64) -> Duration {
        let (base, cap) = match self.timeout {
            RestartTimeout::Constant(wait) => return wait,
            RestartTimeout::Jitter { base, cap, .. } => (base, cap.max(base)),
        };
        let high = (self.last.max(base) * 3).min(cap);
        let span = u64::try_from((high - base).as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        self.last = base + Duration::from_millis(random % span);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn waits_stay_between_base_and_cap_and_grow_with_failures() {
        let mut backoff =
            Backoff::new(RestartTimeout::Jitter { base: seconds(2), cap: seconds(20), stable: seconds(60) });
        let mut longest = Duration::ZERO;
        for i in 0..200_u64 {
            let wait = backoff.next(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(wait >= seconds(2) && wait <= seconds(20), "{wait:?}");
            longest = longest.max(wait);
        }
        assert!(longest > seconds(10));
    }

    #[test]
    fn a_stable_connection_begins_anew_and_a_short_one_does_not() {
        let mut backoff =
            Backoff::new(RestartTimeout::Jitter { base: seconds(1), cap: seconds(100), stable: seconds(10) });
        for _ in 0..5 {
            backoff.next(u64::MAX - 1);
        }
        backoff.last = seconds(50);
        backoff.connected_for(seconds(9));
        assert_eq!(backoff.last, seconds(50));
        backoff.connected_for(seconds(10));
        assert!(backoff.next(12345) <= seconds(3));
    }

    #[test]
    fn a_constant_is_constant() {
        let mut backoff = Backoff::new(RestartTimeout::Constant(seconds(4)));
        assert_eq!((backoff.next(1), backoff.next(99)), (seconds(4), seconds(4)));
    }
}
