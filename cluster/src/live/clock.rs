//! The clock of leases: monotonic, and it goes on while the machine is suspended, so that whoever slept through the end
//! of a lease knows.
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since the machine started.
pub(crate) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The same in nanoseconds (enough for 584 years), for atomics.
pub(crate) fn now_nanos() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Saturates: `Duration::MAX` is for ever.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
