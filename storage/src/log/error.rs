//! What can go wrong in the log. Clonable, because one failed sync answers every waiter.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an operation on the log failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    // The caller.
    #[error("entry {got} does not follow the log, which expects {expected}")]
    NotContiguous { expected: u64, got: u64 },
    #[error("entry {index} was purged; the log starts after {purged}")]
    Purged { index: u64, purged: u64 },
    #[error("cannot truncate from {index}: everything up to {purged} was purged")]
    TruncateBelowPurged { index: u64, purged: u64 },
    #[error("an entry of {bytes} bytes is larger than a record may be")]
    TooLarge { bytes: u64 },
    #[error("the log is shut down")]
    Closed,
    // The disk.
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the log stopped for good when it could not {operation} {}: {source}; restart the node after the disk was checked", path.display())]
    Failed { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error(
        "{} is damaged at byte {offset}: {detail}. Acknowledged entries are lost there: restore the disk's content, or move \
         the log aside and let the node rejoin (cluster) or restore the last snapshot (single node)", file.display()
    )]
    Damaged { file: PathBuf, offset: u64, detail: String },
    // A file of somebody else.
    #[error("{} has log format {found}, this version reads up to {supported}: use a newer version", file.display())]
    NewerFormat { file: PathBuf, found: u32, supported: u32 },
    #[error("{} is not a segment of this log ({detail}); move it away", file.display())]
    Foreign { file: PathBuf, detail: String },
}

impl LogError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        LogError::Io { operation, path: path.to_owned(), source: Arc::new(source) }
    }

    /// The same fact, as the reason why nothing is written any more.
    pub(super) fn into_failed(self) -> Self {
        match self {
            LogError::Io { operation, path, source } => LogError::Failed { operation, path, source },
            other => other,
        }
    }

    /// Whether the disk was full.
    pub fn is_no_space(&self) -> bool {
        match self {
            LogError::Io { source, .. } | LogError::Failed { source, .. } => {
                source.kind() == io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }

    /// Whether the log stopped for good: the node must stop too (fail-stop).
    pub fn is_permanent(&self) -> bool {
        matches!(self, LogError::Failed { .. })
    }
}
