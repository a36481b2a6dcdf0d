//! The twin of the disk: remembers what was synced apart from what was only written, so that a crash can drop the rest.
//!
//! Always true: after [`MemoryFs::crash`] a file holds its bytes of the last `sync_data` plus the chosen part of later
//! writes (in sectors of 512 bytes), and a directory its names of the last `sync_dir` plus the chosen part of later
//! changes. Handles and locks from before the crash fail from then on, as those of a dead process would.
//! Every write, sync and change of names is one operation: [`MemoryFs::stop_at_operation`] makes the n-th one, and all
//! after it, fail, which is how a test visits every crash point.
//! Not here: access rights, symbolic links, directories that differ from their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Fs, FsFile, LockGuard, LockOutcome, OpenMode, parent};

const SECTOR_BYTES: u64 = 512;

/// What a crash leaves of the unsynced writes and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    LoseAll,
    /// An arbitrary subset, drawn from the seed, in sectors of 512 bytes: torn writes.
    Subset { seed: u64 },
    /// Everything (kill -9 without power loss).
    KeepAll,
}

/// A file system in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryFs {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: Vec<FileState>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    /// Crashes so far: a handle from before one is dead.
    crashes: u64,
    operations: u64,
    stop_at: Option<u64>,
    syncs: u64,
    fail_sync: Option<u64>,
    syncs_after_failure: u64,
    space_left: Option<u64>,
    /// Keeps nothing for a crash: see [`MemoryFs::volatile`].
    volatile: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Debug, Default)]
struct FileState {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<DataChange>,
    sync_failed: bool,
    handles: usize,
    /// No name leads to it any more (only kept in a volatile file system).
    unlinked: bool,
}

#[derive(Debug)]
enum DataChange {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

#[derive(Debug)]
enum NameChange {
    Set { path: PathBuf, node: Node },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl MemoryFs {
    pub fn new() -> Self {
        MemoryFs::default()
    }

    /// For a node without persistence: keeps one copy of each file, frees removed ones, and is empty after a crash.
    pub fn volatile() -> Self {
        let fs = MemoryFs::default();
        fs.disk.lock().volatile = true;
        fs
    }

    /// A crash of the machine: drops unsynced state as `mode` says, clears every planned fault and lock.
    pub fn crash(&self, mode: CrashMode) {
        self.disk.lock().crash(mode);
    }

    /// The `n`-th operation from now on (1 is the next) fails and does nothing, and so does every later one.
    pub fn stop_at_operation(&self, n: u64) {
        let mut disk = self.disk.lock();
        disk.stop_at = Some(disk.operations + n);
    }

    /// Operations so far: writes, syncs, changes of length or of names.
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// The `n`-th sync from now on (1 is the next; files and directories count) fails once with EIO. As on Linux, the
    /// bytes it should have written count as clean afterwards: no later sync writes them.
    pub fn fail_sync(&self, n: u64) {
        let mut disk = self.disk.lock();
        disk.fail_sync = Some(disk.syncs + n);
    }

    /// How many syncs of a file were tried after one of the same file had failed. Must stay 0.
    pub fn syncs_after_failure(&self) -> u64 {
        self.disk.lock().syncs_after_failure
    }

    /// Syncs so far.
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }

    /// Bytes of all files that readers can see.
    pub fn bytes(&self) -> u64 {
        self.disk.lock().files.iter().map(|file| file.current.len() as u64).sum()
    }

    /// Lets files grow by `bytes` more in total, then ENOSPC; `None` lifts the limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.disk.lock().space_left = bytes;
    }

    /// Damages a file: XORs one byte, on the disk and in what readers see.
    /// # Errors
    /// When the file or the byte does not exist.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let file = disk.file_id(&normal(path))?;
        let file = &mut disk.files[file];
        let at = offset as usize;
        let byte = file.current.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        *byte ^= mask;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= mask;
        }
        Ok(())
    }
}

impl Disk {
    /// Counts an operation; fails when the machine is to have stopped by then.
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.stop_at {
            Some(stop) if self.operations >= stop => Err(io::Error::other("the machine has stopped")),
            _ => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fail_sync == Some(self.syncs) {
            self.fail_sync = None;
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        Ok(())
    }

    fn file_id(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.names.get(path) == Some(&Node::Directory)
    }

    fn grow(&mut self, id: usize, new_len: u64) -> io::Result<()> {
        let growth = new_len.saturating_sub(self.files[id].current.len() as u64);
        if let Some(left) = &mut self.space_left {
            if growth > *left {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *left -= growth;
        }
        Ok(())
    }

    fn change_name(&mut self, change: NameChange) {
        if !self.volatile {
            change.apply(&mut self.names);
            self.pending_names.push(change);
            return;
        }
        let gone = match &change {
            NameChange::Remove { path } | NameChange::Rename { to: path, .. } => self.names.get(path).copied(),
            NameChange::Set { .. } => None,
        };
        change.apply(&mut self.names);
        if let Some(Node::File(id)) = gone {
            self.files[id].unlinked = true;
            self.files[id].free_if_unused();
        }
    }

    fn change_data(&mut self, id: usize, change: DataChange) {
        change.apply(&mut self.files[id].current);
        if !self.volatile {
            self.files[id].pending.push(change);
        }
    }

    fn crash(&mut self, mode: CrashMode) {
        let mut coin = Coin::new(mode);
        for file in &mut self.files {
            for change in std::mem::take(&mut file.pending) {
                change.apply_part(&mut file.durable, &mut coin);
            }
            file.current = file.durable.clone();
            file.sync_failed = false;
        }
        for change in std::mem::take(&mut self.pending_names) {
            if coin.keep() {
                change.apply(&mut self.durable_names);
            }
        }
        let names = &self.durable_names;
        let reachable =
            |path: &Path| path.ancestors().skip(1).all(|dir| is_root(dir) || names.get(dir) == Some(&Node::Directory));
        self.names = names.iter().filter(|(p, _)| reachable(p)).map(|(p, n)| (p.clone(), *n)).collect();
        self.durable_names = self.names.clone();
        self.locks.clear();
        self.crashes += 1;
        self.stop_at = None;
        self.fail_sync = None;
        self.space_left = None;
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Set { path, node } => {
                names.insert(path.clone(), *node);
            }
            NameChange::Remove { path } => {
                names.remove(path);
            }
            NameChange::Rename { from, to } => {
                let moved: Vec<PathBuf> = names.keys().filter(|p| p.starts_with(from)).cloned().collect();
                for path in moved {
                    let node = names.remove(&path).expect("the key was listed above");
                    let rest = path.strip_prefix(from).expect("filtered by this prefix");
                    let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    names.insert(target, node);
                }
            }
        }
    }

    /// The directories whose sync makes this change durable.
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Set { path, .. } | NameChange::Remove { path } => parent_of(path) == dir,
            NameChange::Rename { from, to } => parent_of(from) == dir || parent_of(to) == dir,
        }
    }
}

impl DataChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            DataChange::SetLen(len) => bytes.resize(*len as usize, 0),
            DataChange::Write { offset, data } => write_into(bytes, *offset, data),
        }
    }

    /// Applies the sectors that the coin keeps.
    fn apply_part(&self, bytes: &mut Vec<u8>, coin: &mut Coin) {
        match self {
            DataChange::SetLen(_) => {
                if coin.keep() {
                    self.apply(bytes);
                }
            }
            DataChange::Write { offset, data } => {
                let mut done = 0;
                while done < data.len() {
                    let at = offset + done as u64;
                    let part = ((SECTOR_BYTES - at % SECTOR_BYTES) as usize).min(data.len() - done);
                    if coin.keep() {
                        write_into(bytes, at, &data[done..done + part]);
                    }
                    done += part;
                }
            }
        }
    }
}

fn write_into(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = offset as usize;
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

/// Decides what survives (splitmix64 when drawn).
struct Coin {
    mode: CrashMode,
    state: u64,
}

impl Coin {
    fn new(mode: CrashMode) -> Self {
        let state = if let CrashMode::Subset { seed } = mode { seed } else { 0 };
        Coin { mode, state }
    }

    fn keep(&mut self) -> bool {
        match self.mode {
            CrashMode::LoseAll => false,
            CrashMode::KeepAll => true,
            CrashMode::Subset { .. } => {
                self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = self.state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                (z ^ (z >> 31)) & 1 == 1
            }
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/") || path == Path::new(".")
}

fn parent_of(path: &Path) -> PathBuf {
    normal(parent(path))
}

/// The path without `.` components; `.` itself is the empty path.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|c| *c != Component::CurDir).collect()
}

impl Fs for MemoryFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        let path = normal(path);
        let mut disk = self.disk.lock();
        let id = match (disk.file_id(&path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(id), OpenMode::CreateOrTruncate) => {
                disk.operation()?;
                disk.change_data(id, DataChange::SetLen(0));
                id
            }
            (Ok(id), OpenMode::Read | OpenMode::ReadWrite) => id,
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            (Err(error), OpenMode::Read | OpenMode::ReadWrite) => return Err(error),
            (Err(_), OpenMode::CreateNew | OpenMode::CreateOrTruncate) => {
                if !disk.is_dir(&parent_of(&path)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                disk.operation()?;
                let id = disk.files.len();
                disk.files.push(FileState::default());
                disk.change_name(NameChange::Set { path, node: Node::File(id) });
                id
            }
        };
        let crashes = disk.crashes;
        disk.files[id].handles += 1;
        drop(disk);
        Ok(Arc::new(MemoryFile { disk: self.disk.clone(), id, crashes, writable: mode != OpenMode::Read }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let path = normal(path);
        Ok(is_root(&path) || self.disk.lock().names.contains_key(&path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = normal(dir);
        let disk = self.disk.lock();
        if !disk.is_dir(&dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = disk.names.keys().filter(|path| parent_of(path) == dir);
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = normal(dir);
        let mut disk = self.disk.lock();
        let mut missing: Vec<PathBuf> = dir.ancestors().filter(|d| !disk.is_dir(d)).map(Path::to_path_buf).collect();
        missing.reverse();
        for path in missing {
            if disk.names.contains_key(&path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            disk.operation()?;
            disk.change_name(NameChange::Set { path, node: Node::Directory });
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut disk = self.disk.lock();
        if !disk.names.contains_key(&from) || !disk.is_dir(&parent_of(&to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.operation()?;
        disk.change_name(NameChange::Rename { from, to });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut disk = self.disk.lock();
        disk.file_id(&path)?;
        disk.operation()?;
        disk.change_name(NameChange::Remove { path });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = normal(dir);
        let mut guard = self.disk.lock();
        let disk = &mut *guard;
        disk.operation()?;
        disk.sync()?;
        if !disk.is_dir(&dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (synced, rest) = std::mem::take(&mut disk.pending_names).into_iter().partition(|change| change.is_in(&dir));
        disk.pending_names = rest;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut disk.durable_names);
        }
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.disk.lock().space_left.unwrap_or(u64::MAX))
    }

    fn try_lock(&self, path: &Path) -> io::Result<LockOutcome> {
        let path = normal(path);
        if self.disk.lock().locks.contains(&path) {
            return Ok(LockOutcome::Busy { pid: Some(std::process::id()) });
        }
        drop(self.open(&path, OpenMode::CreateOrTruncate)?);
        let mut disk = self.disk.lock();
        disk.locks.insert(path.clone());
        let crashes = disk.crashes;
        Ok(LockOutcome::Held(LockGuard::new(MemoryLock { disk: self.disk.clone(), path, crashes })))
    }
}

struct MemoryLock {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    crashes: u64,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.crashes == self.crashes {
            disk.locks.remove(&self.path);
        }
    }
}

impl FileState {
    fn free_if_unused(&mut self) {
        if self.unlinked && self.handles == 0 {
            self.current = Vec::new();
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let file = &mut self.disk.lock().files[self.id];
        file.handles -= 1;
        file.free_if_unused();
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    id: usize,
    crashes: u64,
    writable: bool,
}

impl MemoryFile {
    fn disk(&self) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        if disk.crashes == self.crashes { Ok(disk) } else { Err(io::Error::other("this handle died in a crash")) }
    }

    fn disk_to_write(&self) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk()
    }
}

impl FsFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk()?;
        let bytes = &disk.files[self.id].current;
        let start = (offset as usize).min(bytes.len());
        let n = buf.len().min(bytes.len() - start);
        buf[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    /// The write that a stop hits stays as an unsynced one: a crash may tear it.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk_to_write()?;
        let stopped_before = disk.stop_at.is_some_and(|stop| disk.operations >= stop);
        let outcome = disk.operation();
        if stopped_before {
            return outcome;
        }
        disk.grow(self.id, offset + buf.len() as u64)?;
        if disk.volatile {
            write_into(&mut disk.files[self.id].current, offset, buf);
        } else {
            disk.change_data(self.id, DataChange::Write { offset, data: buf.to_vec() });
        }
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk()?;
        let disk = &mut *guard;
        disk.operation()?;
        let outcome = disk.sync();
        let file = &mut disk.files[self.id];
        if file.sync_failed {
            disk.syncs_after_failure += 1;
        }
        match outcome {
            Ok(()) => {
                for change in file.pending.drain(..) {
                    change.apply(&mut file.durable);
                }
            }
            Err(_) => {
                file.sync_failed = true;
                file.pending.clear();
            }
        }
        outcome
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk()?.files[self.id].current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk_to_write()?;
        disk.operation()?;
        disk.grow(self.id, len)?;
        disk.change_data(self.id, DataChange::SetLen(len));
        Ok(())
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
