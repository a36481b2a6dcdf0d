//! The twin of the engines: a sorted map that can lose the batches written since the last flush.

use super::{KvError, KvOp, KvScan, KvStore};
use bytes::Bytes;

/// An in-memory store.
#[derive(Default)]
pub struct MemoryKv {}

impl MemoryKv {
    pub fn new() -> Self {
        MemoryKv::default()
    }
}

impl KvStore for MemoryKv {
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
        "memory"
    }
}
