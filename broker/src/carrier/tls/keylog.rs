//! `--tls-keylog`: the secrets of every TLS connection, for debugging with a packet capture.
//! Always true: nobody but the owner can read the file.
use crate::{error, notice};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustls::KeyLog;
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, OnceLock},
};

static KEY_LOG: OnceLock<Arc<KeyLogToFile>> = OnceLock::new();

#[derive(Debug)]
struct KeyLogToFile(Mutex<File>);

/// Logs the keys of all TLS listeners from now on. Call it before they are opened.
/// # Errors
/// When the file cannot be opened, is a symbolic link, or may be read by others.
pub fn log_keys_to(path: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others have rights on it"));
    }
    notice!("TLS key logging to '{}' enabled for all listeners.", path.display());
    notice!("TLS key logging is for DEBUGGING only.");
    let _ = KEY_LOG.set(Arc::new(KeyLogToFile(Mutex::new(file))));
    Ok(())
}

pub(super) fn key_log() -> Option<Arc<dyn KeyLog>> {
    KEY_LOG.get().map(|log| log.clone() as Arc<dyn KeyLog>)
}

impl KeyLog for KeyLogToFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        if let Err(error) = self.0.lock().write_all(line.as_bytes()) {
            error!("Error: Unable to write keylog file: {error}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
