//! What the live side needs of consensus, by consensus itself.
//! Always true: the incarnations in a view are the state at one place of the log; `leading` is said only of a term in which this
//! node was the leader, after everything committed before was applied here.
use super::{
    PeerLinks,
    context::{ClusterContext, ClusterView, NodeIncarnations},
    lease::{RefusalFile, RefusalStore},
};
use crate::{
    Alone,
    consensus::IncarnationEvent,
    facade::{LiveSide, Peers},
    ids::{Incarnation, NodeId},
    node::{Fatal, RaftConsensus, RaftSettings, StartError, shared::NodeParts, walls::Clocks},
    raft::Engine,
    state::{Command, Origin, Standing, State},
    transport::{PeerCertificate, Purpose},
};
use mosquorum_proto::peer::raft as wire;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tonic::{Status, service::Routes, transport::Channel};

/// Between two looks at the state while entries are applied.
const PAUSE: Duration = Duration::from_millis(2);
/// Without any sign that something changed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct RaftContext {
    shared: Arc<NodeParts>,
    view: watch::Receiver<Arc<ClusterView>>,
}

impl RaftContext {
    pub(super) fn start(consensus: &RaftConsensus) -> Arc<Self> {
        let shared = consensus.shared.clone();
        let (publish, view) = watch::channel(Arc::new(ClusterView::default()));
        consensus.handle().spawn(follow(Arc::downgrade(&shared), publish));
        Arc::new(Self { shared, view })
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.shared.engine.load_full()
    }
}

impl ClusterContext for RaftContext {
    fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    fn propose_down(&self, term: u64, node: NodeId, incarnation: Incarnation) {
        let leads = self.engine().is_some_and(|engine| {
            let leadership = *engine.leadership().borrow();
            leadership.is_self && leadership.term == term
        });
        if leads {
            self.shared.proposer.propose(Command::NodeDown { node, incarnation });
        }
    }

    fn incarnation_over(&self, incarnation: Incarnation) {
        self.shared.hub.report(IncarnationEvent::Ended(incarnation));
    }

    fn channel(&self, node: NodeId, purpose: Purpose) -> Option<Channel> {
        let view = self.engine()?.view();
        Some(self.shared.transport.channel(&view.member(node.0)?.address, purpose))
    }

    fn clocks(&self) -> Clocks {
        self.shared.clocks()
    }

    fn observe_clocks(&self, from: NodeId, said: Clocks, round_trip: Duration) {
        self.shared.observe_clocks(from, said, round_trip);
    }

    fn applied(&self) -> Option<watch::Receiver<u64>> {
        Some(self.engine()?.replica.watch_applied())
    }

    fn cluster(&self) -> Vec<u8> {
        self.shared.identity().map_or_else(Vec::new, |identity| identity.cluster.to_vec())
    }

    fn admit(&self, peer: Option<&PeerCertificate>, cluster: &[u8], from: NodeId, to: NodeId) -> Result<(), Status> {
        let engine = self.engine().ok_or_else(|| Status::unavailable("this node does not belong to a cluster yet"))?;
        let cluster = bytes::Bytes::copy_from_slice(cluster);
        engine.check_envelope(peer, Some(&wire::Envelope { cluster, from: from.0, to: to.0 }))
    }
}

/// Keeps the view up to date for as long as the group runs.
async fn follow(shared: Weak<NodeParts>, publish: watch::Sender<Arc<ClusterView>>) {
    let engine = loop {
        let Some(shared) = shared.upgrade() else { return };
        if let Some(engine) = shared.engine.load_full() {
            break Arc::downgrade(&engine);
        }
        drop(shared);
        sleep(LOOK_AGAIN).await;
    };
    let mut confirmed = Confirmed::default();
    loop {
        let (Some(shared), Some(engine)) = (shared.upgrade(), engine.upgrade()) else { return };
        let (mut applied, mut leadership) = (engine.replica.watch_applied(), engine.leadership());
        let leading = confirmed.leading(&engine);
        let view = look(&shared, &engine, leading);
        publish.send_if_modified(|known| {
            let changed = **known != view;
            if changed {
                *known = Arc::new(view);
            }
            changed
        });
        drop((shared, engine));
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            () = confirmed.news() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
        sleep(PAUSE).await;
    }
}

fn look(shared: &NodeParts, engine: &Engine, leading: Option<u64>) -> ClusterView {
    let leadership = *engine.leadership().borrow();
    let glance = engine.view();
    let node = NodeId(engine.node());
    let nobody = Origin { node, incarnation: Incarnation(0) };
    ClusterView {
        me: shared.proposer.origin().unwrap_or(nobody),
        members: glance.members.iter().map(|member| NodeId(member.node)).collect(),
        voters: engine.voters(),
        incarnations: incarnations(&shared.state.read()),
        term: leadership.term.max(glance.term),
        leader: leadership.leader.map(NodeId),
        leading: leading.filter(|term| leadership.is_self && leadership.term == *term),
    }
}

fn incarnations(state: &State) -> BTreeMap<NodeId, NodeIncarnations> {
    let before = |incarnation: Incarnation| Incarnation(incarnation.0.saturating_sub(1));
    let incarnation = |incarnation, standing| match standing {
        Standing::Serving | Standing::Draining => {
            NodeIncarnations { ended: before(incarnation), serving: Some(incarnation) }
        }
        Standing::Known => NodeIncarnations { ended: before(incarnation), serving: None },
        Standing::Down | Standing::Removed => NodeIncarnations { ended: incarnation, serving: None },
    };
    state.nodes().map(|(node, record)| (node, incarnation(record.incarnation, record.standing))).collect()
}

/// Whether this node knows, as leader of a term, everything committed before it.
#[derive(Default)]
struct Confirmed {
    /// The term and the index that must be applied.
    at: Option<(u64, u64)>,
    asked: Option<(u64, oneshot::Receiver<u64>)>,
}

impl Confirmed {
    fn leading(&mut self, engine: &Arc<Engine>) -> Option<u64> {
        let leadership = *engine.leadership().borrow();
        if !leadership.is_self {
            *self = Self::default();
            return None;
        }
        let term = leadership.term;
        if self.at.is_none_or(|(known, _)| known != term) {
            self.ask(engine, term);
        }
        let applied = *engine.replica.watch_applied().borrow();
        self.at.filter(|(known, index)| *known == term && applied >= *index).map(|_| term)
    }

    fn ask(&mut self, engine: &Arc<Engine>, term: u64) {
        if let Some((asked, answer)) = &mut self.asked
            && *asked == term
        {
            match answer.try_recv() {
                Ok(index) => self.at = Some((term, index)),
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.asked = None;
            return;
        }
        let (answer, asked) = oneshot::channel();
        self.asked = Some((term, asked));
        let engine = engine.clone();
        tokio::spawn(async move {
            if let Ok(Ok(index)) = timeout(CONFIRM_TIMEOUT, engine.read_index()).await {
                let _ = answer.send(index);
            }
        });
    }

    /// Resolves when the index asked for is there (or is not coming).
    async fn news(&mut self) {
        match &mut self.asked {
            Some((term, answer)) => {
                if let Ok(index) = answer.await {
                    self.at = Some((*term, index));
                }
                self.asked = None;
            }
            None => std::future::pending().await,
        }
    }
}

/// Refusals lie in the node's data directory, which is known once the node belongs to a cluster.
struct InDataDirectory {
    shared: Arc<NodeParts>,
    file: OnceLock<RefusalFile>,
}

impl InDataDirectory {
    fn file(&self) -> io::Result<&RefusalFile> {
        let engine = self.shared.engine.load_full().ok_or_else(|| io::Error::other("the node is shutting down"))?;
        let path = self.shared.settings.data_dir.join("refusals");
        Ok(self.file.get_or_init(|| RefusalFile::new(engine.replica.fs(), path)))
    }
}

impl RefusalStore for InDataDirectory {
    fn load(&self) -> io::Result<HashMap<NodeId, Incarnation>> {
        self.file()?.load()
    }

    fn store(&self, refusals: &[(NodeId, Incarnation)]) -> io::Result<()> {
        self.file()?.store(refusals)
    }
}

/// Starts a node's consensus and its live side with it: links to its peers, or none for a node that nobody can join.
/// # Errors
/// As for [`RaftConsensus::start`].
pub async fn start(
    settings: RaftSettings,
    live: Arc<dyn LiveSide>,
    fatal: Fatal,
) -> Result<(Arc<RaftConsensus>, Arc<dyn Peers>), StartError> {
    if settings.listen.is_none() {
        let consensus = RaftConsensus::start(settings, live, fatal, None).await?;
        return Ok((consensus, Arc::new(Alone::new())));
    }
    let started: Arc<OnceLock<Arc<PeerLinks>>> = Arc::default();
    let (peers, side) = (started.clone(), live.clone());
    let add_services = move |consensus: &Arc<RaftConsensus>, routes: Routes| {
        peers.get_or_init(|| PeerLinks::start(consensus, side)).add_to(routes)
    };
    let consensus = RaftConsensus::start(settings, live, fatal, Some(Box::new(add_services))).await?;
    let peers = started.get().expect("a node that listens was given its services").clone();
    Ok((consensus, peers))
}

impl PeerLinks {
    pub(super) fn over(consensus: &RaftConsensus) -> (Arc<dyn ClusterContext>, Arc<dyn RefusalStore>) {
        (
            RaftContext::start(consensus),
            Arc::new(InDataDirectory { shared: consensus.shared.clone(), file: OnceLock::new() }),
        )
    }
}
