//! The disk itself: std's positioned reads and writes, fdatasync, and fsync of directories.
//! Always true: `sync_data` and `sync_dir` report what the kernel says, once; interrupted calls are repeated, failed
//! syncs are not; what needs a file descriptor waits until there is one (`descriptors`). What is created belongs to its
//! owner alone, and is a new file: neither a link nor a file that somebody else put there is written to.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::descriptors::with_descriptor;
use super::{Fs, FsFile, LockGuard, LockOutcome, OpenMode};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

#[derive(Debug)]
pub(super) struct RealFile(pub(super) File);

pub(super) fn open_real(path: &Path, mode: OpenMode) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => {
            options.write(true);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true).mode(FILE_MODE);
        }
        OpenMode::CreateOrTruncate => return replace(path),
    }
    with_descriptor(path, || options.open(path))
}

/// A new, empty file of this name instead of whatever had it.
fn replace(path: &Path) -> io::Result<File> {
    loop {
        match open_real(path, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            outcome => return outcome,
        }
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    with_descriptor(dir, || File::open(dir))?.sync_all()
}

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        Ok(Arc::new(RealFile(open_real(path, mode)?)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in with_descriptor(dir, || std::fs::read_dir(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn try_lock(&self, path: &Path) -> io::Result<LockOutcome> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let mut file = with_descriptor(path, || options.open(path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(LockOutcome::Held(LockGuard::new(file)))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.take(32).read_to_string(&mut text)?;
                Ok(LockOutcome::Busy { pid: text.trim().parse().ok() })
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl FsFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mosquorum-real-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_created_is_for_its_owner_alone() {
        let folder = Folder::new("modes");
        let inside = folder.0.join("a/b");
        RealFs.create_dir_all(&inside).unwrap();
        RealFs.create_dir_all(&inside).expect("it may exist");
        RealFs.open(&inside.join("new"), OpenMode::CreateNew).unwrap();
        RealFs.open(&inside.join("emptied"), OpenMode::CreateOrTruncate).unwrap();
        assert!(matches!(RealFs.try_lock(&inside.join("lock")).unwrap(), LockOutcome::Held(_)));
        for folder in [folder.0.join("a"), inside.clone()] {
            assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        }
        for name in ["new", "emptied", "lock"] {
            assert_eq!(mode(&inside.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn no_link_is_followed_to_write_a_file() {
        let folder = Folder::new("links");
        let victim = folder.0.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let link = |name: &str| {
            let link = folder.0.join(name);
            symlink(&victim, &link).unwrap();
            link
        };
        let planted = link("state.tmp");
        RealFs.open(&planted, OpenMode::CreateOrTruncate).unwrap().write_at(b"ours", 0).unwrap();
        assert_eq!(std::fs::read(&planted).unwrap(), b"ours");
        assert!(!std::fs::symlink_metadata(&planted).unwrap().is_symlink());
        assert!(RealFs.open(&link("new"), OpenMode::CreateNew).is_err());
        assert!(RealFs.try_lock(&link("lock")).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn files_that_others_could_read_before_are_used_on_and_become_private_when_replaced() {
        let folder = Folder::new("before");
        let path = folder.0.join("file");
        std::fs::write(&path, "before").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let before = RealFs.open(&path, OpenMode::ReadWrite).unwrap();
        assert_eq!(before.len().unwrap(), 6);
        super::super::write_file_atomically(&RealFs, &path, b"after").unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), mode(&path)), (b"after".to_vec(), 0o600));
    }
}
