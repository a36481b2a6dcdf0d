//! Values too large for an engine, in append-only files beside it.
//!
//! Always true: bytes are synced, and a new file's name too, before a reference to them is given out; a file is removed
//! only when nothing refers to it and the engine has flushed that fact; what is read matches the CRC in its reference.
//! Files are never written again after a restart: a new one is begun.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

use super::KvError;
use crate::fs::{Fs, FsFile, OpenMode};

const FILE_BYTES_MAX: u64 = 64 << 20;

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobRef {
    pub(super) file: u64,
    offset: u64,
    len: u64,
    crc: u32,
}

impl BlobRef {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.put_u64_le(self.file);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.len);
        out.put_u32_le(self.crc);
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<BlobRef> {
        let mut get = (bytes.len() == 28).then_some(bytes)?;
        let (file, offset, len) = (get.get_u64_le(), get.get_u64_le(), get.get_u64_le());
        Some(BlobRef { file, offset, len, crc: get.get_u32_le() })
    }
}

struct BlobFile {
    file: Arc<dyn FsFile>,
    len: u64,
    live: u64,
}

#[derive(Default)]
struct BlobFiles {
    files: BTreeMap<u64, BlobFile>,
    /// The file being appended to.
    current: Option<u64>,
    next: u64,
    references: u64,
    failed: Option<KvError>,
}

pub(super) struct Blobs {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    state: Mutex<BlobFiles>,
}

impl Blobs {
    /// Opens all blob files of a directory. Nothing is live before [`Blobs::refer`].
    pub(super) fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self, KvError> {
        fs.create_dir_all(dir).map_err(KvError::io("create", dir))?;
        let mut state = BlobFiles { next: 1, ..BlobFiles::default() };
        for name in fs.list(dir).map_err(KvError::io("list", dir))? {
            let id = name.strip_suffix(".blob").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            if let Some(id) = id {
                let path = dir.join(&name);
                let file = fs.open(&path, OpenMode::Read).map_err(KvError::io("open", &path))?;
                let len = file.len().map_err(KvError::io("read", &path))?;
                state.files.insert(id, BlobFile { file, len, live: 0 });
                state.next = state.next.max(id + 1);
            }
        }
        Ok(Blobs { fs, dir: dir.to_owned(), state: Mutex::new(state) })
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:016x}.blob"))
    }

    /// Writes values and syncs them once. They count as live.
    pub(super) fn put(&self, values: &[Bytes]) -> Result<Vec<BlobRef>, KvError> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let mut state = self.state.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let outcome = self.put_locked(&mut state, values);
        if let Err(error) = &outcome {
            // A failed sync is never tried again.
            state.failed = Some(error.clone());
        }
        outcome
    }

    fn put_locked(&self, state: &mut BlobFiles, values: &[Bytes]) -> Result<Vec<BlobRef>, KvError> {
        let mut references = Vec::with_capacity(values.len());
        let mut touched: Vec<u64> = Vec::new();
        for value in values {
            let id = self.current_with_room(state)?;
            let blob = state.files.get_mut(&id).expect("the current file is open");
            blob.file.write_at(value, blob.len).map_err(KvError::io("write", &self.path(id)))?;
            let len = value.len() as u64;
            references.push(BlobRef { file: id, offset: blob.len, len, crc: crc32c::crc32c(value) });
            blob.len += len;
            blob.live += len;
            if touched.last() != Some(&id) {
                touched.push(id);
            }
        }
        for id in touched {
            state.files[&id].file.sync_data().map_err(KvError::io("sync", &self.path(id)))?;
        }
        state.references += references.len() as u64;
        Ok(references)
    }

    fn current_with_room(&self, state: &mut BlobFiles) -> Result<u64, KvError> {
        if let Some(id) = state.current
            && state.files[&id].len < FILE_BYTES_MAX
        {
            return Ok(id);
        }
        let id = state.next;
        let path = self.path(id);
        let file = self.fs.open(&path, OpenMode::CreateNew).map_err(KvError::io("create", &path))?;
        self.fs.sync_dir(&self.dir).map_err(KvError::io("sync", &self.dir))?;
        state.files.insert(id, BlobFile { file, len: 0, live: 0 });
        state.current = Some(id);
        state.next += 1;
        Ok(id)
    }

    pub(super) fn get(&self, reference: BlobRef) -> Result<Bytes, KvError> {
        let path = self.path(reference.file);
        let damaged = || KvError::Damaged { path: path.clone() };
        let (file, len) = {
            let state = self.state.lock();
            let blob = state.files.get(&reference.file).ok_or_else(damaged)?;
            (blob.file.clone(), blob.len)
        };
        if reference.offset.checked_add(reference.len).is_none_or(|end| end > len) {
            return Err(damaged());
        }
        let mut bytes = vec![0; reference.len as usize];
        crate::fs::read_exact_at(&*file, &mut bytes, reference.offset).map_err(KvError::io("read", &path))?;
        if crc32c::crc32c(&bytes) != reference.crc {
            return Err(damaged());
        }
        Ok(Bytes::from(bytes))
    }

    /// Counts a reference found at open.
    pub(super) fn refer(&self, reference: BlobRef) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.references += 1;
        match state.files.get_mut(&reference.file) {
            Some(blob) if reference.offset.saturating_add(reference.len) <= blob.len => {
                blob.live += reference.len;
                Ok(())
            }
            _ => Err(KvError::Damaged { path: self.path(reference.file) }),
        }
    }

    /// Counts a reference as gone.
    pub(super) fn release(&self, reference: BlobRef) {
        let mut state = self.state.lock();
        state.references = state.references.saturating_sub(1);
        if let Some(blob) = state.files.get_mut(&reference.file) {
            blob.live = blob.live.saturating_sub(reference.len);
        }
    }

    /// Whether there is anything that a value could refer to.
    pub(super) fn has_files(&self) -> bool {
        !self.state.lock().files.is_empty()
    }

    /// Whether any value refers to a blob.
    pub(super) fn is_used(&self) -> bool {
        self.state.lock().references > 0
    }

    /// Files that nothing refers to now; [`Blobs::remove`] them after the engine's next flush.
    pub(super) fn dead(&self) -> Vec<u64> {
        let state = self.state.lock();
        let dead = state.files.iter().filter(|(id, blob)| blob.live == 0 && state.current != Some(**id));
        dead.map(|(id, _)| *id).collect()
    }

    /// A closed file of which less than a quarter is live: its values are worth moving.
    pub(super) fn sparse(&self) -> Option<u64> {
        let state = self.state.lock();
        let sparse =
            |(id, blob): &(&u64, &BlobFile)| state.current != Some(**id) && blob.live > 0 && blob.live < blob.len / 4;
        state.files.iter().find(sparse).map(|(id, _)| *id)
    }

    pub(super) fn remove(&self, dead: &[u64]) -> Result<(), KvError> {
        for id in dead {
            let path = self.path(*id);
            self.state.lock().files.remove(id);
            self.fs.remove_file(&path).map_err(KvError::io("remove", &path))?;
        }
        Ok(())
    }
}
