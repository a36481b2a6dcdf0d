//! Snapshot files: the whole state of a shard, streamed, checksummed, written beside and renamed.
//!
//! Always true: a file under its final name is complete and synced; memory stays below one block (256 KiB) or one
//! entry, whichever is larger; a file that was cut, extended, or mixed from two is never read to its end without an
//! error; a file that is not ours is never overwritten.
//!
//! The bytes (little endian): magic `MQSNAPSH`, format u32, length of the meta u32, the meta, CRC32C u32 of all that.
//! Then blocks: CRC32C u32, length u32, entries u32, kind u32, payload. A block's checksum starts from the header's and
//! covers its number, so blocks cannot be swapped within or between files. Data blocks hold entries (key length u32,
//! value length u32, key, value); the last block is the footer with the totals, and the file ends with it.
//! A node alone uses the same file as its `persistence_file`.
//! Not here: which entries belong into a snapshot (`cluster`), when to take one, how it travels.

mod read;
mod receive;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

pub use read::{SnapshotReader, verify};
pub use receive::SnapshotReceiver;
pub use write::SnapshotWriter;

use crate::log::LogId;

const MAGIC: [u8; 8] = *b"MQSNAPSH";
const FORMAT: u32 = 1;
/// First bytes of a database of Eclipse Mosquitto (`persist_read.c`).
const MOSQUITTO_MAGIC: [u8; 15] = *b"\x00\xB5\x00mosquitto db";
const BLOCK_HEADER_BYTES: usize = 16;
const BLOCK_BYTES: usize = 256 << 10;
const ENTRY_HEADER_BYTES: usize = 8;
const META_BYTES_MAX: usize = 16 << 20;
/// Largest key or value: 1 GiB.
const ENTRY_BYTES_MAX: usize = 1 << 30;
const KIND_DATA: u32 = 1;
const KIND_FOOTER: u32 = 2;

/// What a snapshot says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    pub shard: u32,
    /// The last entry in it.
    pub last: Option<LogId>,
    /// Opaque: the membership as of `last`.
    pub membership: Bytes,
    pub cluster_id: [u8; 16],
    /// Milliseconds since 1970 by the creator's clock.
    pub created_ms: u64,
    /// Version of the keys and values in it; the caller's, not the file format's.
    pub format: u32,
}

/// A finished snapshot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
    pub len: u64,
    /// CRC32C of the whole file.
    pub crc: u32,
}

/// Why a snapshot could not be written or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("{} is a database of Eclipse Mosquitto; mosquorum does not read or overwrite it: choose another persistence_location or persistence_file", path.display())]
    MosquittoFormat { path: PathBuf },
    #[error("{} is not a mosquorum snapshot", path.display())]
    Foreign { path: PathBuf },
    #[error("{} has snapshot format {found}, this version reads up to {supported}: use a newer version", path.display())]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("snapshot {} is damaged at byte {offset}: {detail}", path.display())]
    Damaged { path: PathBuf, offset: u64, detail: String },
    #[error("an entry of {bytes} bytes is larger than a snapshot can hold")]
    TooLarge { bytes: u64 },
    #[error("a chunk at byte {offset} does not follow the {received} bytes received so far")]
    ChunkOutOfOrder { offset: u64, received: u64 },
    #[error(
        "the received snapshot has {got} bytes and CRC {got_crc:08x}, announced were {want} bytes and CRC {want_crc:08x}"
    )]
    NotAsAnnounced { want: u64, want_crc: u32, got: u64, got_crc: u32 },
}

impl SnapshotError {
    fn io(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| SnapshotError::Io { operation, path: path.clone(), source: Arc::new(source) }
    }
}

/// Totals in the footer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    entries: u64,
    blocks: u64,
    bytes: u64,
}

impl Totals {
    fn encode(self) -> Vec<u8> {
        [self.entries, self.blocks, self.bytes].into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

fn block_crc(file_crc: u32, number: u64, header: &[u8; BLOCK_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(file_crc, &number.to_le_bytes()), &header[4..])
}

fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let last = meta.last.unwrap_or_default();
    let mut out = Vec::new();
    out.put_u32_le(meta.shard);
    out.put_u32_le(meta.format);
    out.put_u64_le(u64::from(meta.last.is_some()));
    out.put_u64_le(last.term);
    out.put_u64_le(last.node);
    out.put_u64_le(last.index);
    out.put_slice(&meta.cluster_id);
    out.put_u64_le(meta.created_ms);
    out.put_slice(&meta.membership);
    out
}

fn decode_meta(bytes: &[u8]) -> Option<SnapshotMeta> {
    const FIXED: usize = 64;
    if bytes.len() < FIXED {
        return None;
    }
    let (mut get, membership) = bytes.split_at(FIXED);
    let (shard, format) = (get.get_u32_le(), get.get_u32_le());
    let present = get.get_u64_le() == 1;
    let last = LogId { term: get.get_u64_le(), node: get.get_u64_le(), index: get.get_u64_le() };
    let mut cluster_id = [0; 16];
    get.copy_to_slice(&mut cluster_id);
    let created_ms = get.get_u64_le();
    let (last, membership) = (present.then_some(last), Bytes::copy_from_slice(membership));
    Some(SnapshotMeta { shard, last, membership, cluster_id, created_ms, format })
}

#[cfg(test)]
mod tests;
