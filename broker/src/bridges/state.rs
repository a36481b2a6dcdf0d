//! The bridges that run on a node, and the commands to their tasks.
use super::{internal_listener::internal_listener, status::Status};
use crate::{config::BridgeConfig, listener::Listener};
use arc_swap::ArcSwap;
use mosquorum_cluster::state::DropReason;
use mosquorum_proto::mqtt::Utf8;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinHandle};

/// Further ones are listed only among all sessions.
const ORPHANS_MAX: usize = 256;
/// Clients that connect at the start find a bridge connected whose remote answers within this.
const FIRST_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// The command to a bridge's task.
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
pub(super) enum Progress {
    Begun,
    /// What is published from now on waits for it; since when.
    Prepared(Instant),
    /// Its first attempt has come to an end: it is connected, or the remote is not there.
    Tried,
}

impl Progress {
    pub(super) fn is_beyond(self, other: Self) -> bool {
        match self {
            Self::Begun => false,
            Self::Prepared(_) => other == Self::Begun,
            Self::Tried => other != Self::Tried,
        }
    }

    /// Clients need not wait for it.
    pub(super) fn is_enough(self) -> bool {
        match self {
            Self::Begun => false,
            Self::Prepared(since) => since.elapsed() >= FIRST_ATTEMPT_TIMEOUT,
            Self::Tried => true,
        }
    }
}

pub(super) struct Running {
    pub(super) config: Arc<BridgeConfig>,
    pub(super) status: Arc<Status>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) wanted: watch::Sender<Wanted>,
    pub(super) task: JoinHandle<()>,
}

/// All bridges of this node.
pub struct Bridges {
    /// What the former incarnation of a node alone announced is forgotten.
    pub(super) begun: AtomicBool,
    pub(super) listener: Arc<Listener>,
    pub(super) running: Mutex<BTreeMap<String, Running>>,
    /// By local client identifier; read while the state is applied, so without a lock.
    pub(super) statuses: ArcSwap<BTreeMap<Utf8, Arc<Status>>>,
    /// Local client identifiers of bridges that were removed since the start.
    pub(super) orphans: Mutex<BTreeSet<Utf8>>,
}

impl Default for Bridges {
    fn default() -> Self {
        Self {
            begun: AtomicBool::new(false),
            listener: internal_listener(),
            running: Mutex::default(),
            statuses: ArcSwap::default(),
            orphans: Mutex::default(),
        }
    }
}

impl Bridges {
    pub(super) fn note_orphan(&self, client_id: &Utf8) {
        let mut orphans = self.orphans.lock();
        if orphans.len() < ORPHANS_MAX {
            orphans.insert(client_id.clone());
        }
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
}
