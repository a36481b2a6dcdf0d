//! Checkpoints of a shard's state in a [`KvStore`].
//!
//! Always true: the store says `Complete(applied)` only if its keys are exactly the state after those entries. A
//! checkpoint first marks itself "in progress", writes its changes in bounded batches, and marks itself "complete" in
//! the last one; batches become durable in order, so a crash anywhere leaves both markers equal (the old state, or the
//! new one) or different (neither, `Incomplete`). Marks carry a number, so two checkpoints of one position differ.
//! Changes that fit into one batch go in one, markers included, and can never be incomplete. A checkpoint that is longer is
//! flushed in parts, the first of which has the marker "in progress".
//!
//! Keys: shard (u32 big endian), 0 for markers or 1 for the state, then the caller's key.
//! Not here: what the state is, when to take a checkpoint, up to where the log may be purged behind it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::{BATCH_OPS_MAX, KvError, KvKeys, KvOp, KvScan, KvStore};
use crate::log::LogId;

/// Most bytes of keys and values in one batch, unless one change alone is larger.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// So many bytes are flushed before the next, since an engine cannot release what it has not flushed.
const FLUSH_BYTES: usize = 64 << 20;
const KIND_MARKER: u8 = 0;
const KIND_STATE: u8 = 1;
const IN_PROGRESS: &[u8] = b"in_progress";
const COMPLETE: &[u8] = b"complete";

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
    /// Nothing was ever written, or it was cleared.
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
    /// Bytes of keys and values.
    pub bytes: u64,
    pub batches: u64,
}

/// The state of one shard in a [`KvStore`].
pub struct StateStore {
    store: Arc<dyn KvStore>,
    shard: u32,
    state: Mutex<CheckpointState>,
}

struct CheckpointState {
    condition: StateCondition,
    /// Number of the last marker.
    number: u64,
}

/// Number and position, as stored in a marker.
#[derive(Clone, Copy, PartialEq, Eq)]
struct CheckpointMarker {
    number: u64,
    last: Option<LogId>,
}

impl CheckpointMarker {
    fn encode(self) -> Bytes {
        let id = self.last.unwrap_or_default();
        let mut out = BytesMut::with_capacity(40);
        for number in [self.number, u64::from(self.last.is_some()), id.term, id.node, id.index] {
            out.put_u64_le(number);
        }
        out.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<CheckpointMarker> {
        let mut get = (bytes.len() == 40).then_some(bytes)?;
        let (number, present) = (get.get_u64_le(), get.get_u64_le() == 1);
        let id = LogId { term: get.get_u64_le(), node: get.get_u64_le(), index: get.get_u64_le() };
        Some(CheckpointMarker { number, last: present.then_some(id) })
    }
}

impl StateStore {
    /// Looks at the markers of a shard; the keys are read by [`StateStore::load`].
    pub fn open(store: Arc<dyn KvStore>, shard: u32) -> Result<(StateStore, StateCondition), KvError> {
        let opened = StateStore {
            store,
            shard,
            state: Mutex::new(CheckpointState { condition: StateCondition::Empty, number: 0 }),
        };
        let in_progress = opened.store.get(&opened.key(KIND_MARKER, IN_PROGRESS))?;
        let complete = opened.store.get(&opened.key(KIND_MARKER, COMPLETE))?;
        let state = match (&in_progress, &complete) {
            (None, None) => CheckpointState { condition: StateCondition::Empty, number: 0 },
            _ => {
                let in_progress = in_progress.as_deref().and_then(CheckpointMarker::decode);
                let complete = complete.as_deref().and_then(CheckpointMarker::decode);
                let number = in_progress.map_or(0, |m| m.number).max(complete.map_or(0, |m| m.number));
                let condition = match complete {
                    Some(marker) if in_progress == complete => {
                        StateCondition::Complete(AppliedIndex { shard, last: marker.last })
                    }
                    _ => StateCondition::Incomplete,
                };
                CheckpointState { condition, number }
            }
        };
        let condition = state.condition;
        *opened.state.lock() = state;
        Ok((opened, condition))
    }

    pub fn condition(&self) -> StateCondition {
        self.state.lock().condition
    }

    /// Writes the changes since the last checkpoint (all of the state, when it is empty) and marks them complete;
    /// durable when it returns. After an error the store is `Incomplete`. No scan may be under way, as of [`KvStore::trim`].
    /// # Errors
    /// [`KvError::Incomplete`] when an earlier checkpoint was interrupted: `clear` first.
    pub fn write_checkpoint(
        &self,
        applied: AppliedIndex,
        ops: impl IntoIterator<Item = KvOp>,
    ) -> Result<CheckpointStats, KvError> {
        self.try_checkpoint(applied, ops.into_iter().map(Ok))
    }

    /// As [`StateStore::write_checkpoint`], of changes that are read from elsewhere: the first that cannot be read ends it.
    /// # Errors
    /// As there, and that of the change.
    pub fn try_checkpoint<E: From<KvError>>(
        &self,
        applied: AppliedIndex,
        ops: impl IntoIterator<Item = Result<KvOp, E>>,
    ) -> Result<CheckpointStats, E> {
        assert_eq!(applied.shard, self.shard, "a checkpoint of another shard");
        let mut state = self.state.lock();
        if state.condition == StateCondition::Incomplete {
            return Err(KvError::Incomplete.into());
        }
        state.condition = StateCondition::Incomplete;
        state.number += 1;
        let marker = CheckpointMarker { number: state.number, last: applied.last }.encode();
        let mut stats = CheckpointStats::default();
        let mut batch = vec![(self.key(KIND_MARKER, IN_PROGRESS), Some(marker.clone()))];
        let (mut batch_bytes, mut unflushed) = (0, 0);
        for op in ops {
            let (key, value) = op?;
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            // Room is kept for the marker of completion.
            if batch.len() + 1 >= BATCH_OPS_MAX || (batch_bytes + bytes > BATCH_BYTES_MAX && batch_bytes > 0) {
                self.store.write(std::mem::take(&mut batch))?;
                stats.batches += 1;
                unflushed += std::mem::take(&mut batch_bytes);
                if unflushed >= FLUSH_BYTES {
                    self.store.flush()?;
                    self.store.trim()?;
                    unflushed = 0;
                }
            }
            batch.push((self.key(KIND_STATE, &key), value));
            batch_bytes += bytes;
            stats.ops += 1;
            stats.bytes += bytes as u64;
        }
        batch.push((self.key(KIND_MARKER, COMPLETE), Some(marker)));
        self.store.write(batch)?;
        stats.batches += 1;
        self.store.flush()?;
        state.condition = StateCondition::Complete(applied);
        Ok(stats)
    }

    /// The state's position and its entries in key order.
    /// # Errors
    /// [`KvError::Incomplete`] when a checkpoint was interrupted.
    pub fn load(&self) -> Result<(Option<AppliedIndex>, KvScan<'_>), KvError> {
        let applied = match self.condition() {
            StateCondition::Empty => None,
            StateCondition::Complete(applied) => Some(applied),
            StateCondition::Incomplete => return Err(KvError::Incomplete),
        };
        Ok((applied, self.scan(&[])))
    }

    /// Entries of the state from a key on, in key order.
    pub fn scan(&self, from: &[u8]) -> KvScan<'_> {
        let prefix = self.key(KIND_STATE, &[]);
        let entries = self.store.scan(&self.key(KIND_STATE, from));
        Box::new(entries.map_while(move |entry| match entry {
            Ok((key, value)) => key.starts_with(&prefix).then(|| Ok((key.slice(prefix.len()..), value))),
            Err(error) => Some(Err(error)),
        }))
    }

    /// The keys of the state, as the store has them.
    fn keys(&self) -> KvKeys<'_> {
        let prefix = self.key(KIND_STATE, &[]);
        let keys = self.store.keys(&prefix);
        Box::new(keys.take_while(move |key| key.as_ref().map_or(true, |key| key.starts_with(&prefix))))
    }

    /// The value of one key of the state.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.store.get(&self.key(KIND_STATE, key))
    }

    /// As [`KvStore::trim`].
    pub fn trim(&self) -> Result<(), KvError> {
        self.store.trim()
    }

    /// As [`KvStore::trim_all`].
    pub fn trim_all(&self) -> Result<(), KvError> {
        self.store.trim_all()
    }

    /// Removes everything of this shard, to rebuild; `Empty` and durable when it returns. Interrupted, it leaves
    /// `Incomplete`.
    pub fn clear(&self) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.condition = StateCondition::Incomplete;
        state.number += 1;
        let marker = CheckpointMarker { number: state.number, last: None }.encode();
        self.store
            .write(vec![(self.key(KIND_MARKER, IN_PROGRESS), Some(marker)), (self.key(KIND_MARKER, COMPLETE), None)])?;
        loop {
            let keys: Result<Vec<KvOp>, KvError> =
                self.keys().take(BATCH_OPS_MAX).map(|key| Ok((key?, None))).collect();
            match keys? {
                batch if batch.is_empty() => break,
                batch => self.store.write(batch)?,
            }
        }
        self.store.write(vec![(self.key(KIND_MARKER, IN_PROGRESS), None)])?;
        self.store.flush()?;
        *state = CheckpointState { condition: StateCondition::Empty, number: 0 };
        Ok(())
    }

    fn key(&self, kind: u8, rest: &[u8]) -> Bytes {
        Self::key_of(self.shard, kind, rest)
    }

    fn key_of(shard: u32, kind: u8, rest: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(5 + rest.len());
        key.put_u32(shard);
        key.put_u8(kind);
        key.put_slice(rest);
        key.freeze()
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
