//! The calls that this crate's shell makes into the pure state, in one place.
use crate::{
    ids::LogIndex,
    state::{Applied, Batch, Changes, Effect, Outcome, State},
};
use bytes::Bytes;
use mosquorum_storage::kv::KvOp;

/// What became of a batch.
pub(crate) enum BatchOutcome {
    Applied(Vec<Outcome>),
    /// It was applied before, or one before it is missing, or its origin is down.
    Ignored,
}

pub(crate) fn apply(state: &mut State, index: LogIndex, batch: &Batch) -> (BatchOutcome, Vec<Effect>) {
    let mut applied = Applied::default();
    state.apply(index, batch, &mut applied);
    let verdict = if applied.accepted { BatchOutcome::Applied(applied.outcomes) } else { BatchOutcome::Ignored };
    (verdict, applied.effects)
}

/// The changes as operations of a store, encoded as they are taken.
pub(crate) fn operations(changes: Changes) -> impl Iterator<Item = KvOp> {
    changes.into_ops().map(|(key, value)| (Bytes::from(key), value.map(Bytes::from)))
}
