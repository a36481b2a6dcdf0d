//! `memory_limit`: how much memory the process holds, and what follows when that is too much.
//! Always true: beyond the limit no client comes in and no message is taken; who publishes then loses its connection, as
//! in Mosquitto. What is measured is the resident memory of the whole process, looked at twice a second, so it may be
//! exceeded by what comes in between.
use crate::kernel::Status;
use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the last look has shown.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    exceeded: AtomicBool,
}

impl MemoryWatch {
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Relaxed)
    }

    /// Looks until the future is dropped. `limit`: bytes.
    pub async fn watch(&self, limit: NonZeroUsize) {
        loop {
            let (now, _) = resident();
            let exceeded = now > limit.get() as u64;
            if self.exceeded.swap(exceeded, Relaxed) != exceeded {
                if exceeded {
                    crate::warning!(
                        "Warning: {now} bytes of memory are in use, memory_limit is {limit}: nothing is taken in."
                    );
                } else {
                    crate::notice!("Less memory than memory_limit is in use again.");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Resident memory of this process in bytes: now, and at most so far.
#[must_use]
pub fn resident() -> (u64, u64) {
    let status = Status::of("self");
    let bytes = |name| status.as_ref().and_then(|status| status.number(name)).unwrap_or(0);
    (bytes("VmRSS"), bytes("VmHWM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_memory() {
        let (now, most) = resident();
        assert!(now > 100_000 && most >= now / 2, "{now} {most}");
    }
}
