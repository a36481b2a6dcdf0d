//! The one door to the disk: two small traits and what implements them.
//!
//! The contract that every implementation keeps, and that everything above relies on:
//! - bytes written are durable after [`FsFile::sync_data`] of that file, and nothing says which of them are before it;
//! - names (create, rename, remove) are durable after [`Fs::sync_dir`] of their directory;
//! - a rename is atomic: after a crash the name leads to the old or to the new file;
//! - after a failed sync the state on disk is unknown. The caller stops; it never syncs again and hopes.
//!
//! [`RealFs`] is the disk, [`MemoryFs`] the twin that loses what was not synced, and `PowerCutFs` (feature
//! `test-faults`) lets a real process lose it on kill -9.
//! Files and folders that are created are for their owner alone (0600, 0700), whatever the umask is, and no symbolic link
//! is followed to create one.
//! Not here: buffering, formats, retries (but [`RealFs`] waits for a file descriptor when there is none).

mod descriptors;
mod memory;
#[cfg(feature = "test-faults")]
mod power_cut;
mod real;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use descriptors::with_descriptor;
pub use memory::{CrashMode, MemoryFs};
#[cfg(feature = "test-faults")]
pub use power_cut::PowerCutFs;
pub use real::RealFs;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; only read.
    Read,
    /// Must exist; read and write.
    ReadWrite,
    /// Must not exist.
    CreateNew,
    /// Created; what has the name already is replaced, nothing of it is kept.
    CreateOrTruncate,
}

/// What [`Fs::try_lock`] found.
#[derive(Debug)]
pub enum LockOutcome {
    /// Ours until the guard is dropped.
    Held(LockGuard),
    /// Somebody else holds it; the process id, when the lock file names one.
    Busy { pid: Option<u32> },
}

/// Keeps a lock until it is dropped.
pub struct LockGuard(#[allow(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl LockGuard {
    pub(crate) fn new(guard: impl Any + Send + Sync) -> Self {
        LockGuard(Box::new(guard))
    }
}

impl Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockGuard")
    }
}

/// A file system, as far as storage needs one.
pub trait Fs: Send + Sync + Debug + 'static {
    /// Opens or creates a file. A created name is durable only after [`Fs::sync_dir`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Names (not paths) of everything in a directory, sorted. Names that are not UTF-8 come lossily converted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; existing ones are fine. Durable after `sync_dir` of each parent.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written below this directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock of a lock file (created if absent) without waiting, and writes our process id into it.
    fn try_lock(&self, path: &Path) -> io::Result<LockOutcome>;
}

/// An open file; every call names its position, so one handle serves many threads.
pub trait FsFile: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf`, extending the file where needed.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// fdatasync: the bytes, and the length when it changed.
    fn sync_data(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads exactly `buf.len()` bytes.
/// # Errors
/// `UnexpectedEof` when the file ends first.
pub fn read_exact_at(file: &dyn FsFile, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buf, offset)? == buf.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends early"))
    }
}

/// Writes a whole small file so that a crash leaves the old content or the new: beside, synced, renamed, directory synced.
pub fn write_file_atomically(fs: &dyn Fs, path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = with_suffix(path, ".tmp");
    let file = fs.open(&beside, OpenMode::CreateOrTruncate)?;
    file.write_at(content, 0)?;
    file.sync_data()?;
    drop(file);
    fs.rename(&beside, path)?;
    fs.sync_dir(parent(path))
}

/// Reads a whole small file.
/// # Errors
/// `InvalidData` when it is larger than `limit` bytes.
pub fn read_file(fs: &dyn Fs, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, more than {limit}")));
    }
    let mut content = vec![0; len as usize];
    read_exact_at(&*file, &mut content, 0)?;
    Ok(content)
}

/// Renames a damaged file or directory to a free name beside it (`name.damaged-1`, `-2`, ..), never deleting anything.
/// Returns the new name; durable when it returns.
pub fn move_aside(fs: &dyn Fs, path: &Path) -> io::Result<PathBuf> {
    for number in 1..=u32::MAX {
        let aside = with_suffix(path, &format!(".damaged-{number}"));
        if !fs.exists(&aside)? {
            fs.rename(path, &aside)?;
            fs.sync_dir(parent(path))?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name to move to"))
}

/// The directory that holds a path's name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// `path` with something appended to its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
