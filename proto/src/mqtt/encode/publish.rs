//! PUBLISH (section 3.3): written once per subscriber, so from borrowed parts and without an allocation of its own.
use super::{
    PACKET_SIZE_MAX,
    properties::{self, Properties},
    sink::{Sink, variable_byte_integer_len},
};
use crate::mqtt::{PacketId, ProtocolVersion, Publish, PublishProperties, QoS, TopicName};
use bytes::{BufMut, BytesMut};

/// A PUBLISH to one subscriber, made of borrowed parts: fan-out without a [`Publish`] per subscriber.
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
    /// Seconds that remain; replaces the value in `properties` [MQTT-3.3.2-6].
    pub message_expiry_interval: Option<u32>,
    pub topic_alias: Option<u16>,
    pub subscription_identifiers: &'a [u32],
    pub payload: &'a [u8],
}

impl<'a> From<&'a Publish> for PublishParts<'a> {
    fn from(publish: &'a Publish) -> Self {
        let properties = publish.properties.as_deref();
        Self {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            topic: publish.topic.as_ref(),
            packet_id: publish.packet_id,
            properties,
            message_expiry_interval: None,
            topic_alias: properties.and_then(|properties| properties.topic_alias),
            subscription_identifiers: properties
                .map_or(&[], |properties| properties.subscription_identifiers.as_slice()),
            payload: &publish.payload,
        }
    }
}

impl Properties for PublishParts<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        let mut expiry = self.message_expiry_interval;
        if let Some(message) = self.properties {
            properties::message(sink, message);
            expiry = expiry.or(message.message_expiry_interval);
        }
        properties::four_bytes(sink, 0x02, expiry);
        properties::two_bytes(sink, 0x23, self.topic_alias);
        for identifier in self.subscription_identifiers {
            sink.u8(0x0B);
            sink.variable_byte_integer(*identifier);
        }
    }
}

impl<'a> PublishParts<'a> {
    /// A message as it is, to be sent with `qos` and `packet_id` (0 at QoS 0).
    #[must_use]
    pub fn new(topic: &'a TopicName, payload: &'a [u8], qos: QoS, packet_id: PacketId) -> Self {
        Self {
            dup: false,
            qos,
            retain: false,
            topic: Some(topic),
            packet_id,
            properties: None,
            message_expiry_interval: None,
            topic_alias: None,
            subscription_identifiers: &[],
            payload,
        }
    }

    /// Appends the whole packet. It must not be longer than [`PACKET_SIZE_MAX`].
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) {
        self.header(version, out, self.payload.len());
        out.put_slice(self.payload);
    }

    /// Appends everything before the payload, for a gathered write of the payload's own bytes.
    pub fn encode_without_payload(&self, version: ProtocolVersion, out: &mut BytesMut) {
        self.header(version, out, 0);
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        let remaining = self.remaining_len(version, self.properties_len(version));
        1 + variable_byte_integer_len(remaining as u32) + remaining
    }

    /// Where in the encoded packet the two bytes of the packet identifier are, most significant first; `None` at QoS 0.
    /// With it (and DUP, bit 3 of the first byte) one encoded packet serves many subscribers and a resend.
    #[must_use]
    pub fn packet_id_offset(&self, version: ProtocolVersion) -> Option<usize> {
        let remaining = self.remaining_len(version, self.properties_len(version));
        (self.qos != QoS::AtMostOnce)
            .then(|| 1 + variable_byte_integer_len(remaining as u32) + 2 + self.topic_bytes().len())
    }

    fn topic_bytes(&self) -> &[u8] {
        self.topic.map_or(&[], |topic| topic.text().as_bytes())
    }

    /// Bytes of the properties without their length; `None` before 5.0.
    fn properties_len(&self, version: ProtocolVersion) -> Option<usize> {
        (version == ProtocolVersion::V5).then(|| self.len())
    }

    fn remaining_len(&self, version: ProtocolVersion, properties: Option<usize>) -> usize {
        debug_assert!(self.topic.is_some() || version == ProtocolVersion::V5, "only 5.0 has topic aliases");
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = properties.map_or(0, |len| variable_byte_integer_len(len as u32) + len);
        2 + self.topic_bytes().len() + packet_id + properties + self.payload.len()
    }

    fn header(&self, version: ProtocolVersion, out: &mut BytesMut, reserve: usize) {
        let properties = self.properties_len(version);
        let remaining = self.remaining_len(version, properties);
        debug_assert!(remaining + 5 <= PACKET_SIZE_MAX, "the caller compares encoded_len with the maximum");
        out.reserve(5 + remaining - self.payload.len() + reserve);
        out.put_u8(0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain));
        out.variable_byte_integer(remaining as u32);
        out.sized(self.topic_bytes());
        if self.qos != QoS::AtMostOnce {
            out.put_u16(self.packet_id);
        }
        if let Some(len) = properties {
            out.variable_byte_integer(len as u32);
            if len > 0 {
                self.write(out);
            }
        }
    }
}
