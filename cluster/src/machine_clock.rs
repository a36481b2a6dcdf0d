//! The machine's clocks. One is monotonic and goes on while the machine is suspended, so that whoever slept through the
//! end of a lease knows; the other one is on the wall, and may be anything.
use crate::ids::Millis;
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since the machine started.
pub(crate) fn now() -> Duration {
    let time = raw();
    #[cfg(feature = "test-faults")]
    let time = crate::faults::skewed(time);
    time
}

/// As the machine has it, whatever a test makes of it.
pub(crate) fn raw() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    Duration::new(time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs() as u32)
}

/// The same in nanoseconds (enough for 584 years), for atomics.
pub(crate) fn now_nanos() -> u64 {
    nanos(now())
}

/// Saturates: `Duration::MAX` is for ever.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What the clock on the wall says.
pub(crate) fn wall() -> Millis {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    #[cfg(feature = "test-faults")]
    let time = crate::faults::moved(time);
    Millis(time)
}

/// Which start of the machine this is: the monotonic clock of one says nothing in another.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
