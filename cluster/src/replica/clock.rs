//! The cluster's time as one node knows it: the machine's monotonic clock and an offset.
//! Always true: it is never behind a time that stands in this node's log, and what it gives for the log never goes back; no
//! jump of a wall clock moves it. What moves the offset: a time in the log or the leader's word (every node), a slow correction towards the walls of a
//! majority (the leader, [`crate::node`]), and once after a start that has no earlier time to go on from, a step.
use crate::{ids::Millis, machine_clock};
use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// Differences from the leader that are not worth a correction: about what a message takes.
const LEADER_TOLERANCE: Duration = Duration::from_millis(20);

/// The part of a second by which a correction makes it longer or shorter at most.
const SLEW: u128 = 1000;

const NANOS_PER_MILLI: i64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct ClusterClock {
    /// Nanoseconds from the start of the machine to the cluster's time.
    offset: AtomicI64,
    /// The latest time that stands in this node's log, or that it gave as leader. What a node only believed is not in it: it may
    /// have been wrong.
    latest: AtomicU64,
    /// The offset goes on from an earlier one without a gap.
    sure: AtomicBool,
}

/// What lets the clock go on after a restart of the process: which start of the machine, and the offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) boot: String,
    pub(crate) offset: i64,
}

impl Default for ClusterClock {
    /// Begins with the wall's time: right for whoever has no time of a cluster yet.
    fn default() -> Self {
        Self {
            offset: AtomicI64::new(since_start(machine_clock::wall())),
            latest: AtomicU64::new(0),
            sure: AtomicBool::new(true),
        }
    }
}

/// The offset at which it is this time now.
fn since_start(time: Millis) -> i64 {
    let nanos = i64::try_from(time.0).unwrap_or(i64::MAX).saturating_mul(NANOS_PER_MILLI);
    nanos.saturating_sub(machine_nanos())
}

fn machine_nanos() -> i64 {
    i64::try_from(machine_clock::now_nanos()).unwrap_or(i64::MAX)
}

impl ClusterClock {
    /// A clock that goes on where the log ended. With the anchor of this start of the machine it knows how long ago that
    /// was; without it stands where the log stood, and is not sure.
    /// `founds`: the node begins its cluster's time; one that joins with an empty log learns it.
    pub(crate) fn begin(&self, anchor: Option<Anchor>, log: Millis, founds: bool) {
        if log == Millis(0) && founds {
            return;
        }
        let boot = machine_clock::boot_id();
        let anchor = anchor.filter(|anchor| !boot.is_empty() && anchor.boot == boot);
        self.sure.store(anchor.is_some(), Ordering::Release);
        let offset = anchor.map_or(i64::MIN, |anchor| anchor.offset);
        self.offset.store(offset.max(since_start(log)), Ordering::Release);
        self.latest.store(log.0, Ordering::Release);
    }

    pub(crate) fn now(&self) -> Millis {
        Millis(self.running().max(self.latest.load(Ordering::Relaxed)))
    }

    /// Now, for an entry of the log: never less than what was given before.
    pub(crate) fn stamp(&self) -> Millis {
        let time = self.running();
        Millis(self.latest.fetch_max(time, Ordering::Relaxed).max(time))
    }

    /// By the offset alone.
    fn running(&self) -> u64 {
        #[cfg(feature = "test-faults")]
        if crate::faults::planted("wall-clock") {
            return machine_clock::wall().0;
        }
        let nanos = self.offset.load(Ordering::Relaxed).saturating_add(machine_nanos());
        u64::try_from(nanos / NANOS_PER_MILLI).unwrap_or(0)
    }

    /// A time stands in the log.
    pub(crate) fn saw(&self, time: Millis) {
        self.latest.fetch_max(time.0, Ordering::Relaxed);
        if self.running() < time.0 {
            self.offset.fetch_max(since_start(time), Ordering::Relaxed);
        }
    }

    /// The leader said that it is this time now. What stands in the log stands.
    pub(crate) fn observe_leader(&self, time: Millis) {
        let apart = self.running().abs_diff(time.0);
        if u128::from(apart) > LEADER_TOLERANCE.as_millis() {
            self.offset.store(since_start(time), Ordering::Relaxed);
        }
        self.sure.store(true, Ordering::Release);
    }

    /// After a start without an anchor: the time that passed meanwhile, as others know it. Never backwards.
    pub(crate) fn step_to(&self, time: Millis) {
        self.offset.fetch_max(since_start(time), Ordering::Relaxed);
        self.sure.store(true, Ordering::Release);
    }

    /// Moves towards this time, by no more than a thousandth of `passed`, the time since it was last called.
    pub(crate) fn slew(&self, towards: Millis, passed: Duration) {
        let wanted = i64::try_from(towards.0).unwrap_or(i64::MAX);
        let apart = wanted.saturating_sub(i64::try_from(self.running()).unwrap_or(i64::MAX));
        let most = i64::try_from(passed.as_nanos() / SLEW).unwrap_or(i64::MAX);
        self.offset.fetch_add(apart.saturating_mul(NANOS_PER_MILLI).clamp(-most, most), Ordering::Relaxed);
    }

    pub(crate) fn is_sure(&self) -> bool {
        self.sure.load(Ordering::Acquire)
    }

    pub(crate) fn anchor(&self) -> Anchor {
        Anchor { boot: machine_clock::boot_id(), offset: self.offset.load(Ordering::Relaxed) }
    }
}

impl Anchor {
    /// One line of text with a checksum.
    pub(crate) fn to_text(&self) -> String {
        let line = format!("{} {}", self.boot, self.offset);
        format!("{line} {:08x}\n", crc32c::crc32c(line.as_bytes()))
    }

    /// `None` for whatever is not whole.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (line, crc) = text.trim_end().rsplit_once(' ')?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(line.as_bytes()) {
            return None;
        }
        let (boot, offset) = line.split_once(' ')?;
        Some(Self { boot: boot.to_owned(), offset: offset.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn near(time: Millis, wanted: u64) -> bool {
        time.0.abs_diff(wanted) < 5_000
    }

    #[test]
    fn after_a_restart_of_the_process_time_has_gone_on_whatever_the_wall_says() {
        let log = Millis(machine_clock::wall().0 - 30 * DAY);
        let before = ClusterClock::default();
        before.begin(None, log, true);
        let mut anchor = before.anchor();
        anchor.offset += 3_600_000 * NANOS_PER_MILLI;
        let after = ClusterClock::default();
        after.begin(Some(anchor), log, true);
        assert!(after.is_sure());
        assert!(near(after.now(), log.0 + 3_600_000));
    }

    #[test]
    fn after_a_restart_of_the_machine_it_stands_where_the_log_stood_and_is_not_sure() {
        let log = Millis(machine_clock::wall().0 - 30 * DAY);
        let clock = ClusterClock::default();
        clock.begin(Some(Anchor { boot: "another".into(), offset: i64::MAX / 2 }), log, true);
        assert!(near(clock.now(), log.0) && !clock.is_sure());
        clock.step_to(Millis(log.0 + DAY));
        assert!(near(clock.now(), log.0 + DAY) && clock.is_sure());
        clock.step_to(log);
        assert!(near(clock.now(), log.0 + DAY), "never back");
    }

    #[test]
    fn a_node_that_joins_has_no_time_of_its_own() {
        let clock = ClusterClock::default();
        clock.begin(None, Millis(0), false);
        assert!(!clock.is_sure() && clock.now().0 < DAY);
        clock.saw(Millis(5 * DAY));
        assert!(near(clock.now(), 5 * DAY) && !clock.is_sure());
        clock.observe_leader(Millis(6 * DAY));
        assert!(near(clock.now(), 6 * DAY) && clock.is_sure());
    }

    /// A node that joined with a wall 18 days ahead took its cluster there when it led, and sessions were gone.
    #[test]
    fn what_a_node_only_believed_is_forgotten_when_the_leader_sends_it_the_time() {
        let clock = ClusterClock::default();
        let wall = clock.now();
        clock.step_to(Millis(wall.0 + 18 * DAY));
        assert!(near(clock.now(), wall.0 + 18 * DAY));
        clock.observe_leader(wall);
        assert!(near(clock.now(), wall.0) && near(clock.stamp(), wall.0));
    }

    #[test]
    fn the_log_moves_it_forward_and_the_leader_both_ways_but_never_behind_the_log() {
        let clock = ClusterClock::default();
        let start = clock.now();
        clock.saw(Millis(start.0 + DAY));
        assert!(near(clock.now(), start.0 + DAY));
        clock.saw(start);
        assert!(near(clock.now(), start.0 + DAY));
        clock.observe_leader(start);
        assert!(near(clock.now(), start.0 + DAY), "it stands in the log");
        clock.observe_leader(Millis(start.0 + 2 * DAY));
        assert!(near(clock.now(), start.0 + 2 * DAY));
    }

    #[test]
    fn an_anchor_is_read_back_as_written_and_damage_is_noticed() {
        let anchor = Anchor { boot: "b-1".into(), offset: -7 };
        let text = anchor.to_text();
        assert_eq!(Anchor::from_text(&text), Some(anchor));
        assert_eq!(Anchor::from_text(&text.replace('7', "8")), None);
        assert_eq!(Anchor::from_text(""), None);
    }
}
