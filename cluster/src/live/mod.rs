//! The live side between nodes: leases, reliable links, routes, claims.
//! Always true: the cores ([`lease`], `link`, `routes`, `claims`) have no I/O and no clock; the shells around them wait
//! for nothing while they hold a lock. Locks are taken in this order: `announced`, a link; handling of an inbound lane, then
//! any other; the broker is called with none of them but a lane's.
//! Not here: what is agreed on (`state`, `raft`), who may become leader, connections of clients (`broker`).
mod claiming;
mod claims;
mod context;
mod encode;
mod follow;
pub mod lease;
mod leases;
mod link;
mod peer_link;
mod pending;
mod raft_context;
mod receive;
mod routes;
mod routing;
mod service;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use raft_context::start;

use crate::{
    RaftConsensus,
    facade::{BoxFuture, Claim, Completion, Forward, LiveSide, NotClaimed, OnlyUser, Peers, RemoteRoutes, Unavailable},
    ids::{Epoch, Incarnation, NodeId},
    metrics::{LinkMetrics, PeerMetrics},
    recent_changes::RecentChanges,
    state::{Origin, Owner},
    transport::{MESSAGE_BYTES_MAX, services::live::peer_server::PeerServer},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use claiming::Resolve;
use claims::{ClaimTable, Claimer};
use context::{ClusterContext, ClusterView};
use lease::{LeaseTimes, RefusalStore};
use leases::Leases;
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use parking_lot::{Mutex, RwLock};
use receive::Inbound;
use routes::RemoteTable;
use routing::{AnnouncedRoutes, Links};
use service::PeerService;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tonic::service::Routes;

/// The settings of a node's live side.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    pub lease: LeaseTimes,
    /// Without an answer for so long a claim fails. Default 10 s.
    pub claim_timeout: Duration,
    /// Not acknowledged publishes per node: beyond, QoS 0 is dropped and publishers of QoS 1 and 2 are not read.
    /// Default 64 MiB.
    pub link_bytes_max: usize,
    /// Where tasks run.
    pub handle: Handle,
}

impl LiveSettings {
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        let claim_timeout = Duration::from_secs(10);
        Self { lease: LeaseTimes::default(), claim_timeout, link_bytes_max: 64 << 20, handle }
    }
}

/// Counted since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveStats {
    /// Publishes handed over to other nodes, repetitions included.
    pub sent: u64,
    /// Publishes of other nodes.
    pub received: u64,
    /// QoS 0 publishes that found a link full.
    pub dropped: u64,
    /// QoS 1 and 2 publishes that found a link overfull; their publishers were not answered.
    pub refused: u64,
    /// Items of peers that made no sense.
    pub invalid: u64,
    /// At the moment: bytes that wait for acknowledgement, filters of other nodes, claims and fences on their way,
    /// identifiers in the leader's table.
    pub link_bytes: u64,
    pub remote_filters: u64,
    pub claims_pending: u64,
    pub claims_held: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    invalid: AtomicU64,
}

/// [`Peers`] of a node of a cluster.
pub struct PeerLinks {
    this: Weak<PeerLinks>,
    settings: LiveSettings,
    context: Arc<dyn ClusterContext>,
    live: Arc<dyn LiveSide>,
    leases: Arc<Leases>,
    view: ArcSwapOption<ClusterView>,
    links: ArcSwap<Links>,
    inbound: Mutex<BTreeMap<NodeId, Arc<Inbound>>>,
    announced: Mutex<AnnouncedRoutes>,
    remote: RwLock<RemoteTable>,
    route_changes: Mutex<RecentChanges>,
    /// That of `route_changes`, when `remote` has them.
    routes_version: AtomicU64,
    claimer: Mutex<Claimer<Resolve>>,
    table: Mutex<ClaimTable>,
    counters: Counters,
}

impl PeerLinks {
    /// The live side of a node of a cluster; goes on in the background until the last reference is dropped. Give what
    /// it serves to the server with [`PeerLinks::add_to`]: both from the `add_services` of [`RaftConsensus::start`].
    #[must_use]
    pub fn start(consensus: &RaftConsensus, live: Arc<dyn LiveSide>) -> Arc<Self> {
        let (context, refusals) = Self::over(consensus);
        Self::start_on(context, live, refusals, LiveSettings::new(consensus.handle().clone()))
    }

    /// Adds what other nodes call to the server that they connect to.
    #[must_use]
    pub fn add_to(self: &Arc<Self>, routes: Routes) -> Routes {
        routes.add_service(self.service())
    }

    /// As [`PeerLinks::start`], for any consensus.
    pub(crate) fn start_on(
        context: Arc<dyn ClusterContext>,
        live: Arc<dyn LiveSide>,
        refusals: Arc<dyn RefusalStore>,
        settings: LiveSettings,
    ) -> Arc<Self> {
        let leases = Leases::new(context.clone(), live.clone(), settings.lease, refusals);
        let peers = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            settings,
            context,
            live,
            leases,
            view: ArcSwapOption::empty(),
            links: ArcSwap::default(),
            inbound: Mutex::default(),
            announced: Mutex::default(),
            remote: RwLock::default(),
            route_changes: Mutex::default(),
            routes_version: AtomicU64::new(RecentChanges::default().version()),
            claimer: Mutex::new(Claimer::new()),
            table: Mutex::default(),
            counters: Counters::default(),
        });
        let handle = &peers.settings.handle;
        handle.spawn(follow::run(peers.this.clone(), peers.context.view()));
        handle.spawn(Leases::ping_all(Arc::downgrade(&peers.leases)));
        handle.spawn(Leases::watch(Arc::downgrade(&peers.leases)));
        peers
    }

    /// The service that other nodes call, for the server that they connect to.
    pub(crate) fn service(self: &Arc<Self>) -> PeerServer<PeerService> {
        PeerServer::new(PeerService { peers: self.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Figures for `$SYS`, metrics and logs.
    #[must_use]
    pub fn stats(&self) -> LiveStats {
        let mut stats = LiveStats {
            received: self.counters.received.load(Ordering::Relaxed),
            invalid: self.counters.invalid.load(Ordering::Relaxed),
            remote_filters: self.remote.read().len() as u64,
            claims_pending: self.claimer.lock().pending() as u64,
            claims_held: self.table.lock().len() as u64,
            ..LiveStats::default()
        };
        for link in self.links.load().values() {
            stats.sent += link.counters.sent.load(Ordering::Relaxed);
            stats.dropped += link.counters.dropped.load(Ordering::Relaxed);
            stats.refused += link.counters.refused.load(Ordering::Relaxed);
            stats.link_bytes += link.data_bytes() as u64;
        }
        stats
    }

    /// This node under its present incarnation; `None` between two.
    fn me(&self) -> Option<Origin> {
        self.view.load().as_ref().map(|view| view.me).filter(|me| me.incarnation != Incarnation(0))
    }

    fn node(&self) -> NodeId {
        self.view.load().as_ref().map_or(NodeId(0), |view| view.me.node)
    }
}

impl Peers for PeerLinks {
    /// The connection must be known to [`LiveSide::fence`] under its number from before this call on.
    fn claim(
        &self,
        client_id: Utf8,
        owner: Owner,
        only: Option<OnlyUser>,
    ) -> BoxFuture<'static, Result<Claim, NotClaimed>> {
        match self.this.upgrade() {
            Some(this) => this.claim_identifier(client_id, owner, only),
            None => Box::pin(std::future::ready(Err(Unavailable.into()))),
        }
    }

    fn release(&self, client_id: &Utf8, owner: Owner) {
        self.release_identifier(client_id, owner);
    }

    fn fence(&self, client_id: Utf8, previous: Owner, epoch: Epoch) -> BoxFuture<'static, Result<(), Unavailable>> {
        match self.this.upgrade() {
            Some(this) => this.fence_owner(client_id, previous, epoch),
            None => Box::pin(std::future::ready(Err(Unavailable))),
        }
    }

    fn change_routes(
        &self,
        added: Vec<TopicFilter>,
        removed: Vec<TopicFilter>,
        reply: Arc<dyn Completion>,
        ticket: u64,
    ) {
        self.announce_routes(added, removed, reply, ticket);
    }

    fn routes(&self, topic: &str, into: &mut RemoteRoutes) {
        self.remote.read().matches(topic, into);
    }

    fn routes_version(&self) -> u64 {
        self.routes_version.load(Ordering::Acquire)
    }

    fn routes_since(&self, version: u64, into: &mut Vec<TopicFilter>) -> bool {
        self.route_changes.lock().since(version, into)
    }

    fn forward(&self, forward: Forward, reply: Option<(Arc<dyn Completion>, u64)>) {
        self.forward_message(forward, reply);
    }

    fn may_serve(&self) -> bool {
        self.leases.may_serve()
    }

    fn may_serve_as(&self, incarnation: Incarnation) -> bool {
        self.leases.may_serve_as(incarnation)
    }

    fn congested(&self) -> bool {
        self.links.load().values().any(|link| link.congested())
    }

    fn metrics(&self) -> PeerMetrics {
        let links = self.links.load();
        let links = links.values().map(|link| LinkMetrics {
            node: link.node,
            up: link.is_up(),
            queued_bytes: link.data_bytes() as u64,
            sent: link.counters.sent.load(Ordering::Relaxed),
            dropped: link.counters.dropped.load(Ordering::Relaxed),
            refused: link.counters.refused.load(Ordering::Relaxed),
        });
        let stats = self.stats();
        PeerMetrics {
            links: links.collect(),
            received: stats.received,
            invalid: stats.invalid,
            remote_filters: stats.remote_filters,
            claims_pending: stats.claims_pending,
            claims_held: stats.claims_held,
        }
    }

    fn ready(&self) -> bool {
        self.leases.is_ready()
    }
}
