//! Snapshots as the Raft library passes them around: the name of a file, never its bytes.
use bytes::{Bytes, BytesMut};
use mosquorum_storage::{
    fs::{Fs, FsFile, OpenMode, read_exact_at},
    snapshot,
};
use std::{io, path::PathBuf, sync::Arc};

/// A finished snapshot file.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotHandle {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) path: PathBuf,
}

/// A snapshot to send: the file stays readable when a newer one takes its name.
pub(crate) struct OpenSnapshot {
    file: Arc<dyn FsFile>,
    pub(crate) length: u64,
    pub(crate) crc: u32,
}

impl SnapshotHandle {
    /// Reads and checks the whole file, so that damage is found here and not at the receiver. Blocks.
    pub(crate) fn open(&self) -> io::Result<OpenSnapshot> {
        let file = self.fs.open(&self.path, OpenMode::Read)?;
        let (_, checked) = snapshot::verify(&*self.fs, &self.path).map_err(io::Error::other)?;
        Ok(OpenSnapshot { file, length: checked.len, crc: checked.crc })
    }
}

impl OpenSnapshot {
    pub(crate) async fn read_piece(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let file = self.file.clone();
        let len = (self.length - offset).min(bytes_max as u64) as usize;
        tokio::task::spawn_blocking(move || {
            let mut piece = BytesMut::zeroed(len);
            read_exact_at(&*file, &mut piece, offset)?;
            Ok(piece.freeze())
        })
        .await?
    }
}
