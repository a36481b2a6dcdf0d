//! Nodes, each with a runtime and a server of its own, around a log that everybody sees at once.
use super::proxy::Proxy;
use crate::{
    facade::{Answer, BoxFuture, Completion, FenceReason, LiveSide, OrdinaryReceivers, Peers, RemoteRoutes},
    ids::{ConnectionId, Incarnation, NodeId},
    live::{
        LiveSettings, PeerLinks,
        context::{ClusterContext, ClusterView, NodeIncarnations},
        lease::{RefusalsInMemory, VoterSets},
    },
    state::{Effect, Message, Origin, Owner},
    transport::{self, PeerCertificate, Purpose, Transport},
};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::watch,
};
use tonic::{Status, service::Routes, transport::Channel};

pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    runtime: Runtime,
    pub(super) nodes: BTreeMap<u64, Node>,
}

/// What consensus would agree on.
pub(super) struct Shared {
    state: Mutex<Agreed>,
    views: Mutex<BTreeMap<NodeId, watch::Sender<Arc<ClusterView>>>>,
    proxies: Mutex<BTreeMap<(NodeId, NodeId), Arc<Proxy>>>,
    addresses: Mutex<BTreeMap<NodeId, SocketAddr>>,
    handle: Handle,
}

#[derive(Default)]
struct Agreed {
    members: Vec<NodeId>,
    known_incarnations: BTreeMap<NodeId, NodeIncarnations>,
    incarnations: BTreeMap<NodeId, Incarnation>,
    term: u64,
    leader: Option<NodeId>,
    pub(super) downs: Vec<(NodeId, Incarnation, Instant)>,
    /// Nodes that see nothing new.
    blind: BTreeSet<NodeId>,
}

pub(super) struct Node {
    pub(super) peers: Arc<PeerLinks>,
    pub(super) live: Arc<Live>,
    pub(super) context: Arc<TestContext>,
    runtime: Option<Runtime>,
}

pub(super) struct TestContext {
    node: NodeId,
    shared: Arc<Shared>,
    transport: Arc<Transport>,
    view: watch::Receiver<Arc<ClusterView>>,
    /// How far the log is applied here.
    pub(super) applied: std::sync::atomic::AtomicU64,
}

/// The message, whether for ordinary subscribers, and the groups served.
type Delivered = (Arc<Message>, bool, Vec<TopicFilter>);

/// A broker that notes its calls.
#[derive(Default)]
pub(super) struct Live {
    pub(super) peers: Mutex<Weak<PeerLinks>>,
    pub(super) delivered: Mutex<Vec<Delivered>>,
    pub(super) count: std::sync::atomic::AtomicU64,
    /// Only counts deliveries.
    pub(super) only_count: std::sync::atomic::AtomicBool,
    /// Live members of shared groups here.
    pub(super) groups: Mutex<BTreeSet<TopicFilter>>,
    pub(super) unserved: Mutex<Vec<TopicFilter>>,
    pub(super) fenced: Mutex<Vec<ConnectionId>>,
    pub(super) lost: Mutex<Vec<Incarnation>>,
}

impl Shared {
    fn publish(&self) {
        let agreed = self.state.lock();
        for (node, sender) in self.views.lock().iter() {
            if agreed.blind.contains(node) {
                continue;
            }
            let incarnation = agreed.incarnations.get(node).copied().unwrap_or_default();
            let view = ClusterView {
                me: Origin { node: *node, incarnation },
                members: agreed.members.clone(),
                voters: VoterSets { index: 1, sets: vec![agreed.members.clone()] },
                incarnations: agreed.known_incarnations.clone(),
                term: agreed.term,
                leader: agreed.leader,
                leading: (agreed.leader == Some(*node)).then_some(agreed.term),
            };
            sender.send_replace(Arc::new(view));
        }
    }

    pub(super) fn down(&self, node: NodeId, incarnation: Incarnation) {
        {
            let mut agreed = self.state.lock();
            let known = agreed.known_incarnations.entry(node).or_default();
            if known.serving != Some(incarnation) {
                return;
            }
            *known = NodeIncarnations { ended: incarnation, serving: None };
            agreed.downs.push((node, incarnation, Instant::now()));
        }
        self.publish();
    }

    fn up(&self, node: NodeId) {
        {
            let mut agreed = self.state.lock();
            let incarnation = agreed.incarnations.entry(node).or_default();
            incarnation.0 += 1;
            let incarnation = *incarnation;
            let ended = Incarnation(incarnation.0 - 1);
            agreed.known_incarnations.insert(node, NodeIncarnations { ended, serving: Some(incarnation) });
        }
        self.publish();
    }

    pub(super) fn downs(&self) -> Vec<(NodeId, Incarnation, Instant)> {
        self.state.lock().downs.clone()
    }

    fn address(&self, from: NodeId, to: NodeId) -> Option<SocketAddr> {
        let target = *self.addresses.lock().get(&to)?;
        let mut proxies = self.proxies.lock();
        let proxy = proxies.entry((from, to)).or_insert_with(|| Proxy::start(&self.handle, target));
        Some(proxy.address)
    }
}

impl ClusterContext for TestContext {
    fn view(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.view.clone()
    }

    fn propose_down(&self, term: u64, node: NodeId, incarnation: Incarnation) {
        let leads = {
            let agreed = self.shared.state.lock();
            agreed.leader == Some(self.node) && agreed.term == term
        };
        if leads {
            self.shared.down(node, incarnation);
        }
    }

    fn incarnation_over(&self, incarnation: Incarnation) {
        let blind = self.shared.state.lock().blind.contains(&self.node);
        if !blind && self.view.borrow().me.incarnation == incarnation {
            self.shared.up(self.node);
        }
    }

    fn channel(&self, node: NodeId, purpose: Purpose) -> Option<Channel> {
        let address = self.shared.address(self.node, node)?;
        Some(self.transport.channel(&address.to_string(), purpose))
    }

    fn applied_index(&self) -> u64 {
        self.applied.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn cluster(&self) -> Vec<u8> {
        b"test".to_vec()
    }

    fn admit(&self, _: Option<&PeerCertificate>, cluster: &[u8], _: NodeId, to: NodeId) -> Result<(), Status> {
        if cluster == b"test" && to == self.node { Ok(()) } else { Err(Status::failed_precondition("not for here")) }
    }
}

impl LiveSide for Live {
    fn on_effects(&self, _: Vec<Effect>) {}

    fn deliver(&self, message: Arc<Message>, ordinary: OrdinaryReceivers, groups: &[TopicFilter]) -> Vec<TopicFilter> {
        self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.only_count.load(std::sync::atomic::Ordering::Relaxed) {
            return Vec::new();
        }
        let ordinary = ordinary != OrdinaryReceivers::Nobody;
        let known = self.groups.lock();
        let (served, unserved): (Vec<_>, Vec<_>) = groups.iter().cloned().partition(|group| known.contains(group));
        if ordinary || !served.is_empty() {
            self.delivered.lock().push((message, ordinary, served));
        }
        unserved
    }

    fn group_unserved(&self, _: Arc<Message>, group: TopicFilter) {
        self.unserved.lock().push(group);
    }

    fn fence(&self, _: Utf8, connection: ConnectionId, _: FenceReason) -> BoxFuture<'static, ()> {
        self.fenced.lock().push(connection);
        Box::pin(tokio::time::sleep(Duration::from_millis(5)))
    }

    fn lease_lost(&self, incarnation: Incarnation) {
        self.lost.lock().push(incarnation);
    }

    fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        Vec::new()
    }
}

impl World {
    pub(super) fn new(nodes: u64) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            views: Mutex::default(),
            proxies: Mutex::default(),
            addresses: Mutex::default(),
            handle: runtime.handle().clone(),
        });
        let mut world = Self { shared, runtime, nodes: BTreeMap::new() };
        {
            let mut agreed = world.shared.state.lock();
            agreed.members = (1..=nodes).map(NodeId).collect();
            (agreed.leader, agreed.term) = (Some(NodeId(1)), 1);
        }
        for node in 1..=nodes {
            world.start(node);
        }
        for node in 1..=nodes {
            world.wait("every node may serve", |world| world.nodes[&node].peers.may_serve());
        }
        world
    }

    /// Starts a node (again, then under a later incarnation).
    pub(super) fn start(&mut self, node: u64) {
        let id = NodeId(node);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let transport = Transport::new(None).expect("no certificates to read");
        // Who is a member is not what is tested here.
        transport.set_guard(|_| Ok(()));
        let (sender, view) = watch::channel(Arc::new(ClusterView::default()));
        self.shared.views.lock().insert(id, sender);
        let context = Arc::new(TestContext {
            node: id,
            shared: self.shared.clone(),
            transport: transport.clone(),
            view,
            applied: Default::default(),
        });
        let live = Arc::new(Live::default());
        let settings = LiveSettings::new(runtime.handle().clone());
        let refusals = Arc::new(RefusalsInMemory::default());
        let peers = PeerLinks::start_on(context.clone(), live.clone(), refusals, settings);
        *live.peers.lock() = Arc::downgrade(&peers);
        let service = peers.service();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        self.shared.addresses.lock().insert(id, listener.local_addr().expect("bound"));
        self.shared.proxies.lock().retain(|(_, to), _| *to != id);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            transport::serve(listener, transport, Routes::new(service)).await;
        });
        self.nodes.insert(node, Node { peers, live, context, runtime: Some(runtime) });
        self.shared.up(id);
    }

    /// The process is gone; nothing is said to anybody.
    pub(super) fn kill(&mut self, node: u64) {
        let mut gone = self.nodes.remove(&node).expect("it runs");
        self.shared.views.lock().remove(&NodeId(node));
        if let Some(runtime) = gone.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }

    pub(super) fn elect(&self, node: u64) {
        {
            let mut agreed = self.shared.state.lock();
            agreed.leader = Some(NodeId(node));
            agreed.term += 1;
        }
        self.shared.publish();
    }

    /// Cuts the node off from all others, and from the log; or brings it back.
    pub(super) fn isolate(&self, node: u64, isolated: bool) {
        let id = NodeId(node);
        for (pair, proxy) in self.shared.proxies.lock().iter() {
            if pair.0 == id || pair.1 == id {
                if isolated { proxy.cut(false) } else { proxy.mend() }
            }
        }
        {
            let blind = &mut self.shared.state.lock().blind;
            let _ = if isolated { blind.insert(id) } else { blind.remove(&id) };
        }
        self.shared.publish();
    }

    /// Breaks every connection from one node to another once.
    pub(super) fn break_connections(&self, from: u64, to: u64) {
        if let Some(proxy) = self.shared.proxies.lock().get(&(NodeId(from), NodeId(to))) {
            proxy.cut(true);
        }
    }

    pub(super) fn wait(&self, what: &str, mut until: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !until(self) {
            assert!(started.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await }).expect("in time")
    }

    /// Subscribes and waits until everybody knows.
    pub(super) fn subscribe(&self, node: u64, filters: &[&str]) {
        let answers = Answers::new();
        self.nodes[&node].peers.change_routes(all(filters), vec![], answers.clone(), 1);
        self.wait("routes are known", |_| answers.count() == 1);
        assert_eq!(answers.take(), [(1, Answer::RoutesKnown)]);
    }

    pub(super) fn routes(&self, node: u64, topic: &str) -> Vec<NodeId> {
        let mut routes = RemoteRoutes::default();
        self.nodes[&node].peers.routes(topic, &mut routes);
        let mut nodes = routes.nodes.to_vec();
        nodes.extend(routes.groups.iter().map(|(_, node, _)| *node));
        nodes.sort_unstable();
        nodes
    }

    pub(super) fn owner(&self, node: u64, connection: u64) -> Owner {
        let incarnation = self.nodes[&node].context.view.borrow().me.incarnation;
        Owner { node: NodeId(node), incarnation, connection: ConnectionId(connection) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in std::mem::take(&mut self.nodes).into_values() {
            node.runtime.into_iter().for_each(Runtime::shutdown_background);
        }
    }
}

pub(super) fn filter(text: &str) -> TopicFilter {
    text.try_into().expect("a filter")
}

pub(super) fn all(texts: &[&str]) -> Vec<TopicFilter> {
    texts.iter().map(|text| filter(text)).collect()
}

/// Collects answers.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<(u64, Answer)>>);

impl Answers {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }

    pub(super) fn take(&self) -> Vec<(u64, Answer)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Completion for Answers {
    fn complete(&self, ticket: u64, answer: Answer) {
        self.0.lock().push((ticket, answer));
    }
}
