//! For tests of others: what Raft makes of a log and a state, and an observer that does nothing.
use super::{log::LogStore, machine::Machine};
use crate::entry::{BatchHeader, Content};
use crate::{
    replica::{Observer, OwnBatch, Replica, clock::ClusterClock},
    state::{Command, Effect, Origin},
};
use mosquorum_storage::log::{Log, Payload};
use std::sync::Arc;

pub(crate) struct Nobody;

impl Observer for Nobody {
    fn take_commands(&self, _: &BatchHeader) -> Option<Vec<Command>> {
        None
    }
    fn on_applied(&self, _: Vec<Effect>, _: Vec<OwnBatch>) {}
    fn on_ignored(&self, _: Origin, _: u64) {}
    fn on_replaced(&self) {}
}

/// The payload of an entry without content.
pub(crate) fn blank() -> Payload {
    Content::Blank.encode()
}

/// Whether Raft can start with these.
pub(crate) fn try_start(log: &Log, replica: &Arc<Replica>) -> Result<(), String> {
    let clock = Arc::<ClusterClock>::default();
    let (mut log, mut machine) = (LogStore::new(log.clone(), clock.clone()), Machine::new(replica.clone(), clock));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let state = runtime.block_on(openraft::StorageHelper::new(&mut log, &mut machine).get_initial_state());
    state.map(drop).map_err(|e| e.to_string())
}
