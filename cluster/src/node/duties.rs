//! What has to be done from time to time: state written behind, snapshots, the log purged, ticks by the leader, and an
//! eye on whether Raft still runs.
use super::shared::NodeParts;
use crate::{
    facade::{Answer, Completion, Submission},
    raft::Engine,
    state::Command,
};
use mosquorum_storage::log::Log;
use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(700);
/// What changed is copied while nobody can apply: about a microsecond for each session. From so many on it is time.
const CHECKPOINT_PARTS: usize = 8192;
const CHECKPOINT_LOOK: Duration = Duration::from_millis(50);
const TICK_INTERVAL: Duration = Duration::from_millis(50);
/// Over so many checkpoints it is looked how much is written to the log; four times that stays in memory, or this much.
const CACHE_CHECKPOINTS: u32 = 10;
const CACHE_MIN: usize = 1 << 20;
/// Entries kept behind a snapshot even when they are large.
const KEPT_ENTRIES_MIN: u64 = 128;

/// Writes the state behind, and a snapshot when the log has grown or enough time has passed.
pub(crate) async fn checkpoints(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let Some(log) = shared.log() else { return };
    let mut every = interval(CHECKPOINT_LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut snapshot_at = Instant::now();
    let mut checkpoint_at = Instant::now();
    // What lies in the log already counts as written since the last snapshot.
    let found = log.bounds().bytes;
    let mut written_before = 0;
    let mut cache = LogCache::default();
    loop {
        every.tick().await;
        let much = || shared.state.read().unwritten_parts() >= CHECKPOINT_PARTS;
        if checkpoint_at.elapsed() < CHECKPOINT_INTERVAL && !much() {
            continue;
        }
        checkpoint_at = Instant::now();
        cache.shrink(&log);
        let replica = engine.replica.clone();
        match tokio::task::spawn_blocking(move || replica.checkpoint()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return shared.store_failed(&error),
            // The runtime ends.
            Err(error) if error.is_cancelled() => return,
            Err(error) => return shared.fail(format!("writing the state failed: {error}")),
        }
        let grown = (found + log.stats().bytes_written).saturating_sub(written_before);
        let due = shared.settings.autosave_interval.is_some_and(|interval| snapshot_at.elapsed() >= interval);
        let view = engine.view();
        let changed = view.applied > view.snapshot;
        let due = due || shared.settings.autosave_entries.is_some_and(|most| view.applied >= view.snapshot + most);
        if changed && (due || has_grown(grown, shared.settings.snapshot_log_bytes, engine.replica.snapshot_bytes())) {
            written_before = found + log.stats().bytes_written;
            snapshot_at = Instant::now();
            if let Err(error) = make_snapshot(&shared, &engine).await {
                warn!(%error, "snapshot not written, the log is kept");
            } else {
                purge(&shared, &engine, &log).await;
            }
        }
    }
}

/// Keeps the log's memory of entries to what followers that lag a little may want.
#[derive(Default)]
struct LogCache {
    checkpoints: u32,
    written: u64,
}

impl LogCache {
    fn shrink(&mut self, log: &Log) {
        self.checkpoints += 1;
        if self.checkpoints >= CACHE_CHECKPOINTS {
            let now = log.stats().bytes_written;
            let written = now - std::mem::replace(&mut self.written, now);
            log.shrink_cache(
                usize::try_from(written).map_or(usize::MAX, |bytes| bytes.saturating_mul(4)).max(CACHE_MIN),
            );
            self.checkpoints = 0;
        }
    }
}

/// Whether the log has grown so much since the last snapshot that the next is worth it: a snapshot of a large state is
/// not written more often than the log brings as much again.
fn has_grown(grown: u64, snapshot_log_bytes: u64, snapshot_bytes: u64) -> bool {
    grown >= snapshot_log_bytes.max(snapshot_bytes)
}

/// Writes a snapshot of the state of now and announces it to Raft. A store that cannot be read stops the node.
pub(crate) async fn make_snapshot(shared: &NodeParts, engine: &Arc<Engine>) -> Result<(), String> {
    let replica = engine.replica.clone();
    let started = Instant::now();
    let prepared = tokio::task::spawn_blocking(move || replica.prepare_snapshot()).await.map_err(|e| e.to_string())?;
    let last = prepared.map_err(|error| {
        if error.is_of_store() {
            shared.store_failed(&error);
        }
        error.to_string()
    })?;
    let Some(last) = last else { return Ok(()) };
    engine.build_snapshot().await.map_err(|e| e.to_string())?;
    info!(index = last.index, millis = started.elapsed().as_millis() as u64, "snapshot written");
    while engine.view().snapshot < last.index {
        if let Some(reason) = engine.view().stopped {
            return Err(reason);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Writes a snapshot because somebody asked for it.
pub(crate) async fn checkpoint(shared: Arc<NodeParts>) -> Result<(), String> {
    let engine = shared.engine.load_full().ok_or("this node does not belong to a cluster yet")?;
    make_snapshot(&shared, &engine).await
}

/// Purges the log up to the snapshot, but for what a follower that lags a little may still want.
async fn purge(shared: &NodeParts, engine: &Engine, log: &Log) {
    let bounds = log.bounds();
    let (Some(first), Some(last)) = (bounds.first, bounds.last) else { return };
    let entries = (last.index + 1).saturating_sub(first).max(1);
    let entry_bytes = (bounds.bytes / entries).max(1);
    let kept = (shared.settings.snapshot_log_bytes / 2 / entry_bytes).max(KEPT_ENTRIES_MIN);
    let upto = engine.view().snapshot.saturating_sub(kept);
    if upto > first
        && let Err(error) = engine.purge(upto).await
    {
        warn!(%error, "log not purged");
    }
}

/// While this node leads: proposes a tick whenever something in the state is due, and the next at once if one left work.
pub(crate) async fn ticks(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(TICK_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pending: Weak<PendingTick> = Weak::new();
    let applied = Arc::new(Notify::new());
    loop {
        let after_another = tokio::select! {
            _ = every.tick() => false,
            () = applied.notified() => true,
        };
        // A tick that was dropped with its incarnation is not pending any more.
        if !engine.is_leader() || pending.strong_count() > 0 {
            continue;
        }
        let due = {
            let state = shared.state.read();
            if after_another {
                // The store is given time to follow.
                state.is_behind() && state.unwritten_parts() < 2 * CHECKPOINT_PARTS
            } else {
                state.next_deadline().is_some_and(|due| due <= shared.clock.now())
            }
        };
        if due {
            let tick = Arc::new(PendingTick { applied: applied.clone(), was_applied: AtomicBool::new(false) });
            pending = Arc::downgrade(&tick);
            shared.proposer.submit(vec![Submission {
                command: Command::Tick,
                reply: tick,
                ticket: 0,
                incarnation: None,
            }]);
        }
    }
}

/// Exists as long as the tick is not applied.
struct PendingTick {
    applied: Arc<Notify>,
    was_applied: AtomicBool,
}

impl Completion for PendingTick {
    fn complete(&self, _ticket: u64, _answer: Answer) {
        self.was_applied.store(true, Relaxed);
    }
}

impl Drop for PendingTick {
    fn drop(&mut self) {
        // One that was lost is followed by the next interval's.
        if self.was_applied.load(Relaxed) {
            self.applied.notify_one();
        }
    }
}

/// Resolves when Raft has stopped by itself; the node must stop with it.
pub(crate) async fn watch(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    let mut every = interval(Duration::from_millis(100));
    loop {
        every.tick().await;
        if shared.engine.load().is_none() {
            // Shut down on purpose.
            return;
        }
        let failure = shared.log().and_then(|log| log.failure());
        if let Some(failure) = failure.filter(|failure| failure.is_permanent()) {
            return shared.fail(format!("the log failed, nothing can be acknowledged any more: {failure}"));
        }
        if let Some(reason) = engine.view().stopped {
            return shared.fail(format!("consensus stopped: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_when_the_log_has_grown_by_the_setting_and_by_the_last_snapshot() {
        assert!(has_grown(64, 64, 10) && !has_grown(63, 64, 10));
        assert!(has_grown(500, 64, 500) && !has_grown(499, 64, 500));
    }
}
