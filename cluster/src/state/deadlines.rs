//! What is due when.
//! Always true: each waiting will, session, retained message with an interval and queue to be searched is listed exactly
//! once, as long as who lists it forgets it.
use super::Millis;
use mosquorum_proto::mqtt::{TopicName, Utf8};
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// Before the end of the session, which may be due at the same time.
    Will(Utf8),
    Session(Utf8),
    Sweep(Utf8),
    Retained(TopicName),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Deadlines {
    all: BTreeSet<(Millis, Deadline)>,
}

impl Deadlines {
    /// For loading.
    pub(super) fn new(all: Vec<(Millis, Deadline)>) -> Self {
        Self { all: all.into_iter().collect() }
    }

    pub(super) fn insert(&mut self, at: Millis, due: Deadline) {
        self.all.insert((at, due));
    }

    pub(super) fn forget(&mut self, at: Millis, due: Deadline) {
        self.all.remove(&(at, due));
    }

    pub(super) fn next(&self) -> Option<Millis> {
        self.all.first().map(|(at, _)| *at)
    }

    /// Takes out what was due first.
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<Deadline> {
        self.next().filter(|at| *at <= now)?;
        self.all.pop_first().map(|(_, due)| due)
    }

    #[cfg(test)]
    pub(super) fn contains(&self, at: Millis, due: Deadline) -> bool {
        self.all.contains(&(at, due))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
