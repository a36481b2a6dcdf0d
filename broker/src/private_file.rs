//! Files and folders that the broker makes outside its data: log, pid file, what `--local-cluster` needs.
//! Always true: they are for their owner alone (0600, 0700) unless said otherwise, and new: nothing is written through a
//! symbolic link that somebody else put there. What exists already keeps its mode.
use rustix::{
    fs::{Mode, OFlags},
    process::{geteuid, umask},
};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

const PRIVATE: u32 = 0o600;
const FOR_READERS: u32 = 0o644;
const FOLDER: u32 = 0o700;
const NOBODY_ELSE: u32 = 0o077;

/// The umask that the process was started with.
static STARTED_WITH: AtomicU32 = AtomicU32::new(0o022);

/// From now on files of libraries are for their owner alone, too. Only while the process has one thread.
pub(crate) fn by_default() {
    let found = umask(Mode::from_raw_mode(NOBODY_ELSE)).as_raw_mode();
    STARTED_WITH.store(found, Relaxed);
    umask(Mode::from_raw_mode(found | NOBODY_ELSE));
}

/// Writes a whole new file instead of whatever had its name.
/// # Errors
/// Those of the file system.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    created(path, PRIVATE)?.write_all(content)
}

/// As [`write()`], but readable for those whom the umask at the start lets read it, as Mosquitto's pid file is. Devices and
/// links that [`append`] would follow are written to; and where the folder takes no new file, one of this name that is
/// there for the purpose.
/// # Errors
/// Those of the file system; a symbolic link of somebody else that cannot be replaced.
pub(crate) fn write_readable(path: &Path, content: &[u8]) -> io::Result<()> {
    let mode = FOR_READERS & !STARTED_WITH.load(Relaxed);
    let existing =
        |flags: OFlags| OpenOptions::new().write(true).truncate(true).custom_flags(flags.bits() as i32).open(path);
    let mut file = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() && (!found.is_symlink() || is_trusted(&found)) => existing(OFlags::empty())?,
        _ => match created(path, mode) {
            Ok(file) => {
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                file
            }
            Err(_) => existing(OFlags::NOFOLLOW)?,
        },
    };
    file.write_all(content)
}

/// Whether a symbolic link is one of root or of this process's user.
fn is_trusted(link: &fs::Metadata) -> bool {
    link.uid() == 0 || link.uid() == geteuid().as_raw()
}

fn created(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Opens a file to append to it. A symbolic link is followed only if it belongs to root or to this process's user, as
/// `/dev/stdout` and a log on another disk do.
/// # Errors
/// Those of the file system; ELOOP for a link of anybody else.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(PRIVATE);
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() && is_trusted(&found) => options.open(path),
        _ => options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path),
    }
}

/// Makes a folder and those above it that are missing; it may exist.
/// # Errors
/// Those of the file system.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::fs::{chown, lchown, symlink},
        path::PathBuf,
    };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mosquorum-private-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            folder(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn keys_and_logs_are_for_their_owner_alone_and_a_pid_file_is_for_all() {
        let folder = Folder::new("modes");
        let (key, log, pid) = (folder.0.join("node.key"), folder.0.join("log"), folder.0.join("pid"));
        write(&key, b"secret").unwrap();
        append(&log).unwrap().write_all(b"line\n").unwrap();
        write_readable(&pid, b"1\n").unwrap();
        assert_eq!([&folder.0, &key, &log, &pid].map(|path| mode(path)), [0o700, 0o600, 0o600, 0o644]);
        fs::set_permissions(&log, fs::Permissions::from_mode(0o640)).unwrap();
        append(&log).unwrap().write_all(b"again\n").unwrap();
        assert_eq!((fs::read(&log).unwrap(), mode(&log)), (b"line\nagain\n".to_vec(), 0o640));
    }

    #[test]
    fn nothing_is_written_through_somebody_elses_link() {
        let folder = Folder::new("links");
        let (victim, link) = (folder.0.join("victim"), folder.0.join("link"));
        let planted = |owner: Option<u32>| {
            let _ = fs::remove_file(&link);
            fs::write(&victim, "precious").unwrap();
            symlink(&victim, &link).unwrap();
            lchown(&link, owner, None).unwrap();
        };
        planted(None);
        write(&link, b"ours").unwrap();
        assert_eq!((fs::read(&victim).unwrap(), fs::read(&link).unwrap()), (b"precious".to_vec(), b"ours".to_vec()));
        planted(None);
        append(&link).expect("a link of our own is followed").write_all(b" and more").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious and more");
        if geteuid().is_root() {
            planted(Some(12_345));
            let refused = append(&link).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
            write_readable(&link, b"ours").unwrap();
            assert_eq!(
                (fs::read(&victim).unwrap(), fs::read(&link).unwrap()),
                (b"precious".to_vec(), b"ours".to_vec())
            );
            chown(&victim, Some(12_345), None).unwrap();
            assert!(append(&victim).is_ok(), "it is the link that must be trusted");
        }
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        write_readable(Path::new("/dev/null"), b"1\n").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
