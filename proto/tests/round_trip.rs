//! Encoding and decoding are each other's inverse, for every packet that a version can carry.
use bytes::{Bytes, BytesMut};
use mosquorum_proto::mqtt::*;
use proptest::prelude::*;
use strategies::{publish, version, versioned_packet};

mod strategies;

const MAX: u32 = u32::MAX;

fn encoded(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn encode_then_decode_is_the_identity((version, packet) in versioned_packet()) {
        let mut bytes = encoded(&packet, version);
        prop_assert_eq!(bytes.len(), encoded_len(&packet, version));
        let shared = bytes.clone().freeze();
        prop_assert_eq!(decode(&mut bytes, Some(version), MAX), Ok(Some(packet.clone())));
        prop_assert!(bytes.is_empty());
        let mut shared = shared;
        prop_assert_eq!(decode_bytes(&mut shared, Some(version), MAX), Ok(Some(packet)));
        prop_assert!(shared.is_empty());
    }

    #[test]
    fn a_packet_that_is_not_complete_is_not_an_error_and_takes_nothing(
        (version, packet) in versioned_packet(), cut in any::<prop::sample::Index>()
    ) {
        let whole = encoded(&packet, version);
        let cut = cut.index(whole.len());
        let mut part = BytesMut::from(&whole[..cut]);
        prop_assert_eq!(decode(&mut part, Some(version), MAX), Ok(None));
        prop_assert_eq!(part.len(), cut);
    }

    #[test]
    fn however_the_bytes_arrive_the_packets_are_the_same(
        version in version(), packets in prop::collection::vec(versioned_packet(), 1..8), chunk in 1..40_usize
    ) {
        let packets: Vec<Packet> = packets.into_iter().filter(|(other, _)| *other == version).map(|p| p.1).collect();
        let mut bytes = BytesMut::new();
        for packet in &packets {
            encode(packet, version, &mut bytes);
        }
        for chunk in [1, chunk, bytes.len().max(1)] {
            let (mut input, mut one_by_one) = (BytesMut::new(), Vec::new());
            let (mut batch_input, mut batch) = (BytesMut::new(), Vec::new());
            let mut decoder = Decoder { version: Some(version), max_packet_size: MAX, sender: Sender::Any };
            for part in bytes.chunks(chunk) {
                input.extend_from_slice(part);
                batch_input.extend_from_slice(part);
                while let Some(packet) = decode(&mut input, Some(version), MAX).unwrap() {
                    one_by_one.push(packet);
                }
                decoder.decode_all(&mut batch_input, &mut batch).unwrap();
            }
            prop_assert_eq!(&one_by_one, &packets);
            prop_assert_eq!(&batch, &packets);
        }
    }

    #[test]
    fn whatever_is_decoded_from_random_bytes_can_be_encoded_and_decoded_again(
        first in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..60), version in version()
    ) {
        let mut input = BytesMut::from(&[first, body.len() as u8][..]);
        input.extend_from_slice(&body);
        if let Ok(Some(packet)) = decode(&mut input, Some(version), MAX) {
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
            let mut again = encoded(&packet, version);
            prop_assert_eq!(decode(&mut again, Some(version), MAX), Ok(Some(packet)));
        }
    }

    #[test]
    fn mutated_packets_never_panic(
        (version, packet) in versioned_packet(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)
    ) {
        let mut bytes = encoded(&packet, version);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        for sender in [Sender::Client, Sender::Server, Sender::Any] {
            let mut decoder = Decoder { version: Some(version), max_packet_size: MAX, sender };
            if let Err(error) = decoder.decode_all(&mut bytes.clone(), &mut Vec::new()) {
                prop_assert!(error.reason_code().is_error());
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn publish_from_parts_is_the_publish(publish in publish(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let publish = Publish { payload: payload.into(), ..publish };
        let parts = PublishParts::from(&publish);
        let (mut whole, mut header) = (BytesMut::new(), BytesMut::new());
        parts.encode(ProtocolVersion::V5, &mut whole);
        parts.encode_without_payload(ProtocolVersion::V5, &mut header);
        prop_assert_eq!(whole.len(), parts.encoded_len(ProtocolVersion::V5));
        prop_assert_eq!(&whole[..header.len()], &header[..]);
        prop_assert_eq!(&whole[header.len()..], &publish.payload[..]);
        if let Some(offset) = parts.packet_id_offset(ProtocolVersion::V5) {
            prop_assert_eq!(&whole[offset..offset + 2], &publish.packet_id.to_be_bytes()[..]);
        }
        let mut whole = Bytes::from(whole);
        let decoded = decode_bytes(&mut whole, Some(ProtocolVersion::V5), MAX);
        prop_assert_eq!(decoded, Ok(Some(Packet::Publish(publish))));
    }
}
