//! What bridge and hub said to each other on the wire, and whether the one that sends messages, and the one that answers,
//! kept to the standard. The sender is the bridge, or with `--inwards` the hub.
//! Always true: a packet is recorded once its last byte was handed to the other side, so what a cut swallowed is not.
use crate::history::MessageId;
use bytes::BytesMut;
use mosquorum_proto::mqtt::{Decoder, Packet, PacketId, ProtocolVersion, QoS};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The hub accepted; whether it has the session.
    Accepted {
        session_present: bool,
    },
    Publish {
        packet_id: PacketId,
        qos: QoS,
        message: MessageId,
    },
    /// PUBACK or PUBREC of the receiver.
    Answer {
        packet_id: PacketId,
    },
    /// PUBREL of the sender: it has got PUBREC.
    Release {
        packet_id: PacketId,
    },
    /// PUBCOMP of the receiver.
    Complete {
        packet_id: PacketId,
    },
}

/// Events of all connections in their order, each with its connection's number.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    events: Mutex<Vec<(u32, Event)>>,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Tap {
    recorder: Arc<Recorder>,
    connection: u32,
    decoder: Decoder,
    partial: BytesMut,
}

impl Recorder {
    pub(super) fn from_hub(self: &Arc<Self>, connection: u32, version: ProtocolVersion) -> Tap {
        self.tap(connection, Decoder::for_client(version, u32::MAX))
    }

    pub(super) fn from_bridge(self: &Arc<Self>, connection: u32) -> Tap {
        self.tap(connection, Decoder::for_server(u32::MAX))
    }

    fn tap(self: &Arc<Self>, connection: u32, decoder: Decoder) -> Tap {
        Tap { recorder: self.clone(), connection, decoder, partial: BytesMut::new() }
    }

    pub(super) fn judge(&self) -> OnTheWire {
        judge(&self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap {
    pub(super) fn passed(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Ok(Some(packet)) = self.decoder.decode(&mut self.partial) {
            let event = match packet {
                Packet::ConnAck(connack) => Event::Accepted { session_present: connack.session_present },
                Packet::Publish(publish) => match MessageId::from_payload(&publish.payload) {
                    Some(message) => Event::Publish { packet_id: publish.packet_id, qos: publish.qos, message },
                    None => continue,
                },
                Packet::PubAck(ack) | Packet::PubRec(ack) => Event::Answer { packet_id: ack.packet_id },
                Packet::PubRel(ack) => Event::Release { packet_id: ack.packet_id },
                Packet::PubComp(ack) => Event::Complete { packet_id: ack.packet_id },
                _ => continue,
            };
            let mut events = self.recorder.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push((self.connection, event));
        }
    }
}

/// What the standard does not allow, or what shows why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OnTheWire {
    pub(super) connections: usize,
    pub(super) sessions_forgotten: usize,
    /// Most that was sent and not answered, on one connection.
    pub(super) most_unanswered: usize,
    /// Sent after a later message of the same publisher, on the same connection or for the first time.
    pub(super) sent_out_of_order: BTreeSet<MessageId>,
    /// Sent with QoS 2 after it was released, so after the sender had got PUBREC.
    pub(super) sent_again_after_release: BTreeSet<MessageId>,
    /// Sent under an identifier whose exchange for another message was not over.
    pub(super) identifiers_reused: usize,
    /// Answered after one that was sent later on the same connection.
    pub(super) answered_out_of_order: usize,
}

/// Messages of one publisher, which all have the same QoS.
#[derive(Default)]
struct Publisher {
    seen: BTreeSet<u64>,
    newest_here: Option<u64>,
    answered_here: Option<usize>,
}

/// What an identifier stands for; the session outlives its connections.
struct Exchange {
    message: MessageId,
    qos: QoS,
    over: bool,
    /// Its place among all that was sent.
    at: usize,
}

#[derive(Default)]
struct Judge {
    found: OnTheWire,
    publishers: BTreeMap<u32, Publisher>,
    released: BTreeSet<MessageId>,
    exchanges: HashMap<PacketId, Exchange>,
    /// On this connection.
    unanswered: BTreeSet<PacketId>,
}

fn judge(events: &[(u32, Event)]) -> OnTheWire {
    let mut judge = Judge::default();
    let mut connection = None;
    for (at, (number, event)) in events.iter().enumerate() {
        if connection != Some(*number) {
            connection = Some(*number);
            judge.begin();
        }
        judge.take(at, *event);
    }
    judge.found
}

impl Judge {
    fn begin(&mut self) {
        self.found.connections += 1;
        self.unanswered.clear();
        self.publishers.values_mut().for_each(|known| (known.newest_here, known.answered_here) = (None, None));
    }

    fn take(&mut self, at: usize, event: Event) {
        match event {
            Event::Accepted { session_present: false } => {
                self.found.sessions_forgotten += 1;
                self.exchanges.clear();
            }
            Event::Accepted { .. } => {}
            Event::Publish { packet_id, qos, message } => self.publish(at, packet_id, qos, message),
            Event::Answer { packet_id } => self.answer(packet_id),
            Event::Release { packet_id } => {
                if let Some(exchange) = self.exchanges.get(&packet_id) {
                    self.released.insert(exchange.message);
                }
            }
            Event::Complete { packet_id } => {
                if let Some(exchange) = self.exchanges.get_mut(&packet_id) {
                    exchange.over = true;
                }
            }
        }
    }

    fn publish(&mut self, at: usize, packet_id: PacketId, qos: QoS, message: MessageId) {
        let known = self.publishers.entry(message.publisher).or_default();
        let late_here = known.newest_here.is_some_and(|newest| newest > message.sequence);
        let first = known.seen.insert(message.sequence);
        if late_here || (first && known.seen.last().is_some_and(|last| *last > message.sequence)) {
            self.found.sent_out_of_order.insert(message);
        }
        known.newest_here = known.newest_here.max(Some(message.sequence));
        if qos == QoS::AtMostOnce {
            return;
        }
        if qos == QoS::ExactlyOnce && self.released.contains(&message) {
            self.found.sent_again_after_release.insert(message);
        }
        let before = self.exchanges.insert(packet_id, Exchange { message, qos, over: false, at });
        if before.is_some_and(|before| !before.over && before.message != message) {
            self.found.identifiers_reused += 1;
        }
        self.unanswered.insert(packet_id);
        self.found.most_unanswered = self.found.most_unanswered.max(self.unanswered.len());
    }

    fn answer(&mut self, packet_id: PacketId) {
        let here = self.unanswered.remove(&packet_id);
        let Some(exchange) = self.exchanges.get_mut(&packet_id) else { return };
        exchange.over |= exchange.qos == QoS::AtLeastOnce;
        let Some(known) = self.publishers.get_mut(&exchange.message.publisher) else { return };
        if here && known.answered_here.is_some_and(|newest| newest > exchange.at) {
            self.found.answered_out_of_order += 1;
        }
        if here {
            known.answered_here = known.answered_here.max(Some(exchange.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(packet_id: PacketId, sequence: u64) -> Event {
        let message = MessageId { publisher: 1, sequence };
        Event::Publish { packet_id, qos: QoS::ExactlyOnce, message }
    }
    fn ids(sequences: &[u64]) -> BTreeSet<MessageId> {
        sequences.iter().map(|sequence| MessageId { publisher: 1, sequence: *sequence }).collect()
    }

    #[test]
    fn redelivery_in_order_is_allowed_and_a_first_delivery_behind_a_later_one_is_not() {
        let good = [(1, publish(1, 0)), (1, publish(2, 1)), (2, publish(1, 0)), (2, publish(2, 1)), (2, publish(3, 2))];
        let found = judge(&good);
        assert_eq!((found.connections, found.most_unanswered), (2, 3));
        assert!(found.sent_out_of_order.is_empty());
        let late = [(1, publish(1, 0)), (1, publish(2, 2)), (2, publish(3, 1))];
        assert_eq!(judge(&late).sent_out_of_order, ids(&[1]));
        let turned = [(1, publish(1, 0)), (1, publish(2, 1)), (2, publish(2, 1)), (2, publish(1, 0))];
        assert_eq!(judge(&turned).sent_out_of_order, ids(&[0]));
    }

    #[test]
    fn what_was_released_may_not_come_again() {
        let answer = Event::Answer { packet_id: 1 };
        let kept = [(1, publish(1, 0)), (1, answer), (2, publish(1, 0))];
        assert!(judge(&kept).sent_again_after_release.is_empty(), "the answer may have been lost");
        let again = [(1, publish(1, 0)), (1, answer), (1, Event::Release { packet_id: 1 }), (2, publish(9, 0))];
        assert_eq!(judge(&again).sent_again_after_release, ids(&[0]));
    }

    #[test]
    fn an_identifier_stands_for_one_message_until_its_exchange_is_over() {
        let over = Event::Complete { packet_id: 1 };
        assert_eq!(judge(&[(1, publish(1, 0)), (2, publish(1, 1))]).identifiers_reused, 1);
        assert_eq!(judge(&[(1, publish(1, 0)), (1, over), (2, publish(1, 1))]).identifiers_reused, 0);
        let forgotten = Event::Accepted { session_present: false };
        assert_eq!(judge(&[(1, publish(1, 0)), (2, forgotten), (2, publish(1, 1))]).identifiers_reused, 0);
    }

    #[test]
    fn answers_out_of_order_are_the_receivers_doing() {
        let events = [
            (1, publish(1, 0)),
            (1, publish(2, 1)),
            (1, Event::Answer { packet_id: 2 }),
            (1, Event::Answer { packet_id: 1 }),
        ];
        assert_eq!(judge(&events).answered_out_of_order, 1);
        let events = [(1, publish(1, 1)), (1, publish(2, 0)), events[3], events[2]];
        assert_eq!(judge(&events).answered_out_of_order, 0, "the order is that in which they came");
    }
}
