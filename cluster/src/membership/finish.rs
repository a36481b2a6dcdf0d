//! The second half of a change of voters.
//! Always true: a change is two entries of the log, one in which old and new voters both decide (joint consensus, Raft paper
//! section 6) and one that ends that. Who leads finishes what a leader before began: until then a node that was replaced
//! still counts, and with it missing the loss of one more node is the loss of the majority.
use crate::{node::shared::NodeParts, raft::Engine};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Whoever began a change has so long for its second entry.
const BEGINNER_TIME: Duration = Duration::from_secs(1);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut joint_since = None;
    while engine.view().stopped.is_none() {
        every.tick().await;
        let (_, membership) = engine.replica.applied();
        if !engine.is_leader() || membership.record.configs.len() < 2 {
            joint_since = None;
            continue;
        }
        let since = *joint_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= BEGINNER_TIME
            && let Ok(_one_at_a_time) = shared.changing.try_lock()
        {
            // What comes of it is seen at the next look.
            let _ = timeout(CHANGE_TIMEOUT, engine.finish_change()).await;
        }
    }
}
