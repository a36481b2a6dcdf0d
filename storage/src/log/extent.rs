//! Where a log starts and ends. Readers' view, writer and recovery share these rules, so they cannot disagree.
//!
//! Always true: entries `first..next` are present; `last` is the id of entry `next - 1`, or `purged` when none is
//! present, or `None` in a log that never had an entry, which then takes any first index.

use super::types::LogId;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

impl Extent {
    /// What the next entry's index must be; `None`: any.
    pub(super) fn expected(&self) -> Option<u64> {
        self.last.map(|_| self.next)
    }

    /// Takes an entry whose index was checked with [`Extent::expected`].
    pub(super) fn append(&mut self, id: LogId) {
        if self.last.is_none() {
            self.first = id.index;
        }
        self.last = Some(id);
        self.next = id.index + 1;
    }

    /// Removes entries from `from` on; `last` is the id of the entry before it.
    pub(super) fn truncate(&mut self, from: u64, last: Option<LogId>) {
        self.next = from;
        self.last = last;
    }

    /// Removes entries up to `id`: all of them when it lies at or beyond the end.
    pub(super) fn purge(&mut self, id: LogId) {
        self.first = id.index + 1;
        self.purged = Some(id);
        if self.next <= self.first {
            self.next = self.first;
            self.last = Some(id);
        }
    }

    /// Removes all entries; the log goes on after `id`.
    pub(super) fn reset(&mut self, id: LogId) {
        let after = id.index + 1;
        *self = Extent { first: after, next: after, last: Some(id), purged: Some(id) };
    }

    /// The first index present.
    pub(super) fn first_present(&self) -> Option<u64> {
        (self.first < self.next).then_some(self.first)
    }
}
