//! One node's broker: what its connections share.
//! Always true: settings and access rules are replaced whole, never changed in place; what a client is answered comes from
//! one snapshot of them.
use crate::{
    auth::{PasswordVerifier, Readers},
    bridges::state::Bridges,
    config::{BridgeConfig, Settings},
    drain::state::Drain,
    listener::{Listener, Peer},
    live::{
        Counters, Delivery, Dropping, Order, Registry, Router, Wakeups, add,
        congestion::{Congestion, Listed},
        loop_ids::LoopIds,
        router::Choice,
    },
    logging::lines::{self, Disconnected},
    memory::MemoryWatch,
    reloading::Reloading,
    sys::SysTopics,
    tcp_wrappers::TcpWrappers,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use mosquorum_cluster::{
    Consensus, Forward, Peers, Pressure, Submission,
    ids::{ConnectionId, Millis},
    state::{Command, Message, PublishCommand},
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

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
    pub loop_ids: LoopIds,
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
        router.configure(&settings.delivery);
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
            loop_ids: LoopIds::default(),
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

    /// Runs something on the threads of the broker, where its connections run.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(work)
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
                let command = Command::Publish(PublishCommand::to_group(message, group.clone(), unreadable));
                self.consensus.submit(vec![Submission::without_reply(command, None)]);
            }
        }
    }

    /// Deliveries that nobody took in, because their session ended: shared ones go to somebody else.
    pub fn redispatch_all(&self, deliveries: Vec<Delivery>) {
        let mut wakeups = Wakeups::default();
        for delivery in deliveries {
            if let Some(group) = delivery.group
                && delivery.options.qos != QoS::AtMostOnce
            {
                self.redispatch(delivery.message, &group, &mut wakeups);
            }
        }
    }

    pub fn log_end(&self, name: &str, peer: &Peer, why: &Disconnected) {
        if self.settings.load().delivery.connection_messages {
            lines::client_disconnected(name, &peer.address, peer.port, why);
        }
    }

    /// The rules of the listeners, which are in place, decide about receivers from now on; other nodes get them. Call it when
    /// they have changed, or may not be known of this incarnation of the node.
    pub fn obey_rules(&self) {
        let listeners = self.listeners.load();
        let readers = Readers::new(listeners.iter().map(|it| (it.door(), it.security.load().acl.clone())));
        let rules = readers.node_rules();
        self.router.obey(readers);
        if !self.rules_are_known() {
            let command = Command::NodeRules { rules };
            self.consensus.submit(vec![Submission::without_reply(command, None)]);
        }
    }

    /// Whether other nodes can know the rules of this one.
    pub fn rules_are_known(&self) -> bool {
        let rules = || self.router.readers().node_rules();
        !self.clustered || self.consensus.state().read().rules_of(self.consensus.origin().node) == rules()
    }

    /// Orders every connection to end and waits until they have, at most for `timeout`.
    pub async fn close_all(&self, order: Order, timeout: Duration) {
        let all = self.registry.order_all(order);
        let _ = tokio::time::timeout(timeout, async {
            for gone in all {
                gone.wait().await;
            }
        })
        .await;
    }
}
