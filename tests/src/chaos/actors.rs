//! Actors with habits of their own: clients that die and leave wills, subscriptions that are used the moment they are
//! acknowledged, readers of retained messages; and in files of their own clients that move, whose sessions expire, that ask
//! whether a node serves, and that pack small messages among much filler.
use crate::{
    client::{
        message,
        session::{Identity, Phase, PhaseWatch, Recorded},
        subscriber::{Habit, Subscriber, SubscriberPlan},
        topic_filter,
    },
    history::{Event, Interest, MessageId, Recorder, WillPlan},
    random::Random,
};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, ProtocolVersion, QoS, Subscription};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

pub mod expirer;
pub mod mover;
pub mod packer;
pub mod prober;

/// What every actor gets.
#[derive(Debug, Clone)]
pub struct Stage {
    pub nodes: Vec<SocketAddr>,
    pub recorder: Recorder,
    pub phase: PhaseWatch,
    numbers: Arc<AtomicU32>,
}

impl Stage {
    #[must_use]
    pub fn new(nodes: Vec<SocketAddr>, recorder: Recorder, phase: PhaseWatch) -> Self {
        Self { nodes, recorder, phase, numbers: Arc::new(AtomicU32::new(1)) }
    }

    /// A publisher's number that nobody else in the run has.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    #[must_use]
    pub fn identity(&self, client: &str, version: ProtocolVersion, durable: bool) -> Identity {
        Identity { client: client.into(), version, durable, nodes: self.nodes.clone() }
    }

    #[must_use]
    pub fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    pub fn any_node(&self, random: &mut Random) -> usize {
        random.below(self.nodes.len() as u64) as usize
    }
}

/// How a client with a will goes on after it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterlife {
    /// Another client takes its place: the will must come.
    Never,
    /// Comes back at once: the broker may not even have noticed.
    AtOnce,
    /// Comes back at once, long before its will is due.
    BeforeTheWill,
    /// Another client takes its place, and the will comes some seconds later.
    DelayedEnd,
}

/// A client that lives briefly, again and again, each time with a new will: leaves normally, or dies.
pub async fn mortal(stage: Stage, name: String, afterlife: Afterlife, mut random: Random) {
    let (number, mut sequence) = (stage.next_number(), 0);
    // A will with a delay is owed nothing only if its client returns in time.
    let mut must_return = false;
    while stage.is(Phase::Running) || (must_return && !stage.is(Phase::Over)) {
        let once = matches!(afterlife, Afterlife::Never | Afterlife::DelayedEnd);
        let client = if once { format!("{name}-{sequence}") } else { name.clone() };
        // A session that ends with its connection ends the delay of its will too.
        let durable = afterlife != Afterlife::Never || random.chance(50);
        let delay_seconds = match afterlife {
            Afterlife::Never | Afterlife::AtOnce => 0,
            Afterlife::BeforeTheWill => 120,
            Afterlife::DelayedEnd => random.between(2, 5) as u32,
        };
        let plan = WillPlan {
            message: MessageId { publisher: number, sequence },
            topic: format!("will/{name}").into(),
            qos: QoS::ExactlyOnce,
            delay_seconds,
        };
        sequence += 1;
        let identity = stage.identity(&client, ProtocolVersion::V5, durable);
        let node = stage.any_node(&mut random);
        let Ok(mut recorded) = identity.connect(node, Some(plan), &stage.recorder).await else {
            sleep(Duration::from_millis(random.between(50, 200))).await;
            continue;
        };
        must_return = afterlife == Afterlife::BeforeTheWill;
        let broke = live_a_while(&mut recorded, random.between(50, 1200)).await;
        if broke {
            recorded.lost();
        } else if random.chance(50) || !stage.is(Phase::Running) {
            must_return = false;
            recorded.disconnect().await;
        } else {
            recorded.abandon();
        }
        sleep(Duration::from_millis(random.between(10, 300))).await;
    }
}

/// Reads for a time; true if the connection broke.
async fn live_a_while(recorded: &mut Recorded, milliseconds: u64) -> bool {
    let until = Instant::now() + Duration::from_millis(milliseconds);
    loop {
        match recorded.link.recv_within(until.saturating_duration_since(Instant::now())).await {
            Ok(None) => return false,
            Ok(Some(Packet::Disconnect(_))) | Err(_) => return true,
            Ok(Some(_)) => {}
        }
    }
}

/// Subscribes with a new durable session, and the moment SUBACK is there, messages are published through another node.
/// Half of the sessions are offline then and fetch them later somewhere else.
pub async fn newcomer(stage: Stage, name: String, mut random: Random) {
    let mut round = 0;
    while stage.is(Phase::Running) {
        round += 1;
        // Each round leaves a session behind: the cluster is to have hundreds, not thousands.
        sleep(Duration::from_millis(random.between(50, 400))).await;
        let node = stage.any_node(&mut random);
        let topic: Arc<str> = format!("fresh/{name}/{round}").into();
        // Connected before, since a CONNECT may bring a node up to date.
        let publisher = stage.identity(&format!("{name}-{round}-pub"), ProtocolVersion::V5, false);
        let Ok(publisher) = publisher.connect((node + 1) % stage.nodes.len(), None, &stage.recorder).await else {
            sleep(Duration::from_millis(random.between(50, 200))).await;
            continue;
        };
        let plan = SubscriberPlan {
            identity: stage.identity(
                &format!("{name}-{round}"),
                if round % 2 == 0 { ProtocolVersion::V5 } else { ProtocolVersion::V311 },
                true,
            ),
            filters: vec![(topic.clone(), QoS::AtLeastOnce)],
            as_published: false,
            acknowledge_after: 1,
            habit: Habit::Stay,
            first_node: node,
        };
        let mut subscriber = Subscriber::new(plan, stage.recorder.clone(), random.branch(round * 2));
        if !subscriber.connect(node, &stage.phase).await {
            return publisher.abandon();
        }
        let offline = random.chance(50);
        if offline {
            let normally = random.chance(50);
            subscriber.leave(normally).await;
        }
        let owed = publish_three(&stage, publisher, &topic).await;
        while subscriber.dealt_with.len() < owed && !stage.is(Phase::Over) {
            let node = stage.any_node(&mut random);
            if !subscriber.is_connected() && !subscriber.connect(node, &stage.phase).await {
                break;
            }
            let phase = stage.phase.clone();
            let enough = move |s: &Subscriber| s.dealt_with.len() >= owed || *phase.borrow() == Phase::Over;
            let _ = subscriber.receive_until(Instant::now() + Duration::from_secs(5), enough).await;
        }
        subscriber.leave(true).await;
    }
}

/// Publishes three messages at once; how many were acknowledged before the connection ended.
async fn publish_three(stage: &Stage, mut publisher: Recorded, topic: &Arc<str>) -> usize {
    let (connection, number) = (publisher.number, stage.next_number());
    let mut under_way = HashMap::new();
    for sequence in 0..3 {
        let id = MessageId { publisher: number, sequence };
        under_way.insert(send_recorded(&mut publisher, id, topic), id);
    }
    let mut acknowledged = 0;
    if publisher.link.flush().await.is_err() {
        publisher.lost();
        return 0;
    }
    while !under_way.is_empty() {
        match publisher.link.recv().await {
            Ok(Packet::PubAck(ack)) if !ack.reason.is_error() => {
                let Some(message) = under_way.remove(&ack.packet_id) else { continue };
                publisher.record(Event::PublishAcknowledged { connection, message });
                acknowledged += 1;
            }
            Ok(Packet::Disconnect(_) | Packet::PubAck(_)) | Err(_) => {
                publisher.lost();
                return acknowledged;
            }
            Ok(_) => {}
        }
    }
    publisher.disconnect().await;
    acknowledged
}

/// Reads what is retained on one of the topics, through any node, again and again.
pub async fn reader(stage: Stage, name: String, topics: Vec<Arc<str>>, mut random: Random) {
    while stage.is(Phase::Running) {
        let (node, topic) = (stage.any_node(&mut random), random.choose(&topics).clone());
        let _ = read_retained(&stage, &name, node, &topic).await;
        sleep(Duration::from_millis(random.between(50, 250))).await;
    }
}

/// One read, recorded; an error leaves it unanswered.
/// # Errors
/// When the connection cannot be made or breaks.
pub async fn read_retained(stage: &Stage, name: &str, node: usize, topic: &Arc<str>) -> crate::client::Result<()> {
    let identity = stage.identity(name, ProtocolVersion::V5, false);
    let mut recorded = identity.connect(node, None, &stage.recorder).await?;
    let connection = recorded.number;
    let (qos, interest) = (QoS::AtLeastOnce, Interest::Retained);
    recorded.record(Event::SubscribeInvoked { connection, filter: topic.clone(), qos, interest });
    recorded.link.subscribe(vec![Subscription::new(topic_filter(topic), QoS::AtLeastOnce)]).await?;
    recorded.record(Event::Subscribed { connection, filter: topic.clone(), granted: QoS::AtLeastOnce });
    let until = Instant::now() + Duration::from_secs(3);
    let value = loop {
        match recorded.link.recv_within(until.saturating_duration_since(Instant::now())).await? {
            None => break None,
            Some(Packet::Publish(publish)) if publish.retain => break MessageId::from_payload(&publish.payload),
            // Live ones come from before SUBACK on; unanswered they would fill the window and keep the retained one out.
            Some(Packet::Publish(publish)) if publish.qos != QoS::AtMostOnce => {
                recorded.link.send(&Packet::PubAck(Ack::new(publish.packet_id))).await?;
            }
            Some(Packet::Disconnect(_)) => return Err(crate::client::ClientError::Closed),
            Some(_) => {}
        }
    };
    // Silence is an answer only from a broker that still talks to us.
    if value.is_none() {
        recorded.link.send(&Packet::PingReq).await?;
        while !matches!(recorded.link.recv().await?, Packet::PingResp) {}
    }
    recorded.record(Event::RetainedRead { connection, topic: topic.clone(), value });
    recorded.disconnect().await;
    Ok(())
}

/// One filter, recorded.
/// # Errors
/// When no SUBACK comes.
pub async fn subscribe(recorded: &mut Recorded, filter: &Arc<str>, qos: QoS) -> crate::client::Result<()> {
    let (connection, interest) = (recorded.number, Interest::Everything);
    recorded.record(Event::SubscribeInvoked { connection, filter: filter.clone(), qos, interest });
    recorded.link.subscribe(vec![Subscription::new(topic_filter(filter), qos)]).await?;
    recorded.record(Event::Subscribed { connection, filter: filter.clone(), granted: qos });
    Ok(())
}

/// Queues a QoS 1 message of an actor that publishes by hand, recorded as sent; returns its packet identifier.
pub fn send_recorded(recorded: &mut Recorded, id: MessageId, topic: &Arc<str>) -> PacketId {
    recorded.record(Event::PublishSent {
        connection: recorded.number,
        message: id,
        topic: topic.clone(),
        qos: QoS::AtLeastOnce,
        retain: false,
    });
    let mut publish = message(topic, id.payload(16), QoS::AtLeastOnce);
    publish.packet_id = recorded.link.next_packet_id();
    let packet_id = publish.packet_id;
    recorded.link.queue(&Packet::Publish(publish));
    packet_id
}
