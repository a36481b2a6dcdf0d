//! One PUBLISH to the client.
//! Always true: rights are asked for last, here.
use crate::{
    live::{loop_ids, outgoing::SHARED_BYTES_MIN},
    session::{Denied, Env, Marks, SessionOptions, aliases::OutboundAliases},
};
use mosquorum_cluster::state::{DeliveryOptions, Message};
use mosquorum_proto::mqtt::{PublishParts, QoS};

/// What became of a message that was to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// Not allowed, expired or larger than the client takes: counted, and done with.
    Dropped,
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
        env.denied(Denied::Delivery, message.topic.as_str());
        return Sent::Dropped;
    }
    let Some(stripped) = options.mount_point.strip(&message.topic) else {
        env.denied(Denied::Delivery, message.topic.as_str());
        return Sent::Dropped;
    };
    let topic = stripped.as_ref().unwrap_or(&message.topic);
    let marked =
        (options.marks == Marks::Exchanged && options.is_v5()).then(|| loop_ids::with_loop_id(message, env.origin()));
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
    if options.is_v5()
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
