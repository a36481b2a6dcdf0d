//! Waiting for a file descriptor.
//! Always true: an operation that found none (EMFILE, ENFILE) is tried again until it finds one; any other outcome is
//! handed on as it came; whoever waits, the log says so once, and once that it is over.
//! To have no descriptor says nothing of the disk: nothing was written and nothing is unknown, so it must not end as a
//! failed sync does.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many wait at this instant, in this process.
static WAITING: Mutex<usize> = Mutex::new(0);

/// Whether the process (EMFILE) or the machine (ENFILE) has no descriptor left.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let of = |errno: rustix::io::Errno| error.raw_os_error() == Some(errno.raw_os_error());
    of(rustix::io::Errno::MFILE) || of(rustix::io::Errno::NFILE)
}

/// Runs an operation that needs a descriptor for `path`, again and again while there is none. It must have changed
/// nothing when it fails so. The calling thread sleeps between the attempts, at most 1 s.
/// # Errors
/// Those of the operation, without a lack of descriptors.
#[allow(clippy::disallowed_methods)] // callers are on threads that may wait for a disk
pub(crate) fn with_descriptor<T>(path: &Path, operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    with_pauses(path, operation, std::thread::sleep)
}

fn with_pauses<T>(
    path: &Path,
    mut operation: impl FnMut() -> io::Result<T>,
    mut pause: impl FnMut(Duration),
) -> io::Result<T> {
    let mut wait: Option<Wait> = None;
    loop {
        match operation() {
            Err(error) if is_shortage(&error) => {
                let wait = wait.get_or_insert_with(|| Wait::begin(path, &error));
                pause(wait.next_pause());
            }
            outcome => return outcome,
        }
    }
}

/// One operation that waits; over when dropped.
struct Wait {
    since: Instant,
    pause: Duration,
}

impl Wait {
    fn begin(path: &Path, error: &io::Error) -> Self {
        let mut waiting = WAITING.lock();
        *waiting += 1;
        if *waiting == 1 {
            let path = path.display();
            tracing::warn!(
                "storage waits for a file descriptor to open {path} ({error}): what has to be on disk is not acknowledged \
                 until there is one; raise the limit (ulimit -n, LimitNOFILE)"
            );
        }
        Wait { since: Instant::now(), pause: FIRST_PAUSE }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = WAITING.lock();
        *waiting -= 1;
        if *waiting == 0 {
            tracing::warn!("storage has file descriptors again, after {} ms", self.since.elapsed().as_millis());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: rustix::io::Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn a_lack_of_descriptors_is_waited_out_in_pauses_of_at_most_a_second() {
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            let (mut attempts, mut pauses) = (0, Vec::new());
            let opened = with_pauses(
                Path::new("segment"),
                || {
                    attempts += 1;
                    if attempts <= 20 { Err(error(errno)) } else { Ok(attempts) }
                },
                |pause| pauses.push(pause),
            );
            assert_eq!(opened.unwrap(), 21);
            assert_eq!((pauses.len(), pauses[0], pauses[19]), (20, FIRST_PAUSE, LONGEST_PAUSE));
            assert!(pauses.is_sorted());
        }
    }

    #[test]
    fn every_other_failure_is_reported_at_once() {
        for errno in [rustix::io::Errno::IO, rustix::io::Errno::NOSPC, rustix::io::Errno::NOENT] {
            let mut attempts = 0;
            let failed: io::Result<()> = with_pauses(
                Path::new("segment"),
                || {
                    attempts += 1;
                    Err(error(errno))
                },
                |_| panic!("nothing to wait for"),
            );
            assert_eq!(failed.unwrap_err().raw_os_error(), Some(errno.raw_os_error()));
            assert_eq!(attempts, 1);
        }
    }
}
