//! What the client publishes, and the order in which it is proposed, delivered and acknowledged.
//! Always true, per connection: messages are proposed in the order they came; live subscribers get them in that order;
//! acknowledgements leave in that order, each after commit and forwarding. What decides only in the log whether it is
//! delivered, or when (retained messages, QoS 2 of durable sessions, marks of bridges), comes to live subscribers from there,
//! on every node by its own apply: whoever dies, and in one order for all. A message without durable receivers is acknowledged only behind a read
//! barrier where other nodes exist.
use super::{Denied, Env, Session, SessionError, requests::Request};
use crate::{
    control,
    live::router::{Choice, Targets},
    planted, ticket,
};
use bytes::Bytes;
use mosquorum_bridge::MARK;
use mosquorum_cluster::{
    Answer,
    ids::{LogIndex, Millis, NodeId},
    state::{Command, Live, LoopCheck, LoopId, Message, Outcome, PublishCommand, Whom},
};
use mosquorum_proto::mqtt::{Ack, Packet, Publish, PublishProperties, QoS, ReasonCode, TopicFilter, TopicName, Utf8};
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Messages of one client between arrival and acknowledgement; beyond it nothing more is read from it.
const PENDING_MAX: usize = 2048;
const PENDING_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    /// Not looked at yet, or waiting for the barrier that covers it.
    Fresh,
    BarrierPassed,
    /// Proposed.
    Commit,
    Committed,
}

struct Pending {
    packet_id: u16,
    message: Arc<Message>,
    stage: Stage,
    targets: Arc<Targets>,
    choices: Option<Vec<Choice>>,
    /// It goes through the log, which serves durable sessions.
    logged: bool,
    /// The log serves live subscribers as well ([`Live::AtApply`]).
    at_apply: bool,
    /// Where it stands in the log.
    index: LogIndex,
    forwarding: bool,
    /// Somebody subscribed to it (a publisher with No Local counts): otherwise reason 0x10.
    reached: bool,
    /// QoS 2 packet or mark that was seen before: acknowledged, not delivered.
    duplicate: bool,
    admit: LoopCheck,
    since: Millis,
}

#[derive(Default)]
pub(super) struct Pipeline {
    items: VecDeque<Pending>,
    /// Number of the first item.
    first: u64,
    /// Items before this one are proposed (or need not be); before `routed`: delivered to live subscribers.
    proposed: u64,
    routed: u64,
    /// What went last to live subscribers through the log: later messages do not overtake it on other nodes.
    applied_last: LogIndex,
    /// A barrier is under way that covers the items before this one; later ones share the next.
    barrier: Option<u64>,
    bytes: usize,
}

impl Pipeline {
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= PENDING_MAX || self.bytes >= PENDING_BYTES_MAX
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn waiting_since(&self) -> Option<Millis> {
        self.items.front().map(|item| item.since)
    }

    /// Whether a message has not reached everybody it must reach.
    pub(super) fn has_unrouted(&self) -> bool {
        self.routed < self.first + self.items.len() as u64
    }

    fn get(&mut self, number: u64) -> Option<&mut Pending> {
        self.items.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Asks for a barrier that covers everything that waits, unless one is under way.
    fn ask_barrier(&mut self, env: &mut impl Env) {
        if self.barrier.is_none() {
            let end = self.first + self.items.len() as u64;
            self.barrier = Some(end);
            env.barrier(ticket::new(end, ticket::BARRIER));
        }
    }

    fn barrier_passed(&mut self, end: u64) {
        self.barrier = None;
        let covered = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for item in self.items.iter_mut().take(covered).filter(|item| item.stage == Stage::Fresh) {
            item.stage = Stage::BarrierPassed;
        }
    }

    /// Whether a message of this topic before this one is still on its way to live subscribers, so that one from the log
    /// could overtake it.
    fn may_overtake(&self, number: u64, topic: &TopicName) -> bool {
        let before = usize::try_from(number - self.first).unwrap_or(0);
        let on_its_way = |(place, item): (usize, &Pending)| {
            let routed = self.first + (place as u64) < self.routed;
            item.message.qos != QoS::AtMostOnce
                && !item.at_apply
                && (!routed || item.forwarding)
                && item.message.topic == *topic
        };
        self.items.iter().take(before).enumerate().any(on_its_way)
    }

    fn holds(&self, packet_id: u16) -> bool {
        self.items.iter().any(|item| item.packet_id == packet_id && item.message.qos == QoS::ExactlyOnce)
    }

    fn unacknowledged(&self) -> usize {
        self.items.iter().filter(|item| item.message.qos != QoS::AtMostOnce).count()
    }
}

/// The nodes that give a message to a member without a durable session, group by group.
fn chosen_nodes(choices: &[Choice], here: NodeId) -> Vec<(TopicFilter, NodeId)> {
    let node = |choice: &Choice| match choice {
        Choice::Here(_, filter) => Some((filter.clone(), here)),
        Choice::Elsewhere(filter, node) => Some((filter.clone(), *node)),
        Choice::DurableHere(..) | Choice::Durable | Choice::Nobody => None,
    };
    choices.iter().filter_map(node).collect()
}

/// As Mosquitto: a Message Expiry Interval of 0 is none. One of all ones is an interval like any other: 136 years.
pub(crate) fn is_expiry(seconds: u32) -> bool {
    seconds != 0
}

impl Session {
    pub(super) fn on_publish(&mut self, publish: Publish, env: &mut impl Env) -> Result<(), SessionError> {
        let count = env.count();
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
            (Some(alias), topic) => self.aliases_in.resolve(alias, topic)?,
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
        if qos == QoS::ExactlyOnce && self.is_repeated(packet_id, &topic, &payload, env)? {
            return Ok(());
        }
        let (mark, admit) = self.mark(properties.as_deref_mut(), env);
        let expiry_seconds = properties.as_mut().and_then(|p| p.message_expiry_interval.take());
        let expiry_seconds = expiry_seconds.filter(|seconds| is_expiry(*seconds));
        let mut properties = properties.filter(|p| **p != Default::default());
        let reason = self.refusal(&topic, payload.len(), env);
        if let Some(reason) = reason {
            self.refuse(qos, packet_id, reason, &topic, env);
            return Ok(());
        }
        if topic.as_str().starts_with(control::PREFIX) {
            return self.ask_broker(qos, packet_id, &topic, &payload, env);
        }
        if env.memory_exceeded() {
            return Err(SessionError::Peer(
                ReasonCode::QuotaExceeded,
                "the broker holds as much memory as memory_limit",
            ));
        }
        if let Some(properties) = &mut properties {
            env.trace_published(properties, &topic, qos);
        }
        let message = Arc::new(Message {
            topic,
            payload,
            qos,
            retain,
            properties,
            expiry_seconds,
            received_at: env.now(),
            publisher_id: self.options.client_id.clone(),
            publisher_name: self.options.username.clone(),
            mark,
        });
        self.accept(packet_id, message, admit, env)
    }

    /// The message's mark, its own or a new one, and whether there may have been another one of it.
    fn mark(&self, properties: Option<&mut PublishProperties>, env: &mut impl Env) -> (Option<Box<LoopId>>, LoopCheck) {
        if self.options.marks
            && let Some(properties) = properties
        {
            let mut mark = None;
            properties.user_properties.retain(|(name, value)| {
                let is_mark = name.as_str() == MARK;
                if is_mark {
                    mark = value.as_str().parse::<LoopId>().ok();
                }
                !is_mark
            });
            if let Some(mark) = mark {
                let admit = if mark.origin == env.origin() { LoopCheck::Never } else { LoopCheck::FirstOfMark };
                return (Some(Box::new(mark)), admit);
            }
        }
        (env.next_mark().map(Box::new), LoopCheck::Always)
    }

    /// A message for the broker itself goes to nobody; its answer is published.
    fn ask_broker(
        &mut self,
        qos: QoS,
        packet_id: u16,
        topic: &TopicName,
        payload: &Bytes,
        env: &mut impl Env,
    ) -> Result<(), SessionError> {
        let answer = env.control(topic, payload);
        if qos == QoS::ExactlyOnce {
            self.received.insert(packet_id);
        }
        self.acknowledge(qos, packet_id, true, env);
        let Some((topic, text)) = answer else { return Ok(()) };
        let message = Arc::new(Message {
            topic,
            payload: Bytes::from(text),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
            expiry_seconds: None,
            received_at: env.now(),
            publisher_id: Utf8::default(),
            publisher_name: None,
            mark: None,
        });
        self.accept(0, message, LoopCheck::Always, env)
    }

    /// A QoS 2 packet that is already known: acknowledged again (at once, or when the first one is).
    fn is_repeated(
        &mut self,
        packet_id: u16,
        topic: &TopicName,
        payload: &Bytes,
        env: &mut impl Env,
    ) -> Result<bool, SessionError> {
        if self.pipeline.holds(packet_id) {
            self.note_repeated(packet_id, topic, payload)?;
            return Ok(true);
        }
        if !self.options.durable && self.received.contains(&packet_id) {
            self.note_repeated(packet_id, topic, payload)?;
            env.count().pubrecs_sent += 1;
            self.send_ack(Packet::PubRec, packet_id, ReasonCode::Success, env);
            return Ok(true);
        }
        Ok(false)
    }

    /// Packets are sent again after a reconnect only [MQTT-4.4.0-1]; once is let pass, for older clients with timers.
    fn note_repeated(&mut self, packet_id: u16, topic: &TopicName, payload: &Bytes) -> Result<(), SessionError> {
        let mut content = DefaultHasher::new();
        (topic, payload).hash(&mut content);
        let content = content.finish();
        if self.repeated.insert(packet_id, content) != Some(content) {
            return Ok(());
        }
        Err(SessionError::Peer(ReasonCode::ProtocolError, "QoS 2 packet sent again and again [MQTT-4.4.0-1]"))
    }

    fn quota_exceeded(&self, qos: QoS, packet_id: u16) -> bool {
        let maximum = usize::from(self.options.receive_maximum);
        if maximum == 0 || !self.options.is_v5() {
            return false;
        }
        let repeated = qos == QoS::ExactlyOnce && self.received.contains(&packet_id);
        !repeated && self.received.len() + self.pipeline.unacknowledged() >= maximum
    }

    fn refusal(&self, topic: &TopicName, payload_len: usize, env: &mut impl Env) -> Option<ReasonCode> {
        let limit = self.options.message_size_limit as usize;
        if limit != 0 && payload_len > limit {
            return Some(ReasonCode::PacketTooLarge);
        }
        if !env.may_write(topic) {
            return Some(ReasonCode::NotAuthorized);
        }
        None
    }

    /// The message goes nowhere; 5.0 clients learn why, earlier ones cannot.
    fn refuse(&mut self, qos: QoS, packet_id: u16, reason: ReasonCode, topic: &TopicName, env: &mut impl Env) {
        let what = if reason == ReasonCode::NotAuthorized { Denied::Publish } else { Denied::LargePublish };
        env.denied(what, topic.as_str());
        let reason = if self.options.is_v5() { reason } else { ReasonCode::Success };
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                env.count().pubacks_sent += 1;
                self.send_ack(Packet::PubAck, packet_id, reason, env);
            }
            QoS::ExactlyOnce => {
                self.forget_refused(packet_id, env);
                env.count().pubrecs_sent += 1;
                self.send_ack(Packet::PubRec, packet_id, reason, env);
            }
        }
    }

    /// The client uses the packet identifier again, after PUBREL before MQTT 5. A durable session may have it from a packet
    /// that was taken on an earlier connection and comes again: the next one must not be taken for that.
    fn forget_refused(&mut self, packet_id: u16, env: &mut impl Env) {
        match (self.options.durable, self.options.is_v5()) {
            (true, true) => {
                let number = self.requests.add(Request::Ignored);
                env.submit(self.release(packet_id), number);
            }
            // Its PUBREL goes the same way.
            (true, false) | (false, true) => {}
            (false, false) => {
                self.received.insert(packet_id);
            }
        }
    }

    fn release(&self, packet_id: u16) -> Command {
        Command::Release {
            client_id: self.options.client_id.clone(),
            epoch: self.options.epoch.unwrap_or_default(),
            packet_id,
        }
    }

    fn accept(
        &mut self,
        packet_id: u16,
        message: Arc<Message>,
        admit: LoopCheck,
        env: &mut impl Env,
    ) -> Result<(), SessionError> {
        let targets = env.targets(&message.topic);
        let durable_publisher = message.qos == QoS::ExactlyOnce && self.options.durable;
        let qos0 = message.qos == QoS::AtMostOnce;
        // The straight way: nobody to wait for, nothing waiting before.
        if self.pipeline.items.is_empty()
            && !message.retain
            && !durable_publisher
            && admit == LoopCheck::Always
            && ((qos0 && !targets.queues_qos0) || (!qos0 && targets.is_local() && !env.needs_barrier()))
        {
            let reached = !targets.live.sessions.is_empty() || !targets.groups.is_empty();
            let choices = if targets.groups.is_empty() { Vec::new() } else { env.choose(&targets, &message, false) };
            env.deliver(&message, &targets, choices, false, LogIndex(0), None);
            if !qos0 {
                self.acknowledge(message.qos, packet_id, reached, env);
            }
            return Ok(());
        }
        self.pipeline.bytes += message.size_bytes();
        let since = env.now();
        self.pipeline.items.push_back(Pending {
            packet_id,
            message,
            stage: Stage::Fresh,
            targets,
            choices: None,
            logged: false,
            at_apply: false,
            index: LogIndex(0),
            forwarding: false,
            reached: false,
            duplicate: false,
            admit,
            since,
        });
        self.advance(env)
    }

    fn acknowledge(&mut self, qos: QoS, packet_id: u16, reached: bool, env: &mut impl Env) {
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                let known = reached || !self.options.is_v5();
                let reason = if known { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
                env.count().pubacks_sent += 1;
                if reason == ReasonCode::Success {
                    let [high, low] = packet_id.to_be_bytes();
                    env.out().extend_from_slice(&[0x40, 2, high, low]);
                } else {
                    self.send_ack(Packet::PubAck, packet_id, reason, env);
                }
            }
            QoS::ExactlyOnce => {
                if !self.options.durable {
                    self.received.insert(packet_id);
                }
                // As Mosquitto, which looks for subscribers at PUBREL only: never "no matching subscribers".
                env.count().pubrecs_sent += 1;
                self.send_ack(Packet::PubRec, packet_id, ReasonCode::Success, env);
            }
        }
    }

    pub(super) fn on_pipeline_answer(
        &mut self,
        number: u64,
        kind: u64,
        answer: Answer,
        env: &mut impl Env,
    ) -> Result<(), SessionError> {
        if kind == ticket::BARRIER {
            self.pipeline.barrier_passed(number);
        } else if let Some(item) = self.pipeline.get(number) {
            if kind == ticket::COMMIT && item.message.properties.is_some() {
                env.trace_committed(&item.message, item.since);
            }
            match (kind, answer) {
                (ticket::COMMIT, Answer::Applied { outcome, index }) => match outcome {
                    Outcome::Published { matched, duplicate } => {
                        item.stage = Stage::Committed;
                        item.index = index;
                        item.reached |= matched > 0;
                        item.reached |= item.targets.durable;
                        item.duplicate = duplicate;
                        if duplicate {
                            let (packet_id, message) = (item.packet_id, item.message.clone());
                            self.note_repeated(packet_id, &message.topic, &message.payload)?;
                        }
                    }
                    Outcome::KnownMark => (item.stage, item.duplicate) = (Stage::Committed, true),
                    Outcome::Superseded => return Err(SessionError::Superseded),
                    _ => item.stage = Stage::Committed,
                },
                (ticket::FORWARD, _) => item.forwarding = false,
                _ => {}
            }
        }
        self.advance(env)
    }

    /// Takes every item as far as it may go: proposes, delivers and acknowledges, each in order.
    fn advance(&mut self, env: &mut impl Env) -> Result<(), SessionError> {
        loop {
            let mut moved = false;
            while self.propose_next(env) {
                moved = true;
            }
            while self.route_next(env) {
                moved = true;
            }
            if !moved {
                break;
            }
        }
        while let Some(front) = self.pipeline.items.front() {
            if front.stage != Stage::Committed || front.forwarding || self.pipeline.routed == self.pipeline.first {
                break;
            }
            let Some(item) = self.pipeline.items.pop_front() else { break };
            self.pipeline.first += 1;
            self.pipeline.bytes -= item.message.size_bytes();
            self.acknowledge(item.message.qos, item.packet_id, item.reached || item.duplicate, env);
        }
        Ok(())
    }

    fn propose_next(&mut self, env: &mut impl Env) -> bool {
        let number = self.pipeline.proposed;
        let (durable_publisher, epoch) = (self.options.durable, self.options.epoch);
        let Some(item) = self.pipeline.get(number) else { return false };
        let exactly_once = durable_publisher && item.message.qos == QoS::ExactlyOnce;
        let decided_by_log = item.message.retain || item.admit != LoopCheck::Always || exactly_once;
        if decided_by_log {
            let topic = item.message.topic.clone();
            if self.pipeline.may_overtake(number, &topic) {
                return false;
            }
        }
        let Some(item) = self.pipeline.get(number) else { return false };
        if item.stage == Stage::BarrierPassed {
            item.targets = env.targets(&item.message.topic);
        }
        let qos0 = item.message.qos == QoS::AtMostOnce;
        let durable = if qos0 { item.targets.queues_qos0 } else { item.targets.durable };
        let through_log = decided_by_log || durable;
        if item.stage == Stage::Fresh && !through_log && !qos0 && env.needs_barrier() {
            self.pipeline.ask_barrier(env);
            return false;
        }
        let choices = env.choose(&item.targets, &item.message, through_log);
        item.logged = through_log;
        if through_log {
            let groups = item.targets.groups.iter().zip(&choices);
            let groups_served = groups
                .filter(|(group, choice)| group.durable > 0 && !matches!(choice, Choice::Durable | Choice::Nobody))
                .map(|(group, _)| group.filter.clone())
                .collect();
            item.stage = Stage::Commit;
            item.at_apply = decided_by_log && planted::log_delivers();
            let live = match item.at_apply {
                true => Live::AtApply { groups: chosen_nodes(&choices, env.node()) },
                false => Live::ByOrigin,
            };
            let publish = PublishCommand {
                message: item.message.clone(),
                epoch,
                packet_id: exactly_once.then_some(item.packet_id),
                groups_served,
                whom: Whom::but(&item.targets.unreadable),
                admit: item.admit,
                live,
            };
            item.choices = Some(choices);
            env.submit(Command::Publish(publish), ticket::new(number, ticket::COMMIT));
        } else {
            item.stage = Stage::Committed;
            item.choices = Some(choices);
        }
        self.pipeline.proposed += 1;
        true
    }

    fn route_next(&mut self, env: &mut impl Env) -> bool {
        let number = self.pipeline.routed;
        if number >= self.pipeline.proposed {
            return false;
        }
        let durable_publisher = self.options.durable;
        let applied_last = self.pipeline.applied_last;
        let Some(item) = self.pipeline.get(number) else { return false };
        // A repeated QoS 2 message, or one of a known mark, is recognised only by its commit.
        let waits = item.message.retain
            || item.admit != LoopCheck::Always
            || (durable_publisher && item.message.qos == QoS::ExactlyOnce);
        if item.stage != Stage::Committed && waits {
            return false;
        }
        if !item.duplicate {
            if item.message.retain {
                // Subscriptions may have come since; a retained message reaches them by one way or the other.
                item.targets = env.targets(&item.message.topic);
            }
            let choices = item.choices.take().unwrap_or_default();
            let answered = (item.message.qos != QoS::AtMostOnce).then(|| ticket::new(number, ticket::FORWARD));
            item.reached |= !item.targets.live.sessions.is_empty()
                || !item.targets.groups.is_empty()
                || !item.targets.remote.nodes.is_empty();
            if item.at_apply {
                let mut elsewhere = chosen_nodes(&choices, env.node());
                elsewhere.retain(|(_, node)| *node != env.node());
                item.forwarding =
                    !elsewhere.is_empty() && env.watch_groups(&item.message, elsewhere, item.index, answered);
                let index = item.index;
                self.pipeline.applied_last = index;
            } else {
                item.forwarding =
                    env.deliver(&item.message, &item.targets, choices, item.logged, applied_last, answered);
            }
        }
        self.pipeline.routed += 1;
        true
    }

    pub(super) fn on_pubrel(&mut self, ack: Ack, env: &mut impl Env) -> Result<(), SessionError> {
        if self.options.durable && !self.received.contains(&ack.packet_id) {
            let number = self.requests.add(Request::PubRel { packet_id: ack.packet_id, since: env.now() });
            env.submit(self.release(ack.packet_id), number);
            return Ok(());
        }
        self.received.remove(&ack.packet_id);
        self.complete_release(ack.packet_id, env);
        Ok(())
    }

    /// PUBCOMP: the packet identifier is free again. One that was not known may be a PUBREL repeated after a reconnect,
    /// so it is answered in the same way (as Mosquitto does).
    pub(super) fn complete_release(&mut self, packet_id: u16, env: &mut impl Env) {
        self.repeated.remove(&packet_id);
        env.count().pubcomps_sent += 1;
        self.send_ack(Packet::PubComp, packet_id, ReasonCode::Success, env);
    }
}
