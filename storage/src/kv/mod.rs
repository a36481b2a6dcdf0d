//! The state's durable form: an ordered key-value store behind a small trait, and the checkpoint protocol on top.
//!
//! What every engine must give: a batch is atomic; batches become durable in the order they were written, so that a
//! crash leaves a prefix of them (at least up to the last [`KvStore::flush`]). Nothing more: no transactions, no
//! snapshots. The state here is an index of snapshot plus log and can always be rebuilt from them.

mod blobs;
mod checkpoint;
mod guard;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod sled;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "redb")]
pub use self::redb::RedbKv;
pub use self::sled::SledKv;
pub use checkpoint::{AppliedIndex, CheckpointStats, StateCondition, StateStore};
pub use memory::MemoryKv;

pub use crate::fs::move_aside;

/// One change: the key and its new value, or `None` to remove it.
pub type KvOp = (Bytes, Option<Bytes>);

/// Entries in key order.
pub type KvScan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), KvError>> + Send + 'a>;

/// Keys in order.
pub type KvKeys<'a> = Box<dyn Iterator<Item = Result<Bytes, KvError>> + Send + 'a>;

/// Most operations of one batch.
pub const BATCH_OPS_MAX: usize = 512;

/// An ordered key-value store that survives a crash up to the last flush.
pub trait KvStore: Send + Sync {
    /// Applies a batch atomically; durable after the next [`KvStore::flush`].
    /// # Errors
    /// [`KvError::BatchTooLarge`] above [`BATCH_OPS_MAX`] operations.
    fn write(&self, batch: Vec<KvOp>) -> Result<(), KvError>;
    /// Everything written before is durable when it returns.
    fn flush(&self) -> Result<(), KvError>;
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError>;
    /// Entries with a key of at least `from`. Later writes may or may not be seen.
    fn scan(&self, from: &[u8]) -> KvScan<'_>;
    /// As [`KvStore::scan`], the keys alone: what is wrong with a value is no error.
    fn keys(&self, from: &[u8]) -> KvKeys<'_> {
        Box::new(self.scan(from).map(|entry| Ok(entry?.0)))
    }
    /// Lets go of memory that the engine took for what was written since it was opened, if it is worth it and the engine
    /// does not do so by itself. Reads and writes wait meanwhile; no scan may be under way.
    fn trim(&self) -> Result<(), KvError> {
        Ok(())
    }
    /// As [`KvStore::trim`], however little was written.
    fn trim_all(&self) -> Result<(), KvError> {
        self.trim()
    }
    /// Flushes and closes the files; every later call fails with [`KvError::Closed`].
    fn close(&self) -> Result<(), KvError>;
    /// Name of the engine, for logs and metrics.
    fn engine(&self) -> &'static str;
}

/// Why the store failed. `Damaged`, `Engine` and `Panicked` mean: move it
/// aside and rebuild; `Io` (a failed sync, a full disk) is the disk's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KvError {
    #[error("a batch of {ops} operations, more than {BATCH_OPS_MAX}")]
    BatchTooLarge { ops: usize },
    #[error("a checkpoint of the state was interrupted: clear it and rebuild from snapshot and log")]
    Incomplete,
    #[error("the state store is closed")]
    Closed,
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("the value of a key in {} does not match its checksum", path.display())]
    Damaged { path: PathBuf },
    #[error("the {engine} engine failed on {}: {detail}", path.display())]
    Engine { engine: &'static str, path: PathBuf, detail: String },
    #[error("the {engine} engine panicked on {}: {detail}", path.display())]
    Panicked { engine: &'static str, path: PathBuf, detail: String },
}

impl KvError {
    /// Whether another store, filled again, would not have it.
    pub fn is_damage(&self) -> bool {
        matches!(self, KvError::Damaged { .. } | KvError::Engine { .. } | KvError::Panicked { .. })
    }

    pub(crate) fn io(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| KvError::Io { operation, path: path.clone(), source: Arc::new(source) }
    }
}
