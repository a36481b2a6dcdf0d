//! The calls that this crate's shell makes into the pure state, in one place.
use crate::{
    ids::{LogIndex, Millis},
    state::{Batch, Effect, Outcome, State},
};
use bytes::Bytes;
use mosquorum_storage::kv::KvOp;

/// What became of a batch.
pub(crate) enum Verdict {
    Applied(Vec<Outcome>),
    /// It was applied before, or one before it is missing, or its origin is down.
    Ignored,
}

pub(crate) fn apply(_state: &mut State, batch: Batch, _index: LogIndex) -> (Verdict, Vec<Effect>) {
    (Verdict::Applied(batch.commands.iter().map(|_| Outcome::Done).collect()), Vec::new())
}

pub(crate) fn take_changes(_state: &mut State) -> impl FnOnce() -> Vec<KvOp> + Send + 'static {
    Vec::new
}

pub(crate) fn load(_entries: impl Iterator<Item = (Bytes, Bytes)>) -> Result<State, String> {
    Ok(State::default())
}

pub(crate) fn next_deadline(_state: &State) -> Option<Millis> {
    None
}
