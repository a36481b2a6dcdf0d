//! [`Consensus`] over Raft: commands and barriers in, answers and effects out, a node's life around it.
//! Always true: Raft, the connections between nodes and applying run on a runtime of their own, so MQTT traffic cannot
//! delay a heartbeat; a node takes commands only while it serves under an incarnation that the state knows as up.
//! The way of a command: `proposer` (batches) -> `sender` (to the leader) -> `raft` (log, majority) -> `replica` (apply)
//! -> `hub` (effects, answers).
pub(crate) mod barrier;
pub(crate) mod clock;
mod duties;
mod hub;
mod open;
mod pace;
pub(crate) mod proposer;
pub(crate) mod replica;
mod sender;
mod service;
mod settings;
pub(crate) mod stateful;
pub(crate) mod timekeeping;

pub use open::StartError;
pub use settings::{Persistence, RaftSettings};

pub(crate) use duties::{checkpoints, make_snapshot, ticks, watch as watch_raft};
pub(crate) use hub::{Hub, LifeEvent};
pub(crate) use open::{Disk, Opened};
pub(crate) use sender::Sender;
pub(crate) use service::ProposalService;

use crate::{
    facade::{
        AdminRequest, BoxFuture, ClusterStatus, Completion, Consensus, LiveSide, MemberStatus, Neighbour, Pressure,
        Submission, Survey,
    },
    ids::{Incarnation, LogIndex, Millis, NodeId},
    membership,
    metrics::ConsensusMetrics,
    raft::{Engine, RaftService, View},
    state::{Command, Message, MessageId, Origin, State},
    transport::{self, MESSAGE_BYTES_MAX, Transport, services::raft as services},
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
use tokio::{
    runtime::{Handle, Runtime, RuntimeFlavor},
    sync::mpsc,
    task::block_in_place,
};
use tonic::{Status, service::Routes};

/// At a stop, for what was submitted to be applied.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// Called once, with the reason, when the node must stop at once (a failed fsync): nothing may be acknowledged after.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// Adds services of others to the server that peers connect to.
pub type AddServices = Box<dyn FnOnce(&Arc<RaftConsensus>, Routes) -> Routes + Send>;

/// See the module's description.
pub struct RaftConsensus {
    pub(crate) shared: Arc<Shared>,
    runtime: Mutex<Option<Runtime>>,
}

/// What the parts of a node share.
pub(crate) struct Shared {
    pub(crate) settings: RaftSettings,
    pub(crate) transport: Arc<Transport>,
    pub(crate) clock: Arc<clock::ClusterClock>,
    pub(crate) walls: Mutex<timekeeping::Walls>,
    pub(crate) proposer: Arc<proposer::Proposer>,
    pub(crate) barriers: Arc<barrier::Barriers>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) live: Arc<dyn LiveSide>,
    pub(crate) state: Arc<RwLock<State>>,
    /// `None` until the node belongs to a cluster.
    pub(crate) engine: Arc<ArcSwapOption<Engine>>,
    pub(crate) disk: tokio::sync::Mutex<Disk>,
    log: Mutex<Option<Log>>,
    identity: OnceLock<membership::Identity>,
    /// Lives of this process under one boot: each loss of the lease starts another.
    lives: AtomicU64,
    /// The state knows the current incarnation as up.
    serving: AtomicBool,
    /// What keeps this node out of its cluster, for the operator.
    kept_out: Mutex<Option<String>>,
    /// Where an operator said that this node, which does not vote yet, finds its cluster.
    pub(crate) invitation: Mutex<Vec<String>>,
    /// Set while membership changes: one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    fatal: Fatal,
    listening: Option<SocketAddr>,
    pub(crate) started: std::time::Instant,
    handle: Handle,
}

impl RaftConsensus {
    /// Opens the storage, listens, and goes on in the background: `available()` turns true once the node belongs to a
    /// cluster with a majority and is known to serve. Waits for nobody.
    /// # Errors
    /// [`StartError`]: the text is for the operator.
    pub async fn start(
        settings: RaftSettings,
        live: Arc<dyn LiveSide>,
        fatal: Fatal,
        add_services: Option<AddServices>,
    ) -> Result<Arc<Self>, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("consensus")
            .enable_all()
            .build()
            .map_err(|source| StartError::Io { path: settings.data_dir.clone(), source })?;
        let handle = runtime.handle().clone();
        let started = handle.spawn(Self::open(settings, live, fatal, handle.clone())).await;
        let (shared, opened, listener, events) = match started {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                runtime.shutdown_background();
                return Err(error);
            }
            Err(panic) => {
                runtime.shutdown_background();
                return Err(StartError::State(format!("the start failed: {panic}")));
            }
        };
        let this = Arc::new(Self { shared: shared.clone(), runtime: Mutex::new(Some(runtime)) });
        if let Some(listener) = listener {
            let mut routes = own_services(&shared);
            if let Some(add) = add_services {
                routes = add(&this, routes);
            }
            handle.spawn(transport::serve(listener, shared.transport.clone(), routes));
        }
        handle.spawn(membership::run(shared, opened, events));
        Ok(this)
    }

    async fn open(
        settings: RaftSettings,
        live: Arc<dyn LiveSide>,
        fatal: Fatal,
        handle: Handle,
    ) -> Result<Parts, StartError> {
        let transport = Transport::new(settings.tls.clone())?;
        let proposer = Arc::new(proposer::Proposer::default());
        let (hub, events) = Hub::new(live.clone(), proposer.clone());
        let state = Arc::new(RwLock::new(State::default()));
        let (for_disk, for_hub, for_state) = (settings.clone(), hub.clone(), state.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let observer: Arc<dyn replica::Observer> = for_hub;
            open::open(&for_disk, &for_state, &observer)
        });
        let (disk, opened) = opening.await.map_err(|e| StartError::State(format!("opening failed: {e}")))??;
        let listener = match settings.listen {
            None => None,
            Some(address) => {
                let listen = |source| StartError::Listen { address, source };
                Some(tokio::net::TcpListener::bind(address).await.map_err(listen)?)
            }
        };
        let shared = Arc::new(Shared {
            listening: listener.as_ref().and_then(|l| l.local_addr().ok()),
            settings,
            transport,
            clock: Arc::default(),
            walls: Mutex::default(),
            proposer,
            barriers: Arc::default(),
            hub,
            live,
            state,
            engine: Arc::new(ArcSwapOption::empty()),
            disk: tokio::sync::Mutex::new(disk),
            log: Mutex::new(None),
            identity: OnceLock::new(),
            lives: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            kept_out: Mutex::default(),
            invitation: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            fatal,
            started: std::time::Instant::now(),
            handle,
        });
        Ok((shared, opened, listener, events))
    }

    /// Proposes a command whose outcome nobody waits for (`NodeDown` by whoever watches the leases).
    pub fn propose_command(&self, command: Command) {
        self.shared.proposer.propose(command);
    }

    /// Whether this node leads at the moment, and in which term: for duties that only the leader has. The term changes
    /// with every leader.
    pub fn leadership(&self) -> Option<(NodeId, u64, bool)> {
        let leadership = *self.shared.engine.load().as_ref()?.leadership().borrow();
        Some((NodeId(leadership.leader?), leadership.term, leadership.is_self))
    }

    /// Members as this node knows them: number, name, address, whether it votes.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.status().members
    }

    /// The ways to other nodes, for services of others.
    pub fn transport(&self) -> &Arc<Transport> {
        &self.shared.transport
    }

    /// The runtime on which peers' messages are handled.
    pub fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Where peers connect to (the port, if it was chosen by the system).
    pub fn listening(&self) -> Option<SocketAddr> {
        self.shared.listening
    }

    /// The cluster that this node belongs to, once it does.
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.shared.identity.get().map(|identity| identity.cluster)
    }

    /// The lease of the current incarnation was lost: every connection is closed already. Serving goes on under the
    /// next one as soon as the state knows it.
    pub fn lease_lost(&self, incarnation: Incarnation) {
        self.shared.hub.report(LifeEvent::Ended(incarnation));
    }
}

type Parts = (Arc<Shared>, Option<Opened>, Option<tokio::net::TcpListener>, mpsc::UnboundedReceiver<LifeEvent>);

fn own_services(shared: &Arc<Shared>) -> Routes {
    let engine = shared.engine.clone();
    let engine_for_relay = engine.clone();
    let raft = services::raft_server::RaftServer::new(RaftService { engine: engine.clone() });
    let proposals =
        services::proposals_server::ProposalsServer::new(ProposalService { engine, clock: shared.clock.clone() });
    let relay = transport::RelayService::new(admit_tunnels(engine_for_relay));
    let members = membership::MembershipService { shared: Arc::downgrade(shared) };
    let members = services::membership_server::MembershipServer::new(members);
    Routes::new(raft.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            proposals.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(members)
        .add_service(services::relay_server::RelayServer::new(relay))
}

/// Bytes are carried for members to members.
fn admit_tunnels(engine: Arc<ArcSwapOption<Engine>>) -> transport::AdmitTunnel {
    Arc::new(move |peer, envelope, address| {
        let engine = engine.load_full().ok_or_else(|| Status::unavailable("this node belongs to no cluster yet"))?;
        engine.check_envelope(peer, envelope)?;
        let members = engine.view().members;
        let is_member = |node: u64| members.iter().any(|m| m.node == node);
        if !envelope.is_some_and(|envelope| is_member(envelope.from)) {
            return Err(Status::permission_denied("only members are carried for"));
        }
        if !members.iter().any(|m| m.address == address && m.node != engine.node()) {
            return Err(Status::permission_denied("only to members"));
        }
        Ok(())
    })
}

impl Shared {
    pub(crate) fn identity(&self) -> Option<&membership::Identity> {
        self.identity.get()
    }

    pub(crate) fn set_identity(&self, identity: membership::Identity) {
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
        let life = self.lives.fetch_add(1, Ordering::AcqRel);
        Some(Origin { node: NodeId(identity.node), incarnation: Incarnation::new(identity.boots, life) })
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

    pub(crate) fn store_failed(&self, error: &replica::ReplicaError) {
        self.fail(format!(
            "the state store failed ({error}); the node stops, and rebuilds the store at its next start"
        ));
    }

    async fn checkpoint(self: Arc<Self>) -> Result<(), String> {
        let engine = self.engine.load_full().ok_or("this node does not belong to a cluster yet")?;
        duties::make_snapshot(&self, &engine).await
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

    fn metrics(&self) -> ConsensusMetrics {
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

    async fn shutdown(self: Arc<Self>) {
        self.set_serving(false);
        // A DISCONNECT that was read a moment ago is to count.
        if self.engine.load().as_ref().is_some_and(|engine| engine.has_majority()) {
            self.proposer.settle(SETTLE_PATIENCE).await;
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

impl Consensus for RaftConsensus {
    fn reload_certificates(&self) -> Result<(), String> {
        self.shared.transport.reload_tls().map_err(|error| error.to_string())
    }

    fn cluster_id(&self) -> Option<[u8; 16]> {
        Self::cluster_id(self)
    }

    fn submit(&self, submissions: Vec<Submission>) {
        self.shared.proposer.submit(submissions);
    }

    fn barrier(&self, reply: Arc<dyn Completion>, ticket: u64) {
        self.shared.barriers.ask(reply, ticket);
    }

    fn state(&self) -> &RwLock<State> {
        &self.shared.state
    }

    fn stored_messages(&self, ids: &[MessageId]) -> Vec<Option<Arc<Message>>> {
        let Some(engine) = self.shared.engine.load_full() else { return vec![None; ids.len()] };
        // Other tasks of this thread go on elsewhere while the disk is waited for.
        let read = || engine.replica.stored_messages(ids);
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        let read = if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { block_in_place(read) } else { read() };
        read.unwrap_or_else(|error| {
            self.shared.store_failed(&error);
            vec![None; ids.len()]
        })
    }

    fn origin(&self) -> Origin {
        let node = NodeId(self.shared.identity.get().map_or(0, |identity| identity.node));
        self.shared.proposer.origin().unwrap_or(Origin { node, incarnation: Incarnation(0) })
    }

    fn now(&self) -> Millis {
        self.shared.clock.now()
    }

    fn pressure(&self) -> Pressure {
        self.shared.proposer.pressure()
    }

    fn available(&self) -> bool {
        self.shared.is_serving()
    }

    fn checkpoint(&self) -> BoxFuture<'static, Result<(), String>> {
        let task = self.shared.handle.spawn(self.shared.clone().checkpoint());
        Box::pin(async move { task.await.unwrap_or_else(|_| Err("the node is shutting down".into())) })
    }

    fn status(&self) -> ClusterStatus {
        self.shared.status()
    }

    fn metrics(&self) -> ConsensusMetrics {
        self.shared.metrics()
    }

    fn survey(&self) -> BoxFuture<'static, Survey> {
        let task = self.shared.handle.spawn(membership::survey(self.shared.clone()));
        Box::pin(async move { task.await.unwrap_or_default() })
    }

    fn neighbours(&self) -> BoxFuture<'static, Vec<Neighbour>> {
        let task = self.shared.handle.spawn(membership::neighbours(self.shared.clone()));
        Box::pin(async move { task.await.unwrap_or_default() })
    }

    fn admin(&self, request: AdminRequest) -> BoxFuture<'static, Result<String, String>> {
        let task = self.shared.handle.spawn(membership::admin(self.shared.clone(), request));
        Box::pin(async move { task.await.unwrap_or_else(|_| Err("the node is shutting down".into())) })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let runtime = self.runtime.lock().take();
        let task = self.shared.handle.spawn(self.shared.clone().shutdown());
        Box::pin(async move {
            let _ = tokio::time::timeout(Duration::from_secs(10), task).await;
            if let Some(runtime) = runtime {
                runtime.shutdown_background();
            }
        })
    }
}

impl Drop for RaftConsensus {
    fn drop(&mut self) {
        // A runtime must not wait for its tasks inside another one.
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}
