//! Values of the log's interface.

use super::{LogError, Payload};
use crate::histogram::HistogramValues;

/// Identity of an entry: the term and node of the leader that made it, and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct LogId {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// One entry. The log does not look into `payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub shard: u32,
    pub id: LogId,
    pub payload: Payload,
}

/// Proof that an append was written and synced: only the writer makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable(pub(super) ());

/// Told exactly once, on the writer's thread (or the caller's, when the append is refused at once), in the order of
/// the appends. It must be quick and must not call a blocking method of the log (`save_vote`, `flush`, `shutdown`).
pub type Done = Box<dyn FnOnce(Result<Durable, LogError>) + Send>;

/// Who drives the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterMode {
    /// A thread of its own; segments are prepared by another in the background.
    Thread,
    /// Nobody: [`super::Log::run_pending`] writes what is queued, on the caller's thread. For simulations and crash
    /// tests, where the order of every operation must follow from the seed.
    Manual,
}

/// How a log is laid out and cached.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Size of a segment file. Default 32 MiB. An entry that does not fit gets a longer segment.
    pub segment_bytes: u64,
    /// Payload bytes of recent entries kept in memory (entries not yet written come on top). Default 32 MiB.
    pub cache_bytes: usize,
    /// Purged segment files kept for reuse. Default 2.
    pub spare_segments: usize,
    /// Most payload bytes under one sync. Default 8 MiB; a larger entry goes alone.
    pub group_bytes: usize,
    pub writer: WriterMode,
    /// Identity of a new log; `None` draws a random one. Only for runs that must repeat exactly.
    pub log_id: Option<[u8; 16]>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 32 << 20,
            cache_bytes: 32 << 20,
            spare_segments: 2,
            group_bytes: 8 << 20,
            writer: WriterMode::Thread,
            log_id: None,
        }
    }
}

/// What [`super::Log::open`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// First index present.
    pub first: Option<u64>,
    /// Last entry; equals `purged` when every entry was purged, as in [`LogBounds::last`].
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
    /// Bytes of unacknowledged records that a crash had torn and that were cut off (a lower bound).
    pub truncated_torn_tail_bytes: u64,
    /// Segment files in use.
    pub segments: usize,
    /// How often this log was opened, this time included.
    pub epoch: u64,
}

/// Where the log starts and ends, as seen by readers: entries still being written included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// First index present.
    pub first: Option<u64>,
    /// Last entry; `purged` when no entry is present.
    pub last: Option<LogId>,
    pub purged: Option<LogId>,
    /// Bytes of the segment files in use.
    pub bytes: u64,
}

/// Counters since the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    pub appends: u64,
    pub entries: u64,
    /// Group commits, each one sync (two when it crossed into a new segment).
    pub syncs: u64,
    pub bytes_written: u64,
    pub segments: u64,
    /// Segments that were reused instead of created.
    pub recycled: u64,
    /// Times the writer had to wait for the next segment: the disk is slow or full.
    pub segment_waits: u64,
    /// How long they took.
    pub sync: HistogramValues,
    pub sync_micros_max: u64,
}
