//! The log file: appended to, buffered until the writer has nothing more to do, opened again after a rotation.
use crate::private_file;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

pub(super) struct LogFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl LogFile {
    /// Opens for appending; creates it readable by its owner alone, and follows nobody else's symbolic link.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = private_file::append(path)?;
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
