//! What is accepted, what is refused, and what the peer is answered. Bytes are written as in the standard.
use super::*;
use crate::mqtt::{QoS, ReasonCode};
use ProtocolVersion::{V5, V31, V311};

/// Bytes in hex, with words in quotes: `"30 03 0001 'a'"`.
fn bytes(text: &str) -> BytesMut {
    let mut out = BytesMut::new();
    for word in text.split_whitespace() {
        match word.strip_prefix('\'') {
            Some(quoted) => out.extend_from_slice(quoted.trim_end_matches('\'').as_bytes()),
            None => out.extend((0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap())),
        }
    }
    out
}
/// One packet with that first byte and content, its length filled in.
fn frame(first: &str, body: &str) -> BytesMut {
    let body = bytes(body);
    assert!(body.len() < 128);
    let mut out = bytes(first);
    out.extend_from_slice(&[body.len() as u8]);
    out.extend_from_slice(&body);
    out
}
/// As a server that reads from a connected client.
fn from_client(version: ProtocolVersion, mut input: BytesMut) -> Result<Packet, DecodeError> {
    let mut decoder = Decoder { version: Some(version), ..Decoder::for_server(1_000_000) };
    decoder.decode(&mut input).map(|packet| packet.expect("the packet is whole"))
}
/// The DISCONNECT reason that a connected client gets for it.
fn refusal(version: ProtocolVersion, first: &str, body: &str) -> Option<ReasonCode> {
    from_client(version, frame(first, body)).expect_err("the packet is wrong").disconnect()
}
fn first_packet(input: BytesMut) -> Result<Packet, DecodeError> {
    let mut input = input;
    Decoder::for_server(1_000_000).decode(&mut input).map(|packet| packet.expect("the packet is whole"))
}
fn connack_for(body: &str) -> Option<(ProtocolVersion, ReasonCode)> {
    first_packet(frame("10", body)).expect_err("the CONNECT is wrong").connack()
}
const MALFORMED: Option<ReasonCode> = Some(ReasonCode::MalformedPacket);
const PROTOCOL: Option<ReasonCode> = Some(ReasonCode::ProtocolError);

// The fixed header

#[test] // [MQTT-3.1.0-1]
fn nothing_but_connect_is_accepted_first() {
    let error = first_packet(bytes("C000")).unwrap_err();
    assert_eq!(error, DecodeError::NotConnect(PacketType::PingReq));
    assert_eq!((error.connack(), error.disconnect()), (None, None));
    assert!(decode(&mut bytes("30"), None, 100).is_err(), "the first byte is enough");
}
#[test]
fn packet_type_0_is_refused_at_its_first_byte() {
    let error = decode(&mut bytes("0A"), Some(V5), 100).unwrap_err();
    assert_eq!((&error, error.disconnect()), (&DecodeError::ReservedPacketType, PROTOCOL));
}
#[test] // [MQTT-1.5.5-1]
fn a_remaining_length_of_five_bytes_closes_without_a_word() {
    let error = decode(&mut bytes("30 80808080"), Some(V5), 100).unwrap_err();
    assert_eq!((&error, error.disconnect()), (&DecodeError::MalformedLength, None));
}
#[test]
fn a_remaining_length_in_more_bytes_than_needed_is_accepted() {
    assert_eq!(decode(&mut bytes("C0 8000"), Some(V311), 100), Ok(Some(Packet::PingReq)));
}
#[test] // [MQTT-3.1.2-24]
fn a_packet_above_the_maximum_is_refused_when_its_header_is_there() {
    assert_eq!(decode(&mut bytes("30 62"), Some(V5), 100), Ok(None));
    let error = decode(&mut bytes("30 63"), Some(V5), 100).unwrap_err();
    assert_eq!(error, DecodeError::PacketTooLarge { size: 101, max: 100 });
    assert_eq!(error.disconnect(), Some(ReasonCode::PacketTooLarge));
}
#[test]
fn a_client_cannot_announce_a_huge_connect_or_acknowledgement() {
    let announce = |first, version| {
        let mut decoder = Decoder { version, ..Decoder::for_server(u32::MAX) };
        decoder.decode(&mut bytes(first))
    };
    assert!(matches!(announce("10 FFFFFF7F", None), Err(DecodeError::PacketTooLarge { max: 100_000, .. })));
    assert!(matches!(announce("40 FFFFFF7F", Some(V5)), Err(DecodeError::PacketTooLarge { max: 10_000, .. })));
    assert!(matches!(announce("82 FFFFFF7F", Some(V5)), Err(DecodeError::PacketTooLarge { max: 100_000, .. })));
    assert_eq!(announce("82 FFFFFF7F", Some(V311)), Ok(None));
    assert_eq!(announce("30 FFFFFF7F", Some(V5)), Ok(None));
}
#[test] // [MQTT-2.1.3-1, MQTT-3.6.1-1, MQTT-3.8.1-1, MQTT-3.10.1-1]
fn reserved_flags_are_malformed() {
    for (first, body) in [("41", "0001"), ("60", "0001"), ("6A", "0001"), ("80", "0001"), ("A3", "0001"), ("C8", "")] {
        assert_eq!(refusal(V5, first, body), MALFORMED, "{first}");
        assert!(from_client(V311, frame(first, body)).is_err(), "{first}");
    }
    assert!(from_client(V31, frame("6A", "0001")).is_ok(), "3.1 has DUP in PUBREL");
}
#[test]
fn a_client_may_not_send_the_packets_of_a_server() {
    for (first, body) in [("20", "0000"), ("90", "0001 00"), ("B0", "0001"), ("D0", "")] {
        assert_eq!(refusal(V5, first, body), PROTOCOL, "{first}");
    }
    let as_client = |input| Decoder::for_client(V311, 100).decode(&mut bytes(input));
    for input in ["C000", "8206 0001 0001 'a' 00", "A205 0001 0001 'a'", "E000", "F000"] {
        assert!(matches!(as_client(input), Err(DecodeError::UnexpectedPacket(_))), "{input}");
    }
    assert_eq!(as_client("D000"), Ok(Some(Packet::PingResp)));
}
#[test]
fn auth_does_not_exist_before_5_0() {
    let error = from_client(V311, bytes("F000")).unwrap_err();
    assert_eq!(error, DecodeError::UnexpectedPacket(PacketType::Auth));
}
#[test]
fn a_ping_with_content_closes_without_a_word() {
    assert_eq!(refusal(V5, "C0", "00"), None);
}
#[test]
fn packets_before_a_bad_one_are_delivered() {
    let mut packets = Vec::new();
    let mut decoder = Decoder { version: Some(V5), ..Decoder::for_server(100) };
    let result = decoder.decode_all(&mut bytes("C000 C000 C100 C000"), &mut packets);
    assert!(result.is_err());
    assert_eq!(packets, [Packet::PingReq, Packet::PingReq]);
    packets.clear();
    let mut decoder = Decoder { version: Some(V5), ..Decoder::for_server(100) };
    assert!(decoder.decode_all(&mut bytes("C000 30FFFF7F"), &mut packets).is_err(), "its header is enough");
    assert_eq!(packets, [Packet::PingReq]);
}

// CONNECT

#[test] // [MQTT-3.1.2-1]
fn a_wrong_protocol_name_closes_without_a_word() {
    for body in ["0003 'MQT' 04 02 000A 0001 'p'", "0004 'MQTU' 04 02 000A 0001 'p'", "0000 04 02 000A 0001 'p'"] {
        assert_eq!(connack_for(body), None);
    }
}
#[test] // [MQTT-3.1.2-2]
fn an_unsupported_protocol_level_is_answered() {
    let unsupported = ReasonCode::UnsupportedProtocolVersion;
    for level in ["02", "06"] {
        assert_eq!(connack_for(&format!("0004 'MQTT' {level} 02 000A 0001 'p'")), Some((V5, unsupported)));
        assert_eq!(connack_for(&format!("0006 'MQIsdp' {level} 02 000A 0001 'p'")), Some((V5, unsupported)));
    }
    assert_eq!(connack_for("0004 'MQTT' 03 02 000A 0001 'p'"), Some((V311, unsupported)));
    assert_eq!(connack_for("0006 'MQIsdp' 04 02 000A 0001 'p'"), Some((V311, unsupported)));
}
#[test]
fn connect_has_its_version_and_whether_it_is_a_bridge() {
    for (protocol, version, bridge) in [
        ("0006 'MQIsdp' 03", V31, false),
        ("0006 'MQIsdp' 83", V31, true),
        ("0004 'MQTT' 04", V311, false),
        ("0004 'MQTT' 84", V311, true),
    ] {
        let mut decoder = Decoder::for_server(100);
        let mut input = frame("10", &format!("{protocol} 02 000A 0001 'p'"));
        let Ok(Some(Packet::Connect(connect))) = decoder.decode(&mut input) else { panic!("{protocol}") };
        assert_eq!((connect.version, connect.bridge, decoder.version), (version, bridge, Some(version)));
        assert_eq!((&connect.client_id[..], connect.keep_alive_seconds, connect.clean_start), ("p", 10, true));
    }
}
#[test] // [MQTT-3.1.2-3]
fn the_reserved_connect_flag_is_refused_but_in_3_1() {
    assert_eq!(connack_for("0004 'MQTT' 04 01 000A 0001 'p'"), None);
    assert_eq!(connack_for("0004 'MQTT' 05 01 000A 00 0001 'p'"), None);
    assert!(first_packet(frame("14", "0006 'MQIsdp' 03 01 000A 0001 'p'")).is_ok());
    assert!(first_packet(frame("14", "0004 'MQTT' 04 02 000A 0001 'p'")).is_err());
}
#[test] // [MQTT-3.1.2-11, MQTT-3.1.2-12, MQTT-3.1.2-13]
fn will_flags_must_fit_each_other() {
    for flags in ["0A", "12", "22", "1E"] {
        let body = format!("0004 'MQTT' 04 {flags} 000A 0001 'p' 0001 't' 0001 'm'");
        assert!(first_packet(frame("10", &body)).is_err(), "{flags}");
    }
    let packet = first_packet(frame("10", "0004 'MQTT' 04 2E 000A 0001 'p' 0001 't' 0001 'm'"));
    let Ok(Packet::Connect(connect)) = packet else { panic!("{packet:?}") };
    let will = connect.will.expect("its flag is set");
    assert_eq!(
        (will.topic.as_str(), &will.payload[..], will.qos, will.retain),
        ("t", &b"m"[..], QoS::AtLeastOnce, true)
    );
    assert_eq!(will.properties, None);
}
#[test] // [MQTT-3.1.2-22 of 3.1.1]
fn a_password_needs_a_user_name_before_5_0() {
    assert_eq!(connack_for("0004 'MQTT' 04 42 000A 0001 'p' 0001 'x'"), None);
    assert!(first_packet(frame("10", "0004 'MQTT' 05 42 000A 00 0001 'p' 0001 'x'")).is_ok());
}
#[test]
fn a_3_1_client_may_leave_out_the_user_name_that_its_flags_announce() {
    let packet = first_packet(frame("10", "0006 'MQIsdp' 03 C2 000A 0001 'p'"));
    let Ok(Packet::Connect(connect)) = packet else { panic!("{packet:?}") };
    assert_eq!((connect.user_name, connect.password), (None, None));
    assert!(first_packet(frame("10", "0004 'MQTT' 04 C2 000A 0001 'p'")).is_err());
}
#[test] // [MQTT-3.1.3-4]
fn only_in_5_0_a_client_is_answered_that_its_identifier_is_not_valid() {
    assert_eq!(connack_for("0004 'MQTT' 04 02 000A 0002 6100"), None);
    let expected = Some((V5, ReasonCode::ClientIdentifierNotValid));
    assert_eq!(connack_for("0004 'MQTT' 05 02 000A 00 0002 6100"), expected);
    assert_eq!(connack_for("0004 'MQTT' 05 82 000A 00 0001 'p' 0002 6100"), None, "a user name is not answered");
}
#[test]
fn bad_properties_of_connect_and_will_are_answered() {
    let connect = |properties| connack_for(&format!("0004 'MQTT' 05 02 000A {properties} 0001 'p'"));
    let malformed = Some((V5, ReasonCode::MalformedPacket));
    let protocol = Some((V5, ReasonCode::ProtocolError));
    for (properties, expected) in [
        ("01 11", malformed),
        ("02 0001", malformed),
        ("02 0401", malformed),
        ("0A 1100000001 1100000001", protocol),
        ("03 210000", protocol),
        ("05 2700000000", protocol),
        ("02 1902", protocol),
        ("02 1702", protocol),
        ("02 0101", protocol),
        ("04 16 0001 'p'", protocol),
    ] {
        assert_eq!(connect(properties), expected, "{properties}");
    }
    let will = "0004 'MQTT' 05 06 000A 00 0001 'p' 04 01 01 01 01 0001 't' 0000";
    assert_eq!(connack_for(will), protocol);
    let will_topic = |topic: &str| connack_for(&format!("0004 'MQTT' 05 06 000A 00 0001 'p' 00 {topic} 0000"));
    assert_eq!((will_topic("0002 6100"), will_topic("0001 '#'")), (None, None), "Mosquitto has no answer to these");
    assert!(will_topic("0000").is_some());
    assert_eq!(connack_for("0004 'MQTT' 05 02 000A 00 0001 'p' 00"), malformed, "bytes after the end");
}

// PUBLISH

#[test]
fn publish_shares_the_memory_of_the_buffer() {
    let mut input = frame("33", "0003 'a/b' 0007 'payload'");
    let whole = input.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = decode(&mut input, Some(V311), 100) else { panic!() };
    assert_eq!((publish.qos, publish.retain, publish.packet_id), (QoS::AtLeastOnce, true, 7));
    assert!(whole.contains(&publish.payload.as_ptr()));
    assert!(whole.contains(&publish.topic.expect("it was there").text().as_bytes().as_ptr()));
}
#[test] // [MQTT-3.3.1-2, MQTT-3.3.1-4]
fn qos_3_and_dup_at_qos_0_are_malformed() {
    assert_eq!(refusal(V5, "36", "0001 'a' 0001 00"), MALFORMED);
    assert_eq!(refusal(V5, "38", "0001 'a' 00"), MALFORMED);
}
#[test] // [MQTT-2.2.1-3]
fn packet_identifier_0_is_refused() {
    assert_eq!(refusal(V5, "32", "0001 'a' 0000 00"), PROTOCOL);
    assert_eq!(refusal(V5, "40", "0000"), PROTOCOL);
    assert_eq!(refusal(V5, "82", "0000 00 0001 'a' 00"), MALFORMED);
    assert_eq!(refusal(V5, "A2", "0000 00 0001 'a'"), MALFORMED);
}
#[test] // [MQTT-3.3.2-2, MQTT-4.7.3-1]
fn a_topic_name_is_not_empty_and_has_no_wildcard() {
    for topic in ["0002 '+a'", "0002 'a#'", "0000"] {
        assert_eq!(refusal(V5, "30", &format!("{topic} 00 'x'")), MALFORMED, "{topic}");
        assert!(from_client(V311, frame("30", topic)).is_err(), "{topic}");
    }
}
#[test] // [MQTT-1.5.4-1, MQTT-1.5.4-2]
fn text_is_utf_8_without_control_and_non_characters() {
    for text in ["00", "EDA080", "01", "1F", "7F", "C29F", "EFBFBF", "EFB790", "F09FBFBE", "FF"] {
        let body = format!("{:04X} {text} 00", text.len() / 2);
        assert_eq!(refusal(V5, "30", &body), MALFORMED, "{text}");
    }
    assert!(from_client(V5, frame("30", "0005 41F0AA9B94 00")).is_ok());
    assert!(from_client(V5, frame("30", "0003 EFBBBF 00")).is_ok(), "[MQTT-1.5.4-3]: U+FEFF is a character");
}
#[test] // [MQTT-3.3.2-8]
fn a_topic_alias_stands_for_the_topic_and_is_not_0() {
    let Ok(Packet::Publish(publish)) = from_client(V5, frame("30", "0000 03 23 0001 'x'")) else { panic!() };
    assert_eq!((publish.topic, publish.properties.expect("has one").topic_alias), (None, Some(1)));
    assert_eq!(refusal(V5, "30", "0001 'a' 03 23 0000"), Some(ReasonCode::TopicAliasInvalid));
}
#[test] // Mosquitto answers so above message_size_limit, which the standard does not foresee.
fn only_a_server_refuses_a_publish_as_too_large() {
    for packet in ["40 03 0001 95", "50 03 0001 95"] {
        let mut decoder = Decoder::for_client(V5, 100);
        assert!(matches!(
            decoder.decode(&mut bytes(packet)),
            Ok(Some(Packet::PubAck(ack) | Packet::PubRec(ack))) if ack.reason == ReasonCode::PacketTooLarge
        ));
        assert!(from_client(V5, bytes(packet)).is_err());
    }
}
#[test] // [MQTT-3.3.4-6]
fn only_a_server_sends_subscription_identifiers() {
    assert_eq!(refusal(V5, "30", "0001 'a' 02 0B01"), PROTOCOL);
    let packet = decode(&mut frame("30", "0001 'a' 05 0B01 0B8001"), Some(V5), 100);
    let Ok(Some(Packet::Publish(publish))) = packet else { panic!("{packet:?}") };
    assert_eq!(publish.properties.expect("has two").subscription_identifiers, [1, 128]);
}
#[test] // [MQTT-3.3.2-14]
fn bad_properties_of_publish_are_refused() {
    for (properties, expected) in [
        ("02 0102", PROTOCOL),
        ("04 0100 0101", PROTOCOL),
        ("04 08 0001 '#'", PROTOCOL),
        ("03 08 0000", PROTOCOL),
        ("05 1100000001", PROTOCOL),
        ("02 0001", MALFORMED),
        ("03 8000 01", MALFORMED),
        ("03 0B 8000", MALFORMED),
        ("01 02", MALFORMED),
        ("7F", MALFORMED),
    ] {
        assert_eq!(refusal(V5, "30", &format!("0001 'a' {properties}")), expected, "{properties}");
    }
}
#[test] // [MQTT-3.3.2-18]
fn user_properties_keep_their_order_between_other_properties() {
    let body = "0001 'a' 14 26 0001 'x' 0001 '1' 0100 26 0000 0001 '2' 26 0000 0000";
    let packet = from_client(V5, frame("30", body));
    let Ok(Packet::Publish(publish)) = packet else { panic!("{packet:?}") };
    let pairs = publish.properties.expect("has some").user_properties;
    assert_eq!(pairs, [("x".into(), "1".into()), ("".into(), "2".into()), ("".into(), "".into())]);
}

// Acknowledgements, DISCONNECT, AUTH

#[test]
fn an_acknowledgement_is_two_bytes_before_5_0_and_may_be_more_in_it() {
    assert!(from_client(V311, frame("40", "0001 00")).is_err());
    for body in ["0001", "0001 10", "0001 10 00", "0001 10 04 1F 0001 'x'"] {
        assert!(from_client(V5, frame("40", body)).is_ok(), "{body}");
    }
    assert_eq!(refusal(V5, "40", "0001 00 00 00"), MALFORMED);
    assert_eq!(refusal(V5, "40", "00"), MALFORMED);
}
#[test]
fn a_reason_code_of_another_packet_is_a_protocol_error() {
    for (first, body) in [("40", "0001 92"), ("62", "0001 10"), ("70", "0001 FF"), ("F0", "01 00")] {
        assert_eq!(refusal(V5, first, body), PROTOCOL, "{first}");
    }
    assert_eq!(refusal(V5, "E0", "05"), None, "who disconnects is not answered");
}
#[test]
fn auth_has_a_method_unless_it_is_short() {
    assert!(from_client(V5, bytes("F000")).is_ok());
    assert_eq!(refusal(V5, "F0", "18 00"), PROTOCOL);
    assert!(from_client(V5, frame("F0", "18 04 15 0001 'm'")).is_ok());
}

// SUBSCRIBE and UNSUBSCRIBE

#[test] // [MQTT-3.8.3-2, MQTT-3.10.3-2]
fn subscribe_and_unsubscribe_have_at_least_one_filter() {
    assert_eq!(refusal(V5, "82", "0001 00"), MALFORMED);
    assert_eq!(refusal(V5, "A2", "0001 00"), MALFORMED);
    assert!(from_client(V311, frame("82", "0001")).is_err());
}
#[test] // [MQTT-4.7.1-1, MQTT-4.7.3-1]
fn one_bad_filter_closes_the_connection_instead_of_a_failure_code() {
    for filter in ["0000", "0002 'a+'", "0003 '#/a'", "0002 'a#'"] {
        let body = format!("0001 00 0001 'a' 00 {filter} 00");
        assert_eq!(refusal(V5, "82", &body), MALFORMED, "{filter}");
    }
}
#[test] // [MQTT-4.8.2-1, MQTT-4.8.2-2]
fn a_shared_subscription_has_a_name_and_a_filter() {
    for (filter, expected) in [
        ("$share", PROTOCOL),
        ("$share/g", PROTOCOL),
        ("$share/g/", PROTOCOL),
        ("$share//a", PROTOCOL),
        ("$share/+/a", PROTOCOL),
        ("$share/#/a", MALFORMED),
    ] {
        let body = format!("0001 00 {:04X} '{filter}' 00", filter.len());
        assert_eq!(refusal(V5, "82", &body), expected, "{filter}");
    }
    assert!(from_client(V5, frame("82", "0001 00 000A '$share/g/#' 00")).is_ok());
    assert!(from_client(V5, frame("82", "0001 00 0009 '$shared/a' 04")).is_ok());
}
#[test] // [MQTT-3.8.3-4]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    assert_eq!(refusal(V5, "82", "0001 00 000A '$share/g/a' 04"), PROTOCOL);
}
#[test] // [MQTT-3.8.3-5]
fn reserved_subscription_options_are_malformed() {
    for options in ["03", "30", "40", "80"] {
        assert_eq!(refusal(V5, "82", &format!("0001 00 0001 'a' {options}")), MALFORMED, "{options}");
    }
    for options in ["03", "04", "08", "10"] {
        assert!(from_client(V311, frame("82", &format!("0001 0001 'a' {options}"))).is_err(), "{options}");
    }
    assert!(from_client(V5, frame("82", "0001 00 0001 'a' 2E")).is_ok());
}
#[test]
fn properties_of_subscribe_are_malformed_where_others_are_protocol_errors() {
    for (properties, expected) in
        [("02 0B00", PROTOCOL), ("04 0B01 0B01", PROTOCOL), ("02 0100", MALFORMED), ("01 0B", MALFORMED)]
    {
        assert_eq!(refusal(V5, "82", &format!("0001 {properties} 0001 'a' 00")), expected, "{properties}");
    }
}

// What servers send

#[test] // [MQTT-3.2.2-1]
fn connack_flags_and_return_codes_are_checked() {
    let connack = |version, body| Decoder::for_client(version, 100).decode(&mut frame("20", body));
    assert!(connack(V311, "0200").is_err());
    assert!(connack(V311, "0006").is_err());
    let Ok(Some(Packet::ConnAck(connack))) = connack(V311, "0105") else { panic!() };
    assert_eq!((connack.session_present, connack.reason), (true, ReasonCode::NotAuthorized));
}
#[test] // [MQTT-3.9.3-2]
fn suback_before_5_0_knows_one_failure() {
    let suback = |body| Decoder::for_client(V311, 100).decode(&mut frame("90", body));
    assert!(suback("0001 00010280").is_ok());
    assert!(suback("0001 87").is_err());
}
