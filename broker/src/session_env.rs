//! A session's surroundings on this node: what it may ask for, done for real.
//! Always true: nothing here waits, but for messages that only the state store has; what a round of the connection proposes is handed over at its end, and receivers of
//! what it delivered are woken then, so that they find all of it.
use crate::{
    auth::ClientAcl,
    broker::Broker,
    control,
    live::{
        Delivery, Mailbox, Order, Outgoing, Wakeups,
        counters::CounterValues,
        mailbox::kept,
        router::{Choice, RouteVersion, Targets},
        subscriptions::{LiveSubscription, Reader},
        target_cache::TargetCache,
    },
    logging::lines,
    planted,
    session::{
        Denied, QueueItem,
        env::{Access, Cluster, Control, Journal, Output, Routing, Trace},
    },
    telemetry::hooks,
    ticket,
};
use bytes::{Bytes, BytesMut};
use mosquorum_cluster::{
    Completion, Forward, Submission,
    ids::{LogIndex, Millis, NodeId},
    state::{Body, Command, Door, LoopId, Message, MessageId, Owner, PublishCommand},
};
use mosquorum_proto::mqtt::{PublishProperties, QoS, Subscription, TopicFilter, TopicName, Utf8};
use std::{cell::Cell, sync::Arc, time::Duration};

/// Bytes waiting for the socket above which only answers are added.
const OUT_HIGH_BYTES: usize = 64 << 10;
/// A message that is in the store only may be gone when it is looked for, since its entry went meanwhile. Then the queue is
/// read again, so often. What is missing still may be so because the whole state is being replaced: the connection ends.
const QUEUE_READS_MAX: usize = 4;

thread_local! {
    /// One buffer per thread for what a round writes; a connection has its own only while its socket is full.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
    /// The same for what a round counts.
    static SPARE_COUNTS: Cell<Option<Box<CounterValues>>> = const { Cell::new(None) };
}

pub struct SessionEnv {
    pub broker: Arc<Broker>,
    pub mailbox: Arc<Mailbox>,
    pub owner: Owner,
    pub client_id: Utf8,
    pub username: Option<Utf8>,
    pub access: ClientAcl,
    /// Whose rules `access` is of.
    pub door: Door,
    /// Where its will goes; the right to it may end. Most have none.
    pub will_topic: Option<Box<TopicName>>,
    pub out: Outgoing,
    counts: Option<Box<CounterValues>>,
    now: Millis,
    version: RouteVersion,
    cache: TargetCache,
    submissions: Vec<Submission>,
    wakeups: Wakeups,
}

impl SessionEnv {
    pub fn new(
        broker: Arc<Broker>,
        mailbox: Arc<Mailbox>,
        owner: Owner,
        client_id: Utf8,
        username: Option<Utf8>,
        access: ClientAcl,
        door: Door,
    ) -> Self {
        Self {
            now: broker.consensus.now(),
            version: broker.router.version(),
            broker,
            mailbox,
            owner,
            client_id,
            username,
            access,
            door,
            will_topic: None,
            out: Outgoing::default(),
            counts: None,
            cache: TargetCache::default(),
            submissions: Vec::new(),
            wakeups: Wakeups::default(),
        }
    }

    /// Call after reading from the socket: what was acknowledged to others before these bytes were sent is then seen.
    pub fn begin_round(&mut self) {
        self.now = self.broker.consensus.now();
        self.look_anew();
    }

    /// What is remembered of who gets a topic's messages holds no longer than the subscriptions that it was found with.
    fn look_anew(&mut self) {
        let version = self.broker.router.version();
        if version != self.version {
            match self.broker.router.changed_since(std::mem::replace(&mut self.version, version)) {
                Some(filters) => self.cache.forget(&filters),
                None => self.cache.clear(),
            }
        }
    }

    pub fn borrow_buffer(&mut self) {
        if self.out.buffer().capacity() == 0
            && let Some(spare) = SPARE.take()
        {
            *self.out.buffer() = spare;
        }
    }

    /// Everything in `out` has been written.
    pub fn return_buffer(&mut self) {
        self.out.clear();
        if self.out.buffer().capacity() > 0 {
            let buffer = std::mem::take(self.out.buffer());
            if buffer.capacity() <= 4 * OUT_HIGH_BYTES {
                SPARE.set(Some(buffer));
            }
        }
    }

    /// Hands over what the round proposed and wakes whom it delivered to.
    pub fn finish_round(&mut self) {
        if !self.submissions.is_empty() {
            self.broker.consensus.submit(std::mem::take(&mut self.submissions));
        }
        self.wakeups.give();
        if let Some(mut counts) = self.counts.take() {
            if counts.dropped_queue_full + counts.dropped_queue_bytes + counts.dropped_slow_reader > 0 {
                self.broker.dropping.note(&self.client_id);
            }
            self.broker.counters.absorb(&mut counts);
            SPARE_COUNTS.set(Some(counts));
        }
    }

    /// Proposes something that outlives the connection.
    pub fn submit_for_nobody(&mut self, command: Command) {
        let incarnation = Some(self.owner.incarnation);
        self.submissions.push(Submission::without_reply(command, incarnation));
    }

    /// Whether the client may still write to where its will goes.
    pub fn may_publish_will(&mut self) -> bool {
        let Some(topic) = self.will_topic.take() else { return true };
        let may = self.access.may_write(&topic);
        if !may {
            self.denied(Denied::Will, topic.as_str());
        }
        self.will_topic = Some(topic);
        may
    }

    fn reader(&self) -> Reader {
        Reader { door: self.door, username: self.username.clone() }
    }

    /// Whether the ticket will be answered.
    fn forward(&mut self, forward: Forward, ticket: Option<u64>) -> bool {
        let message = kept(&forward.message);
        let forward = Forward { message, incarnation: Some(self.owner.incarnation), ..forward };
        let reply = ticket.filter(|_| forward.message.qos != QoS::AtMostOnce);
        let reply = reply.map(|ticket| {
            self.mailbox.owe();
            (self.mailbox.clone() as Arc<dyn Completion>, ticket)
        });
        let waits = reply.is_some();
        self.broker.peers.forward(forward, reply);
        waits
    }

    /// Entries as the state has them now. Messages that only the store has are missing: not more of them are to be read
    /// than are sent next.
    fn read_queue(&self, from_seq: u64, max: usize, into: &mut Vec<QueueItem>) -> QueueRead {
        let mut read = QueueRead::default();
        let state = self.broker.consensus.state().read();
        let Some(session) = state.session(&self.client_id) else { return read };
        let queue = session.queue();
        for entry in queue.iter_from(from_seq) {
            let body = state.body(entry);
            let stored = matches!(body, Body::Stored(_));
            if into.len() >= max || !read.takes(stored, state.memory_of(entry)) {
                read.more = true;
                break;
            }
            let message = match body {
                Body::Here(message) => Some(message.clone()),
                Body::Stored(id) => {
                    read.stored.push((into.len(), id));
                    None
                }
                Body::Released => None,
            };
            into.push(QueueItem {
                seq: entry.seq(),
                packet_id: entry.packet_id(),
                message,
                options: entry.options(),
                dup: entry.seq() < queue.dup_before(),
            });
        }
        read
    }
}

/// What a read of the queue brought beside the entries.
#[derive(Debug, Default)]
struct QueueRead {
    /// Where messages are missing that only the store has.
    stored: Vec<(usize, MessageId)>,
    bytes: u64,
    /// The queue goes on behind what was read.
    more: bool,
}

impl QueueRead {
    /// Whether an entry of so many bytes is taken too. The first always is.
    fn takes(&mut self, stored: bool, bytes: u64) -> bool {
        let takes = !stored || self.bytes <= OUT_HIGH_BYTES as u64;
        self.bytes += bytes;
        takes
    }
}

impl Output for SessionEnv {
    fn out(&mut self) -> &mut BytesMut {
        self.out.buffer()
    }
    fn share(&mut self, payload: &Bytes) {
        self.out.share(payload);
    }
    fn out_congested(&self) -> bool {
        self.out.unsent() > OUT_HIGH_BYTES
    }
    fn count(&mut self) -> &mut CounterValues {
        self.counts.get_or_insert_with(|| SPARE_COUNTS.take().unwrap_or_default())
    }
}

impl Cluster for SessionEnv {
    fn now(&self) -> Millis {
        self.now
    }
    fn node(&self) -> NodeId {
        self.owner.node
    }
    fn submit(&mut self, command: Command, ticket: u64) {
        if ticket::is_of_message(ticket) {
            self.mailbox.owe();
        }
        let mut incarnation = Some(self.owner.incarnation);
        let mut command = command;
        if let Command::Publish(publish) = &mut command {
            publish.message = kept(&publish.message);
        }
        if !planted::fences_proposals() {
            incarnation = None;
            if let Command::Publish(PublishCommand { epoch, packet_id: None, .. }) = &mut command {
                *epoch = None;
            }
        }
        self.submissions.push(Submission { command, reply: self.mailbox.clone(), ticket, incarnation });
    }
    fn needs_barrier(&self) -> bool {
        self.broker.clustered
    }
    fn barrier(&mut self, ticket: u64) {
        self.broker.consensus.barrier(self.mailbox.clone(), ticket);
    }
    fn change_routes(&mut self, added: Vec<TopicFilter>, removed: Vec<TopicFilter>, ticket: u64) {
        if self.broker.clustered {
            self.broker.peers.change_routes(added, removed, self.mailbox.clone(), ticket);
        }
    }
    fn queue(&mut self, from_seq: u64, max: usize, into: &mut Vec<QueueItem>) -> bool {
        for _ in 0..QUEUE_READS_MAX {
            into.clear();
            let QueueRead { stored, more, .. } = self.read_queue(from_seq, max, into);
            let ids: Vec<MessageId> = stored.iter().map(|(_, id)| *id).collect();
            let messages = if ids.is_empty() { Vec::new() } else { self.broker.consensus.stored_messages(&ids) };
            let missing = messages.iter().position(Option::is_none).map(|missing| stored[missing].0);
            for ((index, _), message) in stored.into_iter().zip(messages) {
                into[index].message = message;
            }
            let Some(missing) = missing else { return more };
            into.truncate(missing);
        }
        self.mailbox.order(Order::Unreadable);
        false
    }
    fn retained(
        &mut self,
        filter: &TopicFilter,
        cursor: Option<TopicName>,
        max: usize,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        self.broker.retained(filter, cursor, max, self.now, into)
    }
    fn next_mark(&mut self) -> Option<LoopId> {
        self.broker.loop_ids.next(|| self.broker.consensus.cluster_id())
    }
    fn origin(&mut self) -> [u8; 16] {
        self.broker.loop_ids.origin(self.broker.consensus.cluster_id())
    }
}

impl Routing for SessionEnv {
    fn targets(&mut self, topic: &TopicName) -> Arc<Targets> {
        if let Some(targets) = self.cache.get(topic) {
            return targets.clone();
        }
        let targets = Arc::new(self.broker.router.targets(topic.as_str()));
        self.cache.insert(topic, targets.clone());
        targets
    }
    fn choose(&mut self, targets: &Targets, message: &Message, logged: bool) -> Vec<Choice> {
        if targets.groups.is_empty() {
            return Vec::new();
        }
        self.broker.router.choose(targets, message, logged)
    }
    fn deliver(
        &mut self,
        message: &Arc<Message>,
        targets: &Targets,
        choices: Vec<Choice>,
        logged: bool,
        after: LogIndex,
        ticket: Option<u64>,
    ) -> bool {
        let forward = self.broker.router.deliver(message, targets, choices, logged, &mut self.wakeups);
        forward.is_some_and(|forward| self.forward(Forward { after, ..forward }, ticket))
    }
    fn watch_groups(
        &mut self,
        message: &Arc<Message>,
        groups: Vec<(TopicFilter, NodeId)>,
        applied: LogIndex,
        ticket: Option<u64>,
    ) -> bool {
        let forward = Forward { groups, logged: true, after: applied, at_apply: true, ..Forward::new(message.clone()) };
        self.forward(forward, ticket)
    }
    fn choose_again(&mut self, message: Arc<Message>, group: &TopicFilter) {
        self.broker.redispatch(message, group, &mut self.wakeups);
    }
    fn subscribe_live(&mut self, subscription: &Subscription, identifier: Option<u32>, may_merge: bool) -> bool {
        let live = LiveSubscription {
            mailbox: self.mailbox.clone(),
            client_id: self.client_id.clone(),
            qos: subscription.qos,
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            identifier,
            may_merge,
            reader: subscription.filter.share_name().map(|_| Arc::new(self.reader())),
        };
        let existed = self.broker.router.subscribe(self.owner.connection, subscription, live);
        self.look_anew();
        existed
    }
    fn unsubscribe_live(&mut self, filter: &TopicFilter) -> bool {
        let existed = self.broker.router.unsubscribe(self.owner.connection, filter);
        self.look_anew();
        existed
    }
    fn arrived(&mut self) -> Vec<Delivery> {
        self.mailbox.take_deliveries()
    }
}

impl Access for SessionEnv {
    fn may_read(&mut self, topic: &TopicName) -> bool {
        self.access.may_read(topic)
    }
    fn may_write(&mut self, topic: &TopicName) -> bool {
        self.access.may_write(topic)
    }
    fn source_may_write(&mut self, message: &Message) -> bool {
        self.broker.source_may_still_write(message)
    }
    fn may_subscribe(&mut self, filter: &TopicFilter) -> bool {
        self.access.may_subscribe(filter)
    }
    fn may_unsubscribe(&mut self, filter: &TopicFilter) -> bool {
        self.access.may_unsubscribe(filter)
    }
    fn memory_exceeded(&self) -> bool {
        self.broker.memory.is_exceeded()
    }
}

impl Control for SessionEnv {
    fn control(&mut self, topic: &TopicName, payload: &[u8]) -> Option<(TopicName, String)> {
        let settings = self.broker.settings.load();
        crate::info!("Broker: {}/{} | {}", self.client_id, self.username.as_deref().unwrap_or(""), topic.as_str());
        let (topic, text) = control::answer(topic.as_str(), payload, settings.control_api, &settings.listeners);
        Some((TopicName::new(Utf8::from(topic)).ok()?, text))
    }
}

impl Trace for SessionEnv {
    fn trace_published(&mut self, properties: &mut PublishProperties, topic: &TopicName, qos: QoS) {
        hooks::published(properties, topic.as_str(), qos, &self.client_id);
    }
    fn trace_committed(&mut self, message: &Message, since: Millis) {
        hooks::committed(message, Duration::from_millis(self.now.0.saturating_sub(since.0)));
    }
    fn trace_delivered(&mut self, message: &Message) {
        hooks::delivered(message, &self.client_id);
    }
}

impl Journal for SessionEnv {
    fn note_subscribed(&mut self, filter: &TopicFilter, qos: QoS) {
        lines::subscribed(&self.client_id, qos as u8, filter.as_str());
    }
    fn note_unsubscribed(&mut self, filter: &TopicFilter) {
        lines::unsubscribed(&self.client_id, filter.as_str());
    }
    fn denied(&mut self, what: Denied, topic: &str) {
        let count = self.count();
        let what = match what {
            Denied::Publish => {
                count.publish_dropped += 1;
                "Denied PUBLISH from"
            }
            Denied::LargePublish => {
                count.dropped_too_large += 1;
                "Dropped too large PUBLISH from"
            }
            Denied::Subscribe => "Denied SUBSCRIBE from",
            Denied::Unsubscribe => "Denied UNSUBSCRIBE from",
            Denied::Delivery => {
                count.dropped_not_authorized += 1;
                "Denied PUBLISH to"
            }
            Denied::RetainedSource => {
                count.dropped_not_authorized += 1;
                "Denied retained PUBLISH, whose publisher may not write it any more, to"
            }
            Denied::Will => "Denied will of",
        };
        crate::debug!("{what} {} ('{topic}')", self.client_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_from_the_store_than_is_sent_next_but_always_something() {
        let mut read = QueueRead::default();
        assert!(read.takes(true, 10 * OUT_HIGH_BYTES as u64), "however large, the first is taken");
        assert!(!read.takes(true, 1));
        assert!(read.takes(false, 1 << 20), "what is in memory need not be read");
        let mut read = QueueRead::default();
        let taken = (0..64).take_while(|_| read.takes(true, 20_000)).count();
        assert_eq!(taken, 4);
    }
}
