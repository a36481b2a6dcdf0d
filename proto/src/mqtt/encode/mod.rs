//! Packets to bytes.
use super::{Packet, PacketId, ProtocolVersion, PublishProperties, QoS, TopicName};
use bytes::BytesMut;

/// Largest packet that MQTT can express, in bytes (5 bytes of fixed header, 268,435,455 after it).
pub const PACKET_SIZE_MAX: usize = 268_435_460;

/// Appends `packet` to `out`. What does not exist in `version` is left out; a packet that does not exist in it
/// (AUTH before 5.0) writes nothing.
pub fn encode(_packet: &Packet, _version: ProtocolVersion, _out: &mut BytesMut) {
    todo!()
}

/// Bytes that [`encode`] would append.
#[must_use]
pub fn encoded_len(_packet: &Packet, _version: ProtocolVersion) -> usize {
    todo!()
}

/// A PUBLISH to one subscriber, made of borrowed parts: fan-out without a [`super::Publish`] per subscriber.
#[derive(Debug, Clone, Copy)]
pub struct PublishParts<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// `None` only in 5.0, together with `topic_alias`.
    pub topic: Option<&'a TopicName>,
    /// Written only if QoS is not 0.
    pub packet_id: PacketId,
    /// Properties of the message; its `topic_alias` and `subscription_identifiers` are not written, those below are.
    pub properties: Option<&'a PublishProperties>,
    /// Remaining seconds; replaces the one in `properties` if present [MQTT-3.3.2-6].
    pub message_expiry_interval: Option<u32>,
    pub topic_alias: Option<u16>,
    pub subscription_identifiers: &'a [u32],
    pub payload: &'a [u8],
}

impl PublishParts<'_> {
    /// Appends the whole packet.
    pub fn encode(&self, _version: ProtocolVersion, _out: &mut BytesMut) {
        todo!()
    }
    /// Appends everything before the payload, for a gathered write of the payload's own bytes.
    pub fn encode_without_payload(&self, _version: ProtocolVersion, _out: &mut BytesMut) {
        todo!()
    }
    /// Bytes of the whole packet.
    #[must_use]
    pub fn encoded_len(&self, _version: ProtocolVersion) -> usize {
        todo!()
    }
    /// Where in the encoded packet the two bytes of the packet identifier are; `None` at QoS 0. With it one encoded
    /// packet serves many subscribers.
    #[must_use]
    pub fn packet_id_offset(&self, _version: ProtocolVersion) -> Option<usize> {
        todo!()
    }
}
