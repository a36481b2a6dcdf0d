//! The redb engine.

use super::{KvError, KvOp, KvScan, KvStore};
use bytes::Bytes;

/// The state in redb.
pub struct RedbKv {}

impl RedbKv {
    /// Opens or creates the store in the directory `dir`, whose parent must exist.
    /// # Errors
    /// Whatever the engine cannot read, panics included, is an error; nothing is changed or deleted.
    pub fn open(_dir: &std::path::Path) -> Result<RedbKv, KvError> {
        todo!()
    }
}

impl KvStore for RedbKv {
    fn write(&self, _batch: Vec<KvOp>) -> Result<(), KvError> {
        todo!()
    }
    fn flush(&self) -> Result<(), KvError> {
        todo!()
    }
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, KvError> {
        todo!()
    }
    fn scan(&self, _from: &[u8]) -> KvScan<'_> {
        todo!()
    }
    fn close(&self) -> Result<(), KvError> {
        todo!()
    }
    fn engine(&self) -> &'static str {
        "redb"
    }
}
