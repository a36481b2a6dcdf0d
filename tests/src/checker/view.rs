//! A history arranged for checkers: messages, connections, subscriptions, deliveries and faults with their positions.
//! Always true: built in one pass; positions are indices into the records, so comparing them compares real time.
use crate::history::{
    Client, CloseKind, ConnectionNumber, Event, FaultKind, History, Interest, MessageId, Record, WillPlan,
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// Index of a record.
pub type Position = usize;

/// What deliveries belong to: a durable session (0), or the clean one of a connection.
pub type SessionKey = (Client, u64);

/// How long a node may take to serve again where nobody says otherwise: debug builds on machines that do much else.
pub const SERVE_AGAIN_DEFAULT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct MessageView {
    pub topic: Arc<str>,
    pub qos: QoS,
    pub retain: bool,
    /// Published by the broker on a client's behalf.
    pub will: bool,
    /// Every transmission by the publisher; at least one. Of a will: the CONNECT that carried it.
    pub sends: Vec<(Position, ConnectionNumber)>,
    pub acknowledged: Option<Position>,
    pub refused: Option<Position>,
}

#[derive(Debug)]
pub struct ConnectionView {
    pub client: Client,
    pub node: usize,
    pub clean_start: bool,
    pub durable: bool,
    /// How long the session outlives the connection.
    pub expiry_seconds: u32,
    pub will: Option<WillPlan>,
    pub invoked: Position,
    /// Where CONNACK with success came, and its session present flag.
    pub connected: Option<(Position, bool)>,
    /// Where waiting for a CONNACK with success ended in vain.
    pub failed: Option<Position>,
    /// Where DISCONNECT was about to be sent.
    pub disconnecting: Option<Position>,
    pub closed: Option<(Position, CloseKind)>,
}

#[derive(Debug)]
pub struct SubscriptionView {
    pub client: Client,
    pub connection: ConnectionNumber,
    pub filter: Arc<str>,
    pub interest: Interest,
    pub durable: bool,
    pub invoked: Position,
    /// Where the first SUBACK came, and the QoS granted.
    pub acknowledged: Option<(Position, QoS)>,
    /// Where the client asked for its end (UNSUBSCRIBE, or CONNECT with clean start).
    pub ended: Option<Position>,
}

#[derive(Debug, Clone)]
pub struct Delivery {
    pub position: Position,
    pub connection: ConnectionNumber,
    pub message: MessageId,
    pub topic: Arc<str>,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    pub repeat: bool,
    /// Part of a stream of messages, not a retained one sent because of a SUBSCRIBE.
    pub live: bool,
}

#[derive(Debug)]
pub struct FaultView {
    pub fault: u32,
    pub kind: FaultKind,
    pub nodes: Vec<usize>,
    pub began: Position,
    pub ended: Option<Position>,
    pub healed: Option<Position>,
}

#[derive(Debug, Default)]
pub struct View<'a> {
    pub nodes: usize,
    pub records: &'a [Record],
    pub messages: BTreeMap<MessageId, MessageView>,
    pub connections: BTreeMap<ConnectionNumber, ConnectionView>,
    pub subscriptions: Vec<SubscriptionView>,
    pub deliveries: Vec<Delivery>,
    /// (who, what) of each DeliveryAcknowledged: the client has dealt with the message.
    pub dealt_with: HashSet<(Client, MessageId)>,
    pub faults: Vec<FaultView>,
    pub drained: Option<Position>,
    /// How long a node may take to serve again, see `availability`.
    pub serve_again_max: Duration,
    /// Clients whose subscriptions bring live messages only.
    as_published: HashSet<Client>,
}

impl<'a> View<'a> {
    #[must_use]
    pub fn new(history: &'a History) -> Self {
        let mut view = Self {
            nodes: history.nodes,
            records: &history.records,
            serve_again_max: SERVE_AGAIN_DEFAULT,
            ..Self::default()
        };
        // The open subscription of each client (durable) or connection (clean) and filter.
        let mut open: HashMap<(Client, u64, Arc<str>), usize> = HashMap::new();
        for (position, record) in history.records.iter().enumerate() {
            view.take_publish(position, &record.event);
            view.take_connection(position, &record.event);
            view.take_subscription(position, &record.event, &mut open);
            view.take_delivery(position, &record.event);
            view.take_fault(position, &record.event);
        }
        view
    }

    /// When the record at `position` was made.
    #[must_use]
    pub fn at(&self, position: Position) -> Duration {
        self.records[position].at
    }

    /// The subscriptions of each client.
    #[must_use]
    pub fn subscriptions_by_client(&self) -> HashMap<&Client, Vec<&SubscriptionView>> {
        let mut by_client: HashMap<&Client, Vec<&SubscriptionView>> = HashMap::new();
        for subscription in &self.subscriptions {
            by_client.entry(&subscription.client).or_default().push(subscription);
        }
        by_client
    }

    /// The client of a connection.
    #[must_use]
    pub fn client(&self, connection: ConnectionNumber) -> Option<&Client> {
        Some(&self.connections.get(&connection)?.client)
    }

    /// The session that a connection serves.
    #[must_use]
    pub fn session(&self, connection: ConnectionNumber) -> Option<SessionKey> {
        let owner = self.connections.get(&connection)?;
        Some((owner.client.clone(), if owner.durable { 0 } else { connection.0 }))
    }

    /// Clients that share a subscription with others: what comes to one of them is a part of a stream.
    #[must_use]
    pub fn sharing(&self) -> HashSet<&Client> {
        self.subscriptions.iter().filter(|s| s.filter.starts_with("$share/")).map(|s| &s.client).collect()
    }

    fn take_publish(&mut self, position: Position, event: &Event) {
        match event {
            Event::PublishSent { connection, message, topic, qos, retain } => {
                let entry = self.messages.entry(*message).or_insert_with(|| MessageView {
                    topic: topic.clone(),
                    qos: *qos,
                    retain: *retain,
                    will: false,
                    sends: Vec::new(),
                    acknowledged: None,
                    refused: None,
                });
                entry.sends.push((position, *connection));
            }
            Event::PublishAcknowledged { message, .. } => {
                if let Some(entry) = self.messages.get_mut(message) {
                    entry.acknowledged.get_or_insert(position);
                }
            }
            Event::PublishRefused { message, .. } => {
                if let Some(entry) = self.messages.get_mut(message) {
                    entry.refused.get_or_insert(position);
                }
            }
            _ => {}
        }
    }

    fn take_connection(&mut self, position: Position, event: &Event) {
        match event {
            Event::ConnectInvoked { connection, client, node, clean_start, durable, expiry_seconds, will } => {
                if let Some(plan) = will {
                    let will = MessageView {
                        topic: plan.topic.clone(),
                        qos: plan.qos,
                        retain: false,
                        will: true,
                        sends: vec![(position, *connection)],
                        acknowledged: None,
                        refused: None,
                    };
                    self.messages.insert(plan.message, will);
                }
                let entry = ConnectionView {
                    client: client.clone(),
                    node: *node,
                    clean_start: *clean_start,
                    durable: *durable,
                    expiry_seconds: *expiry_seconds,
                    will: will.clone(),
                    invoked: position,
                    connected: None,
                    failed: None,
                    disconnecting: None,
                    closed: None,
                };
                self.connections.insert(*connection, entry);
            }
            Event::Connected { connection, session_present } => {
                if let Some(entry) = self.connections.get_mut(connection) {
                    entry.connected = Some((position, *session_present));
                }
            }
            Event::NotConnected { connection } => {
                if let Some(entry) = self.connections.get_mut(connection) {
                    entry.failed = Some(position);
                }
            }
            Event::DisconnectInvoked { connection } => {
                if let Some(entry) = self.connections.get_mut(connection) {
                    entry.disconnecting = Some(position);
                }
            }
            Event::Closed { connection, how } => {
                if let Some(entry) = self.connections.get_mut(connection) {
                    entry.closed.get_or_insert((position, *how));
                }
            }
            _ => {}
        }
    }

    fn take_subscription(
        &mut self,
        position: Position,
        event: &Event,
        open: &mut HashMap<(Client, u64, Arc<str>), usize>,
    ) {
        match event {
            Event::SubscribeInvoked { connection, filter, interest, .. } => {
                let Some(key) = self.subscription_key(*connection, filter) else {
                    return;
                };
                let (client, durable) = (key.0.clone(), key.1 == 0);
                if *interest == Interest::AsPublished {
                    self.as_published.insert(client.clone());
                }
                open.entry(key).or_insert_with(|| {
                    self.subscriptions.push(SubscriptionView {
                        client,
                        connection: *connection,
                        filter: filter.clone(),
                        interest: *interest,
                        durable,
                        invoked: position,
                        acknowledged: None,
                        ended: None,
                    });
                    self.subscriptions.len() - 1
                });
            }
            Event::Subscribed { connection, filter, granted } => {
                let Some(key) = self.subscription_key(*connection, filter) else {
                    return;
                };
                if let Some(index) = open.get(&key) {
                    self.subscriptions[*index].acknowledged.get_or_insert((position, *granted));
                }
            }
            Event::UnsubscribeInvoked { connection, filter } => {
                let Some(key) = self.subscription_key(*connection, filter) else {
                    return;
                };
                if let Some(index) = open.remove(&key) {
                    self.subscriptions[index].ended = Some(position);
                }
            }
            Event::ConnectInvoked { client, clean_start: true, .. } => {
                let gone: Vec<_> = open.keys().filter(|key| key.0 == *client && key.1 == 0).cloned().collect();
                for key in gone {
                    if let Some(index) = open.remove(&key) {
                        self.subscriptions[index].ended = Some(position);
                    }
                }
            }
            _ => {}
        }
    }

    /// A durable subscription belongs to the client, a clean one to the connection.
    fn subscription_key(&self, connection: ConnectionNumber, filter: &Arc<str>) -> Option<(Client, u64, Arc<str>)> {
        let (client, scope) = self.session(connection)?;
        Some((client, scope, filter.clone()))
    }

    fn take_delivery(&mut self, position: Position, event: &Event) {
        match event {
            Event::Delivered { connection, message, topic, qos, retain, dup, repeat } => {
                let as_published = self.client(*connection).is_some_and(|client| self.as_published.contains(client));
                self.deliveries.push(Delivery {
                    position,
                    connection: *connection,
                    message: *message,
                    topic: topic.clone(),
                    qos: *qos,
                    retain: *retain,
                    dup: *dup,
                    repeat: *repeat,
                    live: as_published || !retain,
                })
            }
            Event::DeliveryAcknowledged { connection, message } => {
                if let Some(client) = self.client(*connection).cloned() {
                    self.dealt_with.insert((client, *message));
                }
            }
            Event::Drained => self.drained = Some(position),
            _ => {}
        }
    }

    fn take_fault(&mut self, position: Position, event: &Event) {
        match event {
            Event::FaultBegan { fault, kind, nodes } => self.faults.push(FaultView {
                fault: *fault,
                kind: *kind,
                nodes: nodes.clone(),
                began: position,
                ended: None,
                healed: None,
            }),
            Event::FaultEnded { fault } => {
                if let Some(entry) = self.faults.iter_mut().find(|entry| entry.fault == *fault) {
                    entry.ended = Some(position);
                }
            }
            Event::Healed { fault } => {
                if let Some(entry) = self.faults.iter_mut().find(|entry| entry.fault == *fault) {
                    entry.healed = Some(position);
                }
            }
            _ => {}
        }
    }
}

impl FaultView {
    /// Whether the nodes that are left cannot form a majority of `nodes`, on account of this fault alone.
    #[must_use]
    pub fn takes_majority(&self, nodes: usize) -> bool {
        (self.kind.stops_nodes() || self.kind.isolates_nodes()) && (nodes - self.nodes.len()) * 2 <= nodes
    }
}

/// Acknowledged QoS 1 and 2 messages of clients, by topic: what subscriptions have a right to.
#[derive(Debug, Default)]
pub struct Owed<'v> {
    topics: BTreeMap<Arc<str>, Vec<(MessageId, &'v MessageView)>>,
    matcher: Matcher,
}

impl<'v> Owed<'v> {
    #[must_use]
    pub fn new(view: &'v View) -> Self {
        let mut owed = Self::default();
        let acknowledged =
            |message: &&MessageView| !message.will && message.acknowledged.is_some() && message.qos > QoS::AtMostOnce;
        for (id, message) in view.messages.iter().filter(|(_, message)| acknowledged(message)) {
            owed.topics.entry(message.topic.clone()).or_default().push((*id, message));
        }
        owed
    }

    /// Messages that a subscription with this filter has a right to, if it was acknowledged at `since` with QoS `granted`.
    pub fn to(&mut self, filter: &Arc<str>, since: Position, granted: QoS) -> Vec<(MessageId, &'v MessageView)> {
        if granted == QoS::AtMostOnce {
            return Vec::new();
        }
        let matching: Vec<&Vec<_>> = if is_pattern(filter) {
            self.topics.iter().filter(|(topic, _)| self.matcher.matches(filter, topic)).map(|(_, all)| all).collect()
        } else {
            self.topics.get(filter).into_iter().collect()
        };
        let later = |message: &MessageView| message.sends.first().is_some_and(|(sent, _)| *sent > since);
        matching.into_iter().flatten().filter(|(_, message)| later(message)).copied().collect()
    }
}

/// Whether the filter is more than the one topic that it spells.
fn is_pattern(filter: &str) -> bool {
    filter.contains(['+', '#']) || filter.starts_with("$share/")
}

/// Matches topics against filters, remembering the answers: histories repeat few topics many times.
#[derive(Debug, Default)]
pub struct Matcher {
    known: HashMap<Arc<str>, HashMap<Arc<str>, bool>>,
}

impl Matcher {
    pub fn matches(&mut self, filter: &Arc<str>, topic: &Arc<str>) -> bool {
        // Most filters of a long run are a topic that nobody else uses.
        if !is_pattern(filter) {
            return filter == topic;
        }
        if let Some(answer) = self.known.get(&**filter).and_then(|topics| topics.get(&**topic)) {
            return *answer;
        }
        let answer = match (TopicFilter::try_from(&**filter), TopicName::try_from(&**topic)) {
            (Ok(filter), Ok(topic)) => filter.matches(&topic),
            _ => false,
        };
        self.known.entry(filter.clone()).or_default().insert(topic.clone(), answer);
        answer
    }
}
