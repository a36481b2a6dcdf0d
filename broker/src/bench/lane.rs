//! What a publisher and those who receive its messages report to each other, and the clockwork of a fixed rate.
//! Always true: whoever changes a lane wakes its publisher after the change.
use super::stamp::Clock;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    thread,
    time::Duration,
};

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Deliveries that came, were skipped by the broker or are given up.
    delivered: AtomicU64,
    /// Messages that are due by now.
    due: AtomicU64,
    /// Messages that went out.
    sent: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Lane {
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    pub(super) fn due(&self) -> u64 {
        self.due.load(Relaxed)
    }

    pub(super) fn set_sent(&self, count: u64) {
        self.sent.store(count, Relaxed);
    }

    /// What has not come will not come: as if it had.
    pub(super) fn give_up(&self, copies: u64) {
        self.delivered.fetch_max(self.sent.load(Relaxed) * copies, Relaxed);
        self.wake();
    }

    pub(super) fn add_delivered(&self, count: u64) {
        self.delivered.fetch_add(count, Relaxed);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    /// The caller looks at the lane again afterwards.
    pub(super) fn register(&self, waker: &Waker) {
        let mut slot = self.waker.lock();
        match &*slot {
            Some(known) if known.will_wake(waker) => {}
            _ => *slot = Some(waker.clone()),
        }
    }
}

/// When each message of a fixed rate is due: message `k` of all goes out on lane `k % lanes`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub begin: u64,
    pub rate: f64,
    pub lanes: u64,
}

impl Schedule {
    fn due_of(&self, message: u64) -> u64 {
        self.begin + (message as f64 * 1e9 / self.rate) as u64
    }

    /// On the clock, nanoseconds.
    #[must_use]
    pub(super) fn due(&self, lane: u64, sequence: u64) -> u64 {
        self.due_of(sequence * self.lanes + lane)
    }
}

/// A thread of its own: timers of the runtime are a millisecond coarse, which would be the latency that is measured.
#[derive(Debug)]
pub(super) struct Pacer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Pacer {
    pub(super) fn start(schedule: Schedule, clock: Clock, lanes: Vec<Arc<Lane>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            // Where it is refused, sleeps are 50 us longer.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
            let mut next = 0;
            while !stopped.load(Relaxed) {
                let now = clock.now();
                let first = next;
                while schedule.due_of(next) <= now {
                    let lane = &lanes[(next % schedule.lanes) as usize];
                    lane.due.fetch_add(1, Relaxed);
                    next += 1;
                }
                for message in first..next.min(first + schedule.lanes) {
                    lanes[(message % schedule.lanes) as usize].wake();
                }
                let wait = schedule.due_of(next).saturating_sub(clock.now());
                #[allow(clippy::disallowed_methods)] // a thread of its own
                thread::sleep(Duration::from_nanos(wait.min(100_000_000)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and nothing would follow from it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns_and_the_rate_is_that_of_all() {
        let schedule = Schedule { begin: 100, rate: 1e6, lanes: 3 };
        let dues: Vec<u64> = (0..2).flat_map(|sequence| (0..3).map(move |lane| schedule.due(lane, sequence))).collect();
        assert_eq!(dues, [100, 1100, 2100, 3100, 4100, 5100]);
    }

    #[test]
    fn a_pacer_makes_messages_due_on_every_lane_and_stops_when_dropped() {
        let lanes: Vec<Arc<Lane>> = (0..3).map(|_| Arc::default()).collect();
        let pacer = Pacer::start(Schedule { begin: 0, rate: 1e5, lanes: 3 }, Clock::start(), lanes.clone());
        while lanes.iter().any(|lane| lane.due() < 10) {
            thread::yield_now();
        }
        drop(pacer);
        let dues: Vec<u64> = lanes.iter().map(|lane| lane.due()).collect();
        assert!(dues[0] - dues[2] <= 1, "{dues:?}");
        assert_eq!(dues, lanes.iter().map(|lane| lane.due()).collect::<Vec<_>>());
    }
}
