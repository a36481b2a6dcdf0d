//! What all clients count together while a run goes on.
//! Always true: counters only grow; a latency is recorded if the message was due within the measured time.
use super::stamp::Clock;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// So that subscribers on different threads rarely meet.
const SHARDS: usize = 8;
/// 0.1 us steps would be noise; an hour is the end.
const LATENCY_MAX_MICROSECONDS: u64 = 3_600_000_000;

pub(super) struct Meter {
    pub clock: Clock,
    pub published: AtomicU64,
    pub acknowledged: AtomicU64,
    pub delivered: AtomicU64,
    pub reconnects: AtomicU64,
    /// Publishers begin no further message.
    pub stopped: AtomicBool,
    /// Nanoseconds on the clock.
    measured_from: AtomicU64,
    measured_until: AtomicU64,
    latencies: [Mutex<Histogram<u64>>; SHARDS],
}

/// The state of the counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub published: u64,
    pub acknowledged: u64,
    pub delivered: u64,
}

impl Meter {
    #[must_use]
    pub(super) fn new(clock: Clock) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MAX_MICROSECONDS, 3).expect("the bounds are constants that are right")
        };
        Self {
            clock,
            published: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            measured_from: AtomicU64::new(u64::MAX),
            measured_until: AtomicU64::new(u64::MAX),
            latencies: std::array::from_fn(|_| Mutex::new(histogram())),
        }
    }

    pub(super) fn begin_measuring(&self) {
        self.measured_from.store(self.clock.now(), Relaxed);
    }

    pub(super) fn end_measuring(&self) {
        self.measured_until.store(self.clock.now(), Relaxed);
    }

    #[must_use]
    pub(super) fn counts(&self) -> Counts {
        Counts {
            published: self.published.load(Relaxed),
            acknowledged: self.acknowledged.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
        }
    }

    /// Messages that one read brought: when each was due.
    pub(super) fn record(&self, subscriber: usize, now: u64, dues: &mut Vec<u64>) {
        self.delivered.fetch_add(dues.len() as u64, Relaxed);
        let measured = self.measured_from.load(Relaxed)..self.measured_until.load(Relaxed);
        dues.retain(|due| measured.contains(due));
        if dues.is_empty() {
            return;
        }
        let mut histogram = self.latencies[subscriber % SHARDS].lock();
        for due in dues.drain(..) {
            histogram.saturating_record(now.saturating_sub(due).div_ceil(1000));
        }
    }

    /// All latencies so far, microseconds.
    #[must_use]
    pub(super) fn latencies(&self) -> Histogram<u64> {
        let mut all = self.latencies[0].lock().clone();
        for shard in &self.latencies[1..] {
            // They have the same bounds, so nothing can be lost.
            let _ = all.add(&*shard.lock());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_that_were_due_in_the_measured_time_have_a_latency() {
        let meter = Meter::new(Clock::start());
        meter.record(0, 5_000, &mut vec![1_000]);
        meter.measured_from.store(10_000, Relaxed);
        meter.measured_until.store(20_000, Relaxed);
        for subscriber in 0..10 {
            meter.record(subscriber, 1_009_999, &mut vec![9_999, 10_000, 19_999, 20_000]);
        }
        let all = meter.latencies();
        assert_eq!((meter.counts().delivered, all.len()), (41, 20));
        assert!((990..=1001).contains(&all.min()) && all.max() <= 1001, "{} {}", all.min(), all.max());
    }
}
