//! Reading and verifying a snapshot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    BLOCK_HEADER_BYTES, ENTRY_HEADER_BYTES, FORMAT, KIND_DATA, KIND_FOOTER, MAGIC, META_BYTES_MAX, MOSQUITTO_MAGIC,
    SnapshotError, SnapshotFile, SnapshotMeta, Totals, block_crc, decode_meta,
};
use crate::fs::{Fs, FsFile, OpenMode};

/// Reads a snapshot: an iterator over its entries, each checked before it is given out. The last item is an error
/// when the file is cut or damaged, so the entries count only once the iterator has ended without one.
#[derive(Debug)]
pub struct SnapshotReader {
    path: PathBuf,
    file: Arc<dyn FsFile>,
    len: u64,
    at: u64,
    /// CRC32C of everything read.
    crc: u32,
    header_crc: u32,
    block: Bytes,
    block_entries: u32,
    totals: Totals,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot and reads its meta.
    /// # Errors
    /// [`SnapshotError::MosquittoFormat`] for a database of Mosquitto, [`SnapshotError::Foreign`],
    /// [`SnapshotError::NewerFormat`], [`SnapshotError::Damaged`].
    pub fn open(fs: &dyn Fs, path: &Path) -> Result<(SnapshotMeta, Self), SnapshotError> {
        let file = fs.open(path, OpenMode::Read).map_err(SnapshotError::io("open", path))?;
        let len = file.len().map_err(SnapshotError::io("read", path))?;
        let mut reader = SnapshotReader {
            path: path.to_owned(),
            file,
            len,
            at: 0,
            crc: 0,
            header_crc: 0,
            block: Bytes::new(),
            block_entries: 0,
            totals: Totals::default(),
            ended: false,
        };
        reader.check_magic()?;
        let meta = reader.read_meta()?;
        Ok((meta, reader))
    }

    fn check_magic(&self) -> Result<(), SnapshotError> {
        let mut start = [0; MOSQUITTO_MAGIC.len()];
        let read = self.file.read_at(&mut start, 0).map_err(SnapshotError::io("read", &self.path))?;
        if start == MOSQUITTO_MAGIC {
            Err(SnapshotError::MosquittoFormat { path: self.path.clone() })
        } else if read < MAGIC.len() || start[..MAGIC.len()] != MAGIC {
            Err(SnapshotError::Foreign { path: self.path.clone() })
        } else {
            Ok(())
        }
    }

    fn read_meta(&mut self) -> Result<SnapshotMeta, SnapshotError> {
        let fixed = self.take(16)?;
        let mut get = &fixed[MAGIC.len()..];
        let (found, meta_len) = (get.get_u32_le(), get.get_u32_le() as usize);
        if found > FORMAT {
            return Err(SnapshotError::NewerFormat { path: self.path.clone(), found, supported: FORMAT });
        }
        if meta_len > META_BYTES_MAX {
            return Err(self.damaged(0, "the length of its header is impossible"));
        }
        let meta = self.take(meta_len)?;
        self.header_crc = self.crc;
        let crc = self.take(4)?;
        if crc[..] != self.header_crc.to_le_bytes() {
            return Err(self.damaged(0, "its header does not match its checksum"));
        }
        decode_meta(&meta).ok_or_else(|| self.damaged(0, "its header is too short"))
    }

    fn damaged(&self, offset: u64, detail: &str) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), offset, detail: detail.into() }
    }

    /// The next `n` bytes of the file.
    fn take(&mut self, n: usize) -> Result<Bytes, SnapshotError> {
        if n as u64 > self.len - self.at {
            return Err(self.damaged(self.len, "the file was cut"));
        }
        let mut bytes = vec![0; n];
        let read = crate::fs::read_exact_at(&*self.file, &mut bytes, self.at);
        read.map_err(SnapshotError::io("read", &self.path))?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        self.at += n as u64;
        Ok(Bytes::from(bytes))
    }

    /// Reads the next block; `false` after the footer.
    fn next_block(&mut self) -> Result<bool, SnapshotError> {
        let start = self.at;
        let header = self.take(BLOCK_HEADER_BYTES)?;
        let header: [u8; BLOCK_HEADER_BYTES] = header[..].try_into().expect("taken with this length");
        let mut get = &header[..];
        let crc = get.get_u32_le();
        let (len, entries, kind) = (get.get_u32_le(), get.get_u32_le(), get.get_u32_le());
        let payload = self.take(len as usize)?;
        let want = crc32c::crc32c_append(block_crc(self.header_crc, self.totals.blocks, &header), &payload);
        if want != crc {
            return Err(self.damaged(start, "a block does not match its checksum"));
        }
        match kind {
            KIND_DATA => {
                self.totals.blocks += 1;
                self.totals.bytes += u64::from(len);
                self.totals.entries += u64::from(entries);
                (self.block, self.block_entries) = (payload, entries);
                Ok(true)
            }
            KIND_FOOTER if payload[..] != self.totals.encode() => {
                Err(self.damaged(start, "the totals in its footer do not match"))
            }
            KIND_FOOTER if self.at != self.len => Err(self.damaged(self.at, "bytes follow its footer")),
            KIND_FOOTER => Ok(false),
            _ => Err(self.damaged(start, "a block of unknown kind")),
        }
    }

    fn next_entry(&mut self) -> Result<Option<(Bytes, Bytes)>, SnapshotError> {
        while self.block_entries == 0 {
            if !self.block.is_empty() {
                return Err(self.damaged(self.at, "a block has more bytes than its entries"));
            }
            if !self.next_block()? {
                return Ok(None);
            }
        }
        self.block_entries -= 1;
        let short = |reader: &Self| reader.damaged(reader.at, "a block has fewer bytes than its entries");
        if self.block.len() < ENTRY_HEADER_BYTES {
            return Err(short(self));
        }
        let (key_len, value_len) = (self.block.get_u32_le() as usize, self.block.get_u32_le() as usize);
        if self.block.len() < key_len.saturating_add(value_len) {
            return Err(short(self));
        }
        let key = self.block.split_to(key_len);
        let value = self.block.split_to(value_len);
        Ok(Some((key, value)))
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<(Bytes, Bytes), SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_entry().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Reads the whole file and checks every block, the footer, the counts and the length.
pub fn verify(fs: &dyn Fs, path: &Path) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
    let (meta, mut reader) = SnapshotReader::open(fs, path)?;
    for entry in reader.by_ref() {
        entry?;
    }
    Ok((meta, SnapshotFile { path: path.to_owned(), len: reader.len, crc: reader.crc }))
}

/// Fails when a file of this name exists that is neither empty nor a snapshot.
pub(super) fn refuse_foreign(fs: &dyn Fs, path: &Path) -> Result<(), SnapshotError> {
    if !fs.exists(path).map_err(SnapshotError::io("look for", path))? {
        return Ok(());
    }
    match SnapshotReader::open(fs, path) {
        Err(error @ SnapshotError::MosquittoFormat { .. }) => Err(error),
        Err(error @ SnapshotError::Foreign { .. }) => {
            let file = fs.open(path, OpenMode::Read).map_err(SnapshotError::io("open", path))?;
            let empty = file.is_empty().map_err(SnapshotError::io("read", path))?;
            if empty { Ok(()) } else { Err(error) }
        }
        _ => Ok(()),
    }
}
