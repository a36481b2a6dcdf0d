//! The log file: appended to, buffered until the writer has nothing more to do, opened again after a rotation.
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl LogFile {
    /// Opens for appending; creates it readable by its owner alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Opens the same path again; on failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let again = Self::open(&self.path)?;
        self.flush();
        *self = again;
        Ok(())
    }

    pub(super) fn write(&mut self, line: &str) {
        // A full disk must not stop the broker; the next line tries again.
        let _ = self.file.write_all(line.as_bytes());
        let _ = self.file.write_all(b"\n");
    }

    pub(super) fn flush(&mut self) {
        let _ = self.file.flush();
    }
}
