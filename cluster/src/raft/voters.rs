//! Who votes, for leases: every set in which a majority is needed.
use super::Engine;
use crate::{ids::NodeId, live::lease::VoterSets};
use openraft::async_runtime::watch::WatchReceiver;

impl Engine {
    /// The sets of the newest membership in the log and, while that is not applied here, those of the applied one.
    pub(crate) fn voters(&self) -> VoterSets {
        let numbers = |set: &std::collections::BTreeSet<u64>| set.iter().copied().map(NodeId).collect::<Vec<_>>();
        let (index, mut sets) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let newest = &metrics.membership_config;
            let index = newest.log_id().as_ref().map_or(0, |id| id.index);
            (index, newest.membership().get_joint_config().iter().map(numbers).collect::<Vec<_>>())
        };
        let (_, applied) = self.replica.applied();
        if applied.position.is_some_and(|(_, _, at)| at != index) {
            sets.extend(applied.record.configs.iter().map(numbers));
        }
        sets.retain(|set| !set.is_empty());
        sets.sort();
        sets.dedup();
        VoterSets { index, sets }
    }
}
