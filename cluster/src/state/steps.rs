//! Work that one command begins and that may be long, done in steps: nobody else's command waits behind all of it.
//! Always true: an entry of the log begins or goes on with at most [`STEP_WORK`] of it, a tick with as much of each kind;
//! what is left over is part of the state, so every node goes on from the same place, after a restart too; while there is
//! any, [`State::next_deadline`] lies in the past, so ticks follow each other.
//! A unit of work is a name that is looked at, a message that is queued or removed, a subscription that is removed, or a
//! session that ends.
use super::{Effect, State};

/// Units of such work that one entry of the log does: a millisecond or two.
pub const STEP_WORK: usize = 1000;

/// What the entry that is being applied may still do.
#[derive(Debug, Clone)]
pub(super) struct Steps {
    max: usize,
    left: usize,
    /// By the entry.
    used: usize,
}

impl Default for Steps {
    fn default() -> Self {
        Self { max: STEP_WORK, left: 0, used: 0 }
    }
}

impl Steps {
    pub(super) fn begin_entry(&mut self) {
        self.used = 0;
        self.begin();
    }

    pub(super) fn begin(&mut self) {
        self.left = self.max;
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// What is done at once in any case.
    pub(super) fn little(&self) -> usize {
        self.max / 16
    }

    pub(super) fn take(&mut self, units: usize) {
        self.left = self.left.saturating_sub(units);
        self.used += units;
    }

    /// Smaller steps, so that few of everything are many for a test.
    #[cfg(test)]
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }
}

impl State {
    /// Units of such work that the last entry did.
    #[must_use]
    pub fn work_of_last_entry(&self) -> usize {
        self.steps.used
    }

    /// Whether ticks have something to go on with.
    pub(super) fn has_work(&self) -> bool {
        !self.replays.is_empty() || !self.lost.is_empty() || !self.remains.is_empty()
    }

    /// One more step of everything that was begun.
    pub(super) fn go_on(&mut self, out: &mut Vec<Effect>) {
        self.steps.begin();
        self.go_on_with_lost(out);
        self.steps.begin();
        self.go_on_replaying(out);
        self.steps.begin();
        self.clear_remains(self.steps.left());
    }
}
