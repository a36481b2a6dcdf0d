//! The disk, with a power cut at kill -9 (feature `test-faults`): what was not synced lives in this process's memory.
//!
//! The model: bytes written, and lengths set, reach the real file at `sync_data`; names created, renamed or removed
//! change in the real directory at its `sync_dir`, in order (until then a new file has a hidden name, `.powercut-..`).
//! So after kill -9 the real file system holds exactly what was synced: the harshest outcome of a power cut, without
//! torn writes ([`super::MemoryFs`] tears).
//! Not modelled: directories (created and renamed at once), locks, and whatever does not go through [`super::Fs`]: sled
//! and redb write for themselves, so only kill -9 proper is tested for them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::real::{RealFile, open_real};
use super::{Fs, FsFile, LockOutcome, OpenMode, RealFs, parent};

const PAGE_BYTES: u64 = 4096;
const HIDDEN: &str = ".powercut-";

/// Wraps the real file system and keeps unsynced bytes and names in process memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct PowerCutFs {
    state: Arc<Mutex<PowerCutState>>,
}

#[derive(Debug, Default)]
struct PowerCutState {
    pending: Vec<NameChange>,
    /// Names that differ from the real ones: where the file really is, or `None` when it is gone.
    names: HashMap<PathBuf, Option<PathBuf>>,
    /// Unsynced bytes by (device, inode).
    files: HashMap<(u64, u64), Arc<Mutex<Unsynced>>>,
    created: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { path: PathBuf, hidden: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

/// What a file holds beyond its synced content.
#[derive(Debug, Default)]
struct Unsynced {
    pages: HashMap<u64, Vec<u8>>,
    len: u64,
    /// Bytes of the real file that still count: fewer than its length after it was cut.
    real_len: u64,
}

impl NameChange {
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Create { path, .. } | NameChange::Remove { path } => parent(path) == dir,
            NameChange::Rename { from, to } => parent(from) == dir || parent(to) == dir,
        }
    }

    fn run(&self) -> io::Result<()> {
        match self {
            NameChange::Create { path, hidden } => std::fs::rename(hidden, path),
            NameChange::Rename { from, to } => std::fs::rename(from, to),
            NameChange::Remove { path } => std::fs::remove_file(path),
        }
    }
}

impl PowerCutState {
    fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        match self.names.get(path) {
            Some(Some(real)) => Ok(real.clone()),
            Some(None) => Err(io::ErrorKind::NotFound.into()),
            None => Ok(path.to_owned()),
        }
    }

    /// The names as pending changes make them.
    fn replay(&mut self) {
        self.names.clear();
        for change in self.pending.clone() {
            self.note(&change);
        }
    }

    fn note(&mut self, change: &NameChange) {
        match change {
            NameChange::Create { path, hidden } => drop(self.names.insert(path.clone(), Some(hidden.clone()))),
            NameChange::Remove { path } => drop(self.names.insert(path.clone(), None)),
            NameChange::Rename { from, to } => {
                let real = self.names.insert(from.clone(), None).flatten().unwrap_or_else(|| from.clone());
                self.names.insert(to.clone(), Some(real));
            }
        }
    }

    fn change(&mut self, change: NameChange) {
        self.note(&change);
        self.pending.push(change);
    }

    fn handle(&mut self, file: File, writable: bool) -> io::Result<Arc<dyn FsFile>> {
        let metadata = file.metadata()?;
        let unsynced = self.files.entry((metadata.dev(), metadata.ino())).or_insert_with(|| {
            let len = metadata.len();
            Arc::new(Mutex::new(Unsynced { pages: HashMap::new(), len, real_len: len }))
        });
        Ok(Arc::new(PowerCutFile { real: RealFile(file), unsynced: unsynced.clone(), writable }))
    }
}

impl Fs for PowerCutFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        let mut state = self.state.lock();
        let real = state.real_path(path);
        let exists = real.as_deref().is_ok_and(Path::exists);
        match mode {
            OpenMode::CreateNew if exists => Err(io::ErrorKind::AlreadyExists.into()),
            OpenMode::CreateNew | OpenMode::CreateOrTruncate if !exists => {
                state.created += 1;
                let name = format!("{HIDDEN}{}-{}", std::process::id(), state.created);
                let hidden = parent(path).join(name);
                let file = open_real(&hidden, OpenMode::CreateOrTruncate)?;
                // A new file may have the inode number of one that is gone.
                let metadata = file.metadata()?;
                state.files.remove(&(metadata.dev(), metadata.ino()));
                state.change(NameChange::Create { path: path.to_owned(), hidden });
                state.handle(file, true)
            }
            OpenMode::Read => state.handle(open_real(&real?, OpenMode::Read)?, false),
            OpenMode::ReadWrite | OpenMode::CreateNew | OpenMode::CreateOrTruncate => {
                let file = state.handle(open_real(&real?, OpenMode::ReadWrite)?, true)?;
                if mode == OpenMode::CreateOrTruncate {
                    file.set_len(0)?;
                }
                Ok(file)
            }
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.state.lock().real_path(path) {
            Ok(real) => real.try_exists(),
            Err(_) => Ok(false),
        }
    }

    /// Also removes hidden files that a killed process left.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let ours = format!("{HIDDEN}{}-", std::process::id());
        let mut names = BTreeSet::new();
        for name in RealFs.list(dir)? {
            if !name.starts_with(HIDDEN) {
                names.insert(name);
            } else if !name.starts_with(&ours) {
                std::fs::remove_file(dir.join(name))?;
            }
        }
        for (path, real) in state.names.iter().filter(|(path, _)| parent(path) == dir) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match real {
                Some(_) => names.insert(name),
                None => names.remove(&name),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealFs.create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let real = state.real_path(from)?;
        if real.is_dir() {
            return std::fs::rename(real, to);
        }
        if !real.try_exists()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.real_path(path)?.try_exists()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Remove { path: path.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let (now, later): (Vec<_>, Vec<_>) = state.pending.drain(..).partition(|change| change.is_in(dir));
        state.pending = later;
        for change in now {
            change.run()?;
        }
        state.replay();
        RealFs.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealFs.free_bytes(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<LockOutcome> {
        RealFs.try_lock(path)
    }
}

#[derive(Debug)]
struct PowerCutFile {
    real: RealFile,
    unsynced: Arc<Mutex<Unsynced>>,
    writable: bool,
}

impl Unsynced {
    /// A page as readers see it, read from the disk when it was not written since the last sync.
    fn page(&mut self, real: &RealFile, number: u64) -> io::Result<&mut Vec<u8>> {
        if !self.pages.contains_key(&number) {
            let mut page = vec![0; PAGE_BYTES as usize];
            let start = number * PAGE_BYTES;
            let valid = self.real_len.saturating_sub(start).min(PAGE_BYTES) as usize;
            real.read_at(&mut page[..valid], start)?;
            self.pages.insert(number, page);
        }
        Ok(self.pages.get_mut(&number).expect("inserted above"))
    }
}

impl FsFile for PowerCutFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let unsynced = self.unsynced.lock();
        let end = unsynced.len.min(offset + buf.len() as u64);
        if offset >= end {
            return Ok(0);
        }
        let n = (end - offset) as usize;
        let from_real = unsynced.real_len.min(end).saturating_sub(offset) as usize;
        self.real.read_at(&mut buf[..from_real], offset)?;
        buf[from_real..n].fill(0);
        let mut at = offset;
        while at < end {
            let inside = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - inside).min((end - at) as usize);
            if let Some(page) = unsynced.pages.get(&(at / PAGE_BYTES)) {
                let to = (at - offset) as usize;
                buf[to..to + part].copy_from_slice(&page[inside..inside + part]);
            }
            at += part as u64;
        }
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut unsynced = self.unsynced.lock();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - inside).min(buf.len() - done);
            let page = unsynced.page(&self.real, at / PAGE_BYTES)?;
            page[inside..inside + part].copy_from_slice(&buf[done..done + part]);
            done += part;
        }
        unsynced.len = unsynced.len.max(offset + buf.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock();
        let real_len = self.real.len()?;
        if unsynced.real_len < real_len {
            self.real.set_len(unsynced.real_len)?;
        }
        let len = unsynced.len;
        for (number, page) in std::mem::take(&mut unsynced.pages) {
            let start = number * PAGE_BYTES;
            let valid = len.saturating_sub(start).min(PAGE_BYTES) as usize;
            self.real.write_at(&page[..valid], start)?;
        }
        if self.real.len()? != len {
            self.real.set_len(len)?;
        }
        unsynced.real_len = len;
        self.real.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.unsynced.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut unsynced = self.unsynced.lock();
        if len < unsynced.len {
            let last = len / PAGE_BYTES;
            unsynced.pages.retain(|number, _| *number <= last);
            if let Some(page) = unsynced.pages.get_mut(&last) {
                page[(len % PAGE_BYTES) as usize..].fill(0);
            }
            unsynced.real_len = unsynced.real_len.min(len);
        }
        unsynced.len = len;
        Ok(())
    }
}
