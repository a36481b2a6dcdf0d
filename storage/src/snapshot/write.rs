//! Writing a snapshot.
//! Always true: at most [`SYNC_EVERY_BYTES`] are unsynced, so that the log's syncs never wait behind more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BufMut;

use super::{
    BLOCK_BYTES, BLOCK_HEADER_BYTES, ENTRY_BYTES_MAX, ENTRY_HEADER_BYTES, FORMAT, KIND_DATA, KIND_FOOTER, MAGIC,
    META_BYTES_MAX, SnapshotError, SnapshotFile, SnapshotMeta, Totals, block_crc, encode_meta, read,
};
use crate::fs::{Fs, FsFile, OpenMode, parent, with_suffix};

const SYNC_EVERY_BYTES: u64 = 512 << 10;

/// Writes a snapshot to `<path>.tmp`; [`SnapshotWriter::finish`] gives it its name. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    beside: PathBuf,
    file: Arc<dyn FsFile>,
    at: u64,
    synced: u64,
    /// CRC32C of everything written.
    crc: u32,
    header_crc: u32,
    block: Vec<u8>,
    block_entries: u32,
    totals: Totals,
    finished: bool,
    failed: Option<SnapshotError>,
}

impl SnapshotWriter {
    /// Starts a snapshot that will replace `path`.
    /// # Errors
    /// [`SnapshotError::MosquittoFormat`] or [`SnapshotError::Foreign`] when a file that is not ours has that name.
    pub fn create(fs: Arc<dyn Fs>, path: &Path, meta: SnapshotMeta) -> Result<Self, SnapshotError> {
        read::refuse_foreign(&*fs, path)?;
        let meta = encode_meta(&meta);
        if meta.len() > META_BYTES_MAX {
            return Err(SnapshotError::TooLarge { bytes: meta.len() as u64 });
        }
        let beside = with_suffix(path, ".tmp");
        let file = fs.open(&beside, OpenMode::CreateOrTruncate).map_err(SnapshotError::io("create", &beside))?;
        let mut header = Vec::with_capacity(meta.len() + 20);
        header.put_slice(&MAGIC);
        header.put_u32_le(FORMAT);
        header.put_u32_le(meta.len() as u32);
        header.put_slice(&meta);
        let header_crc = crc32c::crc32c(&header);
        header.put_u32_le(header_crc);
        let mut writer = SnapshotWriter {
            fs,
            path: path.to_owned(),
            beside,
            file,
            at: 0,
            synced: 0,
            crc: 0,
            header_crc,
            block: Vec::with_capacity(BLOCK_BYTES),
            block_entries: 0,
            totals: Totals::default(),
            finished: false,
            failed: None,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Adds an entry. Keys come in any order; the reader gives them back in the same.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        let bytes = ENTRY_HEADER_BYTES + key.len() + value.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(SnapshotError::TooLarge { bytes: bytes as u64 });
        }
        if !self.block.is_empty() && self.block.len() + bytes > BLOCK_BYTES {
            self.end_block(KIND_DATA, &[])?;
        }
        self.block.put_u32_le(key.len() as u32);
        self.block.put_u32_le(value.len() as u32);
        self.block.put_slice(key);
        self.block_entries += 1;
        self.totals.entries += 1;
        if bytes > BLOCK_BYTES {
            return self.end_block(KIND_DATA, value);
        }
        self.block.put_slice(value);
        Ok(())
    }

    /// Bytes written so far, for pacing.
    pub fn written(&self) -> u64 {
        self.at
    }

    /// Completes, syncs and renames the file; durable under its name when it returns.
    pub fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        if !self.block.is_empty() {
            self.end_block(KIND_DATA, &[])?;
        }
        self.block = self.totals.encode();
        self.end_block(KIND_FOOTER, &[])?;
        self.file.sync_data().map_err(SnapshotError::io("sync", &self.beside))?;
        publish(&*self.fs, &self.beside, &self.path).map_err(SnapshotError::io("rename", &self.beside))?;
        self.finished = true;
        Ok(SnapshotFile { path: self.path.clone(), len: self.at, crc: self.crc })
    }

    /// Writes the block, followed by a part of its payload that was not copied into it.
    fn end_block(&mut self, kind: u32, rest: &[u8]) -> Result<(), SnapshotError> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        let mut put = &mut header[4..];
        put.put_u32_le((self.block.len() + rest.len()) as u32);
        put.put_u32_le(self.block_entries);
        put.put_u32_le(kind);
        let crc = block_crc(self.header_crc, self.totals.blocks, &header);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &self.block), rest);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        let mut block = std::mem::take(&mut self.block);
        self.put(&header)?;
        self.put(&block)?;
        self.put(rest)?;
        self.totals.blocks += 1;
        self.totals.bytes += (block.len() + rest.len()) as u64;
        block.clear();
        self.block = block;
        self.block_entries = 0;
        Ok(())
    }

    /// Writes, and syncs now and then. After an error nothing is written or synced again.
    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.put_unless_failed(bytes).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn put_unless_failed(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_at(bytes, self.at).map_err(SnapshotError::io("write", &self.beside))?;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_EVERY_BYTES {
            self.file.sync_data().map_err(SnapshotError::io("sync", &self.beside))?;
            self.synced = self.at;
        }
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.fs.remove_file(&self.beside);
        }
    }
}

/// Gives a synced file its final name, durably.
pub(super) fn publish(fs: &dyn Fs, beside: &Path, path: &Path) -> io::Result<()> {
    fs.rename(beside, path)?;
    fs.sync_dir(parent(path))
}
