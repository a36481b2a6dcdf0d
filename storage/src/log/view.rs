//! What readers see of the log: bounds, recent entries, and where the older ones lie in the files.
//!
//! Always true: the cache is a run of entries that ends at the log's last one; an entry leaves it only after it was
//! written, so every entry is in the cache or can be found through its segment's offsets. Logical changes (append,
//! truncate, purge) are seen here at once; [`View::apply`] follows when the writer has synced them, in the same order.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::LogError;
use super::extent::Extent;
use super::format::{ALIGN, SegmentSeed};
use super::types::{LogEntry, LogId};
use crate::fs::FsFile;

/// A segment file in use. Its entries are one run of indexes.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn FsFile>,
    pub(super) seed: SegmentSeed,
    pub(super) first: u64,
    /// Offsets of the run's records, in units of [`ALIGN`].
    pub(super) offsets: Vec<u32>,
    /// Where its records end.
    pub(super) end: u64,
}

impl Segment {
    pub(super) fn new(generation: u64, path: PathBuf, file: Arc<dyn FsFile>, seed: SegmentSeed) -> Self {
        Segment { generation, path, file, seed, first: 0, offsets: Vec::new(), end: 0 }
    }

    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    pub(super) fn push(&mut self, index: u64, offset: u64) {
        if self.offsets.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(self.next(), index);
        self.offsets.push((offset / ALIGN) as u32);
    }

    pub(super) fn truncate_from(&mut self, index: u64) {
        self.offsets.truncate(index.saturating_sub(self.first) as usize);
    }
}

/// What the writer put on disk, handed to the view after the sync.
#[derive(Debug)]
pub(super) enum Written {
    /// The segment before ends here, and another follows.
    Segment {
        previous_end: u64,
        segment: Segment,
    },
    Entry {
        index: u64,
        offset: u64,
    },
    Truncate {
        from: u64,
    },
    Reset,
}

#[derive(Clone, Debug)]
struct Cached {
    entry: LogEntry,
    sequence: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) segments: VecDeque<Segment>,
    cache: VecDeque<Cached>,
    cached_bytes: usize,
    cache_bytes_max: usize,
    pub(super) extent: Extent,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<LogId>,
    /// Entries are numbered as they are appended; those up to this one are on disk.
    appended: u64,
    written: u64,
}

/// Where the entries of a read come from: first parts of segments, then the cached ones.
#[derive(Debug, Default)]
pub(super) struct ReadPlan {
    pub(super) parts: Vec<Segment>,
    pub(super) cached: Vec<LogEntry>,
}

impl View {
    pub(super) fn new(cache_bytes_max: usize) -> Self {
        View { cache_bytes_max, ..View::default() }
    }

    /// Takes entries that the caller has checked with [`Extent::expected`].
    pub(super) fn append(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            self.appended += 1;
            self.cached_bytes += cost(entry);
            self.cache.push_back(Cached { entry: entry.clone(), sequence: self.appended });
            self.extent.append(entry.id);
        }
    }

    /// Removes entries from `from` on; `last` is the id of the entry before it.
    pub(super) fn truncate(&mut self, from: u64, last: Option<LogId>) {
        while self.cache.back().is_some_and(|c| c.entry.id.index >= from) {
            let removed = self.cache.pop_back().expect("looked at above");
            self.cached_bytes -= cost(&removed.entry);
        }
        self.extent.truncate(from, last);
    }

    /// Removes entries up to `id`, all of them when it lies at or beyond the end.
    pub(super) fn purge(&mut self, id: LogId) {
        while self.cache.front().is_some_and(|c| c.entry.id.index <= id.index) {
            let removed = self.cache.pop_front().expect("looked at above");
            self.cached_bytes -= cost(&removed.entry);
        }
        self.extent.purge(id);
    }

    pub(super) fn reset(&mut self, id: LogId) {
        self.cache.clear();
        self.cached_bytes = 0;
        self.extent.reset(id);
    }

    /// Follows the files: what was written and synced, up to the `appended`-th entry.
    pub(super) fn apply(&mut self, changes: Vec<Written>, end: u64, appended: u64) {
        for change in changes {
            match change {
                Written::Segment { previous_end, segment } => {
                    self.current().end = previous_end;
                    self.segments.push_back(segment);
                }
                Written::Entry { index, offset } => self.current().push(index, offset),
                Written::Truncate { from } => {
                    self.segments.iter_mut().for_each(|segment| segment.truncate_from(from));
                }
                Written::Reset => self.segments.iter_mut().for_each(|segment| segment.offsets.clear()),
            }
        }
        self.current().end = end;
        self.written = appended;
        self.evict();
    }

    fn current(&mut self) -> &mut Segment {
        self.segments.back_mut().expect("an open log has a segment")
    }

    /// Takes out the segments that hold nothing but entries before `durable_first`; the current one stays.
    pub(super) fn take_purged_segments(&mut self, durable_first: u64) -> Vec<Segment> {
        let mut taken = Vec::new();
        while self.segments.len() > 1 {
            let front = &self.segments[0];
            if !front.offsets.is_empty() && front.next() > durable_first {
                break;
            }
            taken.extend(self.segments.pop_front());
        }
        taken
    }

    fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max && self.evict_one().is_some() {}
    }

    /// The first entry of the cache, if it was written.
    fn evict_one(&mut self) -> Option<LogEntry> {
        if self.cache.front()?.sequence > self.written {
            return None;
        }
        let cached = self.cache.pop_front()?;
        self.cached_bytes -= cost(&cached.entry);
        Some(cached.entry)
    }

    /// Takes out at most `most` of the first entries, as long as more than `keep` bytes are cached, and room that only more
    /// entries need. Fewer: it is done.
    pub(super) fn shrink_cache(&mut self, keep: usize, most: usize) -> Vec<LogEntry> {
        let mut removed = Vec::new();
        while self.cached_bytes > keep
            && removed.len() < most
            && let Some(entry) = self.evict_one()
        {
            removed.push(entry);
        }
        if removed.len() < most && self.cache.len() < self.cache.capacity() / 4 {
            self.cache.shrink_to(2 * self.cache.len());
        }
        removed
    }

    /// Id of a present entry if it is cached.
    pub(super) fn cached_id(&self, index: u64) -> Option<LogId> {
        let first = self.cache.front()?.entry.id.index;
        Some(self.cache.get(index.checked_sub(first)? as usize)?.entry.id)
    }

    /// Where to find `range`, cut after the entry that reaches `max_bytes`.
    /// # Errors
    /// [`LogError::Purged`] when it starts before the first entry.
    pub(super) fn plan(&self, range: Range<u64>, max_bytes: usize) -> Result<ReadPlan, LogError> {
        let mut plan = ReadPlan::default();
        if let Some(purged) = self.extent.purged
            && range.start <= purged.index
            && range.start < range.end
        {
            return Err(LogError::Purged { index: range.start, purged: purged.index });
        }
        let end = range.end.min(self.extent.next);
        let cached_from = self.cache.front().map_or(self.extent.next, |c| c.entry.id.index);
        let mut at = range.start.max(self.extent.first);
        let mut bytes = 0;
        for segment in &self.segments {
            let stop = end.min(cached_from).min(segment.next());
            if segment.offsets.is_empty() || at < segment.first || at >= stop || bytes >= max_bytes.max(1) {
                continue;
            }
            let (part, part_bytes) = part_of(segment, at..stop, max_bytes.max(1) - bytes);
            at = part.next();
            bytes += part_bytes;
            plan.parts.push(part);
        }
        if at < cached_from {
            return Ok(plan);
        }
        for cached in self.cache.iter().skip((at - cached_from) as usize) {
            if cached.entry.id.index >= end || bytes >= max_bytes.max(1) {
                break;
            }
            bytes += cached.entry.payload.len();
            plan.cached.push(cached.entry.clone());
        }
        Ok(plan)
    }
}

/// The segment with only the offsets of `wanted`, cut after the record that reaches `max_bytes`, and their length.
fn part_of(segment: &Segment, wanted: Range<u64>, max_bytes: usize) -> (Segment, usize) {
    let from = (wanted.start - segment.first) as usize;
    let to = (wanted.end - segment.first) as usize;
    let start = u64::from(segment.offsets[from]) * ALIGN;
    let enough = start.saturating_add(max_bytes as u64);
    let count = segment.offsets[from..to].partition_point(|offset| u64::from(*offset) * ALIGN < enough);
    let offsets = segment.offsets[from..from + count].to_vec();
    let end = segment.offsets.get(from + count).map_or(segment.end, |offset| u64::from(*offset) * ALIGN);
    let part = Segment {
        generation: segment.generation,
        path: segment.path.clone(),
        file: segment.file.clone(),
        seed: segment.seed,
        first: wanted.start,
        offsets,
        end,
    };
    (part, (end - start) as usize)
}

/// Bytes that a cached entry counts for: its payload and what holds it.
fn cost(entry: &LogEntry) -> usize {
    entry.payload.len() + size_of::<Cached>()
}
