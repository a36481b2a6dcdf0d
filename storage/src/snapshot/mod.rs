//! Snapshot files: the whole state of a shard, streamed, checksummed, written beside and renamed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::fs::Fs;
use crate::log::LogId;

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
    #[error("a chunk at byte {offset} does not follow the {received} bytes received so far")]
    ChunkOutOfOrder { offset: u64, received: u64 },
    #[error(
        "the received snapshot has {got} bytes and CRC {got_crc:08x}, announced were {want} bytes and CRC {want_crc:08x}"
    )]
    NotAsAnnounced { want: u64, want_crc: u32, got: u64, got_crc: u32 },
}

/// Writes a snapshot to `<path>.tmp`; [`SnapshotWriter::finish`] gives it its name.
pub struct SnapshotWriter {}

impl SnapshotWriter {
    pub fn create(_fs: Arc<dyn Fs>, _path: &Path, _meta: SnapshotMeta) -> Result<Self, SnapshotError> {
        todo!()
    }

    /// Adds an entry. Keys come in any order; the reader gives them back in the same.
    pub fn add(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Completes, syncs and renames the file; durable under its name when it returns.
    pub fn finish(self) -> Result<SnapshotFile, SnapshotError> {
        todo!()
    }
}

/// Reads a snapshot: an iterator over its entries, each checked before it is given out. The last item is an error
/// when the file is cut or damaged, so the entries count only once the iterator has ended without one.
pub struct SnapshotReader {}

impl SnapshotReader {
    pub fn open(_fs: &dyn Fs, _path: &Path) -> Result<(SnapshotMeta, Self), SnapshotError> {
        todo!()
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<(Bytes, Bytes), SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Reads the whole file and checks every block, the footer, the counts and the length.
pub fn verify(_fs: &dyn Fs, _path: &Path) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
    todo!()
}

/// Receives a snapshot file in chunks, into `<path>.tmp`.
pub struct SnapshotReceiver {}

impl SnapshotReceiver {
    pub fn create(_fs: Arc<dyn Fs>, _path: &Path) -> Result<Self, SnapshotError> {
        todo!()
    }

    /// Bytes received without a gap: where the next chunk starts.
    pub fn received(&self) -> u64 {
        todo!()
    }

    /// Writes a chunk. It may repeat bytes received before, but not leave a gap.
    pub fn write(&mut self, _offset: u64, _chunk: &[u8]) -> Result<(), SnapshotError> {
        todo!()
    }

    /// Syncs, verifies (against the announced length and CRC, and in itself) and renames; durable when it returns.
    pub fn finish(self, _len: u64, _crc: u32) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
        todo!()
    }
}
