//! Reading a segment from start to end, through a window of bounded size.
//!
//! Always true: memory stays below the window plus one small body, whatever the file holds; bytes of any content give
//! records or a place where they stop being valid, never a panic.

use std::io;
use std::sync::Arc;

use super::format::{
    ALIGN, BATCH_BYTES, BatchBody, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentSeed, epoch24,
    looks_like_batch, parse_batch, parse_header, record_len,
};
use crate::fs::FsFile;

const WINDOW_BYTES: usize = 1 << 20;
/// Largest body that is not an entry's: the vote and small fixed things.
const SMALL_BODY_MAX: usize = 1 << 20;

/// A part of a file in memory.
pub(super) struct Window {
    file: Arc<dyn FsFile>,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn new(file: Arc<dyn FsFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Window { file, len, start: 0, bytes: Vec::new() })
    }

    /// `n` bytes (at most the window's size) from `offset`, or fewer at the end of the file.
    pub(super) fn get(&mut self, offset: u64, n: usize) -> io::Result<&[u8]> {
        let have = self.start..self.start + self.bytes.len() as u64;
        let wanted_end = (offset + n as u64).min(self.len);
        if offset < have.start || wanted_end > have.end {
            self.start = offset.min(self.len);
            let rest = self.len - self.start;
            self.bytes.resize((WINDOW_BYTES.max(n) as u64).min(rest) as usize, 0);
            let read = self.file.read_at(&mut self.bytes, self.start)?;
            self.bytes.truncate(read);
        }
        let from = (offset.min(self.len) - self.start) as usize;
        let to = (from + n).min(self.bytes.len());
        Ok(&self.bytes[from.min(to)..to])
    }

    fn crc_of(&mut self, mut crc: u32, mut offset: u64, mut n: usize) -> io::Result<Option<u32>> {
        while n > 0 {
            let piece = self.get(offset, n.min(WINDOW_BYTES / 4))?;
            if piece.is_empty() {
                return Ok(None);
            }
            let taken = piece.len();
            crc = crc32c::crc32c_append(crc, piece);
            offset += taken as u64;
            n -= taken;
        }
        Ok(Some(crc))
    }
}

/// A valid record.
#[derive(Debug)]
pub(super) enum Record {
    Batch(BatchBody),
    /// `body` is empty for entries, whose payload is checked but not kept.
    Other {
        header: RecordHeader,
        offset: u64,
        body: Vec<u8>,
    },
}

/// Walks over the records of one segment.
pub(super) struct Scanner {
    window: Window,
    seed: SegmentSeed,
    /// Where the next record is expected.
    pub(super) offset: u64,
    /// Epoch of the current batch, or the one before this segment.
    pub(super) epoch: u64,
    batch_end: u64,
}

impl Scanner {
    pub(super) fn new(file: Arc<dyn FsFile>, seed: SegmentSeed, epoch: u64) -> io::Result<Self> {
        let window = Window::new(file)?;
        let offset = SEGMENT_HEADER_BYTES;
        Ok(Scanner { window, seed, offset, epoch, batch_end: offset })
    }

    /// How far the current batch should reach.
    pub(super) fn batch_end(&self) -> u64 {
        self.batch_end
    }

    /// The next record, or `None` where no valid one follows. A batch may start where the one before ends, or anywhere
    /// a later epoch began (the tail before it was cut there).
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let head = self.window.get(self.offset, BATCH_BYTES)?;
        if let Some(batch) = parse_batch(self.seed, self.offset, head) {
            let in_order = batch.epoch > self.epoch || (batch.epoch == self.epoch && self.offset == self.batch_end);
            if !in_order {
                return Ok(None);
            }
            self.epoch = batch.epoch;
            self.offset += BATCH_BYTES as u64;
            self.batch_end = self.offset.saturating_add(batch.records_len);
            return Ok(Some(Record::Batch(batch)));
        }
        let Some(header) = parse_header(head) else {
            return Ok(None);
        };
        let len = record_len(header.body_len);
        if header.kind == Kind::Batch
            || header.epoch24 != epoch24(self.epoch)
            || self.offset + len > self.batch_end
            || (header.kind != Kind::Entry && header.body_len > SMALL_BODY_MAX)
        {
            return Ok(None);
        }
        let crc = self.seed.header_crc(self.offset, head);
        let body_at = self.offset + RECORD_HEADER_BYTES as u64;
        if self.window.crc_of(crc, body_at, header.body_len)? != Some(header.crc) {
            return Ok(None);
        }
        let body = match header.kind {
            Kind::Entry => Vec::new(),
            _ => self.window.get(body_at, header.body_len)?.to_vec(),
        };
        let offset = self.offset;
        self.offset += len;
        Ok(Some(Record::Other { header, offset, body }))
    }
}

/// Goes through the bytes from `from` to the end of a segment and gives each valid batch found there, with its offset.
pub(super) fn batches_beyond(file: Arc<dyn FsFile>, seed: SegmentSeed, from: u64) -> io::Result<Vec<(u64, BatchBody)>> {
    let mut window = Window::new(file)?;
    let mut found = Vec::new();
    let mut at = from.next_multiple_of(ALIGN);
    while at + BATCH_BYTES as u64 <= window.len {
        let bytes = window.get(at, WINDOW_BYTES)?;
        if bytes.len() < BATCH_BYTES {
            break;
        }
        let mut inside = 0;
        while inside + BATCH_BYTES <= bytes.len() {
            let candidate = &bytes[inside..];
            if looks_like_batch(candidate)
                && let Some(batch) = parse_batch(seed, at + inside as u64, candidate)
            {
                found.push((at + inside as u64, batch));
            }
            inside += ALIGN as usize;
        }
        at += inside as u64;
    }
    Ok(found)
}
