//! How fast a snapshot is written: the log keeps most of the disk.
//! Always true: time that was not waited while writing was unpaced is not waited for later.
use std::time::Duration;

/// So much is written at once, the rest at a pace.
const UNPACED_BYTES: u64 = 4 << 20;
const BYTES_PER_SECOND: f64 = 64e6;
/// Shorter waits cost more than they give.
const PAUSE_MIN: Duration = Duration::from_millis(4);
const STEP_BYTES: u64 = 256 << 10;

pub(crate) struct Pace {
    /// What was written by then is not counted.
    from: u64,
    since: Duration,
    looked_at: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { from: UNPACED_BYTES, since: Duration::ZERO, looked_at: 0 }
    }
}

impl Pace {
    /// Whether enough was written since the last time to look at the pace.
    pub(crate) fn is_due(&mut self, written: u64) -> bool {
        let due = written >= self.looked_at + STEP_BYTES;
        if due {
            self.looked_at = written;
        }
        due
    }

    /// How long to wait, `elapsed` after the beginning, with so much written.
    pub(crate) fn pause(&mut self, written: u64, elapsed: Duration, unpaced: bool) -> Duration {
        if unpaced {
            (self.from, self.since) = (written.max(self.from), elapsed);
            return Duration::ZERO;
        }
        let due = Duration::from_secs_f64(written.saturating_sub(self.from) as f64 / BYTES_PER_SECOND);
        due.checked_sub(elapsed.saturating_sub(self.since)).filter(|ahead| *ahead >= PAUSE_MIN).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_waits_unless_it_is_unpaced_and_does_not_make_up_for_it() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        assert_eq!(pace.pause(UNPACED_BYTES, Duration::ZERO, false), Duration::ZERO);
        assert_eq!(pace.pause(UNPACED_BYTES + 64_000_000, Duration::ZERO, false), second);
        assert_eq!(pace.pause(UNPACED_BYTES + 64_000_000, second, false), Duration::ZERO);
        assert_eq!(pace.pause(640_000_000, second, true), Duration::ZERO);
        assert_eq!(pace.pause(640_000_000, second, false), Duration::ZERO);
        assert_eq!(pace.pause(704_000_000, second, false), second);
    }
}
