//! One node's broker: what its connections share.
//! Always true: settings and access rules are replaced whole, never changed in place; what a client is told comes from
//! one snapshot of them.
use crate::{
    auth::{Authentication, ClientAcl, Login, PasswordVerifier, Readers, Security, Source},
    bridges::Bridges,
    carrier::{Acceptor, TlsAcceptorSlot},
    config::{BridgeConfig, ListenAddress, ListenerSettings, Settings},
    drain::{self, Drain},
    health,
    live::{
        Counters, Dropping, Mailbox, Order, Registry, Router, Wakeups, add,
        congestion::{Congestion, Listed},
        marks::Marks,
        router::Choice,
        side::{Nobody, publish_to_group},
    },
    logging::lines::{self, Disconnected},
    memory::MemoryWatch,
    metrics::Clients,
    reloading::Reloading,
    sys::SysTopics,
    tcp_wrappers::TcpWrappers,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use mosquorum_cluster::{
    BoxFuture, ClientReport, Consensus, FenceReason, Forward, LiveSide, OnlyUser, Peers, Pressure, Submission,
    ids::{ConnectionId, Incarnation, Millis, NodeId},
    state::{Command, Door, DropReason, Effect, Message, Owner},
};
use mosquorum_proto::mqtt::{Connect, QoS, TopicFilter, TopicName, Utf8};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// Where a client comes from, for logs and rules.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Without the port; empty for a unix socket.
    pub address: String,
    pub port: u16,
}

/// Bytes of messages that are not answered, of all connections: above so many, connections that have a part in them are not
/// read, and above the second none is.
const UNDER_WAY_BYTES_HIGH: usize = 64 << 20;
const UNDER_WAY_BYTES_FULL: usize = 128 << 20;

pub struct Broker {
    pub settings: ArcSwap<Settings>,
    pub consensus: Arc<dyn Consensus>,
    pub peers: Arc<dyn Peers>,
    pub router: Router,
    pub registry: Registry,
    pub counters: Arc<Counters>,
    pub sys: SysTopics,
    pub memory: MemoryWatch,
    /// `None` unless they are to be obeyed.
    pub tcp_wrappers: ArcSwapOption<TcpWrappers>,
    pub verifier: PasswordVerifier,
    /// Other nodes may exist: answers that concern them must be waited for.
    pub clustered: bool,
    pub connections: AtomicUsize,
    pub listeners: ArcSwap<Vec<Arc<Listener>>>,
    pub reloading: Reloading,
    pub bridges: Bridges,
    pub drain: Drain,
    pub marks: Marks,
    pub dropping: Dropping,
    /// Of connections that have nothing under way, and of those that have.
    congestion: [Arc<Congestion>; 2],
    /// Messages of all connections that are not answered, also those that wait for a leader.
    under_way_bytes: AtomicUsize,
    next_connection: AtomicU64,
    runtime: tokio::runtime::Handle,
}

impl Broker {
    pub fn new(settings: Settings, consensus: Arc<dyn Consensus>, peers: Arc<dyn Peers>, clustered: bool) -> Arc<Self> {
        let counters = Arc::new(Counters::default());
        let router = Router::new(consensus.clone(), peers.clone(), counters.clone());
        router.configure(settings.delivery.upgrade_outgoing_qos, settings.delivery.allow_duplicate_messages);
        Arc::new(Self {
            router,
            consensus,
            peers,
            registry: Registry::default(),
            counters,
            sys: SysTopics::default(),
            memory: MemoryWatch::default(),
            tcp_wrappers: ArcSwapOption::empty(),
            verifier: PasswordVerifier::new(std::thread::available_parallelism().map_or(1, usize::from)),
            clustered,
            connections: AtomicUsize::new(0),
            listeners: ArcSwap::default(),
            reloading: Reloading::default(),
            bridges: Bridges::default(),
            drain: Drain::default(),
            marks: Marks::default(),
            dropping: Dropping::default(),
            congestion: Default::default(),
            under_way_bytes: AtomicUsize::new(0),
            next_connection: AtomicU64::new(1),
            runtime: tokio::runtime::Handle::current(),
            settings: ArcSwap::from_pointee(settings),
        })
    }

    pub fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Relaxed))
    }

    /// Does something after the present call into the cluster has returned.
    pub fn defer(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn(async move { work() });
    }

    /// Log, links or all that waits for its turn in connections ([`Broker::note_under_way`]) hold so much that a connection
    /// is not read any further. One that has nothing under way goes on longer: it does not wait for those that fill the log.
    pub fn holds_up(&self, has_under_way: bool) -> bool {
        let (bound, bytes) = match has_under_way {
            true => (Pressure::High, UNDER_WAY_BYTES_HIGH),
            false => (Pressure::Full, UNDER_WAY_BYTES_FULL),
        };
        self.consensus.pressure() >= bound || self.under_way_bytes.load(Relaxed) > bytes || self.peers.congested()
    }

    /// A connection's messages that are not answered were `before` bytes and are `now`.
    pub fn note_under_way(&self, before: usize, now: usize) {
        // Wraps around: the sum of all is right.
        self.under_way_bytes.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// Has a connection woken when what [`Broker::holds_up`] says is over.
    pub fn wait_for_congestion(
        self: &Arc<Self>,
        has_under_way: bool,
        listed: &mut [Option<Listed>; 2],
        waker: &std::task::Waker,
    ) {
        let (class, broker) = (usize::from(has_under_way), self.clone());
        let is_over = move || !broker.holds_up(has_under_way);
        listed[class] = Some(self.congestion[class].wait(listed[class], waker, &self.runtime, is_over));
    }

    /// Sessions other than this client's: connected here without a record, or recorded.
    pub fn session_count(&self, except: &str) -> usize {
        let state = self.consensus.state().read();
        let recorded = state.totals().sessions - usize::from(state.has_record(except));
        recorded + self.registry.clean_count(except)
    }

    /// Retained messages that match: the node's own `$SYS` topics, or the replicated ones after `cursor`. Returns where
    /// to go on.
    pub fn retained(
        &self,
        filter: &TopicFilter,
        cursor: Option<TopicName>,
        max: usize,
        now: Millis,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        // Bridges of other brokers announce themselves below `$SYS` too; that is replicated like everything else.
        if filter.matched_part().starts_with("$SYS") && cursor.is_none() {
            self.sys.matches(filter, into);
        }
        let state = self.consensus.state().read();
        let next = state.retained_matches(filter, cursor.as_ref(), max, into);
        drop(state);
        into.retain(|message| !message.is_expired(now) && self.source_may_still_write(message));
        next
    }

    /// check_retain_source: whoever published it must still be allowed to.
    pub fn source_may_still_write(&self, message: &Message) -> bool {
        if !self.settings.load().retain.check_source || message.publisher_id.is_empty() {
            return true;
        }
        // Bridges are not asked, so neither is what they brought.
        let is_bridge = |bridge: &Arc<BridgeConfig>| bridge.settings.local_client_id == message.publisher_id;
        if self.settings.load().bridges.iter().any(is_bridge) {
            return true;
        }
        let listeners = self.listeners.load();
        let mut rules = listeners.iter().map(|listener| listener.security.load());
        listeners.is_empty()
            || rules.any(|security| {
                let name = message.publisher_name.as_deref();
                security.acl.is_open() || security.rights(&message.publisher_id, name).may_write(&message.topic)
            })
    }

    /// A shared message whose receiver is gone goes to another member of the group.
    pub fn redispatch(&self, message: Arc<Message>, group: &TopicFilter, wakeups: &mut Wakeups) {
        match self.router.choose_again(&message, group) {
            Choice::Here(member, group) => self.router.hand_over(&message, &member, Some(group), wakeups),
            Choice::DurableHere(mailbox, options) => self.router.put(&message, &mailbox, options, None, wakeups),
            Choice::Nobody => add(&self.counters.dropped_no_member, 1),
            Choice::Elsewhere(filter, node) => {
                let forward = Forward { groups: vec![(filter, node)], ..Forward::new(message) };
                self.peers.forward(forward, None);
            }
            Choice::Durable => {
                let unreadable = self.router.unreadable(message.topic.as_str());
                let command = publish_to_group(message, group.clone(), unreadable);
                self.consensus.submit(vec![Submission { command, reply: Arc::new(Nobody), ticket: 0, life: None }]);
            }
        }
    }

    pub fn log_end(&self, name: &str, peer: &Peer, why: &Disconnected) {
        if self.settings.load().delivery.connection_messages {
            lines::client_disconnected(name, &peer.address, peer.port, why);
        }
    }

    /// The rules of the listeners, which are in place, decide about receivers from now on; other nodes are told. Call it when
    /// they have changed, or may not be known of this life of the node.
    pub fn obey_rules(&self) {
        let listeners = self.listeners.load();
        let readers = Readers::new(listeners.iter().map(|it| (it.door(), it.security.load().acl.clone())));
        let rules = readers.told();
        self.router.obey(readers);
        if !self.rules_are_told() {
            let command = Command::NodeRules { rules };
            self.consensus.submit(vec![Submission { command, reply: Arc::new(Nobody), ticket: 0, life: None }]);
        }
    }

    /// Whether other nodes can know the rules of this one.
    pub fn rules_are_told(&self) -> bool {
        let rules = || self.router.readers().told();
        !self.clustered || self.consensus.state().read().rules_of(self.consensus.origin().node) == rules()
    }

    /// Publishes a message of the broker's own for this node's clients.
    pub fn publish_here(&self, message: Arc<Message>) {
        let _ = self.router.publish_here(&message, &[], &mut Wakeups::default());
    }

    /// Tells everybody to go and waits until they have, at most for `patience`.
    pub async fn close_all(&self, order: Order, patience: Duration) {
        let all = self.registry.order_all(order);
        let _ = tokio::time::timeout(patience, async {
            for gone in all {
                gone.wait().await;
            }
        })
        .await;
    }
}

/// One `listener` of the configuration, with the rules that hold for its clients.
pub struct Listener {
    settings: ArcSwap<ListenerSettings>,
    pub security: ArcSwap<Security>,
    pub tls: TlsAcceptorSlot,
    pub connections: AtomicUsize,
    pub clients: Clients,
    /// For connections of our own: no window holds them back.
    pub is_internal: bool,
}

impl Listener {
    pub fn new(settings: ListenerSettings, security: Arc<Security>, tls: Option<Arc<Acceptor>>) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            security: ArcSwap::new(security),
            tls: TlsAcceptorSlot::new(tls),
            connections: AtomicUsize::new(0),
            clients: Clients::default(),
            is_internal: false,
        }
    }

    /// What bridges' sessions come through.
    pub fn internal(settings: ListenerSettings, security: Arc<Security>) -> Self {
        Self { is_internal: true, ..Self::new(settings, security, None) }
    }

    pub fn replace(&self, settings: ListenerSettings, security: Arc<Security>, tls: Option<Arc<Acceptor>>) {
        self.settings.store(Arc::new(settings));
        self.security.store(security);
        self.tls.replace(tls);
    }

    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.settings.load_full()
    }

    /// What clients' sessions know it by. Nodes of a cluster name the same port or socket alike.
    pub fn door(&self) -> Door {
        if self.is_internal {
            return Door::INTERNAL;
        }
        match &self.settings.load().address {
            ListenAddress::Tcp { port, .. } => Door(u32::from(*port)),
            ListenAddress::Unix(path) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_encoded_bytes());
                let bytes = hash.as_ref();
                // Above all ports.
                Door(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) | 1 << 31)
            }
        }
    }

    pub fn max_qos(&self) -> QoS {
        match self.settings.load().max_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub fn access(&self, client_id: &str, username: Option<&Utf8>) -> ClientAcl {
        self.security.load().rights(client_id, username.map(|name| name.as_str()))
    }

    /// What of user name and password lets the client in.
    /// # Errors
    /// What it is told instead.
    pub async fn lets_in(&self, broker: &Broker, connect: &Connect, source: Source) -> Result<Login, Authentication> {
        let security = self.security.load_full();
        let username = connect.user_name.as_deref();
        match security.authenticate(&broker.verifier, username, connect.password.as_deref(), source).await {
            Authentication::Granted => Ok(security.login(username)),
            refused => Err(refused),
        }
    }
}

/// The broker as the cluster sees it. Made before the broker; what comes until it is attached concerns nobody yet.
#[derive(Default)]
pub struct LiveHub {
    broker: OnceLock<Arc<Broker>>,
}

impl LiveHub {
    pub fn attach(&self, broker: Arc<Broker>) {
        let _ = self.broker.set(broker);
    }

    fn mailbox(broker: &Broker, owner: Owner) -> Option<Arc<Mailbox>> {
        let origin = broker.consensus.origin();
        if owner.node != origin.node || owner.incarnation != origin.incarnation {
            return None;
        }
        broker.router.durable_mailbox(owner.connection)
    }

    fn on_effect(broker: &Arc<Broker>, effect: Effect, wakeups: &mut Wakeups) {
        match effect {
            Effect::QueueGrew { owner } => {
                if let Some(mailbox) = Self::mailbox(broker, owner) {
                    mailbox.queue_grew();
                }
            }
            Effect::DeliverNow { owner, message, subscription } => {
                if let Some(mailbox) = Self::mailbox(broker, owner) {
                    let delivery = crate::live::Delivery { message, options: subscription, group: None };
                    if !mailbox.deliver(delivery, wakeups) {
                        add(&broker.counters.dropped_slow_reader, 1);
                    }
                }
            }
            Effect::Fence { owner, client_id, administrative, .. } => {
                let origin = broker.consensus.origin();
                if owner.node == origin.node && owner.incarnation == origin.incarnation {
                    let order = if administrative { Order::Administrative } else { Order::TakenOver };
                    broker.registry.evict_connection(&client_id, owner.connection, order);
                }
            }
            Effect::PublishLive { message, served } => {
                if let Some(forward) = broker.router.publish_here(&message, &served, wakeups) {
                    // Into the log, perhaps, if nobody is to be found there: not from here.
                    let broker = broker.clone();
                    broker.clone().defer(move || broker.peers.forward(forward, None));
                }
            }
            Effect::DeliverLive { message, groups } => {
                for group in broker.router.deliver_applied(&message, &groups, wakeups) {
                    // Into the log again, perhaps: not from here.
                    let (broker, message) = (broker.clone(), message.clone());
                    broker.clone().defer(move || broker.redispatch(message, &group, &mut Wakeups::default()));
                }
            }
            Effect::ChooseAgain { message, group, .. } => {
                // Into the log again, perhaps: not from here.
                let broker = broker.clone();
                broker.clone().defer(move || broker.redispatch(message, &group, &mut Wakeups::default()));
            }
            Effect::Dropped { client_id, reason, count } => {
                broker.bridges.count_dropped(&client_id, reason, count);
                let counter = match reason {
                    DropReason::QueueFull => &broker.counters.dropped_queue_full,
                    DropReason::QueueBytes => &broker.counters.dropped_queue_bytes,
                    DropReason::Expired => &broker.counters.dropped_expired,
                    DropReason::SessionEnded => &broker.counters.dropped_session_ended,
                };
                add(counter, count.into());
                // Every node keeps the queue, so every node says it.
                if matches!(reason, DropReason::QueueFull | DropReason::QueueBytes) {
                    broker.dropping.note(&client_id);
                }
            }
            Effect::NodeChanged { node, up: true, .. } if node == broker.consensus.origin().node => {
                let broker = broker.clone();
                broker.clone().defer(move || broker.obey_rules());
            }
            Effect::NodeChanged { .. } => {}
        }
    }
}

impl LiveSide for LiveHub {
    fn on_effects(&self, effects: Vec<Effect>) {
        let Some(broker) = self.broker.get() else { return };
        let mut wakeups = Wakeups::default();
        for effect in effects {
            Self::on_effect(broker, effect, &mut wakeups);
        }
    }

    fn deliver(&self, message: Arc<Message>, ordinary: bool, logged: bool, groups: &[TopicFilter]) -> Vec<TopicFilter> {
        let Some(broker) = self.broker.get() else { return Vec::new() };
        if message.is_node_local() && broker.sys.hear(broker, &message) {
            return Vec::new();
        }
        broker.router.deliver_forwarded(&message, ordinary, logged, groups)
    }

    fn group_unserved(&self, message: Arc<Message>, group: TopicFilter) {
        let Some(broker) = self.broker.get() else { return };
        let (durable, _) = broker.consensus.state().read().group_members(&group);
        if durable == 0 || message.qos == QoS::AtMostOnce {
            return add(&broker.counters.dropped_no_member, 1);
        }
        let unreadable = broker.router.unreadable(message.topic.as_str());
        let command = publish_to_group(message, group, unreadable);
        broker.consensus.submit(vec![Submission { command, reply: Arc::new(Nobody), ticket: 0, life: None }]);
    }

    fn fence(&self, client_id: Utf8, connection: ConnectionId, reason: FenceReason) -> BoxFuture<'static, ()> {
        let order = match reason {
            FenceReason::TakenOver => Order::TakenOver,
            FenceReason::Administrative => Order::Administrative,
        };
        let gone = self.broker.get().and_then(|broker| broker.registry.evict_connection(&client_id, connection, order));
        Box::pin(async move {
            if let Some(gone) = gone {
                gone.wait().await;
            }
        })
    }

    fn is_users(&self, client_id: &Utf8, connection: ConnectionId, only: &OnlyUser) -> bool {
        self.broker.get().is_none_or(|broker| broker.registry.is_users(client_id, connection, only))
    }

    fn lease_lost(&self, _incarnation: Incarnation) {
        if let Some(broker) = self.broker.get() {
            broker.registry.order_all(Order::LeaseLost);
        }
    }

    fn report(&self) -> ClientReport {
        let broker = self.broker.get().map(Arc::as_ref);
        ClientReport {
            connected: broker.map_or(0, |broker| broker.registry.len() as u64),
            not_ready: health::why_not_ready(broker),
        }
    }

    fn hand_over(&self, leaving: Vec<NodeId>, within: Duration) -> BoxFuture<'static, Result<(), String>> {
        let broker = self.broker.get().cloned();
        Box::pin(async move {
            match broker {
                // Its connections live on the threads of the broker.
                Some(broker) => {
                    let runtime = broker.runtime.clone();
                    let leaves = runtime.spawn(async move { drain::leave(&broker, leaving, within).await });
                    leaves.await.unwrap_or_else(|error| Err(error.to_string()))
                }
                None => Ok(()),
            }
        })
    }

    fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        self.broker.get().map(|broker| broker.registry.clean_clients()).unwrap_or_default()
    }
}
