//! One node: its parts put together, started and stopped; [`Consensus`] over Raft for the broker.
//! Always true: Raft, the connections between nodes and applying run on a runtime of their own, so MQTT traffic cannot
//! delay a heartbeat; a node takes commands only while it serves under an incarnation that the state knows as up.
mod duties;
mod lifecycle;
mod open;
mod settings;
pub(crate) mod shared;
pub(crate) mod timekeeping;
pub(crate) mod walls;

pub use open::StartError;
pub use settings::{Persistence, RaftSettings};
pub use shared::Fatal;

pub(crate) use open::{Disk, Opened};

use crate::{
    admin_error::AdminError,
    consensus::{Hub, IncarnationEvent, ProposalService, Proposer},
    facade::{
        AdminRequest, BoxFuture, ClusterStatus, Completion, Consensus, LiveSide, MemberStatus, Neighbour, Pressure,
        Submission, Survey,
    },
    ids::{Incarnation, Millis, NodeId},
    membership,
    metrics::ConsensusMetrics,
    raft::{Engine, RaftService},
    replica,
    state::{Command, Message, MessageId, Origin, State},
    transport::{self, MESSAGE_BYTES_MAX, Transport, services::raft as services},
};
use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use shared::NodeParts;
use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};
use tokio::{
    runtime::{Handle, Runtime, RuntimeFlavor},
    sync::mpsc,
    task::block_in_place,
};
use tonic::{Status, service::Routes};

/// Adds services of others to the server that peers connect to.
pub type AddServices = Box<dyn FnOnce(&Arc<RaftConsensus>, Routes) -> Routes + Send>;

/// See the module's description.
pub struct RaftConsensus {
    pub(crate) shared: Arc<NodeParts>,
    runtime: Mutex<Option<Runtime>>,
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
        handle.spawn(lifecycle::run(shared, opened, events));
        Ok(this)
    }

    async fn open(
        settings: RaftSettings,
        live: Arc<dyn LiveSide>,
        fatal: Fatal,
        handle: Handle,
    ) -> Result<Parts, StartError> {
        let transport = Transport::new(settings.tls.clone())?;
        let proposer = Arc::new(Proposer::default());
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
        let shared = Arc::new(NodeParts {
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
            incarnations: AtomicU64::new(0),
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
        self.shared.hub.report(IncarnationEvent::Ended(incarnation));
    }
}

type Parts =
    (Arc<NodeParts>, Option<Opened>, Option<tokio::net::TcpListener>, mpsc::UnboundedReceiver<IncarnationEvent>);

fn own_services(shared: &Arc<NodeParts>) -> Routes {
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
        let task = self.shared.handle.spawn(duties::checkpoint(self.shared.clone()));
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

    fn admin(&self, request: AdminRequest) -> BoxFuture<'static, Result<String, AdminError>> {
        let task = self.shared.handle.spawn(membership::admin(self.shared.clone(), request));
        Box::pin(async move {
            task.await.unwrap_or_else(|_| Err(AdminError::Unavailable("the node is shutting down".into())))
        })
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
