//! Messages on their way to the client: what both kinds of sessions share.
//! Always true: QoS 1 and 2 are sent in the order of their queue, within the window (count and bytes; one message always
//! passes); QoS 0 is sent at once or, if the client does not read, dropped and counted.
use super::{Env, SessionOptions, aliases::OutboundAliases, outbox_durable::DurableOutbox, outbox_local::LocalOutbox};
use crate::live::{Delivery, marks, outgoing::SHARED_BYTES_MIN};
use mosquorum_cluster::state::{DeliveryOptions, Message};
use mosquorum_proto::mqtt::{ProtocolVersion, PublishParts, QoS, TopicFilter};
use std::{collections::VecDeque, sync::Arc};

/// One entry of a durable session's queue in the replicated state.
#[derive(Debug, Clone)]
pub struct QueueItem {
    pub seq: u64,
    pub packet_id: u16,
    /// `None` when only PUBREL is left to be sent.
    pub message: Option<Arc<Message>>,
    pub options: DeliveryOptions,
    /// Sent before by an earlier connection.
    pub dup: bool,
}

pub(super) enum Outbox {
    Local(LocalOutbox),
    Durable(DurableOutbox),
}

/// What became of a message that was to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// Not allowed, expired or larger than the client takes: counted, and done with.
    Dropped,
}

impl Outbox {
    pub(super) fn new(options: &SessionOptions) -> Self {
        if options.durable { Self::Durable(DurableOutbox::default()) } else { Self::Local(LocalOutbox::default()) }
    }

    fn live(&mut self) -> &mut LiveQueue {
        match self {
            Self::Local(local) => &mut local.live,
            Self::Durable(durable) => &mut durable.live,
        }
    }

    /// Sends a message or lets it wait. One of a replay is never dropped: [`Self::takes_replay`] bounds how many come.
    pub(super) fn on_delivery(
        &mut self,
        delivery: Delivery,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        replayed: bool,
        env: &mut impl Env,
    ) {
        if delivery.options.qos != QoS::AtMostOnce
            && let Self::Local(local) = self
        {
            return local.on_delivery(delivery, options, aliases, replayed, env);
        }
        let live = self.live();
        if env.out_congested() || !live.waiting.is_empty() {
            return live.hold(delivery, replayed, env);
        }
        send(&delivery.message, &delivery.options, 0, false, options, aliases, env);
    }

    pub(super) fn pump(
        &mut self,
        queue_grew: bool,
        options: &SessionOptions,
        aliases: &mut OutboundAliases,
        env: &mut impl Env,
    ) {
        let live = self.live();
        while !env.out_congested() {
            let Some(delivery) = live.pop() else { break };
            send(&delivery.message, &delivery.options, 0, false, options, aliases, env);
        }
        match self {
            Self::Local(local) => local.pump(options, aliases, env),
            Self::Durable(durable) => durable.pump(queue_grew, options, aliases, env),
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        match self {
            Self::Local(local) => local.has_backlog(),
            Self::Durable(durable) => durable.has_backlog(),
        }
    }

    /// Whether more retained messages may be taken from the state: most of what has been taken must have left first.
    pub(super) fn takes_replay(&self) -> bool {
        match self {
            Self::Local(local) => local.live.waiting.is_empty() && local.queue_is_short(),
            Self::Durable(durable) => durable.live.waiting.is_empty(),
        }
    }

    pub(super) fn sent_before(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::Durable(durable) => durable.sent_before(),
        }
    }

    /// Shared subscriptions' messages that this session has not acknowledged.
    pub(super) fn take_shared(&mut self) -> Vec<(Arc<Message>, TopicFilter)> {
        match self {
            Self::Local(local) => local.take_shared(),
            Self::Durable(_) => Vec::new(),
        }
    }
}

/// QoS 0 deliveries that found the socket full.
#[derive(Default)]
pub(super) struct LiveQueue {
    pub(super) waiting: VecDeque<Delivery>,
    bytes: usize,
}

/// QoS 0 bytes that wait for a slow reader; further ones are dropped and counted.
const LIVE_BYTES_MAX: usize = 4 << 20;

impl LiveQueue {
    fn hold(&mut self, delivery: Delivery, replayed: bool, env: &mut impl Env) {
        let size = delivery.message.size_bytes() + 64;
        if self.bytes + size > LIVE_BYTES_MAX && !self.waiting.is_empty() && !replayed {
            env.count().dropped_slow_reader += 1;
            return;
        }
        self.bytes += size;
        self.waiting.push_back(delivery);
    }

    fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.size_bytes() + 64;
        Some(delivery)
    }
}

/// Live messages that came while retained ones are replayed: they follow when the replay is through.
#[derive(Default)]
pub(super) struct Held {
    waiting: VecDeque<Delivery>,
    bytes: usize,
}

impl Held {
    /// At the bounds of the queue that it will join, the new message is dropped and counted.
    pub(super) fn hold(&mut self, delivery: Delivery, options: &SessionOptions, env: &mut impl Env) {
        let (size, limits) = (delivery.message.size_bytes() + 64, &options.limits);
        let qos0 = delivery.options.qos == QoS::AtMostOnce;
        if qos0 && self.bytes + size > LIVE_BYTES_MAX && !self.waiting.is_empty() {
            env.count().dropped_slow_reader += 1;
        } else if !qos0 && limits.messages != 0 && self.waiting.len() >= limits.messages as usize {
            env.count().dropped_queue_full += 1;
        } else if !qos0 && limits.bytes != 0 && (self.bytes + size) as u64 > limits.bytes {
            env.count().dropped_queue_bytes += 1;
        } else {
            self.bytes += size;
            self.waiting.push_back(delivery);
        }
    }

    pub(super) fn take(&mut self) -> VecDeque<Delivery> {
        self.bytes = 0;
        std::mem::take(&mut self.waiting)
    }
}

/// Encodes one PUBLISH, unless it may not be sent.
pub(super) fn send(
    message: &Message,
    delivery: &DeliveryOptions,
    packet_id: u16,
    dup: bool,
    options: &SessionOptions,
    aliases: &mut OutboundAliases,
    env: &mut impl Env,
) -> Sent {
    // A QoS 2 exchange that has begun is completed [MQTT-4.3.3-7]: the client may know the packet identifier.
    let begun = dup && delivery.qos == QoS::ExactlyOnce;
    if !begun && message.is_expired(env.now()) {
        env.count().dropped_expired += 1;
        return Sent::Dropped;
    }
    // 0 would say that it does not expire.
    let remaining = message.remaining_seconds(env.now()).map(|seconds| seconds.max(1));
    if !env.may_read(&message.topic) {
        env.count().dropped_not_authorized += 1;
        return Sent::Dropped;
    }
    let Some(stripped) = options.mount_point.strip(&message.topic) else {
        env.count().dropped_not_authorized += 1;
        return Sent::Dropped;
    };
    let topic = stripped.as_ref().unwrap_or(&message.topic);
    let marked =
        (options.marks && options.version == ProtocolVersion::V5).then(|| marks::with_mark(message, env.origin()));
    let mut parts = PublishParts {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: Some(topic),
        packet_id,
        properties: marked.as_ref().or(message.properties.as_deref()),
        message_expiry_interval: remaining,
        topic_alias: None,
        subscription_identifiers: &delivery.identifiers,
        payload: &message.payload,
    };
    if options.version == ProtocolVersion::V5
        && let Some((alias, first)) = aliases.of(&message.topic)
    {
        parts.topic_alias = Some(alias);
        parts.topic = first.then_some(topic);
    }
    if options.client_maximum_packet_size < u32::MAX
        && parts.encoded_len(options.version) > options.client_maximum_packet_size as usize
    {
        if parts.topic_alias.is_some() && parts.topic.is_some() {
            aliases.forget(&message.topic);
        }
        env.count().dropped_too_large += 1;
        return Sent::Dropped;
    }
    if message.payload.len() < SHARED_BYTES_MIN {
        parts.encode(options.version, env.out());
    } else {
        parts.encode_without_payload(options.version, env.out());
        env.share(&message.payload);
    }
    let count = env.count();
    count.publish_sent += 1;
    count.publish_sent_qos1 += u64::from(delivery.qos == QoS::AtLeastOnce);
    count.publish_sent_qos2 += u64::from(delivery.qos == QoS::ExactlyOnce);
    count.publish_bytes_sent += message.payload.len() as u64;
    if message.properties.is_some() {
        env.trace_delivered(message);
    }
    Sent::Yes
}
