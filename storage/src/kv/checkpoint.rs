//! Checkpoints of the state in a [`KvStore`].

use std::sync::Arc;

use bytes::Bytes;

use super::{KvError, KvOp, KvScan, KvStore};
use crate::log::LogId;

/// Up to where the state of a shard has the log's entries in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedIndex {
    pub shard: u32,
    /// `None`: nothing applied yet.
    pub last: Option<LogId>,
}

/// What a state store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateCondition {
    /// Nothing was ever written.
    Empty,
    /// The state after exactly these entries.
    Complete(AppliedIndex),
    /// A checkpoint (or a clear) was interrupted: `clear` it and rebuild from snapshot and log.
    Incomplete,
}

/// What a checkpoint wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    pub ops: u64,
    pub bytes: u64,
    pub batches: u64,
}

/// The state of one shard in a [`KvStore`].
pub struct StateStore {}

impl StateStore {
    /// Looks at the marks of a shard; the keys are read by [`StateStore::load`].
    pub fn open(_store: Arc<dyn KvStore>, _shard: u32) -> Result<(StateStore, StateCondition), KvError> {
        todo!()
    }

    pub fn condition(&self) -> StateCondition {
        todo!()
    }

    /// Writes the changes since the last checkpoint and marks them complete; durable when it returns.
    pub fn write_checkpoint(
        &self,
        _applied: AppliedIndex,
        _ops: impl IntoIterator<Item = KvOp>,
    ) -> Result<CheckpointStats, KvError> {
        todo!()
    }

    /// The state's entries in key order.
    /// # Errors
    /// [`KvError::Engine`] when the condition is `Incomplete`.
    pub fn load(&self) -> Result<(Option<AppliedIndex>, KvScan<'_>), KvError> {
        todo!()
    }

    /// The value of one key of the state.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, KvError> {
        todo!()
    }

    /// Removes everything of this shard, to rebuild; `Empty` and durable when it returns.
    pub fn clear(&self) -> Result<(), KvError> {
        todo!()
    }
}
