//! Work that one command begins and that may be long, done in steps: nobody else's command waits behind all of it.
//! Always true: an entry of the log begins or goes on with at most [`STEP_WORK`] of it, a tick with as much of each kind;
//! what is left over is part of the state, so every node goes on from the same place, after a restart too; while there is
//! any, [`super::State::next_deadline`] lies in the past, so ticks follow each other.
//! A unit of work is a name that is looked at, a message that is queued or removed, a subscription that is removed, or a
//! session that ends.
use super::{connect::SessionHandler, effects::Effects};

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

    /// Units of such work that the entry did.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Smaller steps, so that few of everything are many for a test.
    #[cfg(test)]
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }
}

impl SessionHandler<'_> {
    /// One more step of everything that was begun.
    pub(super) fn go_on(&mut self, out: &mut Effects<'_>) {
        self.steps().begin();
        self.go_on_with_lost(out);
        self.steps().begin();
        self.publishing().replay().go_on(out);
        self.steps().begin();
        let left = self.steps().left();
        self.clear_remains(left);
    }
}
