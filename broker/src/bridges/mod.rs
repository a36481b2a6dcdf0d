//! Bridges: `connection` blocks as tasks. The logic is in the crate `mosquorum_bridge`; here are sockets and time.
//! Always true: each block has one task per node, and at most one of the cluster has the bridge's local session, without
//! which nothing is said to the remote; nothing of a bridge runs on a connection's or listener's task.
mod carry;
mod dial;
mod local;
mod placement;
mod status;
mod supervisor;
mod wire;

use crate::{
    broker::{Broker, Listener},
    config::BridgeConfig,
    metrics::model::Reading,
};
use arc_swap::ArcSwap;
use mosquorum_cluster::state::DropReason;
use mosquorum_proto::mqtt::Utf8;
use parking_lot::Mutex;
use status::Status;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// How long bridges have to let go at a stop.
const READY_CHECK: Duration = Duration::from_millis(20);
/// Further ones are listed only among all sessions.
const ORPHANS_MAX: usize = 256;
/// Clients that connect at the start find a bridge connected whose remote answers within this.
const FIRST_ATTEMPT_PATIENCE: Duration = Duration::from_millis(500);
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What a bridge's task is told.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Run(Arc<BridgeConfig>),
    /// The block is gone from the configuration.
    Removed,
    /// The node stops.
    Stop,
}

/// How far a bridge has come since it began on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Begun,
    /// What is published from now on waits for it; since when.
    Prepared(Instant),
    /// Its first attempt has come to an end: it is connected, or the remote is not there.
    Tried,
}

impl Progress {
    fn is_beyond(self, other: Self) -> bool {
        match self {
            Self::Begun => false,
            Self::Prepared(_) => other == Self::Begun,
            Self::Tried => other != Self::Tried,
        }
    }

    /// Clients need not wait for it.
    fn is_enough(self) -> bool {
        match self {
            Self::Begun => false,
            Self::Prepared(since) => since.elapsed() >= FIRST_ATTEMPT_PATIENCE,
            Self::Tried => true,
        }
    }
}

struct Running {
    config: Arc<BridgeConfig>,
    status: Arc<Status>,
    progress: watch::Receiver<Progress>,
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// All bridges of this node.
pub struct Bridges {
    /// What the former life of a node alone announced is forgotten.
    begun: AtomicBool,
    listener: Arc<Listener>,
    running: Mutex<BTreeMap<String, Running>>,
    /// By local client identifier; read while the state is applied, so without a lock.
    statuses: ArcSwap<BTreeMap<Utf8, Arc<Status>>>,
    /// Local client identifiers of bridges that were removed since the start.
    orphans: Mutex<BTreeSet<Utf8>>,
}

impl Default for Bridges {
    fn default() -> Self {
        Self {
            begun: AtomicBool::new(false),
            listener: local::listener(),
            running: Mutex::default(),
            statuses: ArcSwap::default(),
            orphans: Mutex::default(),
        }
    }
}

impl Bridges {
    /// Starts the bridges of the settings, once the state can be written.
    pub async fn begin(&self, broker: &Arc<Broker>) {
        while !(broker.consensus.available() && broker.peers.ready() && broker.peers.may_serve()) {
            tokio::time::sleep(READY_CHECK).await;
        }
        if !broker.clustered {
            local::forget_announcements(broker, &self.listener).await;
        }
        self.begun.store(true, Ordering::Release);
        self.apply(broker);
        // Bridges that were in the configuration before the start.
        for client_id in local::left_behind(broker) {
            self.note_orphan(&client_id);
            let expiry = broker.settings.load().bridge_orphan_expiry;
            local::orphan(broker, &self.listener, &client_id, expiry).await;
        }
    }

    fn note_orphan(&self, client_id: &Utf8) {
        let mut orphans = self.orphans.lock();
        if orphans.len() < ORPHANS_MAX {
            orphans.insert(client_id.clone());
        }
    }

    /// Whether each bridge of this node has its subscriptions, so that what is published from now on waits for it, and has
    /// tried to connect, if that ends soon.
    pub fn are_prepared(&self, broker: &Broker) -> bool {
        self.begun.load(Ordering::Acquire)
            && self
                .running
                .lock()
                .iter()
                .all(|(name, bridge)| bridge.progress.borrow().is_enough() || !placement::is_here(broker, name))
    }

    /// Makes the running bridges those of the settings; what did not change is not touched.
    pub fn apply(&self, broker: &Arc<Broker>) {
        if !self.begun.load(Ordering::Acquire) {
            return;
        }
        let settings = broker.settings.load_full();
        if settings.bridges.iter().any(|bridge| bridge.settings.loop_mark) {
            broker.marks.want();
        }
        let mut running = self.running.lock();
        running.retain(|name, bridge| {
            let kept = settings.bridges.iter().any(|config| config.settings.name == *name);
            if !kept {
                self.note_orphan(&bridge.config.settings.local_client_id);
                let _ = bridge.wanted.send(Wanted::Removed);
            }
            kept
        });
        for config in &settings.bridges {
            match running.get_mut(&config.settings.name) {
                Some(bridge) if *bridge.config == **config => {}
                Some(bridge) => {
                    let former = &bridge.config.settings.local_client_id;
                    if *former != config.settings.local_client_id {
                        self.note_orphan(former);
                    }
                    bridge.config = config.clone();
                    let _ = bridge.wanted.send(Wanted::Run(config.clone()));
                }
                None => {
                    let (wanted, receiver) = watch::channel(Wanted::Run(config.clone()));
                    let (sender, progress) = watch::channel(Progress::Begun);
                    let (broker, listener) = (broker.clone(), self.listener.clone());
                    let status = Arc::new(Status::default());
                    let task = tokio::spawn(supervisor::run(broker, listener, receiver, sender, status.clone()));
                    let name = config.settings.name.clone();
                    running.insert(name, Running { config: config.clone(), status, progress, wanted, task });
                }
            }
        }
        let status = |bridge: &Running| (bridge.config.settings.local_client_id.clone(), bridge.status.clone());
        self.statuses.store(Arc::new(running.values().map(status).collect()));
    }

    /// What each bridge of the configuration has done on this node.
    pub fn read_metrics(&self, broker: &Broker, reading: &mut Reading) {
        let all: Vec<_> =
            self.running.lock().values().map(|bridge| (bridge.config.clone(), bridge.status.clone())).collect();
        status::read_metrics(broker, &all, reading);
    }

    /// Messages for the session of `client_id` were dropped; does nothing if that is no bridge's.
    pub fn count_dropped(&self, client_id: &Utf8, reason: DropReason, count: u32) {
        if let Some(status) = self.statuses.load().get(client_id) {
            status.queue_dropped(reason, count);
        }
    }

    /// Sessions that removed bridges have left, as far as they still are.
    pub fn orphans(&self) -> BTreeSet<Utf8> {
        let running = self.running.lock();
        let mut orphans = self.orphans.lock();
        orphans.retain(|id| !running.values().any(|bridge| bridge.config.settings.local_client_id == *id));
        orphans.clone()
    }

    /// Ends all of them, so that other nodes can take them over.
    pub async fn stop(&self) {
        let all = std::mem::take(&mut *self.running.lock());
        for bridge in all.values() {
            let _ = bridge.wanted.send(Wanted::Stop);
        }
        let _ = tokio::time::timeout(STOP_PATIENCE, async {
            for (_, bridge) in all {
                let _ = bridge.task.await;
            }
        })
        .await;
    }
}
