//! A subscriber with a memory: acknowledges at once or late, wanders from node to node, and remembers received QoS 2
//! packet identifiers until PUBREL as long as its session exists.
//! Always true: acknowledgements leave in the order in which their messages came [MQTT-4.6.0-2, MQTT-4.6.0-3].
use super::{
    ClientError, Result,
    session::{Identity, Phase, PhaseWatch, Recorded, STALL},
};
use crate::{
    history::{Event, Interest, MessageId, Recorder},
    random::Random,
};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling, Subscription};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How a subscriber moves.
#[derive(Debug, Clone)]
pub enum Habit {
    /// Stays where it is as long as the connection lasts.
    Stay,
    /// Stays connected for a time between the bounds (milliseconds), leaves (half of the times without DISCONNECT), is
    /// away for a time between the second bounds, and comes back at another node.
    Wander { connected: (u64, u64), away: (u64, u64) },
}

#[derive(Debug, Clone)]
pub struct SubscriberPlan {
    pub identity: Identity,
    pub filters: Vec<(Arc<str>, QoS)>,
    /// Live messages with the retain flag of their publisher, and no retained ones (MQTT 5).
    pub as_published: bool,
    /// Acknowledges when so many messages wait for it, or nothing more came for a moment. 1 = at once.
    pub acknowledge_after: usize,
    pub habit: Habit,
    pub first_node: usize,
}

#[derive(Debug)]
pub struct Subscriber {
    plan: SubscriberPlan,
    recorder: Recorder,
    random: Random,
    /// Received QoS 2 identifiers without PUBREL yet, and their messages: part of the session.
    held: HashMap<PacketId, MessageId>,
    /// Deliveries of this connection that are not acknowledged yet.
    pending: Vec<(PacketId, MessageId, QoS)>,
    recorded: Option<Recorded>,
    subscribed: bool,
    /// Messages dealt with, over all connections.
    pub dealt_with: HashSet<MessageId>,
}

impl Subscriber {
    #[must_use]
    pub fn new(plan: SubscriberPlan, recorder: Recorder, random: Random) -> Self {
        Self {
            plan,
            recorder,
            random,
            held: HashMap::new(),
            pending: Vec::new(),
            recorded: None,
            subscribed: false,
            dealt_with: HashSet::new(),
        }
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.recorded.is_some()
    }

    /// Connects to any node, beginning with `first`, and subscribes where that is needed. False when the run is over.
    pub async fn connect(&mut self, first: usize, phase: &PhaseWatch) -> bool {
        let mut first = first;
        loop {
            let recorded =
                self.plan.identity.connect_somewhere(first, None, &self.recorder, phase, &mut self.random).await;
            let Some(recorded) = recorded else {
                return false;
            };
            if !recorded.connack.session_present {
                self.held.clear();
                self.subscribed = false;
            }
            self.pending.clear();
            self.recorded = Some(recorded);
            if self.subscribed || self.subscribe().await.is_ok() {
                return true;
            }
            self.lose();
            first = self.random.below(self.plan.identity.nodes.len() as u64) as usize;
        }
    }

    async fn subscribe(&mut self) -> Result<()> {
        let Some(recorded) = &mut self.recorded else {
            return Err(ClientError::Closed);
        };
        let as_published = self.plan.as_published;
        let interest = if as_published { Interest::AsPublished } else { Interest::Everything };
        for (filter, qos) in &self.plan.filters {
            let (connection, filter, qos) = (recorded.number, filter.clone(), *qos);
            recorded.record(Event::SubscribeInvoked { connection, filter, qos, interest });
        }
        let subscription = |(filter, qos): &(Arc<str>, QoS)| {
            let mut subscription = Subscription::new(super::topic_filter(filter), *qos);
            if as_published {
                subscription.retain_as_published = true;
                subscription.retain_handling = RetainHandling::DoNotSend;
            }
            subscription
        };
        let subscriptions = self.plan.filters.iter().map(subscription).collect();
        let packet_id = recorded.link.next_packet_id();
        let subscribe = mosquorum_proto::mqtt::Subscribe::new(packet_id, subscriptions);
        recorded.link.send(&Packet::Subscribe(subscribe)).await?;
        let deadline = Instant::now() + STALL;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let Some(packet) = self.recv_within(wait).await? else {
                return Err(ClientError::Timeout("SUBACK"));
            };
            let Packet::SubAck(suback) = packet else {
                self.take(packet).await?;
                continue;
            };
            let Some(recorded) = &self.recorded else {
                return Err(ClientError::Closed);
            };
            for ((filter, _), reason) in self.plan.filters.iter().zip(&suback.reasons) {
                match QoS::try_from(*reason as u8) {
                    Ok(granted) => recorded.record(Event::Subscribed {
                        connection: recorded.number,
                        filter: filter.clone(),
                        granted,
                    }),
                    Err(_) => recorded.record(Event::Forbidden {
                        connection: recorded.number,
                        what: format!("SUBACK {reason:?} for {filter}"),
                    }),
                }
            }
            self.subscribed = true;
            return Ok(());
        }
    }

    async fn recv_within(&mut self, wait: Duration) -> Result<Option<Packet>> {
        match &mut self.recorded {
            Some(recorded) => recorded.link.recv_within(wait).await,
            None => Err(ClientError::Closed),
        }
    }

    /// Receives for a time, or until `enough` says so. Checks by PINGREQ that a silent connection works.
    /// # Errors
    /// When the connection ends; it is then closed in the history too.
    pub async fn receive_until(&mut self, until: Instant, mut enough: impl FnMut(&Self) -> bool) -> Result<()> {
        let mut last_packet = Instant::now();
        let mut pinged = false;
        while Instant::now() < until && !enough(self) {
            let silence = if self.pending.is_empty() { Duration::from_millis(250) } else { Duration::from_millis(40) };
            let wait = silence.min(until.saturating_duration_since(Instant::now()));
            let step = match self.recv_within(wait).await {
                Ok(Some(packet)) => {
                    (last_packet, pinged) = (Instant::now(), false);
                    self.take(packet).await
                }
                Ok(None) => self.acknowledge_all().await,
                Err(error) => Err(error),
            };
            let step = match step {
                Ok(()) if last_packet.elapsed() > STALL => Err(ClientError::Timeout("PINGRESP")),
                Ok(()) if last_packet.elapsed() > STALL / 4 && !pinged => {
                    pinged = true;
                    self.send(&Packet::PingReq).await
                }
                other => other,
            };
            if let Err(error) = step {
                self.lose();
                return Err(error);
            }
        }
        Ok(())
    }

    async fn send(&mut self, packet: &Packet) -> Result<()> {
        match &mut self.recorded {
            Some(recorded) => recorded.link.send(packet).await,
            None => Err(ClientError::Closed),
        }
    }

    async fn take(&mut self, packet: Packet) -> Result<()> {
        match packet {
            Packet::Publish(publish) => self.take_publish(&publish).await,
            Packet::PubRel(ack) => {
                let reason = match self.held.remove(&ack.packet_id) {
                    Some(_) => ReasonCode::Success,
                    None => ReasonCode::PacketIdentifierNotFound,
                };
                self.send(&Packet::PubComp(Ack::with_reason(ack.packet_id, reason))).await
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(_) => Err(ClientError::Closed),
            other => {
                self.forbidden(format!("a subscriber got {other:?}"));
                Ok(())
            }
        }
    }

    async fn take_publish(&mut self, publish: &Publish) -> Result<()> {
        let Some(message) = MessageId::from_payload(&publish.payload) else {
            self.forbidden(format!("a payload that nobody published on {:?}", publish.topic));
            return Ok(());
        };
        let Some(recorded) = &self.recorded else {
            return Err(ClientError::Closed);
        };
        let topic: Arc<str> = publish.topic.as_ref().map_or("", |topic| topic.as_str()).into();
        let held = if publish.qos == QoS::ExactlyOnce { self.held.insert(publish.packet_id, message) } else { None };
        recorded.record(Event::Delivered {
            connection: recorded.number,
            message,
            topic,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            repeat: held == Some(message),
        });
        if held.is_some_and(|before| before != message) {
            self.forbidden(format!(
                "packet identifier {} used for {message} while {held:?} holds it",
                publish.packet_id
            ));
        }
        if publish.qos == QoS::AtMostOnce {
            return Ok(());
        }
        self.pending.push((publish.packet_id, message, publish.qos));
        if self.pending.len() >= self.plan.acknowledge_after { self.acknowledge_all().await } else { Ok(()) }
    }

    async fn acknowledge_all(&mut self) -> Result<()> {
        let Some(recorded) = &mut self.recorded else {
            return Err(ClientError::Closed);
        };
        for (packet_id, message, qos) in self.pending.drain(..) {
            recorded.record(Event::DeliveryAcknowledged { connection: recorded.number, message });
            self.dealt_with.insert(message);
            let ack = Ack::new(packet_id);
            recorded.link.queue(&if qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) });
        }
        recorded.link.flush().await
    }

    fn forbidden(&self, what: String) {
        if let Some(recorded) = &self.recorded {
            recorded.record(Event::Forbidden { connection: recorded.number, what });
        }
    }

    fn lose(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            recorded.lost();
        }
    }

    /// Ends the connection, with or without DISCONNECT.
    pub async fn leave(&mut self, normally: bool) {
        let Some(recorded) = self.recorded.take() else {
            return;
        };
        if normally {
            recorded.disconnect().await;
        } else {
            recorded.abandon();
        }
    }

    /// Acts by its habit until the run is over. During the drain it stays connected.
    pub async fn run(mut self, phase: PhaseWatch) -> Self {
        let mut node = self.plan.first_node;
        while *phase.borrow() < Phase::Over {
            if !self.is_connected() && !self.connect(node, &phase).await {
                break;
            }
            let (stay, away) = match self.plan.habit {
                Habit::Stay => (u64::MAX / 4, (10, 50)),
                Habit::Wander { connected, away } => (self.random.between(connected.0, connected.1), away),
            };
            let began = Instant::now();
            let watched = phase.clone();
            let stay = Duration::from_millis(stay);
            let leaves = move |_: &Self| match *watched.borrow() {
                Phase::Running => began.elapsed() > stay,
                Phase::Draining => false,
                Phase::Over => true,
            };
            let broke = self.receive_until(began + Duration::from_secs(3600), leaves).await.is_err();
            if *phase.borrow() == Phase::Running && !broke {
                let normally = self.random.chance(50);
                self.leave(normally).await;
            }
            let pause = if broke { (5, 60) } else { away };
            if *phase.borrow() == Phase::Running {
                sleep(Duration::from_millis(self.random.between(pause.0, pause.1))).await;
            }
            node = self.random.below(self.plan.identity.nodes.len() as u64) as usize;
        }
        let _ = self.acknowledge_all().await;
        self.leave(true).await;
        self
    }
}
