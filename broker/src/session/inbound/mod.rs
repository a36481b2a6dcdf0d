//! What the client publishes, and the order in which it is proposed, delivered and acknowledged.
//! Always true, per connection: messages are proposed in the order they came; live subscribers get them in that order;
//! acknowledgements leave in that order, each after commit and forwarding. What decides only in the log whether it is
//! delivered, or when (retained messages, QoS 2 of durable sessions, marks of bridges), comes to live subscribers from there,
//! on every node by its own apply: whoever dies, and in one order for all. A message without durable receivers is acknowledged only behind a read
//! barrier where other nodes exist.
mod pipeline;
mod qos2;

use super::{Denied, Env, Marks, SessionError, SessionOptions, aliases::InboundAliases, requests::Requests};
use crate::{control, live::router::Targets, ticket};
use bytes::Bytes;
use mosquorum_bridge::LOOP_ID_PROPERTY;
use mosquorum_cluster::{
    Answer,
    ids::LogIndex,
    state::{LoopCheck, LoopId, Message},
};
use mosquorum_proto::mqtt::{Ack, Packet, Publish, PublishProperties, QoS, ReasonCode, TopicName, Utf8, encode};
use pipeline::{Done, Pipeline};
use qos2::{ExactlyOnce, Received};
use std::sync::Arc;

/// As Mosquitto: a Message Expiry Interval of 0 is none. One of all ones is an interval like any other: 136 years.
pub(crate) fn is_expiry(seconds: u32) -> bool {
    seconds != 0
}

pub(super) struct Receiving {
    pipeline: Pipeline,
    aliases: InboundAliases,
    received: Received,
}

impl Receiving {
    pub(super) fn new(options: &SessionOptions) -> Self {
        Self {
            pipeline: Pipeline::default(),
            aliases: InboundAliases::new(options.topic_alias_maximum_in),
            received: Received::default(),
        }
    }

    /// What is under way.
    pub(super) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }
}

/// Takes what the client publishes. It touches nothing that goes to the client but acknowledgements.
pub(super) struct Inbound<'a, E> {
    pub(super) options: &'a SessionOptions,
    pub(super) receiving: &'a mut Receiving,
    pub(super) requests: &'a mut Requests,
    pub(super) env: &'a mut E,
}

impl<E: Env> Inbound<'_, E> {
    /// QoS 2 by itself.
    pub(super) fn exactly_once(&mut self) -> ExactlyOnce<'_, E> {
        ExactlyOnce {
            options: self.options,
            received: &mut self.receiving.received,
            requests: self.requests,
            env: self.env,
        }
    }

    pub(super) fn on_publish(&mut self, publish: Publish) -> Result<(), SessionError> {
        let count = self.env.count();
        count.publish_received += 1;
        count.publish_received_qos1 += u64::from(publish.qos == QoS::AtLeastOnce);
        count.publish_received_qos2 += u64::from(publish.qos == QoS::ExactlyOnce);
        count.publish_bytes_received += publish.payload.len() as u64;
        let Publish { dup: _, qos, retain, topic, packet_id, mut properties, payload } = publish;
        if qos > self.options.max_qos {
            return Err(SessionError::Peer(ReasonCode::QosNotSupported, "QoS above the listener's max_qos"));
        }
        if retain && !self.options.retain_available {
            return Err(SessionError::Peer(ReasonCode::RetainNotSupported, "retained messages are not available"));
        }
        let alias = properties.as_mut().and_then(|p| p.topic_alias.take());
        let topic = match (alias, topic) {
            (Some(alias), topic) => self.receiving.aliases.resolve(alias, topic)?,
            (None, Some(topic)) => topic,
            (None, None) => {
                return Err(SessionError::Peer(ReasonCode::ProtocolError, "neither topic nor topic alias"));
            }
        };
        let topic = self.options.mount_point.name(topic);
        let topic =
            topic.ok_or(SessionError::Peer(ReasonCode::TopicNameInvalid, "topic too long below the mount point"))?;
        if qos != QoS::AtMostOnce && self.quota_exceeded(qos, packet_id) {
            return Err(SessionError::Peer(ReasonCode::ReceiveMaximumExceeded, "receive maximum exceeded"));
        }
        if qos == QoS::ExactlyOnce && self.is_repeated(packet_id, &topic, &payload)? {
            return Ok(());
        }
        let (mark, admit) = self.mark(properties.as_deref_mut());
        let expiry_seconds = properties.as_mut().and_then(|p| p.message_expiry_interval.take());
        let expiry_seconds = expiry_seconds.filter(|seconds| is_expiry(*seconds));
        let mut properties = properties.filter(|p| **p != Default::default());
        let reason = self.refusal(&topic, payload.len());
        if let Some(reason) = reason {
            self.refuse(qos, packet_id, reason, &topic);
            return Ok(());
        }
        if topic.as_str().starts_with(control::PREFIX) {
            self.ask_broker(qos, packet_id, &topic, &payload);
            return Ok(());
        }
        if self.env.memory_exceeded() {
            return Err(SessionError::Peer(
                ReasonCode::QuotaExceeded,
                "the broker holds as much memory as memory_limit",
            ));
        }
        if let Some(properties) = &mut properties {
            self.env.trace_published(properties, &topic, qos);
        }
        let message = Arc::new(Message {
            topic,
            payload,
            qos,
            retain,
            properties,
            expiry_seconds,
            received_at: self.env.now(),
            publisher_id: self.options.client_id.clone(),
            publisher_name: self.options.username.clone(),
            mark,
        });
        self.accept(packet_id, message, admit);
        Ok(())
    }

    /// The message's mark, its own or a new one, and whether there may have been another one of it.
    fn mark(&mut self, properties: Option<&mut PublishProperties>) -> (Option<Box<LoopId>>, LoopCheck) {
        if self.options.marks == Marks::Exchanged
            && let Some(properties) = properties
        {
            let mut mark = None;
            properties.user_properties.retain(|(name, value)| {
                let is_mark = name.as_str() == LOOP_ID_PROPERTY;
                if is_mark {
                    mark = value.as_str().parse::<LoopId>().ok();
                }
                !is_mark
            });
            if let Some(mark) = mark {
                let admit = if mark.origin == self.env.origin() { LoopCheck::Never } else { LoopCheck::FirstOfMark };
                return (Some(Box::new(mark)), admit);
            }
        }
        (self.env.next_mark().map(Box::new), LoopCheck::Always)
    }

    /// A message for the broker itself goes to nobody; its answer is published.
    fn ask_broker(&mut self, qos: QoS, packet_id: u16, topic: &TopicName, payload: &Bytes) {
        let answer = self.env.control(topic, payload);
        if qos == QoS::ExactlyOnce {
            self.exactly_once().take_here(packet_id);
        }
        self.acknowledge(qos, packet_id, true);
        let Some((topic, text)) = answer else { return };
        let message = Arc::new(Message {
            topic,
            payload: Bytes::from(text),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
            expiry_seconds: None,
            received_at: self.env.now(),
            publisher_id: Utf8::default(),
            publisher_name: None,
            mark: None,
        });
        self.accept(0, message, LoopCheck::Always);
    }

    /// A QoS 2 packet that is already known: acknowledged again (at once, or when the first one is).
    fn is_repeated(&mut self, packet_id: u16, topic: &TopicName, payload: &Bytes) -> Result<bool, SessionError> {
        if self.receiving.pipeline.holds(packet_id) {
            self.receiving.received.note_repeated(packet_id, topic, payload)?;
            return Ok(true);
        }
        self.exactly_once().is_repeated(packet_id, topic, payload)
    }

    fn quota_exceeded(&self, qos: QoS, packet_id: u16) -> bool {
        let maximum = usize::from(self.options.receive_maximum);
        if maximum == 0 || !self.options.is_v5() {
            return false;
        }
        let repeated = qos == QoS::ExactlyOnce && self.receiving.received.has(packet_id);
        !repeated && self.receiving.received.len() + self.receiving.pipeline.unacknowledged() >= maximum
    }

    fn refusal(&mut self, topic: &TopicName, payload_len: usize) -> Option<ReasonCode> {
        let limit = self.options.message_size_limit as usize;
        if limit != 0 && payload_len > limit {
            return Some(ReasonCode::PacketTooLarge);
        }
        if !self.env.may_write(topic) {
            return Some(ReasonCode::NotAuthorized);
        }
        None
    }

    /// The message goes nowhere; 5.0 clients learn why, earlier ones cannot.
    fn refuse(&mut self, qos: QoS, packet_id: u16, reason: ReasonCode, topic: &TopicName) {
        let what = if reason == ReasonCode::NotAuthorized { Denied::Publish } else { Denied::LargePublish };
        self.env.denied(what, topic.as_str());
        let reason = if self.options.is_v5() { reason } else { ReasonCode::Success };
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                self.env.count().pubacks_sent += 1;
                send_ack(Packet::PubAck, packet_id, reason, self.options, self.env);
            }
            QoS::ExactlyOnce => self.exactly_once().refuse(packet_id, reason),
        }
    }

    fn accept(&mut self, packet_id: u16, message: Arc<Message>, admit: LoopCheck) {
        let targets = self.env.targets(&message.topic);
        if !self.goes_straight(&message, &targets, admit) {
            let since = self.env.now();
            self.receiving.pipeline.push(packet_id, message, targets, admit, since);
            return self.advance();
        }
        let reached = !targets.live.sessions.is_empty() || !targets.groups.is_empty();
        let choices = if targets.groups.is_empty() { Vec::new() } else { self.env.choose(&targets, &message, false) };
        self.env.deliver(&message, &targets, choices, false, LogIndex(0), None);
        self.acknowledge(message.qos, packet_id, reached);
    }

    /// The straight way: nobody to wait for, nothing waiting before.
    #[inline]
    fn goes_straight(&self, message: &Message, targets: &Targets, admit: LoopCheck) -> bool {
        let durable_publisher = message.qos == QoS::ExactlyOnce && self.options.durable;
        let qos0 = message.qos == QoS::AtMostOnce;
        self.receiving.pipeline.is_empty()
            && !message.retain
            && !durable_publisher
            && admit == LoopCheck::Always
            && ((qos0 && !targets.queues_qos0) || (!qos0 && targets.is_local() && !self.env.needs_barrier()))
    }

    fn acknowledge(&mut self, qos: QoS, packet_id: u16, known: bool) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                self.env.count().pubacks_sent += 1;
                if known || !self.options.is_v5() {
                    let [high, low] = packet_id.to_be_bytes();
                    self.env.out().extend_from_slice(&[0x40, 2, high, low]);
                } else {
                    send_ack(Packet::PubAck, packet_id, ReasonCode::NoMatchingSubscribers, self.options, self.env);
                }
            }
            QoS::ExactlyOnce => self.exactly_once().acknowledge(packet_id),
        }
    }

    /// An answer of the cluster about a message under way.
    pub(super) fn on_answer(&mut self, number: u64, kind: u64, answer: Answer) -> Result<(), SessionError> {
        let Receiving { pipeline, received, .. } = &mut *self.receiving;
        match kind {
            ticket::BARRIER => pipeline.barrier_passed(number),
            ticket::COMMIT => {
                if let Some((packet_id, message)) = pipeline.on_commit(number, answer, self.env)? {
                    received.note_repeated(packet_id, &message.topic, &message.payload)?;
                }
            }
            ticket::FORWARD => pipeline.on_forwarded(number),
            _ => {}
        }
        self.advance();
        Ok(())
    }

    /// Takes every message as far as it may go.
    fn advance(&mut self) {
        self.receiving.pipeline.go_on(self.options, self.env);
        while let Some(Done { packet_id, qos, known }) = self.receiving.pipeline.pop_done() {
            self.acknowledge(qos, packet_id, known);
        }
    }
}

/// PUBACK, PUBREC or PUBCOMP; a reason other than success exists towards 5.0 only.
fn send_ack(make: fn(Ack) -> Packet, packet_id: u16, reason: ReasonCode, options: &SessionOptions, env: &mut impl Env) {
    encode(&make(Ack::with_reason(packet_id, reason)), options.version, env.out());
}
