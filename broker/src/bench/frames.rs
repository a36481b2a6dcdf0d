//! The few packets of a load, straight from and to bytes: the generator shares the machine with the broker it measures, so
//! it must cost little. Everything else goes through the decoder and encoder of `proto`.
use super::stamp::Stamp;
use mosquorum_proto::mqtt::{PacketId, PacketType, ProtocolVersion, PublishParts, QoS, TopicName, Utf8};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub qos: u8,
    pub packet_id: PacketId,
    pub payload: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Publish(Received<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, with the reason code (0 before 5.0).
    Ack(PacketType, PacketId, u8),
    /// Its last reason code.
    SubAck(u8),
    Other(PacketType),
}

/// The broker sent what is no MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The first frame of `input` and its length, or `None` if it is not there as a whole.
pub(super) fn next(input: &[u8], version: ProtocolVersion) -> Result<Option<(Frame<'_>, usize)>, Malformed> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let Some((remaining, used)) = variable_byte_integer(rest)? else { return Ok(None) };
    let Some(body) = rest.get(used..used + remaining) else { return Ok(None) };
    let packet_type = PacketType::try_from(first >> 4).map_err(|_| Malformed)?;
    let frame = match packet_type {
        PacketType::Publish => publish(first, body, version).ok_or(Malformed)?,
        PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp => {
            let (id, rest) = body.split_first_chunk().ok_or(Malformed)?;
            Frame::Ack(packet_type, PacketId::from_be_bytes(*id), rest.first().copied().unwrap_or(0))
        }
        PacketType::SubAck => Frame::SubAck(*body.last().ok_or(Malformed)?),
        other => Frame::Other(other),
    };
    Ok(Some((frame, 1 + used + remaining)))
}

fn publish(first: u8, body: &[u8], version: ProtocolVersion) -> Option<Frame<'_>> {
    let (topic, rest) = body.split_first_chunk()?;
    let mut rest = rest.get(usize::from(u16::from_be_bytes(*topic))..)?;
    let (qos, mut packet_id) = (first >> 1 & 3, 0);
    if qos > 0 {
        let (id, after) = rest.split_first_chunk()?;
        (packet_id, rest) = (PacketId::from_be_bytes(*id), after);
    }
    if version == ProtocolVersion::V5 {
        let (len, used) = variable_byte_integer(rest).ok()??;
        rest = rest.get(used + len..)?;
    }
    Some(Frame::Publish(Received { qos, packet_id, payload: rest }))
}

fn variable_byte_integer(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(Malformed) }
}

/// A PUBLISH that is the same each time but for packet identifier and stamp.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    packet_id: Option<usize>,
    stamp: usize,
}

impl Template {
    pub(super) fn new(topic: &str, version: ProtocolVersion, qos: QoS, retain: bool, payload: usize) -> Self {
        let topic = TopicName::new(Utf8::from(topic)).expect("topics of ours have no wildcards");
        let payload = vec![b'x'; payload];
        let parts = PublishParts { retain, ..PublishParts::new(&topic, &payload, qos, 1) };
        let mut bytes = bytes::BytesMut::new();
        parts.encode(version, &mut bytes);
        let stamp = bytes.len() - payload.len();
        Self { bytes: bytes.to_vec(), packet_id: parts.packet_id_offset(version), stamp }
    }

    pub(super) fn write(&self, packet_id: PacketId, stamp: Stamp, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[start..];
        if let Some(offset) = self.packet_id {
            frame[offset..offset + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        frame[self.stamp..self.stamp + 16].copy_from_slice(&stamp.bytes());
    }
}

/// Appends a successful acknowledgement; its short form is the same in all versions.
pub(super) fn acknowledge(packet_type: PacketType, packet_id: PacketId, out: &mut Vec<u8>) {
    let flags = if packet_type == PacketType::PubRel { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[(packet_type as u8) << 4 | flags, 2, high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_writes_is_found_again_in_every_version_and_qos() {
        for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
            for (qos, level) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
                for payload in [16, 64, 300] {
                    let stamp = Stamp { stream: 1, sequence: 2, due: 3 };
                    let mut out = vec![0xAA];
                    Template::new("bench/a", version, qos, false, payload).write(999, stamp, &mut out);
                    let (frame, len) = next(&out[1..], version).unwrap().unwrap();
                    assert_eq!(len, out.len() - 1);
                    let Frame::Publish(received) = frame else { panic!("{frame:?}") };
                    assert_eq!((received.qos, received.packet_id), (level, if level == 0 { 0 } else { 999 }));
                    assert_eq!((received.payload.len(), Stamp::read(received.payload)), (payload, Some(stamp)));
                    for part in 1..len {
                        assert_eq!(next(&out[1..=part], version), Ok(None));
                    }
                }
            }
        }
    }

    #[test]
    fn acknowledgements_are_found_again_and_nonsense_is_refused() {
        let mut out = Vec::new();
        acknowledge(PacketType::PubRel, 258, &mut out);
        assert_eq!(out, [0x62, 2, 1, 2]);
        assert_eq!(next(&out, ProtocolVersion::V5), Ok(Some((Frame::Ack(PacketType::PubRel, 258, 0), 4))));
        assert_eq!(
            next(&[0x40, 3, 0, 9, 0x97], ProtocolVersion::V5),
            Ok(Some((Frame::Ack(PacketType::PubAck, 9, 0x97), 5)))
        );
        for wrong in [&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1][..], &[0x30, 1, 0], &[0x00, 0], &[0x32, 3, 0, 1, b'a']] {
            assert_eq!(next(wrong, ProtocolVersion::V311), Err(Malformed), "{wrong:?}");
        }
    }
}
