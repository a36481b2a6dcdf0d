//! What a log directory says after a crash, and whether to believe it. Reads only: nothing is changed here.
//!
//! # A torn tail, or damage?
//! A batch is acknowledged after its sync, and batches are written one after the other. So at a power cut, everything
//! synced is intact, and of what was written later any subset of sectors may survive: also a valid record behind a
//! hole. A bad record alone therefore proves nothing; the question is whether it had been synced.
//!
//! Each `Batch` record carries the *durable watermark*: the position before which everything was synced when it was
//! written. When the first bad record lies at P, every valid batch record behind P is looked up, in the rest of that
//! segment and in all later ones. If one claims a watermark beyond P, then P had been synced and its bytes have changed
//! since: damage. If none does, P was part of the last, unacknowledged batches: a torn tail, cut off at P.
//!
//! What this cannot detect: damage in the very last synced batch, until something behind it claims it. The writer
//! therefore writes an empty batch soon after the last one when it idles, another at shutdown, and one at each open.
//!
//! # Why nothing comes back
//! - Behind P may lie intact records that were cut off. The next epoch starts at P, and a scan accepts only batches of
//!   an epoch not lower than the one before, so those of the old epoch are never read as a continuation. The batch
//!   that opens an epoch is synced before anything else of that epoch is written, so no two runs share an epoch.
//! - A watermark claimed by such a leftover is harmless: it lies at or before P, or P would have been damage.
//! - Segments behind a torn one are renamed to `.free` before the new epoch starts, and bytes of an earlier use of a
//!   recycled file have another generation in their checksums.
//!
//! # Trusting the page cache
//! After kill -9, or after a failed sync, the kernel may show bytes that are not on the disk and that a second sync
//! would not write. Everything behind the highest claimed watermark is therefore written again before the first sync.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::LogError;
use super::extent::Extent;
use super::format::{
    BATCH_BYTES, FORMAT, Kind, Position, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentSeed, StartBody,
    parse_segment_header, parse_start,
};
use super::scan::{Record, Scanner, batches_beyond};
use super::segments::{generation_of, is_free_name};
use super::types::LogId;
use super::view::Segment;
use crate::fs::{Fs, FsFile, OpenMode};

/// A log as found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `None`: there is no segment, the log is new.
    pub(super) log_id: Option<[u8; 16]>,
    /// In order, with their entries' offsets; the last one is written on at its `end`.
    pub(super) segments: VecDeque<Segment>,
    pub(super) extent: Extent,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<LogId>,
    pub(super) epoch: u64,
    /// The highest watermark claimed; what lies behind it must be written again.
    pub(super) durable: Position,
    /// The last segment has no `Start` record yet.
    pub(super) needs_start: bool,
    /// Segments behind the tail, to be freed before anything is written.
    pub(super) behind_tail: Vec<PathBuf>,
    /// Segments before the first one that matters.
    pub(super) before_first: Vec<PathBuf>,
    pub(super) free: Vec<PathBuf>,
    pub(super) highest_generation: u64,
    pub(super) torn_bytes: u64,
}

fn read_error(path: &Path) -> impl Fn(std::io::Error) -> LogError + '_ {
    move |error| LogError::io("read", path, error)
}

/// Reads the log in `dir`.
pub(super) fn recover(fs: &dyn Fs, dir: &Path) -> Result<Found, LogError> {
    let mut found = Found::default();
    let mut files = Vec::new();
    for name in fs.list(dir).map_err(|error| LogError::io("list", dir, error))? {
        if is_free_name(&name) {
            found.free.push(dir.join(&name));
        } else if let Some(generation) = generation_of(&name) {
            files.push((generation, dir.join(&name)));
        }
    }
    files.sort_unstable();
    for (generation, path) in files {
        let (log_id, segment) = open_segment(fs, generation, path)?;
        match found.log_id {
            Some(ours) if ours != log_id => {
                return Err(LogError::Foreign { file: segment.path, detail: "it belongs to another log".into() });
            }
            _ => found.log_id = Some(log_id),
        }
        found.highest_generation = generation;
        found.segments.push_back(segment);
    }
    if found.log_id.is_some() {
        found.scan()?;
        found.check_complete()?;
    }
    Ok(found)
}

fn open_segment(fs: &dyn Fs, generation: u64, path: PathBuf) -> Result<([u8; 16], Segment), LogError> {
    let file = fs.open(&path, OpenMode::ReadWrite).map_err(|error| LogError::io("open", &path, error))?;
    let mut header = vec![0; SEGMENT_HEADER_BYTES as usize];
    let read = file.read_at(&mut header, 0).map_err(read_error(&path))?;
    let damaged = |detail: &str| LogError::Damaged { file: path.clone(), offset: 0, detail: detail.into() };
    match parse_segment_header(&header[..read]) {
        SegmentHeader::Ours { log_id, generation: inside } if inside == generation => {
            let seed = SegmentSeed::new(&log_id, generation);
            Ok((log_id, Segment::new(generation, path, file, seed)))
        }
        SegmentHeader::Ours { generation: inside, .. } => {
            Err(damaged(&format!("its header has generation {inside:016x}, not that of its name")))
        }
        SegmentHeader::NewerFormat { found } => Err(LogError::NewerFormat { file: path, found, supported: FORMAT }),
        SegmentHeader::NotASegment if read == header.len() && header[..8] != [0; 8] => {
            Err(LogError::Foreign { file: path, detail: "its first bytes are not those of a log segment".into() })
        }
        SegmentHeader::NotASegment | SegmentHeader::Damaged => Err(damaged("its header is not intact")),
    }
}

/// How a segment begins.
enum Beginning {
    Started(Scanner, StartBody),
    /// Prepared and never written, or its first batch is torn.
    Empty,
}

impl Found {
    /// Replays all segments and finds the tail.
    fn scan(&mut self) -> Result<(), LogError> {
        let mut behind = std::mem::take(&mut self.segments);
        while let Some(mut segment) = behind.pop_front() {
            let beginning = self.begin(&segment)?;
            let Beginning::Started(mut scanner, start) = beginning else {
                return self.stop_before(segment, behind);
            };
            match self.segments.back() {
                // `continues_in` has looked at the offset.
                Some(previous) if previous.generation == start.previous.generation => {}
                // The first segment, or a gap: what lies before it must have been purged (`check_complete`).
                _ => self.start_over(&start),
            }
            self.replay(&mut segment, &mut scanner)?;
            segment.end = scanner.offset;
            self.epoch = scanner.epoch;
            self.segments.push_back(segment);
            let next_starts_here = match behind.front() {
                Some(next) => self.continues_in(next)?,
                None => false,
            };
            if !next_starts_here {
                return self.stop_in_last(Some(&scanner), behind);
            }
        }
        Ok(())
    }

    /// Whether the next segment goes on exactly where the last one was left, or starts anew after a gap.
    fn continues_in(&self, next: &Segment) -> Result<bool, LogError> {
        let Beginning::Started(_, start) = self.begin(next)? else {
            return Ok(false);
        };
        let last = self.segments.back().expect("a segment was scanned");
        if start.previous.generation == last.generation && start.previous.offset < last.end {
            let detail = "records lie behind the end that the next segment names".into();
            return Err(LogError::Damaged { file: last.path.clone(), offset: start.previous.offset, detail });
        }
        Ok(start.previous.generation != last.generation || start.previous.offset == last.end)
    }

    fn begin(&self, segment: &Segment) -> Result<Beginning, LogError> {
        let read = read_error(&segment.path);
        let mut scanner = Scanner::new(segment.file.clone(), segment.seed, self.epoch).map_err(&read)?;
        let Some(Record::Batch(_)) = scanner.next().map_err(&read)? else {
            return Ok(Beginning::Empty);
        };
        let start = match scanner.next().map_err(&read)? {
            Some(Record::Other { header, body, .. }) if header.kind == Kind::Start => parse_start(&body),
            _ => None,
        };
        // Scanned again from its first batch, for the watermark in it.
        let scanner = Scanner::new(segment.file.clone(), segment.seed, self.epoch);
        Ok(match start {
            Some(start) => Beginning::Started(scanner.map_err(&read)?, start),
            None => Beginning::Empty,
        })
    }

    fn start_over(&mut self, start: &StartBody) {
        self.before_first.extend(self.segments.drain(..).map(|segment| segment.path));
        self.extent = Extent {
            first: start.first,
            next: start.last.map_or(0, |last| last.index + 1),
            last: start.last,
            purged: start.purged,
        };
        self.vote = start.vote.clone().map(Bytes::from);
    }

    fn replay(&mut self, segment: &mut Segment, scanner: &mut Scanner) -> Result<(), LogError> {
        while let Some(record) = scanner.next().map_err(read_error(&segment.path))? {
            match record {
                Record::Batch(batch) => {
                    self.durable = self.durable.max(batch.durable);
                    self.committed = batch.committed.or(self.committed);
                }
                Record::Other { header, offset, body } => self.replay_record(segment, header, offset, &body)?,
            }
        }
        Ok(())
    }

    fn replay_record(
        &mut self,
        segment: &mut Segment,
        header: RecordHeader,
        offset: u64,
        body: &[u8],
    ) -> Result<(), LogError> {
        let damaged = |detail| Err(LogError::Damaged { file: segment.path.clone(), offset, detail });
        match header.kind {
            Kind::Batch | Kind::Start => {}
            Kind::Vote => self.vote = Some(Bytes::copy_from_slice(body)),
            Kind::Purge => self.extent.purge(header.id),
            Kind::Reset => {
                self.extent.reset(header.id);
                self.segments.iter_mut().chain([segment]).for_each(|s| s.offsets.clear());
            }
            Kind::Truncate => {
                let Ok(from) = body.try_into().map(u64::from_le_bytes) else {
                    return damaged("a truncation without its index".into());
                };
                self.extent.truncate(from, (header.shard == 1).then_some(header.id));
                self.segments.iter_mut().chain([segment]).for_each(|s| s.truncate_from(from));
            }
            Kind::Entry => {
                let index = header.id.index;
                if self.extent.expected().is_some_and(|expected| expected != index) {
                    return damaged(format!("entry {index} follows entry {}", self.extent.next.wrapping_sub(1)));
                }
                self.extent.append(header.id);
                segment.push(index, offset);
            }
        }
        Ok(())
    }

    /// The tail lies before `segment`, which has no valid batch: at the end of the last one scanned, if any.
    fn stop_before(&mut self, segment: Segment, mut behind: VecDeque<Segment>) -> Result<(), LogError> {
        if self.segments.is_empty() {
            let mut segment = segment;
            segment.end = SEGMENT_HEADER_BYTES;
            self.segments.push_back(segment);
            self.needs_start = true;
        } else {
            behind.push_front(segment);
        }
        self.stop_in_last(None, behind)
    }

    /// The first invalid record lies at the end of the last segment scanned: damage when it had been synced.
    fn stop_in_last(&mut self, scanner: Option<&Scanner>, behind: VecDeque<Segment>) -> Result<(), LogError> {
        let last = self.segments.back().expect("callers have pushed one");
        let tail = Position { generation: last.generation, offset: last.end };
        let mut claimed = self.durable;
        let mut torn_to = scanner.map_or(tail.offset, |s| s.batch_end().max(tail.offset));
        for segment in std::iter::once(last).chain(&behind) {
            let from = if segment.generation == tail.generation { tail.offset } else { SEGMENT_HEADER_BYTES };
            let batches = batches_beyond(segment.file.clone(), segment.seed, from);
            let mut segment_torn_to = from;
            for (offset, batch) in batches.map_err(read_error(&segment.path))? {
                claimed = claimed.max(batch.durable);
                if batch.epoch >= self.epoch {
                    segment_torn_to = offset.saturating_add(BATCH_BYTES as u64).saturating_add(batch.records_len);
                }
            }
            if segment.generation == tail.generation {
                torn_to = torn_to.max(segment_torn_to);
            } else {
                self.torn_bytes += segment_torn_to - from;
            }
        }
        if tail < claimed {
            return Err(LogError::Damaged {
                file: last.path.clone(),
                offset: tail.offset,
                detail: format!(
                    "the record there is not intact, but the log had been synced up to byte {} of segment {:016x}",
                    claimed.offset, claimed.generation
                ),
            });
        }
        self.torn_bytes += torn_to - tail.offset;
        self.behind_tail = behind.into_iter().map(|segment| segment.path).collect();
        Ok(())
    }

    /// Every entry that should be there has its place in a segment.
    fn check_complete(&self) -> Result<(), LogError> {
        let mut expected = self.extent.first;
        for segment in self.segments.iter().filter(|s| !s.offsets.is_empty() && s.next() > self.extent.first) {
            if segment.first > expected {
                return Err(missing(segment, expected, segment.first));
            }
            expected = segment.next();
        }
        match self.segments.back() {
            Some(last) if expected < self.extent.next => Err(missing(last, expected, self.extent.next)),
            _ => Ok(()),
        }
    }
}

fn missing(segment: &Segment, from: u64, to: u64) -> LogError {
    LogError::Damaged {
        file: segment.path.clone(),
        offset: 0,
        detail: format!("entries {from} to {} are missing: a segment before it is gone", to - 1),
    }
}

/// Writes everything behind the watermark again and syncs it, so that what was found is also on the disk.
pub(super) fn make_durable(found: &Found) -> Result<(), LogError> {
    for segment in found.segments.iter().filter(|s| s.generation >= found.durable.generation) {
        let from = match segment.generation == found.durable.generation {
            true => found.durable.offset.max(SEGMENT_HEADER_BYTES),
            false => SEGMENT_HEADER_BYTES,
        };
        rewrite(&segment.file, from, segment.end)
            .and_then(|()| segment.file.sync_data())
            .map_err(|error| LogError::io("write again and sync", &segment.path, error))?;
    }
    Ok(())
}

fn rewrite(file: &Arc<dyn FsFile>, mut from: u64, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; (to.saturating_sub(from)).min(1 << 20) as usize];
    while from < to {
        let piece = (to - from).min(buffer.len() as u64) as usize;
        crate::fs::read_exact_at(&**file, &mut buffer[..piece], from)?;
        file.write_at(&buffer[..piece], from)?;
        from += piece as u64;
    }
    Ok(())
}
