//! Receiving a snapshot file from another node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::write::publish;
use super::{SnapshotError, SnapshotFile, SnapshotMeta, read, verify};
use crate::fs::{Fs, FsFile, OpenMode, with_suffix};

const SYNC_EVERY_BYTES: u64 = 8 << 20;

/// Receives a snapshot file in chunks, into `<path>.receiving`. Dropped before `finish`, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotReceiver {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    beside: PathBuf,
    file: Arc<dyn FsFile>,
    received: u64,
    synced: u64,
    finished: bool,
}

impl SnapshotReceiver {
    /// Starts to receive a snapshot that will replace `path`.
    /// # Errors
    /// As [`super::SnapshotWriter::create`].
    pub fn create(fs: Arc<dyn Fs>, path: &Path) -> Result<Self, SnapshotError> {
        read::refuse_foreign(&*fs, path)?;
        let beside = with_suffix(path, ".receiving");
        let file = fs.open(&beside, OpenMode::CreateOrTruncate).map_err(SnapshotError::io("create", &beside))?;
        Ok(SnapshotReceiver { fs, path: path.to_owned(), beside, file, received: 0, synced: 0, finished: false })
    }

    /// Bytes received without a gap: where the next chunk starts.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Writes a chunk. It may repeat bytes received before, but not leave a gap.
    pub fn write(&mut self, offset: u64, chunk: &[u8]) -> Result<(), SnapshotError> {
        if offset > self.received {
            return Err(SnapshotError::ChunkOutOfOrder { offset, received: self.received });
        }
        self.file.write_at(chunk, offset).map_err(SnapshotError::io("write", &self.beside))?;
        self.received = self.received.max(offset + chunk.len() as u64);
        if self.received - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(SnapshotError::io("sync", &self.beside))?;
            self.synced = self.received;
        }
        Ok(())
    }

    /// Syncs, verifies (against the announced length and CRC, and in itself) and renames; durable when it returns.
    pub fn finish(mut self, len: u64, crc: u32) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
        self.file.sync_data().map_err(SnapshotError::io("sync", &self.beside))?;
        let (meta, found) = verify(&*self.fs, &self.beside)?;
        if (found.len, found.crc) != (len, crc) {
            let (got, got_crc) = (found.len, found.crc);
            return Err(SnapshotError::NotAsAnnounced { want: len, want_crc: crc, got, got_crc });
        }
        publish(&*self.fs, &self.beside, &self.path).map_err(SnapshotError::io("rename", &self.beside))?;
        self.finished = true;
        Ok((meta, SnapshotFile { path: self.path.clone(), len, crc }))
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.fs.remove_file(&self.beside);
        }
    }
}
