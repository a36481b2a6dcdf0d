//! The Raft log: append-only segments, one writer, one fdatasync for everything that waits.
//!
//! Always true:
//! - an append is completed (`done`) only after its bytes were synced, in the order of appends;
//! - what was acknowledged is found again after any crash, or [`Log::open`] says where it is damaged; what was
//!   truncated, or was never acknowledged and lost, never comes back later;
//! - after a failed write or sync the log is failed for good: nothing is retried, everybody who waits gets the error;
//! - entries can be read as soon as `append` returns, from memory until they are on disk.
//!
//! How a torn tail is told from damage, and why nothing is resurrected, is written in `recovery.rs`; the bytes are
//! described in `format.rs`.
//!
//! One owner changes the log (append, truncate, purge, reset): these calls must not race with each other. Any number of
//! threads may read. The queue to the writer has no bound of its own: the owner stops appending while
//! [`Log::queued_bytes`] is above what it allows (64 MiB is plenty), since it is asynchronous and the log must not block it.
//! Not here: what entries mean, who may append (`cluster`), several Raft groups (an entry names its shard already).

mod error;
mod extent;
mod format;
mod payload;
mod recovery;
mod scan;
mod segments;
mod shared;
mod types;
mod view;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;

pub use error::LogError;
pub use payload::Payload;
pub use types::{Done, Durable, LogBounds, LogEntry, LogId, LogOptions, LogStats, Recovered, WriterMode};

use crate::fs::{Fs, parent};
use format::{ALIGN, BODY_BYTES_MAX, Kind, RECORD_HEADER_BYTES, parse_header};
use recovery::Found;
use segments::Segments;
use shared::{Command, SharedLog};
use view::{Segment, View};
use writer::Writer;

/// Largest vote.
const VOTE_BYTES_MAX: usize = 64 << 10;
/// Cached entries that are evicted in one step.
const SHRINK_STEP: usize = 1024;

/// A handle to the log; clones share it. The writer stops when the last one is dropped.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<SharedLog>,
    /// With [`WriterMode::Manual`].
    writer: Mutex<Option<Writer>>,
    /// With [`WriterMode::Thread`].
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens or creates the log in `dir`. Everything it finds is durable when it returns.
    /// # Errors
    /// [`LogError::Damaged`] when acknowledged bytes are not what was written, [`LogError::NewerFormat`] and
    /// [`LogError::Foreign`] when the files are not ours to read; nothing is changed then.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: LogOptions) -> Result<(Log, Recovered), LogError> {
        let options = LogOptions { segment_bytes: options.segment_bytes.max(1 << 12), ..options };
        fs.create_dir_all(dir)
            .and_then(|()| fs.sync_dir(parent(dir)))
            .map_err(|error| LogError::io("create", dir, error))?;
        let mut found = recovery::recover(&*fs, dir)?;
        let behind_tail = std::mem::take(&mut found.behind_tail);
        let mut free = std::mem::take(&mut found.free);
        free.extend(segments::free_segments(&*fs, dir, behind_tail)?);
        recovery::make_durable(&found)?;
        fs.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))?;

        let log_id = found.log_id.or(options.log_id).unwrap_or_else(random_id);
        let shared = Arc::new(SharedLog::new(View::recovered(&found, options.cache_bytes)));
        let segments = Segments::new(fs, dir, &options, log_id, free)?;
        let mode = options.writer;
        let before_first = std::mem::take(&mut found.before_first);
        let torn = found.torn_bytes;
        let epoch = found.epoch + 1;
        let mut writer = Writer::start(shared.clone(), options, log_id, segments, found)?;
        writer.recycle_at_start(before_first);
        let log =
            Log::with_writer(shared, writer, mode).map_err(|error| LogError::io("start a thread for", dir, error))?;
        let bounds = log.bounds();
        let segments = log.handle.shared.state.lock().view.segments.len();
        let (first, last, purged) = (bounds.first, bounds.last, bounds.purged);
        let recovered = Recovered { first, last, purged, truncated_torn_tail_bytes: torn, segments, epoch };
        Ok((log, recovered))
    }

    fn with_writer(shared: Arc<SharedLog>, writer: Writer, mode: WriterMode) -> std::io::Result<Log> {
        let (mut manual, mut thread) = (None, None);
        match mode {
            WriterMode::Manual => manual = Some(writer),
            WriterMode::Thread => {
                let guard = StopGuard(shared.clone());
                let work = move || {
                    let _guard = guard;
                    writer.run();
                };
                thread = Some(std::thread::Builder::new().name("log-writer".into()).spawn(work)?);
            }
        }
        let handle = Handle { shared, writer: Mutex::new(manual), thread: Mutex::new(thread) };
        Ok(Log { handle: Arc::new(handle) })
    }

    /// Queues entries, which must follow the last one without a gap (any first index in a new log). They can be read
    /// as soon as this returns; `done` is called once they are durable. Never blocks, see the module for the bound.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) {
        let shared = &self.handle.shared;
        let mut state = shared.state.lock();
        let refused = match (state.closed, &state.failed) {
            (true, _) => Some(LogError::Closed),
            // The writer answers with the failure, after those who wait already.
            (false, Some(_)) => None,
            (false, None) => check_entries(&state.view, &entries).err(),
        };
        if let Some(error) = refused {
            drop(state);
            return done(Err(error));
        }
        if state.failed.is_none() {
            state.view.append(&entries);
        }
        {
            let mut stats = shared.stats.lock();
            stats.appends += 1;
            stats.entries += entries.len() as u64;
        }
        let command = Command::Append { entries, done };
        state.queued_bytes += command.payload_bytes();
        state.queue.push_back(command);
        shared.wake.notify_one();
    }

    /// Payload bytes appended and not yet durable.
    pub fn queued_bytes(&self) -> usize {
        self.handle.shared.state.lock().queued_bytes
    }

    /// Removes the entries from `index` on; takes effect for readers at once, and on disk in order with the appends.
    /// Nothing happens when there are none.
    pub fn truncate_from(&self, index: u64) -> Result<(), LogError> {
        let (extent, cached) = {
            let state = self.handle.shared.state.lock();
            (state.view.extent, index.checked_sub(1).and_then(|before| state.view.cached_id(before)))
        };
        if index >= extent.next {
            return self.check_open();
        }
        let last = match extent.purged {
            Some(purged) if index <= purged.index => {
                return Err(LogError::TruncateBelowPurged { index, purged: purged.index });
            }
            Some(purged) if index == purged.index + 1 => Some(purged),
            _ if index <= extent.first => None,
            _ if cached.is_some() => cached,
            _ => self.read(index - 1..index, 1)?.first().map(|entry| entry.id),
        };
        let from = index.max(extent.first);
        self.enqueue(Command::Truncate { from, last }, |view| view.truncate(from, last))
    }

    /// Everything up to `id` may go; all of the log when `id` lies at or beyond its end. Whole segments are recycled
    /// once the fact is durable; does not wait for that. Nothing happens when it was purged before.
    pub fn purge_to(&self, id: LogId) -> Result<(), LogError> {
        if self.bounds().purged.is_some_and(|purged| purged.index >= id.index) {
            return self.check_open();
        }
        self.enqueue(Command::Purge(id), |view| view.purge(id))
    }

    /// Empties the log after a snapshot up to `id` was installed: the next entry is `id.index + 1`. Does not wait.
    pub fn reset_to(&self, id: LogId) -> Result<(), LogError> {
        self.enqueue(Command::Reset(id), |view| view.reset(id))
    }

    /// Entries of `range` in order, cut after the one that reaches `max_bytes` (payload, and record headers where they
    /// come from a file): at least one if present. Entries beyond the end are simply not there.
    /// # Errors
    /// [`LogError::Purged`] when a non-empty range starts before the first entry, [`LogError::Damaged`] when a record
    /// no longer matches its checksum.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, LogError> {
        self.read_by(range, max_bytes, |disk| disk())
    }

    /// As [`Log::read`]; what must be read from the disk, and may take its time, is given to `apart`, which calls it once. It is
    /// not called for entries that are still in memory.
    /// # Errors
    /// As for [`Log::read`].
    pub fn read_by(
        &self,
        range: Range<u64>,
        max_bytes: usize,
        apart: impl FnOnce(&mut dyn FnMut()),
    ) -> Result<Vec<LogEntry>, LogError> {
        let plan = self.handle.shared.state.lock().view.plan(range.clone(), max_bytes)?;
        let mut entries = Vec::with_capacity(plan.cached.len());
        if !plan.parts.is_empty() {
            let mut read = Ok(());
            apart(&mut || read = plan.parts.iter().try_for_each(|part| read_part(part, &mut entries)));
            if let Err(error) = read {
                // The segment may have been purged and overwritten while we read.
                self.handle.shared.state.lock().view.plan(range, max_bytes)?;
                return Err(error);
            }
        }
        entries.extend(plan.cached);
        Ok(entries)
    }

    /// Where the log starts and ends.
    pub fn bounds(&self) -> LogBounds {
        let state = self.handle.shared.state.lock();
        let extent = state.view.extent;
        let bytes = state.view.segments.iter().map(|segment| segment.end).sum();
        LogBounds { first: extent.first_present(), last: extent.last, purged: extent.purged, bytes }
    }

    /// Lets go of the memory of earlier entries, but for the last `keep` bytes: whoever wants them reads the disk. What is
    /// not written yet stays.
    pub fn shrink_cache(&self, keep: usize) {
        loop {
            // Dropped at the end of the round, without the lock.
            let removed = self.handle.shared.state.lock().view.shrink_cache(keep, SHRINK_STEP);
            if removed.len() < SHRINK_STEP {
                return;
            }
        }
    }

    /// Saves the vote; durable when it returns. Blocks for one sync.
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), LogError> {
        self.wait_for(|log, done| log.save_vote_then(vote, done)).map(drop)
    }

    /// As [`Log::save_vote`], without blocking.
    pub fn save_vote_then(&self, vote: &[u8], done: Done) {
        if vote.len() > VOTE_BYTES_MAX {
            return done(Err(LogError::TooLarge { bytes: vote.len() as u64 }));
        }
        let vote = Bytes::copy_from_slice(vote);
        self.enqueue_waiting(|done| Command::Vote(vote.clone(), done), done, |view| view.vote = Some(vote.clone()));
    }

    /// The last vote saved, or being saved.
    pub fn vote(&self) -> Option<Bytes> {
        self.handle.shared.state.lock().view.vote.clone()
    }

    /// Remembers the committed position, best effort: written with the next flush.
    pub fn save_committed(&self, id: LogId) {
        self.handle.shared.state.lock().view.committed = Some(id);
    }

    /// The last committed position saved. After a crash it may be older than what was committed, never newer.
    pub fn committed(&self) -> Option<LogId> {
        self.handle.shared.state.lock().view.committed
    }

    /// Waits until everything queued before is durable. Blocks for one sync.
    pub fn flush(&self) -> Result<Durable, LogError> {
        self.wait_for(Log::flush_then)
    }

    /// As [`Log::flush`], without blocking.
    pub fn flush_then(&self, done: Done) {
        self.enqueue_waiting(Command::Flush, done, |_| ());
    }

    /// With [`WriterMode::Manual`]: writes and syncs what is queued and completes whoever waited. With nothing queued, it
    /// does what the thread does when it idles. Returns whether anything was queued.
    pub fn run_pending(&self) -> bool {
        let mut writer = self.handle.writer.lock();
        let Some(writer) = &mut *writer else { return false };
        let any = writer.run_once();
        if !any {
            writer.idle();
        }
        while writer.run_once() {}
        any
    }

    /// Why the log stopped for good, if it did.
    pub fn failure(&self) -> Option<LogError> {
        self.handle.shared.failure()
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        self.handle.shared.stats.lock().clone()
    }

    /// Writes what is queued and stops the writer. Other clones get [`LogError::Closed`] from then on. Must not be
    /// called from a `done`.
    pub fn shutdown(self) {
        self.handle.close();
    }

    fn check_open(&self) -> Result<(), LogError> {
        let state = self.handle.shared.state.lock();
        match &state.failed {
            Some(error) => Err(error.clone()),
            None if state.closed => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// Queues a command that nobody waits for, with its effect on the view.
    fn enqueue(&self, command: Command, effect: impl FnOnce(&mut View)) -> Result<(), LogError> {
        self.check_open()?;
        let mut state = self.handle.shared.state.lock();
        effect(&mut state.view);
        state.queue.push_back(command);
        self.handle.shared.wake.notify_one();
        Ok(())
    }

    fn enqueue_waiting(&self, command: impl FnOnce(Done) -> Command, done: Done, effect: impl FnOnce(&mut View)) {
        let mut state = self.handle.shared.state.lock();
        if state.closed {
            drop(state);
            return done(Err(LogError::Closed));
        }
        if state.failed.is_none() {
            effect(&mut state.view);
        }
        state.queue.push_back(command(done));
        self.handle.shared.wake.notify_one();
    }

    fn wait_for(&self, start: impl FnOnce(&Log, Done)) -> Result<Durable, LogError> {
        let (sender, outcome) = sync_channel(1);
        start(self, Box::new(move |result| drop(sender.send(result))));
        self.run_pending();
        outcome.recv().unwrap_or(Err(LogError::Closed))
    }
}

impl Handle {
    fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(mut writer) = self.writer.lock().take() {
            while writer.run_once() {}
            writer.finish();
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whatever ends the writer's thread, nobody waits for it in vain.
struct StopGuard(Arc<SharedLog>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        if std::thread::panicking() {
            let source = Arc::new(std::io::Error::other("its thread panicked"));
            let failed = LogError::Failed { operation: "run the writer of", path: "log".into(), source };
            state.failed.get_or_insert(failed);
        }
        let error = state.failed.clone().unwrap_or(LogError::Closed);
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        queue.into_iter().filter_map(Command::into_done).for_each(|done| done(Err(error.clone())));
    }
}

impl View {
    fn recovered(found: &Found, cache_bytes: usize) -> View {
        let mut view = View::new(cache_bytes);
        view.segments = found.segments.clone();
        view.extent = found.extent;
        view.vote = found.vote.clone();
        view.committed = found.committed;
        view
    }
}

fn check_entries(view: &View, entries: &[LogEntry]) -> Result<(), LogError> {
    let mut expected = view.extent.expected();
    for entry in entries {
        let got = entry.id.index;
        if let Some(expected) = expected
            && expected != got
        {
            return Err(LogError::NotContiguous { expected, got });
        }
        if entry.payload.len() > BODY_BYTES_MAX {
            return Err(LogError::TooLarge { bytes: entry.payload.len() as u64 });
        }
        expected = Some(got + 1);
    }
    Ok(())
}

/// Reads the entries of a part of a segment; their payloads share one buffer.
fn read_part(part: &Segment, entries: &mut Vec<LogEntry>) -> Result<(), LogError> {
    let start = part.offsets.first().map_or(0, |offset| u64::from(*offset) * ALIGN);
    let mut bytes = vec![0; part.end.saturating_sub(start) as usize];
    let read = part.file.read_at(&mut bytes, start);
    let read = read.map_err(|error| LogError::io("read", &part.path, error))?;
    bytes.truncate(read);
    let bytes = Bytes::from(bytes);
    for (index, offset) in (part.first..).zip(&part.offsets) {
        let offset = u64::from(*offset) * ALIGN;
        // The file may be shorter by now than it was.
        let at = ((offset - start) as usize).min(bytes.len());
        let entry = parse_entry(part, index, offset, &bytes.slice(at..)).ok_or_else(|| LogError::Damaged {
            file: part.path.clone(),
            offset,
            detail: format!("entry {index} does not match its checksum"),
        })?;
        entries.push(entry);
    }
    Ok(())
}

fn parse_entry(part: &Segment, index: u64, offset: u64, record: &Bytes) -> Option<LogEntry> {
    let header = parse_header(record)?;
    let body = RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + header.body_len;
    let payload = record.get(body.clone())?;
    let crc = crc32c::crc32c_append(part.seed.header_crc(offset, record), payload);
    let matches = header.kind == Kind::Entry && header.id.index == index && crc == header.crc;
    matches.then(|| LogEntry { shard: header.shard, id: header.id, payload: record.slice(body).into() })
}

/// An id that two logs will not share.
fn random_id() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    let half = |salt: u64| RandomState::new().hash_one((salt, std::time::SystemTime::now(), std::process::id()));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half(1).to_le_bytes());
    id[8..].copy_from_slice(&half(2).to_le_bytes());
    id
}
