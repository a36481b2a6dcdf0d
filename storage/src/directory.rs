//! The data directory: whose it is, and that only one process uses it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::Fs;

/// Version of the directory's layout.
pub const DIRECTORY_FORMAT: u32 = 1;

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: [u8; 16],
    pub node_id: u64,
    pub node_name: String,
    /// Number of shards; fixed when the directory is initialised.
    pub shards: u32,
    /// Incarnation: 1 when initialised, one more (durably) at each later start.
    pub boots: u64,
}

/// Why a data directory cannot be used. Nothing was changed in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("{} is in use by {}", path.display(), match pid { Some(pid) => format!("process {pid}"), None => "another process".into() })]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("{} holds `{found}` and no identity file of mosquorum: choose an empty directory", path.display())]
    Foreign { path: PathBuf, found: String },
    #[error("{} has directory format {found}, this version knows {supported}: use a newer version", path.display())]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("the identity file {} is damaged ({detail}): restore it, or move the directory away and let the node join anew", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{} belongs to node {node_id} already", path.display())]
    AlreadyInitialised { path: PathBuf, node_id: u64 },
}

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub struct DataDirectory {}

impl DataDirectory {
    /// Creates the directory when it is missing, takes its lock, and reads the identity. With one, the boot counter is
    /// durably one higher when it returns.
    pub fn open(_fs: Arc<dyn Fs>, _path: &Path) -> Result<DataDirectory, DirectoryError> {
        todo!()
    }

    /// `None` until [`DataDirectory::initialise`].
    pub fn identity(&self) -> Option<&Identity> {
        todo!()
    }

    /// Binds an empty directory to a node, once; durable when it returns. `boots` starts at 1.
    pub fn initialise(
        &mut self,
        _cluster_id: [u8; 16],
        _node_id: u64,
        _node_name: &str,
        _shards: u32,
    ) -> Result<&Identity, DirectoryError> {
        todo!()
    }

    pub fn path(&self) -> &Path {
        todo!()
    }

    /// Where the log lives (not created here).
    pub fn log_dir(&self) -> PathBuf {
        todo!()
    }

    /// Where the state store lives (not created here).
    pub fn state_dir(&self) -> PathBuf {
        todo!()
    }

    /// Where snapshots live (created when missing).
    pub fn snapshot_dir(&self) -> PathBuf {
        todo!()
    }
}
