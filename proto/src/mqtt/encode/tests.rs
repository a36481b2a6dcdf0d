//! What a version leaves out, and bytes that clients and other tests compare one by one.
use super::*;
use crate::mqtt::{PublishProperties, QoS, TopicName};
use ProtocolVersion::{V5, V31, V311};

fn bytes(packet: &Packet, version: ProtocolVersion) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out);
    assert_eq!(out.len(), encoded_len(packet, version));
    out.to_vec()
}

#[test]
fn acknowledgements_use_their_shortest_form() {
    let ack = |reason| Packet::PubAck(Ack::with_reason(0x0102, reason));
    assert_eq!(bytes(&ack(ReasonCode::Success), V5), [0x40, 2, 1, 2]);
    assert_eq!(bytes(&ack(ReasonCode::NoMatchingSubscribers), V5), [0x40, 3, 1, 2, 0x10]);
    assert_eq!(bytes(&ack(ReasonCode::NotAuthorized), V311), [0x40, 2, 1, 2]);
    assert_eq!(bytes(&Packet::PubRel(Ack::new(1)), V311), [0x62, 2, 0, 1]);
    assert_eq!(bytes(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)), V5), [0xE0, 0]);
    assert_eq!(bytes(&Packet::Disconnect(Disconnect::new(ReasonCode::ProtocolError)), V5), [0xE0, 1, 0x82]);
    assert_eq!(bytes(&Packet::Disconnect(Disconnect::new(ReasonCode::ProtocolError)), V311), [0xE0, 0]);
}
#[test]
fn reasons_become_the_return_codes_of_3_1_1() {
    let connack = |reason, version| bytes(&Packet::ConnAck(Box::new(ConnAck::new(true, reason))), version);
    for (reason, code) in [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
    ] {
        assert_eq!(connack(reason, V311), [0x20, 2, 1, code]);
        assert_eq!(connack(reason, V31), [0x20, 2, 0, code], "3.1 has no session present");
        assert_eq!(connack(reason, V5), [0x20, 3, 1, reason as u8, 0]);
    }
    let suback = Packet::SubAck(SubAck::new(1, vec![ReasonCode::GrantedQos2, ReasonCode::NotAuthorized]));
    assert_eq!(bytes(&suback, V311), [0x90, 4, 0, 1, 2, 0x80]);
    assert_eq!(bytes(&suback, V5), [0x90, 5, 0, 1, 0, 2, 0x87]);
    let unsuback = Packet::UnsubAck(SubAck::new(1, vec![ReasonCode::NoSubscriptionExisted]));
    assert_eq!(bytes(&unsuback, V311), [0xB0, 2, 0, 1]);
    assert_eq!(bytes(&unsuback, V5), [0xB0, 4, 0, 1, 0, 0x11]);
}
#[test]
fn auth_before_5_0_writes_nothing() {
    let auth = Packet::Auth(Box::new(Auth::new(ReasonCode::ContinueAuthentication, "m".into(), None)));
    assert_eq!(bytes(&auth, V311), []);
    assert_eq!(bytes(&auth, V5), [0xF0, 6, 0x18, 4, 0x15, 0, 1, b'm']);
}
#[test]
fn connack_properties_come_in_mosquittos_order() {
    let connack = ConnAck {
        topic_alias_maximum: Some(10),
        maximum_packet_size: Some(2_000_000),
        receive_maximum: Some(20),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        ..ConnAck::default()
    };
    let expected = [0x20, 18, 0, 0, 15, 0x22, 0, 10, 0x25, 0, 0x27, 0, 0x1E, 0x84, 0x80, 0x21, 0, 20, 0x24, 1];
    assert_eq!(bytes(&Packet::ConnAck(Box::new(connack)), V5), expected);
}
#[test] // [MQTT-3.2.2-9]: a maximum of 2 is never sent
fn maximum_qos_2_is_said_by_leaving_it_out() {
    let connack = ConnAck { maximum_qos: Some(QoS::ExactlyOnce), ..ConnAck::default() };
    assert_eq!(bytes(&Packet::ConnAck(Box::new(connack)), V5), [0x20, 3, 0, 0, 0]);
}
#[test] // [MQTT-3.1.2-22]
fn a_password_without_user_name_is_left_out_before_5_0() {
    let connect = Connect { password: Some("x".into()), ..Connect::new(V311, "c") };
    let connect = Packet::Connect(Box::new(connect));
    assert_eq!(bytes(&connect, V311), *b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01c");
    assert_eq!(bytes(&connect, V5), *b"\x10\x11\0\x04MQTT\x05\x42\0\x3C\0\0\x01c\0\x01x");
}
#[test] // [MQTT-3.3.2-6, MQTT-3.3.4-3]
fn publish_parts_replace_what_concerns_one_connection() {
    let topic = TopicName::try_from("t").unwrap();
    let stored = PublishProperties {
        message_expiry_interval: Some(100),
        topic_alias: Some(9),
        subscription_identifiers: vec![9],
        ..PublishProperties::default()
    };
    let parts = PublishParts {
        properties: Some(&stored),
        message_expiry_interval: Some(7),
        topic_alias: Some(3),
        subscription_identifiers: &[1, 128],
        ..PublishParts::new(&topic, b"x", QoS::AtLeastOnce, 5)
    };
    let mut out = BytesMut::new();
    parts.encode(V5, &mut out);
    let expected = [0x32, 20, 0, 1, b't', 0, 5, 13, 2, 0, 0, 0, 7, 0x23, 0, 3, 0x0B, 1, 0x0B, 0x80, 1, b'x'];
    assert_eq!(out[..], expected);
    assert_eq!(parts.packet_id_offset(V5), Some(5));
    out.clear();
    parts.encode(V311, &mut out);
    assert_eq!(out[..], [0x32, 6, 0, 1, b't', 0, 5, b'x']);
}
#[test] // [MQTT-3.3.2-18]
fn the_properties_of_a_message_leave_in_the_order_in_which_they_came() {
    for properties in [
        &b"\x26\0\x01a\0\x01b\x08\0\x01r\x01\x01\x03\0\x01c\x26\0\x01a\0\x01d"[..],
        b"\x03\0\x01c\x09\0\x01d",
        b"\x08\0\x01r\x09\0\x01d\x01\0\x03\0\x01c\x26\0\x01a\0\x01b",
    ] {
        let mut packet = vec![0x30, properties.len() as u8 + 5, 0, 1, b't', properties.len() as u8];
        packet.extend_from_slice(properties);
        packet.push(b'x');
        let mut input = BytesMut::from(&packet[..]);
        let decoded = crate::mqtt::decode(&mut input, Some(V5), 1000).unwrap().unwrap();
        assert_eq!(bytes(&decoded, V5), packet);
    }
}
#[test]
fn every_remaining_length_is_written_in_the_shortest_form() {
    let topic = TopicName::try_from("t").unwrap();
    for (payload, header) in [(0, 2), (124, 2), (125, 3), (16_380, 3), (16_381, 4), (2_097_148, 4), (2_097_149, 5)] {
        let payload = vec![0; payload];
        let parts = PublishParts::new(&topic, &payload, QoS::AtMostOnce, 0);
        let mut out = BytesMut::new();
        parts.encode(V311, &mut out);
        assert_eq!((out.len(), parts.encoded_len(V311)), (header + 3 + payload.len(), out.len()));
    }
}
