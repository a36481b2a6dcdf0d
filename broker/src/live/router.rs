//! From a published message to everybody who is connected: this node's clean sessions, other nodes, durable sessions'
//! QoS 0 deliveries. Queues of durable sessions are filled by the replicated state, not here.
//! Always true: a message is matched against tables at least as new as the newest SUBACK that this node, or another one
//! whose answer it has seen, gave before the message was read; each shared group gets a message at most once per choice.
pub use super::targets::{DurableMembers, DurableTarget, SharedTarget, Targets};
use super::{
    Counters, add,
    mailbox::{Delivery, Mailbox, Wakeups},
    rights::{Unreadable, may_read},
    subscriptions::{Group, LiveMatches, LiveSubscription, LiveSubscriptions, MemberNumber},
};
use crate::{auth::Readers, config};
use arc_swap::ArcSwap;
use mosquorum_cluster::{
    Consensus, Forward, OrdinaryReceivers, Peers, RemoteRoutes,
    ids::{ConnectionId, Epoch, NodeId},
    recent_changes::RecentChanges,
    state::{DeliveryOptions, DurableMatch, Message},
};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, Utf8};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::*},
    },
};

/// Stands for "nothing that decides about routes has changed".
pub type RouteVersion = (u64, u64, u64);

/// Who of a group gets one message.
pub enum Choice {
    Here(LiveSubscription, TopicFilter),
    DurableHere(Arc<Mailbox>, DeliveryOptions),
    Elsewhere(TopicFilter, NodeId),
    /// The replicated state chooses a durable member.
    Durable,
    Nobody,
}

pub struct Router {
    live: RwLock<LiveSubscriptions>,
    /// That of the changes in `live`, when `live` has them.
    live_version: AtomicU64,
    /// Connections of durable sessions, addressed by effects of the replicated state.
    durable: RwLock<HashMap<ConnectionId, Arc<Mailbox>>>,
    cursors: Mutex<HashMap<TopicFilter, u32>>,
    upgrade_qos: AtomicBool,
    allow_duplicates: AtomicBool,
    readers: ArcSwap<Readers>,
    consensus: Arc<dyn Consensus>,
    peers: Arc<dyn Peers>,
    counters: Arc<Counters>,
}

impl Router {
    pub fn new(consensus: Arc<dyn Consensus>, peers: Arc<dyn Peers>, counters: Arc<Counters>) -> Self {
        Self {
            live: RwLock::default(),
            live_version: AtomicU64::new(RecentChanges::default().version()),
            durable: RwLock::default(),
            cursors: Mutex::default(),
            upgrade_qos: AtomicBool::new(false),
            allow_duplicates: AtomicBool::new(true),
            readers: ArcSwap::default(),
            consensus,
            peers,
            counters,
        }
    }

    pub fn configure(&self, settings: &config::Delivery) {
        self.upgrade_qos.store(settings.upgrade_outgoing_qos, Relaxed);
        self.allow_duplicates.store(settings.allow_duplicate_messages, Relaxed);
        self.change(|live| live.changes.all_changed());
    }

    fn change<T>(&self, change: impl FnOnce(&mut LiveSubscriptions) -> T) -> T {
        let mut live = self.live.write();
        let result = change(&mut live);
        self.live_version.store(live.changes.version(), Release);
        result
    }

    /// The rules by which receivers are chosen from now on.
    pub fn obey(&self, readers: Readers) {
        self.readers.store(Arc::new(readers));
        self.change(|live| live.changes.all_changed());
    }

    pub fn readers(&self) -> Arc<Readers> {
        self.readers.load_full()
    }

    /// Adds a clean session's subscription; whether it existed.
    pub fn subscribe(&self, connection: ConnectionId, subscription: &Subscription, live: LiveSubscription) -> bool {
        self.change(|all| {
            all.changes.changed(&subscription.filter);
            all.insert(connection, subscription, live)
        })
    }

    /// Removes one; `false` if there was none.
    pub fn unsubscribe(&self, connection: ConnectionId, filter: &TopicFilter) -> bool {
        self.change(|all| {
            all.changes.changed(filter);
            all.remove(connection, filter)
        })
    }

    pub fn attach_durable(&self, client_id: &Utf8, connection: ConnectionId, mailbox: Arc<Mailbox>) {
        self.durable.write().insert(connection, mailbox);
        self.durable_changed(client_id);
    }

    pub fn detach_durable(&self, client_id: &Utf8, connection: ConnectionId) {
        self.durable.write().remove(&connection);
        self.durable_changed(client_id);
    }

    /// What the session subscribed to reaches another connection, or none.
    fn durable_changed(&self, client_id: &Utf8) {
        let state = self.consensus.state().read();
        if let Some(session) = state.session(client_id) {
            self.change(|live| live.changes.changed_each(session.subscriptions().keys()));
        }
    }

    pub fn durable_mailbox(&self, connection: ConnectionId) -> Option<Arc<Mailbox>> {
        self.durable.read().get(&connection).cloned()
    }

    pub fn subscription_counts(&self) -> (usize, usize) {
        let live = self.live.read();
        (live.count(), live.shared_count())
    }

    /// Whole filter, client identifier and QoS of each live subscription. Copies: not for hot paths.
    pub fn live_subscriptions(&self) -> Vec<(String, Utf8, QoS)> {
        self.live.read().all()
    }

    /// Read after the packets: what was acknowledged before they were sent is then included.
    pub fn version(&self) -> RouteVersion {
        let state = self.consensus.state().read().subscriptions_version();
        (self.live_version.load(Acquire), state, self.peers.routes_version())
    }

    /// The filters whose topics may have other targets than at a version; `None`: all topics may.
    pub fn changed_since(&self, version: RouteVersion) -> Option<Vec<TopicFilter>> {
        let (live, state, remote) = version;
        let mut filters = Vec::new();
        let complete = self.live.read().changes.since(live, &mut filters)
            && self.consensus.state().read().subscriptions_since(state, &mut filters)
            && self.peers.routes_since(remote, &mut filters);
        complete.then_some(filters)
    }

    /// Clean sessions and groups of this node that match.
    fn live_matches(&self, topic: &str) -> LiveMatches {
        let mut live = self.live.read().matches(topic);
        if !self.allow_duplicates.load(Relaxed) {
            live.merge();
        }
        live
    }

    /// Everybody of these who shares with nobody gets it.
    fn deliver_to_ordinary(&self, message: &Arc<Message>, live: &LiveMatches, wakeups: &mut Wakeups) {
        for (_, subscription) in &live.sessions {
            if !(subscription.no_local && subscription.client_id == message.publisher_id) {
                self.hand_over(message, subscription, None, wakeups);
            }
        }
    }

    /// Finds everybody who gets messages of this topic.
    pub fn targets(&self, topic: &str) -> Targets {
        let live = self.live_matches(topic);
        let mut remote = RemoteRoutes::default();
        self.peers.routes(topic, &mut remote);
        let mut targets = Targets::nobody();
        for group in &live.groups {
            let shared = targets.shared(&group.filter);
            shared.live = Some(group.clone());
            shared.readers = self.readers_of(group, topic);
        }
        for (filter, node, members) in remote.groups.drain(..) {
            targets.shared(&filter).remote.push((node, members));
        }
        targets.live = live;
        targets.remote = remote;
        self.add_durable(topic, &self.readers.load(), &mut targets);
        targets
    }

    /// The members that may read the topic. `None`: all.
    fn readers_of(&self, group: &Group, topic: &str) -> Option<Box<[MemberNumber]>> {
        let readers = self.readers.load();
        (!readers.is_open()).then(|| group.members_that(|member| may_read(&readers, member, topic)))
    }

    /// Durable sessions that match this topic and may not read it, for a message that was not looked up here.
    pub fn unreadable(&self, topic: &str) -> Arc<[Epoch]> {
        match self.readers.load().is_open() {
            true => Arc::default(),
            false => self.targets(topic).unreadable,
        }
    }

    fn add_durable(&self, topic: &str, readers: &Readers, targets: &mut Targets) {
        let state = self.consensus.state().read();
        if !state.matches_durable(topic) {
            return;
        }
        let here = self.consensus.origin().node;
        let mut merged = HashSet::new();
        let mut unreadable = Unreadable::new(readers, here, topic);
        let add = |found: DurableMatch<'_>| {
            if unreadable.takes(&state, &found) {
                return;
            }
            targets.durable = true;
            targets.queues_qos0 |= found.queues_qos0();
            let target = DurableTarget::of(&found);
            let owner = found.owner;
            let mailbox = owner.filter(|o| o.node == here).and_then(|o| self.durable_mailbox(o.connection));
            match (found.group, owner, mailbox) {
                (Some(filter), owner, mailbox) => {
                    let shared = targets.shared(filter);
                    shared.durable += 1;
                    shared.durable_ready += u32::from(found.takes_turns());
                    match (mailbox, owner) {
                        (Some(mailbox), _) => shared.durable_here.judged(mailbox, target),
                        (None, Some(owner)) if owner.node != here => shared.add_durable_elsewhere(owner.node),
                        (None, _) => {}
                    }
                }
                (None, Some(owner), Some(mailbox)) => {
                    // Their QoS 0 copies are equal: before MQTT 5 there are no identifiers.
                    if !found.session.limits().merge_overlapping || merged.insert(owner.connection) {
                        targets.durable_here.push((mailbox, target));
                    }
                }
                (None, Some(owner), None) if owner.node != here => {
                    if !targets.durable_nodes.contains(&owner.node) {
                        targets.durable_nodes.push(owner.node);
                    }
                }
                (None, ..) => {}
            }
        };
        if readers.is_open() {
            state.for_each_ordinary_match(topic, add);
            state.for_each_durable_group(topic, |filter, group| targets.add_group(filter, group, here));
        } else {
            state.for_each_durable_match(topic, add);
        }
        targets.unreadable = unreadable.into_epochs();
    }

    /// Decides for each shared group who gets this message. The decision is taken once, before the message is proposed
    /// or delivered, and holds for both.
    pub fn choose(&self, targets: &Targets, message: &Message, logged: bool) -> Vec<Choice> {
        let elsewhere = |group: &SharedTarget| if logged { SmallVec::new() } else { group.durable_nodes.clone() };
        targets.groups.iter().map(|group| self.choose_member(group, &elsewhere(group), message, logged)).collect()
    }

    fn choose_member(
        &self,
        group: &SharedTarget,
        durable_nodes: &[(NodeId, u32)],
        message: &Message,
        logged: bool,
    ) -> Choice {
        let here = group.members_here() as u32;
        let remote: u32 = group.remote.iter().chain(durable_nodes).map(|(_, members)| members).sum();
        let durable = if logged { group.durable_ready } else { group.durable_here.len() };
        let total = here + remote + durable;
        if total == 0 {
            return if group.durable > 0 { Choice::Durable } else { Choice::Nobody };
        }
        let choose_here = || match group.live.as_ref().and_then(|live| live.next_member(group.readers.as_deref())) {
            Some(member) => Choice::Here(member, group.filter.clone()),
            None => Choice::Nobody,
        };
        if total == here {
            return choose_here();
        }
        let mut turn = self.next_turn(&group.filter) % total;
        if turn < here {
            return choose_here();
        }
        turn -= here;
        for (node, members) in group.remote.iter().chain(durable_nodes) {
            if turn < *members {
                return Choice::Elsewhere(group.filter.clone(), *node);
            }
            turn -= members;
        }
        match self.durable_member(group, turn as usize).filter(|_| !logged) {
            Some((mailbox, target)) => Choice::DurableHere(mailbox, target.options(message.retain)),
            None => Choice::Durable,
        }
    }

    /// The durable member connected here whose turn it is.
    fn durable_member(&self, group: &SharedTarget, turn: usize) -> Option<(Arc<Mailbox>, DurableTarget)> {
        match &group.durable_here {
            DurableMembers::Judged(members) => members.get(turn % members.len().max(1)).cloned(),
            DurableMembers::Counted(_) => {
                let state = self.consensus.state().read();
                let mut members = state.connected_members(&group.filter, self.consensus.origin().node, turn);
                members
                    .find_map(|found| Some((self.durable_mailbox(found.owner?.connection)?, DurableTarget::of(&found))))
            }
        }
    }

    fn next_turn(&self, filter: &TopicFilter) -> u32 {
        let mut cursors = self.cursors.lock();
        let turn = match cursors.get_mut(filter) {
            Some(turn) => turn,
            None => {
                if cursors.len() >= GROUP_CURSORS_MAX {
                    cursors.clear();
                }
                cursors.entry(filter.clone()).or_insert(0)
            }
        };
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    /// Delivers to everybody connected here and returns what other nodes must get (`None`: nothing).
    pub fn deliver(
        &self,
        message: &Arc<Message>,
        targets: &Targets,
        choices: Vec<Choice>,
        logged: bool,
        wakeups: &mut Wakeups,
    ) -> Option<Forward> {
        let durable_live = !logged && (message.qos == QoS::AtMostOnce || message.is_node_local());
        self.deliver_to_ordinary(message, &targets.live, wakeups);
        if durable_live {
            for (mailbox, target) in &targets.durable_here {
                if !(target.no_local && target.client_id == message.publisher_id) {
                    self.put(message, mailbox, target.options(message.retain), None, wakeups);
                }
            }
        }
        let nodes = targets.remote.nodes.clone();
        let mut forward = Forward { nodes, logged, ..Forward::new(message.clone()) };
        if durable_live {
            for node in &targets.durable_nodes {
                if !forward.nodes.contains(node) {
                    forward.nodes.push(*node);
                }
            }
        }
        for choice in choices {
            match choice {
                Choice::Here(member, group) => self.hand_over(message, &member, Some(group), wakeups),
                Choice::DurableHere(mailbox, options) => self.put(message, &mailbox, options, None, wakeups),
                Choice::Elsewhere(filter, node) => forward.groups.push((filter, node)),
                Choice::Durable | Choice::Nobody => {}
            }
        }
        (!forward.nodes.is_empty() || !forward.groups.is_empty()).then_some(forward)
    }

    pub fn hand_over(
        &self,
        message: &Arc<Message>,
        to: &LiveSubscription,
        group: Option<TopicFilter>,
        wakeups: &mut Wakeups,
    ) {
        let qos = if self.upgrade_qos.load(Relaxed) { to.qos } else { to.qos.min(message.qos) };
        let options = DeliveryOptions {
            qos,
            retain: to.retain_as_published && message.retain,
            identifiers: to.identifier.into_iter().collect(),
        };
        self.put(message, &to.mailbox, options, group, wakeups);
    }

    pub fn put(
        &self,
        message: &Arc<Message>,
        mailbox: &Mailbox,
        options: DeliveryOptions,
        group: Option<TopicFilter>,
        wakeups: &mut Wakeups,
    ) {
        let delivery = Delivery { message: message.clone(), options, group };
        if !mailbox.deliver(delivery, wakeups) {
            add(&self.counters.dropped_slow_reader, 1);
        }
    }

    /// A message from another node: its ordinary live subscribers here (durable ones too, unless they get it from the
    /// log), and one member of each group named.
    /// Returns groups that have no member here any more.
    pub fn deliver_forwarded(
        &self,
        message: &Arc<Message>,
        ordinary: OrdinaryReceivers,
        groups: &[TopicFilter],
    ) -> Vec<TopicFilter> {
        let mut wakeups = Wakeups::default();
        if ordinary != OrdinaryReceivers::Nobody {
            let logged = ordinary == OrdinaryReceivers::CleanSessions;
            let mut targets = self.targets(message.topic.as_str());
            targets.groups.clear();
            targets.remote = RemoteRoutes::default();
            targets.durable_nodes.clear();
            self.deliver(message, &targets, Vec::new(), logged, &mut wakeups);
        }
        self.deliver_to_groups(message, groups, &mut wakeups)
    }

    /// One member of each group gets it; groups without one come back.
    fn deliver_to_groups(
        &self,
        message: &Arc<Message>,
        groups: &[TopicFilter],
        wakeups: &mut Wakeups,
    ) -> Vec<TopicFilter> {
        let mut unroutable = Vec::new();
        for filter in groups {
            let group = self.live.read().group(filter);
            let readers = group.as_ref().and_then(|group| self.readers_of(group, message.topic.as_str()));
            match group.as_ref().and_then(|group| group.next_member(readers.as_deref())) {
                Some(member) => self.hand_over(message, &member, Some(filter.clone()), wakeups),
                None if self.hand_to_durable_member(message, filter, wakeups) => {}
                None => unroutable.push(filter.clone()),
            }
        }
        unroutable
    }

    /// A message that this node applies from the log for its live subscribers and a member of each group named, in the
    /// log's order: durable sessions have it already. Returns groups that have no member here any more.
    pub fn deliver_applied(
        &self,
        message: &Arc<Message>,
        groups: &[TopicFilter],
        wakeups: &mut Wakeups,
    ) -> Vec<TopicFilter> {
        self.deliver_to_ordinary(message, &self.live_matches(message.topic.as_str()), wakeups);
        self.deliver_to_groups(message, groups, wakeups)
    }

    /// QoS 0 for a group whose durable members are connected here; false if none is.
    fn hand_to_durable_member(&self, message: &Arc<Message>, filter: &TopicFilter, wakeups: &mut Wakeups) -> bool {
        if message.qos != QoS::AtMostOnce {
            return false;
        }
        let targets = self.targets(message.topic.as_str());
        let Some(group) = targets.groups.iter().find(|group| group.filter == *filter) else { return false };
        let Some((mailbox, target)) = self.durable_member(group, self.next_turn(filter) as usize) else { return false };
        self.put(message, &mailbox, target.options(message.retain), None, wakeups);
        true
    }

    /// A message that each node publishes to those connected to it: `$SYS`, wills that the state has already queued for
    /// durable sessions and given to the groups `served`. Of the nodes with members of another group the first serves it.
    /// What it returns is for another node: nobody here may read it.
    pub fn publish_here(
        &self,
        message: &Arc<Message>,
        served: &[TopicFilter],
        wakeups: &mut Wakeups,
    ) -> Option<Forward> {
        let mut targets = self.targets(message.topic.as_str());
        let (logged, here) = (!message.is_node_local(), self.consensus.origin().node);
        targets.groups.retain_mut(|group| {
            if logged {
                group.forget_durable();
            }
            let first = group.has_members_here() && group.elsewhere().all(|(node, _)| *node > here);
            if !logged || group.members_here() > 0 {
                group.forget_elsewhere();
            }
            first && !served.contains(&group.filter)
        });
        targets.remote = RemoteRoutes::default();
        let choices = self.choose(&targets, message, logged);
        self.deliver(message, &targets, choices, logged, wakeups)
    }

    /// A session ended before it acknowledged a shared subscription's message: somebody else of the group gets it.
    pub fn choose_again(&self, message: &Message, filter: &TopicFilter) -> Choice {
        let targets = self.targets(message.topic.as_str());
        match targets.groups.iter().find(|group| group.filter == *filter) {
            // Not sent to where it may come from: whether a durable member is still there, that node knows better.
            Some(group) => self.choose_member(group, &[], message, message.qos != QoS::AtMostOnce),
            None => Choice::Nobody,
        }
    }
}

/// Turns of groups with members in several places that are remembered; beyond it all start anew.
const GROUP_CURSORS_MAX: usize = 10_000;
