//! File descriptors: as many as the system allows, the last of them not for clients.
//! Always true: a client connection whose descriptor is one of the reserve is closed at once. The kernel gives out the
//! lowest free number, so all numbers below are in use then, and those of the reserve stay for log and state, peers,
//! bridges, the admin socket and the health listener.
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Descriptors of the reserve at most: a state store has about 100 files, a log one for 32 MiB.
const RESERVE_MAX: u32 = 4096;
/// The share of a small limit that is kept back.
const RESERVE_SHARE: u32 = 4;
/// Between two lines about connections that were closed or could not be accepted.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Where the reserve begins; nothing is kept back before [`claim`].
static RESERVE_FROM: AtomicU32 = AtomicU32::new(u32::MAX);
static REFUSED: Repeats = Repeats::new();
static NOT_ACCEPTED: Repeats = Repeats::new();

/// Raises the limit of open descriptors as far as this process may, sets the reserve aside and says both in one line.
pub fn claim() {
    let found = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: found.maximum, maximum: found.maximum };
    let (limit, why) = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => (found.maximum, String::new()),
        Err(error) => (found.current, format!("; it could not be raised: {error}")),
    };
    // No number is larger than what the kernel's int holds.
    let limit = limit.map_or(i32::MAX as u32, |limit| u32::try_from(limit).unwrap_or(i32::MAX as u32));
    let reserve = reserve(limit);
    RESERVE_FROM.store(limit - reserve, Relaxed);
    crate::info!(
        "Up to {limit} file descriptors may be open (ulimit -n, LimitNOFILE){why}; {reserve} of them are kept for storage, \
         peers, bridges, admin and health."
    );
}

/// Descriptors that clients do not get, of so many.
fn reserve(limit: u32) -> u32 {
    (limit / RESERVE_SHARE).min(RESERVE_MAX)
}

/// Whether a client's connection with this descriptor has to be closed. Counts it then, and says so at most once a minute.
pub fn is_reserved(descriptor: RawFd) -> bool {
    let from = RESERVE_FROM.load(Relaxed);
    let reserved = u32::try_from(descriptor).is_ok_and(|descriptor| descriptor >= from);
    if reserved && let Some(count) = REFUSED.note(Instant::now()) {
        crate::warning!(
            "Client connections are refused: {from} file descriptors are in use, the others are kept for storage, peers, \
             bridges, admin and health. {count} were closed since the last such line. Raise the limit (ulimit -n, \
             LimitNOFILE)."
        );
    }
    reserved
}

/// A connection could not be accepted; said at most once a minute.
pub fn not_accepted(error: &std::io::Error) {
    if let Some(count) = NOT_ACCEPTED.note(Instant::now()) {
        crate::warning!("Unable to accept new connection: {error}. {count} attempts failed since the last such line.");
    }
}

/// Events of which every one counts and few are logged.
struct Repeats(Mutex<(u64, Option<Instant>)>);

impl Repeats {
    const fn new() -> Self {
        Self(Mutex::new((0, None)))
    }

    /// One more; how many there were since the last line if another one may be written.
    fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let (count, logged) = &mut *state;
        *count += 1;
        if logged.is_some_and(|at| now.saturating_duration_since(at) < LINE_INTERVAL) {
            return None;
        }
        *logged = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_few_descriptors_and_4096_of_many_are_kept_back() {
        assert_eq!([0, 64, 1024, 20_000, 1_048_576, i32::MAX as u32].map(reserve), [0, 16, 256, 4096, 4096, 4096]);
    }

    #[test]
    fn every_refusal_is_counted_and_one_line_a_minute_is_written() {
        let (repeats, start) = (Repeats::new(), Instant::now());
        assert_eq!(repeats.note(start), Some(1));
        for second in 1..60 {
            assert_eq!(repeats.note(start + Duration::from_secs(second)), None);
        }
        assert_eq!(repeats.note(start + LINE_INTERVAL), Some(60));
        assert_eq!(repeats.note(start), None, "a clock that stands still is no reason for a line");
    }
}
