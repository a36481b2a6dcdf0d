//! The cluster's time as one node knows it.
//! Always true: it never goes back, and never behind a time that stands in this node's log.
use crate::ids::Millis;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Debug, Default)]
pub(crate) struct ClusterClock {
    latest: AtomicU64,
}

impl ClusterClock {
    /// Now: the system's clock, or the latest time seen if that is ahead.
    pub(crate) fn now(&self) -> Millis {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Millis(self.latest.fetch_max(system, Ordering::Relaxed).max(system))
    }

    /// A time stands in the log.
    pub(crate) fn saw(&self, time: Millis) {
        self.latest.fetch_max(time.0, Ordering::Relaxed);
    }
}
