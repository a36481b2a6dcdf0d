//! The only one who writes to the log: takes what is queued, writes it as a batch, syncs once, completes the waiters.
//!
//! Always true: `done` is called after the sync that covers its entries, in the order of the queue; within one epoch no
//! byte of a segment is written twice; after any failed write or sync nothing is written or synced again, every waiter
//! gets the error, and so does everything queued later. A segment is recycled only after the purge that frees it, and
//! the segment that took over its facts, are synced.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::LogError;
use super::extent::Extent;
use super::format::{
    BATCH_BYTES, BatchBody, Kind, Position, RecordFields, SEGMENT_HEADER_BYTES, SegmentSeed, StartBody, encode_batch,
    encode_start, padding, put_header, record_len,
};
use super::recovery::Found;
use super::segments::{Prepared, Segments};
use super::shared::{Command, SharedLog};
use super::types::{Done, Durable, LogId, LogOptions};
use super::view::{Segment, Written};
use crate::fs::FsFile;

/// Pieces of bodies from this size on are written from where they are instead of being copied into the batch.
const LARGE_PIECE_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 1 << 20;
/// How long the writer idles before it writes the durable watermark of the last batch.
const IDLE: Duration = Duration::from_millis(20);

/// The segment being written.
struct Current {
    generation: u64,
    path: PathBuf,
    file: Arc<dyn FsFile>,
    seed: SegmentSeed,
    /// Where the next record goes.
    end: u64,
    /// Where the first record after `Start` goes: a record that does not fit even there makes the segment longer.
    floor: u64,
}

/// The batch being written: records up to `Current::end`, the last part of them still in `buffer`.
struct Batch {
    start: u64,
    buffer: Vec<u8>,
    /// Offset of the buffer's first byte.
    buffer_at: u64,
}

pub(super) struct Writer {
    shared: Arc<SharedLog>,
    options: LogOptions,
    log_id: [u8; 16],
    segments: Segments,
    current: Current,
    batch: Batch,
    epoch: u64,
    next_generation: u64,
    /// Everything before this is synced.
    durable: Position,
    /// The watermark in the last batch written.
    claimed: Position,
    /// The committed position in the last batch written.
    committed: Option<LogId>,
    extent: Extent,
    vote: Option<Bytes>,
    changes: Vec<Written>,
    /// Entries written so far, as the view counts them.
    written: u64,
    purged: bool,
    waiters: Vec<Done>,
    acknowledge_before_sync: bool,
    /// How late a planted bug syncs on a thread of its own, as a real one of its kind would ("every 100 ms").
    planted_delay: Duration,
}

impl Writer {
    /// Takes over a log whose tail is durable, and opens a new epoch in it.
    pub(super) fn start(
        shared: Arc<SharedLog>,
        options: LogOptions,
        log_id: [u8; 16],
        mut segments: Segments,
        found: Found,
    ) -> Result<Writer, LogError> {
        let mut next_generation = found.highest_generation + 1;
        let (current, durable) = match found.segments.back() {
            Some(last) => (Current::new(last), Position { generation: last.generation, offset: last.end }),
            None => {
                let (prepared, _) = segments.take(next_generation)?;
                next_generation += 1;
                let segment = segment_of(&log_id, &prepared);
                shared.state.lock().view.segments.push_back(segment.clone());
                (Current::new(&segment), Position::default())
            }
        };
        let batch = Batch { start: 0, buffer: Vec::new(), buffer_at: 0 };
        let mut writer = Writer {
            shared,
            options,
            log_id,
            segments,
            current,
            batch,
            epoch: found.epoch + 1,
            next_generation,
            durable,
            claimed: Position::default(),
            committed: found.committed,
            extent: found.extent,
            vote: found.vote,
            changes: Vec::new(),
            written: 0,
            purged: false,
            waiters: Vec::new(),
            acknowledge_before_sync: planted("ack-before-fsync"),
            planted_delay: Duration::ZERO,
        };
        writer.begin_batch();
        if found.needs_start || found.segments.is_empty() {
            writer.put_start(Position::default())?;
        }
        writer.finish_batch()?;
        writer.sync()?;
        writer.publish();
        writer.segments.request(writer.next_generation);
        Ok(writer)
    }

    /// Writes what is queued until the log is shut down.
    pub(super) fn run(mut self) {
        // Best effort: a busy machine otherwise adds a scheduler tick to every sync.
        let _ = rustix::process::nice(-10);
        if self.acknowledge_before_sync {
            self.planted_delay = Duration::from_millis(100);
        }
        while self.wait() {
            self.run_once();
        }
        self.finish();
    }

    /// Waits for something to write; `false` when there is nothing and never will be.
    fn wait(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.state.lock();
        loop {
            if !state.queue.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
            if self.claimed == self.durable || state.failed.is_some() {
                shared.wake.wait(&mut state);
            } else if shared.wake.wait_for(&mut state, IDLE).timed_out() && state.queue.is_empty() {
                drop(state);
                self.idle();
                state = shared.state.lock();
            }
        }
    }

    /// Writes the watermark of the last batch, unless one was written.
    pub(super) fn idle(&mut self) {
        if self.claimed == self.durable || self.shared.failure().is_some() {
            return;
        }
        if let Err(error) = self.write_watermark() {
            self.fail(error);
        }
    }

    /// The last act: a watermark, so that damage in the last batch is told from a torn tail.
    pub(super) fn finish(&mut self) {
        let (failed, committed) = {
            let state = self.shared.state.lock();
            (state.failed.is_some(), state.view.committed)
        };
        if failed || (self.claimed == self.durable && self.committed == committed) {
            return;
        }
        let outcome = self.write_watermark().and_then(|()| self.sync());
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    /// Writes, syncs and acknowledges one group of what is queued. Returns whether there was any.
    pub(super) fn run_once(&mut self) -> bool {
        let (commands, failed) = {
            let mut state = self.shared.state.lock();
            (state.take_group(self.options.group_bytes), state.failed.clone())
        };
        if commands.is_empty() {
            return false;
        }
        let bytes: usize = commands.iter().map(Command::payload_bytes).sum();
        let outcome = match failed {
            Some(error) => {
                self.waiters.extend(commands.into_iter().filter_map(Command::into_done));
                Err(error)
            }
            None => self.write_group(commands),
        };
        let waiters = std::mem::take(&mut self.waiters);
        match outcome {
            Ok(()) => {
                self.shared.release(bytes);
                waiters.into_iter().for_each(|done| done(Ok(Durable(()))));
                self.recycle();
            }
            Err(error) => {
                let error = self.fail(error);
                self.shared.release(bytes);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
            }
        }
        true
    }

    /// Stops the log for good and returns why.
    fn fail(&mut self, error: LogError) -> LogError {
        let mut state = self.shared.state.lock();
        state.failed.get_or_insert_with(|| error.into_failed()).clone()
    }

    fn write_group(&mut self, commands: Vec<Command>) -> Result<(), LogError> {
        self.begin_batch();
        let mut commands = commands.into_iter();
        let mut outcome = Ok(());
        for command in commands.by_ref() {
            outcome = self.put_command(command);
            if outcome.is_err() {
                break;
            }
        }
        self.waiters.extend(commands.filter_map(Command::into_done));
        outcome?;
        self.finish_batch()?;
        if self.acknowledge_before_sync {
            std::mem::take(&mut self.waiters).into_iter().for_each(|done| done(Ok(Durable(()))));
            #[allow(clippy::disallowed_methods)] // the log has a thread of its own
            std::thread::sleep(self.planted_delay);
        }
        self.sync()?;
        self.publish();
        Ok(())
    }

    /// Writes a command; its waiter is kept whatever happens.
    fn put_command(&mut self, command: Command) -> Result<(), LogError> {
        match command {
            Command::Append { entries, done } => {
                self.waiters.push(done);
                for entry in entries {
                    let index = entry.id.index;
                    let offset = self.put(Kind::Entry, entry.shard, entry.id, entry.payload.pieces())?;
                    self.extent.append(entry.id);
                    self.written += 1;
                    self.changes.push(Written::Entry { index, offset });
                }
            }
            Command::Truncate { from, last } => {
                self.put_with_option(Kind::Truncate, last, &from.to_le_bytes())?;
                self.extent.truncate(from, last);
                self.changes.push(Written::Truncate { from });
            }
            Command::Purge(id) => {
                self.put(Kind::Purge, 0, id, &[])?;
                self.extent.purge(id);
                self.purged = true;
            }
            Command::Reset(id) => {
                self.put(Kind::Reset, 0, id, &[])?;
                self.extent.reset(id);
                self.changes.push(Written::Reset);
                self.purged = true;
            }
            Command::Vote(vote, done) => {
                self.waiters.push(done);
                self.put(Kind::Vote, 0, LogId::default(), std::slice::from_ref(&vote))?;
                self.vote = Some(vote);
            }
            Command::Flush(done) => self.waiters.push(done),
        }
        Ok(())
    }

    fn begin_batch(&mut self) {
        let start = self.current.end;
        self.batch.start = start;
        self.batch.buffer_at = start;
        self.batch.buffer.clear();
        self.batch.buffer.resize(BATCH_BYTES, 0);
        self.current.end += BATCH_BYTES as u64;
    }

    fn put_with_option(&mut self, kind: Kind, id: Option<LogId>, body: &[u8]) -> Result<(), LogError> {
        let body = Bytes::copy_from_slice(body);
        self.put(kind, u32::from(id.is_some()), id.unwrap_or_default(), &[body]).map(drop)
    }

    /// Adds a record to the batch, in the next segment when this one is full. Returns its offset.
    fn put(&mut self, kind: Kind, shard: u32, id: LogId, body: &[Bytes]) -> Result<u64, LogError> {
        let body_len = body.iter().map(Bytes::len).sum();
        let len = record_len(body_len);
        let fits = self.current.end + len <= self.options.segment_bytes;
        if !fits && kind != Kind::Start && self.current.end > self.current.floor {
            self.roll()?;
        }
        let offset = self.current.end;
        let fields = RecordFields { kind, epoch: self.epoch, shard, id };
        put_header(&mut self.batch.buffer, self.current.seed, offset, fields, body);
        for piece in body {
            if piece.len() >= LARGE_PIECE_BYTES {
                self.write_buffer()?;
                self.write(piece, self.batch.buffer_at)?;
                self.batch.buffer_at += piece.len() as u64;
            } else {
                self.batch.buffer.extend_from_slice(piece);
            }
        }
        self.batch.buffer.extend_from_slice(padding(body_len));
        self.current.end += len;
        if self.batch.buffer.len() >= BUFFER_BYTES {
            self.write_buffer()?;
        }
        Ok(offset)
    }

    fn put_start(&mut self, previous: Position) -> Result<(), LogError> {
        let start = StartBody {
            previous,
            first: self.extent.first,
            last: self.extent.last,
            purged: self.extent.purged,
            vote: self.vote.clone().map(Vec::from),
        };
        self.put(Kind::Start, 0, LogId::default(), &[encode_start(&start).into()])?;
        self.current.floor = self.current.end;
        Ok(())
    }

    /// Goes on in the next segment: this one is completed and synced first.
    fn roll(&mut self) -> Result<(), LogError> {
        self.finish_batch()?;
        self.sync()?;
        let previous = Position { generation: self.current.generation, offset: self.current.end };
        let (prepared, waited) = self.segments.take(self.next_generation)?;
        self.next_generation += 1;
        self.segments.request(self.next_generation);
        {
            let mut stats = self.shared.stats.lock();
            stats.segments += 1;
            stats.recycled += u64::from(prepared.recycled);
            stats.segment_waits += u64::from(waited);
        }
        let segment = segment_of(&self.log_id, &prepared);
        self.current = Current::new(&segment);
        self.changes.push(Written::Segment { previous_end: previous.offset, segment });
        self.begin_batch();
        self.put_start(previous)
    }

    /// Completes the batch: its length is known now.
    fn finish_batch(&mut self) -> Result<(), LogError> {
        self.committed = self.shared.state.lock().view.committed;
        let body = BatchBody {
            epoch: self.epoch,
            durable: self.durable,
            records_len: self.current.end - self.batch.start - BATCH_BYTES as u64,
            committed: self.committed,
        };
        let record = encode_batch(self.current.seed, self.batch.start, &body);
        if self.batch.buffer_at == self.batch.start {
            self.batch.buffer[..BATCH_BYTES].copy_from_slice(&record);
            self.write_buffer()?;
        } else {
            self.write_buffer()?;
            self.write(&record, self.batch.start)?;
        }
        self.claimed = body.durable;
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), LogError> {
        self.write(&self.batch.buffer, self.batch.buffer_at)?;
        self.batch.buffer_at += self.batch.buffer.len() as u64;
        self.batch.buffer.clear();
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), LogError> {
        self.shared.stats.lock().bytes_written += bytes.len() as u64;
        let outcome = self.current.file.write_at(bytes, offset);
        outcome.map_err(|error| LogError::io("write", &self.current.path, error))
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = Instant::now();
        let outcome = self.current.file.sync_data();
        outcome.map_err(|error| LogError::io("sync", &self.current.path, error))?;
        let took = started.elapsed();
        let mut stats = self.shared.stats.lock();
        stats.syncs += 1;
        stats.sync.observe(took);
        stats.sync_micros_max = stats.sync_micros_max.max(took.as_micros() as u64);
        self.durable = Position { generation: self.current.generation, offset: self.current.end };
        Ok(())
    }

    /// An empty batch that carries the watermark of the last sync; needs no sync itself.
    fn write_watermark(&mut self) -> Result<(), LogError> {
        self.begin_batch();
        self.finish_batch()
    }

    /// Updates the readers' view of what is on disk now.
    fn publish(&mut self) {
        let mut state = self.shared.state.lock();
        state.view.apply(std::mem::take(&mut self.changes), self.current.end, self.written);
    }

    /// Gives purged segments back, now that the purge is durable.
    fn recycle(&mut self) {
        if !std::mem::take(&mut self.purged) {
            return;
        }
        let taken = self.shared.state.lock().view.take_purged_segments(self.extent.first);
        let paths: Vec<PathBuf> = taken.into_iter().map(|segment| segment.path).collect();
        if paths.is_empty() {
            return;
        }
        self.segments.recycle(paths);
    }

    /// Gives back segments that recovery found to be purged.
    pub(super) fn recycle_at_start(&mut self, mut before_first: Vec<PathBuf>) {
        let taken = self.shared.state.lock().view.take_purged_segments(self.extent.first);
        before_first.extend(taken.into_iter().map(|segment| segment.path));
        if !before_first.is_empty() {
            self.segments.recycle(before_first);
        }
    }
}

impl Current {
    fn new(segment: &Segment) -> Self {
        Current {
            generation: segment.generation,
            path: segment.path.clone(),
            file: segment.file.clone(),
            seed: segment.seed,
            end: segment.end,
            floor: 0,
        }
    }
}

fn segment_of(log_id: &[u8; 16], prepared: &Prepared) -> Segment {
    let seed = SegmentSeed::new(log_id, prepared.generation);
    let mut segment = Segment::new(prepared.generation, prepared.path.clone(), prepared.file.clone(), seed);
    segment.end = SEGMENT_HEADER_BYTES;
    segment
}

/// Whether a bug was planted by `MOSQUORUM_PLANT`, to see that the crash tests catch it. Never in release builds.
fn planted(name: &str) -> bool {
    cfg!(feature = "test-faults") && std::env::var("MOSQUORUM_PLANT").is_ok_and(|plant| plant == name)
}
