//! What keeps the cluster's time near that of the walls.
//! Always true: the wall of one node alone moves the time of a cluster of several by nothing; what is counted in hours or
//! days is never stepped over while any node remembers the time; a correction changes the length of a second by at most
//! 0.1 %.
//!
//! While nodes run, the leader's monotonic clock is the time, corrected a little towards the median of the voters' walls.
//! When all of them were down and their machines were started anew, nothing shows how long that was but the walls: if those
//! of a majority agree, time steps forward to them. A node alone believes its own wall for [`STEP_ALONE_MAX`]; what is more is
//! left to the operator.
use super::{shared::NodeParts, walls::Clocks};
use crate::{
    events::EVENTS,
    ids::NodeId,
    machine_clock,
    raft::Engine,
    replica::{Replica, clock::Anchor},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

const INTERVAL: Duration = Duration::from_millis(200);
/// A node alone that was off for longer asks its operator.
const STEP_ALONE_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Steps below are nobody's business.
const STEP_LOGGED: u64 = 2_000;
/// How long a leader that is not sure of the time waits before it says so.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// A follower believes the leader's time only if it was not long on its way.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(200);
const ANCHOR_BYTES_MAX: u64 = 4096;
/// The anchor is written again when the offset has moved so far.
const ANCHOR_MOVED: u64 = 50_000_000;

impl NodeParts {
    pub(crate) fn clocks(&self) -> Clocks {
        Clocks { time: self.clock.now(), wall: machine_clock::wall(), sure: self.clock.is_sure() }
    }

    /// What another node said of its clocks, after a round trip of this length.
    pub(crate) fn observe_clocks(&self, from: NodeId, said: Clocks, round_trip: Duration) {
        self.walls.lock().observe(machine_clock::now(), from, said.wall);
        let leader = self.view().leader;
        let is_leader = leader == Some(from.0);
        if !said.sure || round_trip > ROUND_TRIP_MAX {
            return;
        }
        if is_leader {
            self.clock.observe_leader(said.time);
        } else if !self.clock.is_sure() && said.time > self.clock.now() {
            self.clock.step_to(said.time);
        }
    }

    fn anchor_path(&self) -> PathBuf {
        self.settings.data_dir.join("clock")
    }
}

/// Goes on where the log ended, by the anchor that this node wrote before.
pub(crate) fn begin(shared: &NodeParts, replica: &Replica, founds: bool) {
    let text = mosquorum_storage::fs::read_file(&*replica.fs(), &shared.anchor_path(), ANCHOR_BYTES_MAX);
    let anchor = text.ok().and_then(|text| Anchor::from_text(std::str::from_utf8(&text).ok()?));
    shared.clock.begin(anchor, replica.time(), founds);
}

/// Keeps the time as long as the group runs: as leader corrects it, as anybody remembers it.
pub(crate) async fn run(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut anchored: Option<i64> = None;
    let (mut unsure_since, mut asked) = (Instant::now(), false);
    loop {
        every.tick().await;
        let leads = engine.is_leader();
        if leads && !engine.view().members.is_empty() {
            let sure_before = shared.clock.is_sure();
            lead(&shared, &engine);
            if sure_before || shared.clock.is_sure() {
                unsure_since = Instant::now();
            } else if !asked && unsure_since.elapsed() > ASK_AFTER {
                asked = true;
                let wall_ahead_seconds = machine_clock::wall().0.saturating_sub(shared.clock.now().0) / 1000;
                warn!(
                    wall_ahead_seconds,
                    "how long the cluster was down is not known: no majority of clocks agrees. Time goes on from the log's last; `mosquorum cluster accept-time` believes this node's clock"
                );
            }
        } else {
            unsure_since = Instant::now();
        }
        anchored = anchor(&shared, anchored).await;
    }
}

fn lead(shared: &NodeParts, engine: &Engine) {
    let now = machine_clock::now();
    let me = NodeId(engine.node());
    let voters: Vec<NodeId> = engine.view().members.iter().filter(|m| m.voter).map(|m| NodeId(m.node)).collect();
    let median = {
        let mut walls = shared.walls.lock();
        walls.observe(now, me, machine_clock::wall());
        walls.median(now, &voters)
    };
    let Some(median) = median else { return };
    let (time, wall) = (shared.clock.now(), median.time(now));
    if shared.clock.is_sure() {
        return shared.clock.slew(wall, INTERVAL);
    }
    let ahead = wall.0.saturating_sub(time.0);
    if voters.len() > 1 && median.agreed || u128::from(ahead) <= STEP_ALONE_MAX.as_millis() && voters.len() == 1 {
        if ahead > STEP_LOGGED {
            info!(
                target: EVENTS,
                seconds = ahead / 1000,
                voters = voters.len(),
                "the cluster was down: its time goes on so much later"
            );
        }
        shared.clock.step_to(wall);
    }
}

/// An operator says that this node's wall is right.
pub(crate) fn accept(shared: &NodeParts) -> String {
    let (wall, before) = (machine_clock::wall(), shared.clock.now());
    shared.clock.step_to(wall);
    let ahead = wall.0.saturating_sub(before.0) / 1000;
    info!(target: EVENTS, seconds = ahead, "an operator had the cluster's time go on so much later");
    format!("the cluster's time went forward by {ahead} s")
}

/// Writes the anchor when it has moved; the offset that is on disk.
async fn anchor(shared: &Arc<NodeParts>, on_disk: Option<i64>) -> Option<i64> {
    if !shared.clock.is_sure() {
        return on_disk;
    }
    let anchor = shared.clock.anchor();
    if on_disk.is_some_and(|offset| offset.abs_diff(anchor.offset) < ANCHOR_MOVED) {
        return on_disk;
    }
    let Some(engine) = shared.engine.load_full() else { return on_disk };
    let (fs, path, text) = (engine.replica.fs(), shared.anchor_path(), anchor.to_text());
    let write = move || mosquorum_storage::fs::write_file_atomically(&*fs, &path, text.as_bytes());
    match tokio::task::spawn_blocking(write).await {
        Ok(Ok(())) => Some(anchor.offset),
        // Tried again in a moment; without it a restart asks the others, or the walls.
        _ => on_disk,
    }
}
