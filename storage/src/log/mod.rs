//! The Raft log: append-only segments, one writer thread, one fdatasync for everything that waits.

mod error;
mod types;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use error::LogError;
pub use types::{
    Done, Durable, LogBounds, LogEntry, LogId, LogOptions, LogStats, Recovered,
    SYNC_MICROS_BUCKETS, WriterMode,
};

use crate::fs::Fs;

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log {}

impl Log {
    /// Opens or creates the log in `dir` (its parent must exist). Everything it finds is durable when it returns.
    /// # Errors
    /// [`LogError::Damaged`] when acknowledged bytes are not what was written; nothing is changed then.
    pub fn open(
        _fs: Arc<dyn Fs>,
        _dir: &Path,
        _options: LogOptions,
    ) -> Result<(Log, Recovered), LogError> {
        todo!()
    }

    /// Queues entries, which must follow the last one without a gap. They can be read as soon as this returns; `done`
    /// is told once they are durable, in the order of appends. Never blocks: the caller stops appending while
    /// [`Log::queued_bytes`] is above its bound.
    pub fn append(&self, _entries: Vec<LogEntry>, _done: Done) {
        todo!()
    }

    /// Payload bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        todo!()
    }

    /// Removes the entries from `index` on; takes effect for readers at once and on disk in order with the appends.
    pub fn truncate_from(&self, _index: u64) -> Result<(), LogError> {
        todo!()
    }

    /// Everything up to `id` may go. Whole segments are recycled once the fact is durable; does not wait for that.
    pub fn purge_to(&self, _id: LogId) -> Result<(), LogError> {
        todo!()
    }

    /// Empties the log after a snapshot up to `id` was installed: the next entry is `id.index + 1`. Does not wait.
    pub fn reset_to(&self, _id: LogId) -> Result<(), LogError> {
        todo!()
    }

    /// Entries of `range` in order, cut after the one that reaches `max_bytes` of payload: at least one if present.
    /// Entries beyond the end are simply not there.
    /// # Errors
    /// [`LogError::Purged`] when the range starts before the first entry.
    pub fn read(&self, _range: Range<u64>, _max_bytes: usize) -> Result<Vec<LogEntry>, LogError> {
        todo!()
    }

    pub fn bounds(&self) -> LogBounds {
        todo!()
    }

    /// Saves the vote; durable when it returns. Blocks for one sync.
    pub fn save_vote(&self, _vote: &[u8]) -> Result<(), LogError> {
        todo!()
    }

    /// As [`Log::save_vote`], without blocking.
    pub fn save_vote_then(&self, _vote: &[u8], _done: Done) {
        todo!()
    }

    /// The last vote saved.
    pub fn vote(&self) -> Option<Bytes> {
        todo!()
    }

    /// Remembers the committed position, best effort: written with the next flush.
    pub fn save_committed(&self, _id: LogId) {
        todo!()
    }

    pub fn committed(&self) -> Option<LogId> {
        todo!()
    }

    /// Waits until everything queued before is durable. Blocks for one sync.
    pub fn flush(&self) -> Result<Durable, LogError> {
        todo!()
    }

    /// With [`WriterMode::Manual`]: writes and syncs what is queued and tells whoever waited.
    /// Returns whether there was anything to do.
    pub fn run_pending(&self) -> bool {
        todo!()
    }

    /// Why the log stopped for good, if it did.
    pub fn failure(&self) -> Option<LogError> {
        todo!()
    }

    pub fn stats(&self) -> LogStats {
        todo!()
    }

    /// Writes what is queued and stops the writer. Other clones get [`LogError::Closed`] from then on.
    pub fn shutdown(self) {
        todo!()
    }
}
