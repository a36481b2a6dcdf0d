//! Lines of `log_type debug` for each packet, in Mosquitto's words.
//! Always true: nothing here is done unless somebody wants these lines; payloads and passwords are never in them.
use super::{Level, enabled};
use bytes::{Bytes, BytesMut};
use mosquorum_proto::mqtt::{Ack, Decoder, Packet, ProtocolVersion, Publish, encode};

/// Larger than any packet that we send.
const PACKET_BYTES_MAX: u32 = u32::MAX;

/// Whether lines for packets are wanted.
#[must_use]
pub fn are_wanted() -> bool {
    enabled(Level::Debug)
}

/// What a client sent.
pub fn received(client: &str, packet: &Packet) {
    match packet {
        Packet::Publish(publish) => crate::debug!("Received PUBLISH from {client} {}", Shape(publish)),
        Packet::PubAck(ack) => answered("PUBACK", client, ack),
        Packet::PubComp(ack) => answered("PUBCOMP", client, ack),
        Packet::PubRec(ack) => crate::debug!("Received PUBREC from {client} (Mid: {})", ack.packet_id),
        Packet::PubRel(ack) => crate::debug!("Received PUBREL from {client} (Mid: {})", ack.packet_id),
        Packet::Subscribe(subscribe) => {
            crate::debug!("Received SUBSCRIBE from {client}");
            for subscription in &subscribe.subscriptions {
                crate::debug!("\t{} (QoS {})", subscription.filter.as_str(), subscription.qos as u8);
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            crate::debug!("Received UNSUBSCRIBE from {client}");
            for filter in &unsubscribe.filters {
                crate::debug!("\t{}", filter.as_str());
            }
        }
        Packet::PingReq => crate::debug!("Received PINGREQ from {client}"),
        Packet::Disconnect(_) => crate::debug!("Received DISCONNECT from {client}"),
        Packet::Auth(_) => crate::debug!("Received AUTH from {client}"),
        // The rest is not for clients to send, and CONNECT has lines of its own.
        _ => {}
    }
}

fn answered(kind: &str, client: &str, ack: &Ack) {
    crate::debug!("Received {kind} from {client} (Mid: {}, RC:{})", ack.packet_id, ack.reason as u8);
}

/// What a client is sent: whole packets, as they were encoded.
pub fn sending(client: &str, version: ProtocolVersion, bytes: &[u8]) {
    let mut decoder = Decoder::for_client(version, PACKET_BYTES_MAX);
    let mut bytes = Bytes::copy_from_slice(bytes);
    while let Ok(Some(packet)) = decoder.decode_bytes(&mut bytes) {
        sends(client, version, &packet);
    }
}

fn sends(client: &str, version: ProtocolVersion, packet: &Packet) {
    match packet {
        Packet::ConnAck(connack) => {
            // The code as it goes over the wire: 3.1.1 has others.
            let mut encoded = BytesMut::new();
            encode(packet, version, &mut encoded);
            let code = encoded.get(3).copied().unwrap_or_default();
            crate::debug!("Sending CONNACK to {client} ({}, {code})", u8::from(connack.session_present));
        }
        Packet::Publish(publish) => crate::debug!("Sending PUBLISH to {client} {}", Shape(publish)),
        Packet::PubAck(ack) => crate::debug!("Sending PUBACK to {client} (m{}, rc{})", ack.packet_id, ack.reason as u8),
        Packet::PubRec(ack) => crate::debug!("Sending PUBREC to {client} (m{}, rc{})", ack.packet_id, ack.reason as u8),
        Packet::PubRel(ack) => crate::debug!("Sending PUBREL to {client} (m{})", ack.packet_id),
        Packet::PubComp(ack) => crate::debug!("Sending PUBCOMP to {client} (m{})", ack.packet_id),
        Packet::SubAck(_) => crate::debug!("Sending SUBACK to {client}"),
        Packet::UnsubAck(_) => crate::debug!("Sending UNSUBACK to {client}"),
        Packet::PingResp => crate::debug!("Sending PINGRESP to {client}"),
        Packet::Disconnect(disconnect) => {
            crate::debug!("Sending DISCONNECT to {client} (rc{})", disconnect.reason as u8);
        }
        _ => {}
    }
}

/// A PUBLISH without its payload.
struct Shape<'a>(&'a Publish);

impl std::fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Publish { dup, qos, retain, topic, packet_id, payload, .. } = self.0;
        let topic = topic.as_ref().map_or("(null)", |topic| topic.as_str());
        let (dup, retain) = (u8::from(*dup), u8::from(*retain));
        write!(f, "(d{dup}, q{}, r{retain}, m{packet_id}, '{topic}', ... ({} bytes))", *qos as u8, payload.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_proto::mqtt::{QoS, TopicName};

    #[test]
    fn a_publish_is_shown_as_mosquitto_shows_it() {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: Some(TopicName::try_from("a/b").expect("a topic")),
            packet_id: 7,
            properties: None,
            payload: Bytes::from_static(b"secret"),
        };
        assert_eq!(Shape(&publish).to_string(), "(d0, q1, r1, m7, 'a/b', ... (6 bytes))");
    }
}
