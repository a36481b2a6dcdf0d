//! Bytes of a segment file (all numbers little endian).
//!
//! Segment: a header of 64 bytes, then records, each starting at a multiple of 8:
//! ```text
//! 0 crc32c u32   over the log id, the generation, the record's offset, and everything after this field
//! 4 length u32   of the body
//! 8 kind u8, epoch u24 (low bits of the epoch of the batch it belongs to)
//! 12 shard u32, 16 term u64, 24 node u64, 32 index u64, 40 body, zero padding to 8
//! ```
//! Since generation and offset are part of the checksum, bytes of a segment's earlier use, or a client's payload that
//! looks like a record, never validate. Records come in batches; a batch starts with a `Batch` record, and the first
//! batch of a segment has a `Start` record that holds everything the segments before it said about vote, purge and end.

use bytes::{Buf, BufMut};

use super::types::LogId;

pub(super) const FORMAT: u32 = 1;
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"MQLOGSEG";
pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;
pub(super) const RECORD_HEADER_BYTES: usize = 40;
pub(super) const ALIGN: u64 = 8;
/// Largest body: 1 GiB, four times what MQTT allows for a packet.
pub(super) const BODY_BYTES_MAX: usize = 1 << 30;

const BATCH_MAGIC: u64 = u64::from_le_bytes(*b"MQBATCH\x01");
const BATCH_BODY_BYTES: usize = 40;
/// Size of a whole `Batch` record.
pub(super) const BATCH_BYTES: usize = RECORD_HEADER_BYTES + BATCH_BODY_BYTES;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Starts a batch: epoch, how far syncs had come, length, committed position.
    Batch = 1,
    /// First in a segment: what all earlier segments said.
    Start = 2,
    /// A log entry.
    Entry = 3,
    /// Entries from the body's index on are gone; the header holds the id of the entry before, if any.
    Truncate = 4,
    /// Entries up to the header's id are gone.
    Purge = 5,
    /// All entries are gone; the log goes on after the header's id.
    Reset = 6,
    /// The body is the vote.
    Vote = 7,
}

impl Kind {
    fn from_u8(kind: u8) -> Option<Kind> {
        Some(match kind {
            1 => Kind::Batch,
            2 => Kind::Start,
            3 => Kind::Entry,
            4 => Kind::Truncate,
            5 => Kind::Purge,
            6 => Kind::Reset,
            7 => Kind::Vote,
            _ => return None,
        })
    }
}

/// Position in the log's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) generation: u64,
    pub(super) offset: u64,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) crc: u32,
    pub(super) body_len: usize,
    pub(super) kind: Kind,
    pub(super) epoch24: u32,
    pub(super) shard: u32,
    pub(super) id: LogId,
}

/// Body of a `Batch` record (with the committed position, which lies in its header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchBody {
    pub(super) epoch: u64,
    /// Everything before this was synced when the batch was written.
    pub(super) durable: Position,
    /// Length of the records that follow, padding included.
    pub(super) records_len: u64,
    pub(super) committed: Option<LogId>,
}

/// Body of a `Start` record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StartBody {
    /// The segment before and where its records end; generation 0 when there is none.
    pub(super) previous: Position,
    pub(super) first: u64,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vec<u8>>,
}

/// Identity of a segment, as the seed of its records' checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentSeed(u32);

impl SegmentSeed {
    pub(super) fn new(log_id: &[u8; 16], generation: u64) -> Self {
        SegmentSeed(crc32c::crc32c_append(crc32c::crc32c(log_id), &generation.to_le_bytes()))
    }

    /// Checksum of a record's header without its body.
    pub(super) fn header_crc(self, offset: u64, header: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(self.0, &offset.to_le_bytes());
        crc32c::crc32c_append(crc, &header[4..RECORD_HEADER_BYTES])
    }
}

/// Length of a record in the file.
pub(super) fn record_len(body_len: usize) -> u64 {
    ((RECORD_HEADER_BYTES + body_len) as u64).next_multiple_of(ALIGN)
}

/// What the header of a record says, but for its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordFields {
    pub(super) kind: Kind,
    pub(super) epoch: u64,
    pub(super) shard: u32,
    pub(super) id: LogId,
}

/// Appends a record's header to `out`, for a record at `offset` of its segment. The body and [`padding`] follow, and the
/// checksum already covers the body, which is given in pieces.
pub(super) fn put_header(
    out: &mut Vec<u8>,
    seed: SegmentSeed,
    offset: u64,
    fields: RecordFields,
    body: &[impl AsRef<[u8]>],
) {
    let RecordFields { kind, epoch, shard, id } = fields;
    let body_len: usize = body.iter().map(|piece| piece.as_ref().len()).sum();
    let mut header = [0; RECORD_HEADER_BYTES];
    let mut put = &mut header[4..];
    put.put_u32_le(body_len as u32);
    put.put_u32_le(kind as u32 | (epoch24(epoch) << 8));
    put.put_u32_le(shard);
    put.put_u64_le(id.term);
    put.put_u64_le(id.node);
    put.put_u64_le(id.index);
    let crc =
        body.iter().fold(seed.header_crc(offset, &header), |crc, piece| crc32c::crc32c_append(crc, piece.as_ref()));
    header[..4].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
}

/// Zeros after a body of this length.
pub(super) fn padding(body_len: usize) -> &'static [u8] {
    const ZEROS: [u8; 8] = [0; 8];
    &ZEROS[..record_len(body_len) as usize - RECORD_HEADER_BYTES - body_len]
}

/// The bits of the epoch that each record carries.
pub(super) fn epoch24(epoch: u64) -> u32 {
    (epoch & 0x00FF_FFFF) as u32
}

/// Reads a header; `None` when it cannot be one. Says nothing about the checksum.
pub(super) fn parse_header(bytes: &[u8]) -> Option<RecordHeader> {
    let mut get = bytes.get(..RECORD_HEADER_BYTES)?;
    let crc = get.get_u32_le();
    let body_len = get.get_u32_le() as usize;
    let kind_epoch = get.get_u32_le();
    let shard = get.get_u32_le();
    let id = get_id(&mut get);
    let kind = Kind::from_u8((kind_epoch & 0xFF) as u8)?;
    if body_len > BODY_BYTES_MAX {
        return None;
    }
    Some(RecordHeader { crc, body_len, kind, epoch24: kind_epoch >> 8, shard, id })
}

fn get_id(get: &mut &[u8]) -> LogId {
    LogId { term: get.get_u64_le(), node: get.get_u64_le(), index: get.get_u64_le() }
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.node);
    out.put_u64_le(id.index);
}

/// A whole `Batch` record.
pub(super) fn encode_batch(seed: SegmentSeed, offset: u64, batch: &BatchBody) -> Vec<u8> {
    let mut body = Vec::with_capacity(BATCH_BODY_BYTES);
    body.put_u64_le(BATCH_MAGIC);
    body.put_u64_le(batch.epoch);
    body.put_u64_le(batch.durable.generation);
    body.put_u64_le(batch.durable.offset);
    body.put_u64_le(batch.records_len);
    let mut out = Vec::with_capacity(BATCH_BYTES);
    let (flag, id) = (u32::from(batch.committed.is_some()), batch.committed.unwrap_or_default());
    let fields = RecordFields { kind: Kind::Batch, epoch: batch.epoch, shard: flag, id };
    put_header(&mut out, seed, offset, fields, &[&body]);
    out.extend_from_slice(&body);
    out
}

/// Whether a `Batch` record may start here: a cheap look before the checksum.
pub(super) fn looks_like_batch(bytes: &[u8]) -> bool {
    bytes.len() >= BATCH_BYTES
        && bytes[8] == Kind::Batch as u8
        && bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + 8] == BATCH_MAGIC.to_le_bytes()
}

/// Reads a `Batch` record, checksum included.
pub(super) fn parse_batch(seed: SegmentSeed, offset: u64, bytes: &[u8]) -> Option<BatchBody> {
    if !looks_like_batch(bytes) {
        return None;
    }
    let header = parse_header(bytes)?;
    let body = bytes.get(RECORD_HEADER_BYTES..BATCH_BYTES)?;
    if header.body_len != BATCH_BODY_BYTES || crc32c::crc32c_append(seed.header_crc(offset, bytes), body) != header.crc
    {
        return None;
    }
    let mut get = &body[8..];
    let epoch = get.get_u64_le();
    let durable = Position { generation: get.get_u64_le(), offset: get.get_u64_le() };
    let committed = (header.shard == 1).then_some(header.id);
    Some(BatchBody { epoch, durable, records_len: get.get_u64_le(), committed })
}

/// The body of a `Start` record.
pub(super) fn encode_start(start: &StartBody) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64_le(start.previous.generation);
    out.put_u64_le(start.previous.offset);
    out.put_u64_le(start.first);
    for id in [start.last, start.purged] {
        out.put_u64_le(u64::from(id.is_some()));
        put_id(&mut out, id.unwrap_or_default());
    }
    out.put_u64_le(u64::from(start.vote.is_some()));
    out.extend_from_slice(start.vote.as_deref().unwrap_or_default());
    out
}

/// Reads the body of a `Start` record.
pub(super) fn parse_start(body: &[u8]) -> Option<StartBody> {
    const FIXED: usize = 3 * 8 + 2 * 32 + 8;
    if body.len() < FIXED {
        return None;
    }
    let (mut get, vote) = body.split_at(FIXED);
    let previous = Position { generation: get.get_u64_le(), offset: get.get_u64_le() };
    let first = get.get_u64_le();
    let mut option = || {
        let present = get.get_u64_le() == 1;
        let id = get_id(&mut get);
        present.then_some(id)
    };
    let (last, purged) = (option(), option());
    let vote = (get.get_u64_le() == 1).then(|| vote.to_vec());
    Some(StartBody { previous, first, last, purged, vote })
}

/// The header of a segment file.
pub(super) fn encode_segment_header(log_id: &[u8; 16], generation: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
    out.extend_from_slice(&SEGMENT_MAGIC);
    out.put_u32_le(FORMAT);
    out.put_u32_le(0);
    out.extend_from_slice(log_id);
    out.put_u64_le(generation);
    out.resize(SEGMENT_HEADER_BYTES as usize, 0);
    let crc = crc32c::crc32c(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What the header of a segment file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    Ours { log_id: [u8; 16], generation: u64 },
    NewerFormat { found: u32 },
    NotASegment,
    Damaged,
}

/// Reads the header of a segment file.
pub(super) fn parse_segment_header(bytes: &[u8]) -> SegmentHeader {
    if bytes.len() < SEGMENT_HEADER_BYTES as usize || bytes[..8] != SEGMENT_MAGIC {
        return SegmentHeader::NotASegment;
    }
    let mut get = &bytes[8..];
    let format = get.get_u32_le();
    let crc = get.get_u32_le();
    if format > FORMAT {
        return SegmentHeader::NewerFormat { found: format };
    }
    let mut plain = bytes[..SEGMENT_HEADER_BYTES as usize].to_vec();
    plain[12..16].fill(0);
    if crc32c::crc32c(&plain) != crc {
        return SegmentHeader::Damaged;
    }
    let mut log_id = [0; 16];
    get.copy_to_slice(&mut log_id);
    SegmentHeader::Ours { log_id, generation: get.get_u64_le() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, node, index)| LogId { term, node, index })
    }

    proptest! {
        #[test]
        fn start_survives_encoding(
            first: u64, generation: u64, offset: u64, last in proptest::option::of(any_id()),
            purged in proptest::option::of(any_id()), vote in proptest::option::of(any::<Vec<u8>>()),
        ) {
            let start = StartBody { previous: Position { generation, offset }, first, last, purged, vote };
            prop_assert_eq!(parse_start(&encode_start(&start)), Some(start));
        }

        #[test]
        fn batch_is_valid_only_in_its_place(
            epoch: u64, records_len: u64, generation: u64, offset in 0u64..1 << 40,
            committed in proptest::option::of(any_id()),
        ) {
            let batch = BatchBody { epoch, records_len, committed, durable: Position { generation, offset } };
            let seed = SegmentSeed::new(&[7; 16], generation);
            let bytes = encode_batch(seed, offset, &batch);
            prop_assert_eq!(bytes.len(), BATCH_BYTES);
            prop_assert_eq!(parse_batch(seed, offset, &bytes), Some(batch));
            prop_assert_eq!(parse_batch(seed, offset + 8, &bytes), None);
            prop_assert_eq!(parse_batch(SegmentSeed::new(&[7; 16], generation ^ 1), offset, &bytes), None);
            prop_assert_eq!(parse_batch(SegmentSeed::new(&[8; 16], generation), offset, &bytes), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            parse_header(&bytes);
            parse_batch(SegmentSeed::new(&[0; 16], 1), 64, &bytes);
            parse_start(&bytes);
            parse_segment_header(&bytes);
        }
    }

    #[test]
    fn segment_header_survives_encoding_and_names_newer_formats() {
        let mut bytes = encode_segment_header(&[3; 16], 9);
        assert_eq!(parse_segment_header(&bytes), SegmentHeader::Ours { log_id: [3; 16], generation: 9 });
        bytes[20] ^= 1;
        assert_eq!(parse_segment_header(&bytes), SegmentHeader::Damaged);
        bytes[8] = 2;
        assert_eq!(parse_segment_header(&bytes), SegmentHeader::NewerFormat { found: 2 });
        assert_eq!(parse_segment_header(&[0; 64]), SegmentHeader::NotASegment);
    }
}
