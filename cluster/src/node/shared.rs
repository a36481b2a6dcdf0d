//! What the parts of a node share.
//! Always true: it runs nothing by itself.
use super::{open::Disk, settings::RaftSettings, walls::Walls};
use crate::{
    consensus::{Barriers, Hub, Proposer},
    facade::{ClusterStatus, LiveSide, MemberStatus},
    ids::{Incarnation, LogIndex, NodeId},
    metrics::ConsensusMetrics,
    raft::{Engine, View},
    replica::{ReplicaError, clock::ClusterClock},
    state::{Origin, State},
    transport::Transport,
};
use arc_swap::ArcSwapOption;
use mosquorum_storage::log::Log;
use parking_lot::{Mutex, RwLock};
use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// At a stop, for what was submitted to be applied.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Called once, with the reason, when the node must stop at once (a failed fsync): nothing may be acknowledged after.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// This node in its cluster.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: [u8; 16],
    pub(crate) node: u64,
    /// How often the node was started.
    pub(crate) boots: u64,
}

/// See the module's description.
pub(crate) struct NodeParts {
    pub(crate) settings: RaftSettings,
    pub(crate) transport: Arc<Transport>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) walls: Mutex<Walls>,
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) barriers: Arc<Barriers>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) live: Arc<dyn LiveSide>,
    pub(crate) state: Arc<RwLock<State>>,
    /// `None` until the node belongs to a cluster.
    pub(crate) engine: Arc<ArcSwapOption<Engine>>,
    pub(crate) disk: tokio::sync::Mutex<Disk>,
    pub(super) log: Mutex<Option<Log>>,
    pub(super) identity: OnceLock<Identity>,
    /// Incarnations of this process under one boot: each loss of the lease starts another.
    pub(super) incarnations: AtomicU64,
    /// The state knows the current incarnation as up.
    pub(super) serving: AtomicBool,
    /// What keeps this node out of its cluster, for the operator.
    pub(super) kept_out: Mutex<Option<String>>,
    /// Where an operator said that this node, which does not vote yet, finds its cluster.
    pub(crate) invitation: Mutex<Vec<String>>,
    /// Set while membership changes: one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(super) fatal: Fatal,
    pub(super) listening: Option<SocketAddr>,
    pub(crate) started: std::time::Instant,
    pub(super) handle: Handle,
}

impl NodeParts {
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.get()
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        // Set once per process, by the only task that leads the node into a cluster.
        let _ = self.identity.set(identity);
    }

    pub(crate) fn set_log(&self, log: Log) {
        *self.log.lock() = Some(log);
    }

    pub(crate) fn log(&self) -> Option<Log> {
        self.log.lock().clone()
    }

    /// Whether clients are served here at this moment.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire) && self.has_majority()
    }

    /// Whether a leader with a majority was there a moment ago.
    pub(crate) fn has_majority(&self) -> bool {
        self.engine.load().as_ref().is_some_and(|engine| engine.has_majority())
    }

    pub(crate) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Release);
    }

    /// The incarnation to serve under next: larger than every earlier one of this node.
    pub(crate) fn next_origin(&self) -> Option<Origin> {
        let identity = self.identity.get()?;
        let incarnation = self.incarnations.fetch_add(1, Ordering::AcqRel);
        Some(Origin { node: NodeId(identity.node), incarnation: Incarnation::new(identity.boots, incarnation) })
    }

    pub(crate) fn view(&self) -> View {
        self.engine.load().as_ref().map(|engine| engine.view()).unwrap_or_default()
    }

    /// Notes what keeps this node out of its cluster now; `None`: nothing.
    pub(crate) fn set_kept_out(&self, why: Option<String>) {
        *self.kept_out.lock() = why;
    }

    /// Stops the node for good, with a line that says why.
    pub(crate) fn fail(&self, reason: String) {
        self.set_serving(false);
        (self.fatal)(reason);
    }

    pub(crate) fn store_failed(&self, error: &ReplicaError) {
        self.fail(format!(
            "the state store failed ({error}); the node stops, and rebuilds the store at its next start"
        ));
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        let view = self.view();
        let last = view.last;
        let members = view.members.iter().map(|m| MemberStatus {
            node: NodeId(m.node),
            name: m.name.clone(),
            address: m.address.clone(),
            voter: m.voter,
            lag: m.matched.map(|matched| last.saturating_sub(matched)),
        });
        ClusterStatus {
            node: NodeId(self.identity.get().map_or(0, |identity| identity.node)),
            name: self.settings.name.clone(),
            leader: view.leader.map(NodeId),
            term: view.term,
            commit: LogIndex(view.commit),
            applied: LogIndex(view.applied),
            snapshot: LogIndex(view.snapshot),
            last: LogIndex(view.last),
            purged: LogIndex(view.purged),
            behind: view.cluster_commit.max(view.commit).saturating_sub(view.applied),
            majority: self.has_majority(),
            kept_out: self.kept_out.lock().clone(),
            members: members.collect(),
        }
    }

    pub(super) fn metrics(&self) -> ConsensusMetrics {
        let engine = self.engine.load_full();
        let log = self.log();
        let (stats, bounds) = log.map(|log| (log.stats(), log.bounds())).unwrap_or_default();
        ConsensusMetrics {
            role: engine.as_ref().map(|engine| engine.view().role).unwrap_or_default(),
            commit: self.proposer.latency.read(),
            apply: engine.as_ref().map(|engine| engine.replica.apply_latency()).unwrap_or_default(),
            fsync: stats.sync,
            proposed_bytes: self.proposer.outstanding_bytes() as u64,
            log_entries: stats.entries,
            log_written_bytes: stats.bytes_written,
            log_size_bytes: bounds.bytes,
            log_segment_waits: stats.segment_waits,
        }
    }

    pub(super) async fn shutdown(self: Arc<Self>) {
        self.set_serving(false);
        // A DISCONNECT that was read a moment ago is to count.
        if self.engine.load().as_ref().is_some_and(|engine| engine.has_majority()) {
            self.proposer.settle(SETTLE_TIMEOUT).await;
        }
        self.proposer.restart(None, None);
        self.barriers.clear();
        let engine = self.engine.swap(None);
        if let Some(engine) = engine {
            engine.shutdown().await;
            let (replica, to_file) = (engine.replica.clone(), self.settings.snapshot_path.is_some());
            let flushed = tokio::task::spawn_blocking(move || replica.leave(to_file)).await;
            if let Ok(Err(error)) = flushed {
                tracing::warn!(%error, "state not written at the end; it is rebuilt from the log at the next start");
            }
        }
        let log = self.log.lock().take();
        if let Some(log) = log {
            let _ = tokio::task::spawn_blocking(move || log.shutdown()).await;
        }
    }
}
