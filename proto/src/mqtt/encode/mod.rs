//! Packets to bytes, for both ends of a connection.
//! Always true: what a version does not know is left out, so one packet can be sent to every client; the counted length
//! is the written length. Not here: whether the peer accepts that length (its Maximum Packet Size).
use super::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, ProtocolVersion, ReasonCode, SubAck, Subscribe,
    Subscription, Unsubscribe,
};
use bytes::BytesMut;
use properties::Properties;
use sink::{Count, Sink, variable_byte_integer_len};

mod properties;
mod publish;
mod sink;
#[cfg(test)]
mod tests;

pub use publish::PublishParts;

/// Largest packet that MQTT can express, in bytes: 5 of fixed header and 268,435,455 after it.
pub const PACKET_SIZE_MAX: usize = 268_435_460;

/// Appends `packet` to `out`. What does not exist in `version` is left out, and AUTH before 5.0 writes nothing. The
/// packet must not be longer than [`PACKET_SIZE_MAX`].
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) {
    if let Packet::Publish(publish) = packet {
        return PublishParts::from(publish).encode(version, out);
    }
    let Some(remaining) = remaining_len(packet, version) else {
        return;
    };
    debug_assert!(remaining + 5 <= PACKET_SIZE_MAX, "the caller compares encoded_len with the maximum");
    out.reserve(5 + remaining);
    let packet_type = packet.packet_type();
    let flags = match packet_type {
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => 0b0010,
        _ => 0,
    };
    out.u8((packet_type as u8) << 4 | flags);
    out.variable_byte_integer(remaining as u32);
    body(packet, version, out);
}

/// Bytes that [`encode`] would append.
#[must_use]
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> usize {
    if let Packet::Publish(publish) = packet {
        return PublishParts::from(publish).encoded_len(version);
    }
    remaining_len(packet, version).map_or(0, |remaining| 1 + variable_byte_integer_len(remaining as u32) + remaining)
}

/// Bytes after the fixed header; `None` if the packet does not exist in `version`.
fn remaining_len(packet: &Packet, version: ProtocolVersion) -> Option<usize> {
    if matches!(packet, Packet::Auth(_)) && version != ProtocolVersion::V5 {
        return None;
    }
    let mut count = Count(0);
    body(packet, version, &mut count);
    Some(count.0)
}

/// Everything after the fixed header, PUBLISH excepted.
fn body<S: Sink>(packet: &Packet, version: ProtocolVersion, sink: &mut S) {
    match packet {
        Packet::Connect(packet) => connect(packet, version, sink),
        Packet::ConnAck(packet) => connack(packet, version, sink),
        Packet::PubAck(packet) | Packet::PubRec(packet) | Packet::PubRel(packet) | Packet::PubComp(packet) => {
            ack(packet, version, sink);
        }
        Packet::Subscribe(packet) => subscribe(packet, version, sink),
        Packet::SubAck(packet) => suback(packet, version, sink),
        Packet::Unsubscribe(packet) => unsubscribe(packet, version, sink),
        Packet::UnsubAck(packet) => unsuback(packet, version, sink),
        Packet::Disconnect(packet) => disconnect(packet, version, sink),
        Packet::Auth(packet) => auth(packet, sink),
        Packet::PingReq | Packet::PingResp | Packet::Publish(_) => {}
    }
}

/// Properties with their length, in 5.0 only.
fn properties<S: Sink>(of: &impl Properties, version: ProtocolVersion, sink: &mut S) {
    if version == ProtocolVersion::V5 {
        of.write_with_len(sink);
    }
}

/// `version` is the one of the connection and wins over the one in the packet.
fn connect<S: Sink>(packet: &Connect, version: ProtocolVersion, sink: &mut S) {
    sink.sized(version.name().as_bytes());
    let bridge = packet.bridge && version != ProtocolVersion::V5;
    sink.u8(version.level() | u8::from(bridge) << 7);
    // Before 5.0 a password needs a user name [MQTT-3.1.2-22].
    let password = packet.password.as_ref().filter(|_| packet.user_name.is_some() || version == ProtocolVersion::V5);
    let mut flags = u8::from(packet.clean_start) << 1;
    flags |= u8::from(packet.user_name.is_some()) << 7 | u8::from(password.is_some()) << 6;
    if let Some(will) = &packet.will {
        flags |= 1 << 2 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    sink.u8(flags);
    sink.u16(packet.keep_alive_seconds);
    properties(packet, version, sink);
    sink.sized(packet.client_id.as_bytes());
    if let Some(will) = &packet.will {
        properties(will, version, sink);
        sink.sized(will.topic.text().as_bytes());
        sink.sized(&will.payload);
    }
    if let Some(user_name) = &packet.user_name {
        sink.sized(user_name.as_bytes());
    }
    if let Some(password) = password {
        sink.sized(password);
    }
}

fn connack<S: Sink>(packet: &ConnAck, version: ProtocolVersion, sink: &mut S) {
    sink.u8(u8::from(packet.session_present && version != ProtocolVersion::V31));
    sink.u8(match version {
        ProtocolVersion::V5 => packet.reason.into(),
        _ => packet.reason.connect_return_code(),
    });
    properties(packet, version, sink);
}

/// The short forms, without reason and properties, where they say the same (section 3.4.2.1).
fn ack<S: Sink>(packet: &Ack, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id);
    if version == ProtocolVersion::V5 {
        reason_and_properties(packet.reason, packet, sink);
    }
}

fn reason_and_properties<S: Sink>(reason: ReasonCode, of: &impl Properties, sink: &mut S) {
    let has_properties = of.len() > 0;
    if has_properties || reason != ReasonCode::Success {
        sink.u8(reason.into());
    }
    if has_properties {
        of.write_with_len(sink);
    }
}

fn subscribe<S: Sink>(packet: &Subscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id);
    properties(packet, version, sink);
    for subscription in &packet.subscriptions {
        sink.sized(subscription.filter.text().as_bytes());
        sink.u8(options(subscription, version));
    }
}

fn options(subscription: &Subscription, version: ProtocolVersion) -> u8 {
    let qos = subscription.qos as u8;
    if version != ProtocolVersion::V5 {
        return qos;
    }
    qos | u8::from(subscription.no_local) << 2
        | u8::from(subscription.retain_as_published) << 3
        | (subscription.retain_handling as u8) << 4
}

fn suback<S: Sink>(packet: &SubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id);
    properties(packet, version, sink);
    for reason in &packet.reasons {
        sink.u8(match version {
            ProtocolVersion::V5 => (*reason).into(),
            _ if reason.is_error() => 0x80,
            _ => (*reason).into(),
        });
    }
}

fn unsubscribe<S: Sink>(packet: &Unsubscribe, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id);
    properties(packet, version, sink);
    for filter in &packet.filters {
        sink.sized(filter.text().as_bytes());
    }
}

fn unsuback<S: Sink>(packet: &SubAck, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id);
    if version == ProtocolVersion::V5 {
        packet.write_with_len(sink);
        for reason in &packet.reasons {
            sink.u8((*reason).into());
        }
    }
}

fn disconnect<S: Sink>(packet: &Disconnect, version: ProtocolVersion, sink: &mut S) {
    if version == ProtocolVersion::V5 {
        reason_and_properties(packet.reason, packet, sink);
    }
}

/// The short form only for success without properties (section 3.15.2.1).
fn auth<S: Sink>(packet: &Auth, sink: &mut S) {
    if packet.reason != ReasonCode::Success || packet.len() > 0 {
        sink.u8(packet.reason.into());
        packet.write_with_len(sink);
    }
}
