//! A client that is always on the move: bursts of retained messages with growing numbers on a topic of its own, and then
//! another node, with or without the end of the connection before.
//! Always true: every message has a new number, and a packet identifier that nothing unfinished has; what a connection
//! left unanswered is sent again (as the standard wants) or never more, so that a superseded write shows; the last message
//! is one that was acknowledged.
use super::Stage;
use crate::{
    client::{
        ClientError, Result,
        session::{Identity, Phase, Recorded},
        topic_name,
    },
    history::{Event, MessageId},
    random::Random,
};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, ProtocolVersion, Publish, QoS};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Messages of a burst.
const BURST: (u64, u64) = (3, 8);
/// QoS 2 exchanges that may stay open in a session: with a burst they keep within Mosquitto's window of 20.
const UNFINISHED_MAX: usize = 8;
const WINDOW: usize = 20;
/// Shorter than others have: a mover that waits moves nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The topic of a mover.
#[must_use]
pub fn topic(name: &str) -> Arc<str> {
    format!("mover/{name}").into()
}

#[derive(Debug)]
struct UnderWay {
    packet_id: PacketId,
    message: MessageId,
    /// PUBREL is out, PUBCOMP is awaited.
    released: bool,
}

#[derive(Debug)]
struct Mover {
    stage: Stage,
    identity: Identity,
    topic: Arc<str>,
    qos: QoS,
    random: Random,
    number: u32,
    next_sequence: u64,
    last_packet_id: PacketId,
    under_way: Vec<UnderWay>,
    /// Identifiers of exchanges that the session may know and that are never finished.
    given_up: Vec<PacketId>,
    last_answered: bool,
}

/// Moves until the run drains, and then makes sure of its last message.
pub async fn mover(stage: Stage, name: String, durable: bool, qos: QoS, random: Random) {
    let identity = stage.identity(&format!("mover-{name}"), ProtocolVersion::V5, durable);
    let number = stage.next_number();
    let mover = Mover {
        stage,
        identity,
        topic: topic(&name),
        qos,
        random,
        number,
        next_sequence: 0,
        last_packet_id: 0,
        under_way: Vec::new(),
        given_up: Vec::new(),
        last_answered: true,
    };
    mover.run().await;
}

impl Mover {
    async fn run(mut self) {
        let mut node = self.stage.any_node(&mut self.random);
        // A connection that still stands while its successor connects.
        let mut before: Option<Recorded> = None;
        while self.goes_on() {
            let Some(mut recorded) = self.connect(node).await else {
                sleep(Duration::from_millis(self.random.between(20, 120))).await;
                node = self.stage.any_node(&mut self.random);
                continue;
            };
            if let Some(before) = before.take() {
                before.abandon();
            }
            let served = self.serve(&mut recorded).await;
            match served {
                Ok(()) if !self.goes_on() => recorded.disconnect().await,
                Ok(()) if self.random.chance(40) => before = Some(recorded),
                Ok(()) => recorded.abandon(),
                Err(_) => recorded.lost(),
            }
            let nodes = self.stage.nodes.len() as u64;
            node = (node + 1 + self.random.below(nodes - 1) as usize) % nodes as usize;
        }
    }

    fn goes_on(&self) -> bool {
        self.stage.is(Phase::Running) || (!self.last_answered && !self.stage.is(Phase::Over))
    }

    async fn connect(&mut self, node: usize) -> Option<Recorded> {
        let mut packet = self.identity.connect_packet(None);
        packet.clean_start |= self.given_up.len() + self.under_way.len() > UNFINISHED_MAX;
        let recorder = &self.stage.recorder;
        self.identity.connect_with(node, packet, None, CONNECT_TIMEOUT, recorder).await.ok()
    }

    /// From what was left unanswered to the moment at which the connection is to end.
    async fn serve(&mut self, recorded: &mut Recorded) -> Result<()> {
        self.resume(recorded);
        self.publish(recorded);
        recorded.link.flush().await?;
        if !self.stage.is(Phase::Running) || self.random.chance(50) {
            self.until_answered(recorded).await?;
            let peace = Duration::from_millis(self.random.between(200, 900));
            self.read_for(recorded, peace).await?;
            if !self.stage.is(Phase::Running) {
                return Ok(());
            }
            self.publish(recorded);
            recorded.link.flush().await?;
        }
        // Often before any answer can come.
        let moment = if self.random.chance(50) { 0 } else { self.random.between(0, 60) };
        self.read_for(recorded, Duration::from_millis(moment)).await
    }

    fn resume(&mut self, recorded: &mut Recorded) {
        if !recorded.connack.session_present {
            self.under_way.clear();
            self.given_up.clear();
            return;
        }
        let again = self.random.chance(50);
        for entry in std::mem::take(&mut self.under_way) {
            if entry.released {
                recorded.link.queue(&Packet::PubRel(Ack::new(entry.packet_id)));
                self.under_way.push(entry);
            } else if again {
                self.transmit(recorded, &entry, true);
                self.under_way.push(entry);
            } else if self.qos == QoS::ExactlyOnce {
                self.given_up.push(entry.packet_id);
            }
        }
    }

    /// A burst while the run goes on; in the end one message, if the last has no answer and is not on its way again.
    fn publish(&mut self, recorded: &mut Recorded) {
        let window = recorded.connack.receive_maximum.map_or(WINDOW, usize::from).min(WINDOW);
        let room = window.saturating_sub(self.under_way.len() + self.given_up.len());
        let wanted = self.random.between(BURST.0, BURST.1) as usize;
        let count = match (self.stage.is(Phase::Running), self.last_answered || !self.under_way.is_empty()) {
            (true, _) => wanted.min(room),
            (false, true) => 0,
            (false, false) => 1,
        };
        for _ in 0..count {
            let message = MessageId { publisher: self.number, sequence: self.next_sequence };
            self.next_sequence += 1;
            let entry = UnderWay { packet_id: self.free_packet_id(), message, released: false };
            self.transmit(recorded, &entry, false);
            self.under_way.push(entry);
            self.last_answered = false;
        }
    }

    fn transmit(&self, recorded: &mut Recorded, entry: &UnderWay, dup: bool) {
        recorded.record(Event::PublishSent {
            connection: recorded.number,
            message: entry.message,
            topic: self.topic.clone(),
            qos: self.qos,
            retain: true,
        });
        recorded.link.queue(&Packet::Publish(Publish {
            dup,
            qos: self.qos,
            retain: true,
            packet_id: entry.packet_id,
            ..Publish::new(topic_name(&self.topic), entry.message.payload(16))
        }));
    }

    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            if !self.given_up.contains(&id) && self.under_way.iter().all(|entry| entry.packet_id != id) {
                return id;
            }
        }
    }

    async fn until_answered(&mut self, recorded: &mut Recorded) -> Result<()> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !self.under_way.is_empty() {
            let wait = deadline.saturating_duration_since(Instant::now());
            let packet = recorded.link.recv_within(wait).await?.ok_or(ClientError::Timeout("an answer"))?;
            self.take(recorded, packet).await?;
        }
        Ok(())
    }

    async fn read_for(&mut self, recorded: &mut Recorded, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(packet) = recorded.link.recv_within(until.saturating_duration_since(Instant::now())).await? {
            self.take(recorded, packet).await?;
        }
        Ok(())
    }

    async fn take(&mut self, recorded: &mut Recorded, packet: Packet) -> Result<()> {
        match packet {
            Packet::PubAck(ack) => self.answered(recorded, &ack),
            Packet::PubRec(ack) => {
                self.answered(recorded, &ack);
                if !ack.reason.is_error() {
                    recorded.link.send(&Packet::PubRel(Ack::new(ack.packet_id))).await?;
                }
            }
            Packet::PubComp(ack) => self.under_way.retain(|e| e.packet_id != ack.packet_id || !e.released),
            Packet::Disconnect(_) => return Err(ClientError::Closed),
            _ => {}
        }
        Ok(())
    }

    /// PUBACK or PUBREC. A second PUBREC may answer what was sent again; only the first counts.
    fn answered(&mut self, recorded: &Recorded, ack: &Ack) {
        let Some(index) = self.under_way.iter().position(|e| e.packet_id == ack.packet_id && !e.released) else {
            return;
        };
        let (connection, message) = (recorded.number, self.under_way[index].message);
        let failed = ack.reason.is_error();
        recorded.record(if failed {
            Event::PublishRefused { connection, message, reason: ack.reason }
        } else {
            Event::PublishAcknowledged { connection, message }
        });
        self.last_answered |= message.sequence + 1 == self.next_sequence;
        if failed || self.qos == QoS::AtLeastOnce {
            self.under_way.remove(index);
        } else {
            self.under_way[index].released = true;
        }
    }
}
