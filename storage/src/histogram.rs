//! How long things take, counted by bucket: relaxed atomics, no allocation.
//! Always true: bounds are fixed, so memory is; counts only grow.
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets in microseconds; the last bucket has none.
pub const BOUNDS_MICROS: [u64; 15] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000,
    5_000_000,
];

/// Durations observed since the start.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// One reading of a [`Histogram`]: observations per bucket (not cumulated) and their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistogramValues {
    pub counts: [u64; BOUNDS_MICROS.len() + 1],
    pub sum_micros: u64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let (bucket, micros) = place(took);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    #[must_use]
    pub fn read(&self) -> HistogramValues {
        HistogramValues {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)),
            sum_micros: self.sum_micros.load(Relaxed),
        }
    }
}

impl HistogramValues {
    /// For observations under somebody else's lock.
    pub fn observe(&mut self, took: Duration) {
        let (bucket, micros) = place(took);
        self.counts[bucket] += 1;
        self.sum_micros += micros;
    }
}

fn place(took: Duration) -> (usize, u64) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    (BOUNDS_MICROS.partition_point(|bound| *bound < micros), micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 5_000_000, 5_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let values = histogram.read();
        let mut expected = [0; BOUNDS_MICROS.len() + 1];
        (expected[0], expected[1], expected[14], expected[15]) = (2, 1, 1, 1);
        assert_eq!(values.counts, expected);
        assert_eq!(values.sum_micros, 10_000_202);
        let mut again = HistogramValues::default();
        for micros in [0, 100, 101, 5_000_000, 5_000_001] {
            again.observe(Duration::from_micros(micros));
        }
        assert_eq!(again, values);
    }
}
