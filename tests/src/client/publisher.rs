//! A publisher that never gives up: a window of QoS 1 or QoS 2 messages under way, sent again in order and under the
//! same packet identifiers after a lost connection, over whichever node answers.
//! Always true: a message without an acknowledgement is unknown, not failed; QoS 2 messages are never sent under a second
//! identifier (if the session is gone they stay unknown).
use super::{
    ClientError, Result,
    session::{Identity, Phase, PhaseWatch, Recorded, STALL},
};
use crate::{
    history::{Event, MessageId, Recorder},
    random::Random,
};
use mosquorum_proto::mqtt::{Ack, Packet, PacketId, Publish, QoS};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, sleep_until};

/// What a publisher does.
#[derive(Debug, Clone)]
pub struct PublisherPlan {
    pub identity: Identity,
    /// First half of its messages' names; no two publishers of a run share it.
    pub number: u32,
    pub qos: QoS,
    pub retain: bool,
    /// Messages go to these in turn.
    pub topics: Vec<Arc<str>>,
    /// Unacknowledged messages at most.
    pub window: usize,
    /// Messages per second at most.
    pub rate: u32,
    /// So many leave at once, then a pause; 1: evenly.
    pub burst: u32,
    /// Bytes of filler in each payload.
    pub filler: usize,
    /// Ends after so many; `None`: when the run drains.
    pub total: Option<u64>,
    pub first_node: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// PUBLISH was not sent over this connection yet.
    Unsent,
    /// PUBACK or PUBREC is awaited.
    Sent,
    /// PUBREL is out, PUBCOMP is awaited.
    Released,
}

#[derive(Debug)]
struct UnderWay {
    packet_id: PacketId,
    message: MessageId,
    topic: Arc<str>,
    step: Step,
    sent_before: bool,
}

#[derive(Debug)]
pub struct Publisher {
    plan: PublisherPlan,
    recorder: Recorder,
    random: Random,
    under_way: VecDeque<UnderWay>,
    next_sequence: u64,
    next_packet_id: PacketId,
    /// Messages acknowledged, each once.
    pub acknowledged: u64,
    /// QoS 2 messages whose session vanished: they stay unknown and are not sent again.
    pub abandoned: u64,
}

/// Bytes of filler in the few messages that fill sockets and windows by themselves.
const LARGE_FILLER: usize = 60_000;

/// Decided by the message alone: sent again, it is the same.
fn is_large(message: MessageId) -> bool {
    message.sequence % 101 == 50
}

impl Publisher {
    #[must_use]
    pub fn new(plan: PublisherPlan, recorder: Recorder, random: Random) -> Self {
        Self {
            plan,
            recorder,
            random,
            under_way: VecDeque::new(),
            next_sequence: 0,
            next_packet_id: 0,
            acknowledged: 0,
            abandoned: 0,
        }
    }

    /// Publishes until the run drains or the total is reached, then until everything under way is acknowledged or the
    /// run is over.
    pub async fn run(mut self, phase: PhaseWatch) -> Self {
        let mut node = self.plan.first_node;
        while !self.finished(&phase) {
            let Some(recorded) =
                self.plan.identity.connect_somewhere(node, None, &self.recorder, &phase, &mut self.random).await
            else {
                break;
            };
            self.resume(recorded.connack.session_present);
            let recorded = self.serve(recorded, &phase).await;
            node = self.random.below(self.plan.identity.nodes.len() as u64) as usize;
            if self.finished(&phase) {
                if let Some(recorded) = recorded {
                    recorded.disconnect().await;
                }
                break;
            }
            if let Some(recorded) = recorded {
                recorded.lost();
            }
            sleep(Duration::from_millis(self.random.between(5, 50))).await;
        }
        self
    }

    fn finished(&self, phase: &PhaseWatch) -> bool {
        *phase.borrow() == Phase::Over || (self.under_way.is_empty() && !self.wants_more(phase))
    }

    fn wants_more(&self, phase: &PhaseWatch) -> bool {
        *phase.borrow() == Phase::Running && self.plan.total.is_none_or(|total| self.next_sequence < total)
    }

    /// What the new connection changes for messages under way [MQTT-4.4.0-1].
    fn resume(&mut self, session_present: bool) {
        if session_present {
            for entry in self.under_way.iter_mut().filter(|entry| entry.step == Step::Sent) {
                entry.step = Step::Unsent;
            }
            return;
        }
        let before = self.under_way.len();
        self.under_way.retain(|entry| self.plan.qos == QoS::AtLeastOnce || !entry.sent_before);
        self.abandoned += (before - self.under_way.len()) as u64;
        for entry in &mut self.under_way {
            entry.step = Step::Unsent;
            entry.sent_before = false;
        }
    }

    /// Works on one connection until it breaks (`Some` or `None` with the connection gone) or everything is done.
    async fn serve(&mut self, mut recorded: Recorded, phase: &PhaseWatch) -> Option<Recorded> {
        let receive_maximum = recorded.connack.receive_maximum.map_or(usize::MAX, usize::from);
        let window = self.plan.window.min(receive_maximum);
        let burst = self.plan.burst.max(1);
        let pause = Duration::from_secs(1) * burst / self.plan.rate.max(1);
        let mut next_send = Instant::now();
        let mut last_answer = Instant::now();
        if self.send_again(&mut recorded).await.is_err() {
            return Some(recorded);
        }
        loop {
            if self.finished(phase) {
                return Some(recorded);
            }
            let now = Instant::now();
            if now >= next_send && self.under_way.len() < window && self.wants_more(phase) {
                if self.under_way.is_empty() {
                    last_answer = now;
                }
                if self.send_new(&mut recorded).await.is_err() {
                    return Some(recorded);
                }
                if self.next_sequence.is_multiple_of(u64::from(burst)) {
                    next_send = (next_send + pause).max(now.checked_sub(Duration::from_millis(100)).unwrap_or(now));
                }
                continue;
            }
            let stalled_at = last_answer + STALL;
            if !self.under_way.is_empty() && now > stalled_at {
                return Some(recorded);
            }
            let room = self.under_way.len() < window && self.wants_more(phase);
            let wake = if room { next_send } else { now + Duration::from_millis(200) };
            tokio::select! {
                packet = recorded.link.recv_forever() => {
                    last_answer = Instant::now();
                    match packet {
                        Ok(packet) => if self.take(&mut recorded, packet).await.is_err() { return Some(recorded) },
                        Err(_) => return Some(recorded),
                    }
                }
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    async fn send_again(&mut self, recorded: &mut Recorded) -> Result<()> {
        for index in 0..self.under_way.len() {
            match self.under_way[index].step {
                Step::Unsent => self.transmit(recorded, index),
                Step::Released => recorded.link.queue(&Packet::PubRel(Ack::new(self.under_way[index].packet_id))),
                Step::Sent => {}
            }
        }
        recorded.link.flush().await
    }

    async fn send_new(&mut self, recorded: &mut Recorded) -> Result<()> {
        let topic = self.plan.topics[(self.next_sequence % self.plan.topics.len() as u64) as usize].clone();
        let message = MessageId { publisher: self.plan.number, sequence: self.next_sequence };
        self.next_sequence += 1;
        let packet_id = self.free_packet_id();
        self.under_way.push_back(UnderWay { packet_id, message, topic, step: Step::Unsent, sent_before: false });
        self.transmit(recorded, self.under_way.len() - 1);
        recorded.link.flush().await
    }

    fn transmit(&mut self, recorded: &mut Recorded, index: usize) {
        let (qos, retain) = (self.plan.qos, self.plan.retain);
        let entry = &mut self.under_way[index];
        let filler = if is_large(entry.message) { LARGE_FILLER } else { self.plan.filler };
        recorded.record(Event::PublishSent {
            connection: recorded.number,
            message: entry.message,
            topic: entry.topic.clone(),
            qos,
            retain,
        });
        let publish = Publish {
            dup: entry.sent_before,
            qos,
            retain,
            packet_id: entry.packet_id,
            ..Publish::new(super::topic_name(&entry.topic), entry.message.payload(filler))
        };
        entry.step = Step::Sent;
        entry.sent_before = true;
        recorded.link.queue(&Packet::Publish(publish));
    }

    fn free_packet_id(&mut self) -> PacketId {
        loop {
            self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
            if self.under_way.iter().all(|entry| entry.packet_id != self.next_packet_id) {
                return self.next_packet_id;
            }
        }
    }

    async fn take(&mut self, recorded: &mut Recorded, packet: Packet) -> Result<()> {
        match packet {
            Packet::PubAck(ack) if self.plan.qos == QoS::AtLeastOnce => self.answered(recorded, &ack, true),
            Packet::PubRec(ack) if self.plan.qos == QoS::ExactlyOnce => {
                let refused = ack.reason.is_error();
                self.answered(recorded, &ack, refused);
                if !refused {
                    recorded.link.send(&Packet::PubRel(Ack::new(ack.packet_id))).await?;
                }
            }
            Packet::PubComp(ack) => {
                self.under_way.retain(|entry| entry.packet_id != ack.packet_id || entry.step != Step::Released)
            }
            Packet::PingResp => {}
            Packet::Disconnect(_) => return Err(ClientError::Closed),
            other => recorded
                .record(Event::Forbidden { connection: recorded.number, what: format!("a publisher got {other:?}") }),
        }
        Ok(())
    }

    /// PUBACK or PUBREC; `ends` the exchange or goes on to PUBREL.
    fn answered(&mut self, recorded: &Recorded, ack: &Ack, ends: bool) {
        let Some(index) =
            self.under_way.iter().position(|entry| entry.packet_id == ack.packet_id && entry.step != Step::Unsent)
        else {
            let what = format!("an acknowledgement for packet identifier {} which is not under way", ack.packet_id);
            recorded.record(Event::Forbidden { connection: recorded.number, what });
            return;
        };
        let (connection, message) = (recorded.number, self.under_way[index].message);
        // A second PUBREC may answer a repeated PUBLISH; only the first counts.
        if self.under_way[index].step == Step::Sent {
            self.acknowledged += u64::from(!ack.reason.is_error());
            recorded.record(if ack.reason.is_error() {
                Event::PublishRefused { connection, message, reason: ack.reason }
            } else {
                Event::PublishAcknowledged { connection, message }
            });
        }
        if ends {
            self.under_way.remove(index);
        } else {
            self.under_way[index].step = Step::Released;
        }
    }
}
