//! Bytes that are no packet, and packets that the standard forbids: the connection ends with the reason that it gives,
//! everybody else goes on (MQTT 5.0 section 4.13).
use mosquorum_proto::mqtt::{ProtocolVersion, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT},
    on_one_node,
    target::{Target, TestResult},
};
use std::time::Duration;

const MALFORMED: &[ReasonCode] = &[ReasonCode::MalformedPacket];
const PROTOCOL: &[ReasonCode] = &[ReasonCode::ProtocolError];
/// Where the standard itself calls it both, or servers differ in which rule they see first.
const EITHER: &[ReasonCode] = &[ReasonCode::MalformedPacket, ReasonCode::ProtocolError];
const TOPIC: &[ReasonCode] = &[ReasonCode::TopicNameInvalid, ReasonCode::MalformedPacket, ReasonCode::ProtocolError];
const FILTER: &[ReasonCode] = &[ReasonCode::TopicFilterInvalid, ReasonCode::MalformedPacket, ReasonCode::ProtocolError];

/// DISCONNECT is optional before the end; where Mosquitto says nothing, so may we.
const SILENCE: &[ReasonCode] = &[];

/// What a connected MQTT 5 client sends, the clause, and the reasons allowed.
const TABLE: &[(&str, &[u8], &[ReasonCode])] = &[
    ("packet type 0", b"\x00\x00", EITHER),
    ("remaining length of 5 bytes [MQTT-1.5.5-1]", b"\x30\xff\xff\xff\xff\x01", SILENCE),
    ("QoS 3 [MQTT-3.3.1-4]", b"\x36\x06\x00\x01t\x00\x01\x00", MALFORMED),
    ("DUP with QoS 0 [MQTT-3.3.1-2]", b"\x38\x04\x00\x01t\x00", EITHER),
    ("packet identifier 0 [MQTT-2.2.1-3]", b"\x32\x06\x00\x01t\x00\x00\x00", EITHER),
    ("wildcard in a topic name [MQTT-3.3.2-2]", b"\x30\x04\x00\x01+\x00", TOPIC),
    ("empty topic without alias [MQTT-3.3.2-8]", b"\x30\x03\x00\x00\x00", EITHER),
    ("topic that is no UTF-8 [MQTT-1.5.4-1]", b"\x30\x04\x00\x01\xff\x00", EITHER),
    ("topic with U+0000 [MQTT-1.5.4-2]", b"\x30\x04\x00\x01\x00\x00", EITHER),
    ("topic longer than the packet", b"\x30\x04\x00\x09t\x00", MALFORMED),
    ("property that PUBLISH does not have", b"\x30\x09\x00\x01t\x05\x11\x00\x00\x00\x01", EITHER),
    ("property twice", b"\x30\x08\x00\x01t\x04\x01\x00\x01\x00", PROTOCOL),
    ("unknown property", b"\x30\x06\x00\x01t\x02\x7f\x00", EITHER),
    ("payload format indicator 2", b"\x30\x06\x00\x01t\x02\x01\x02", EITHER),
    ("subscription identifier from a client [MQTT-3.3.4-6]", b"\x30\x06\x00\x01t\x02\x0b\x01", EITHER),
    ("wildcard in a response topic [MQTT-3.3.2-14]", b"\x30\x08\x00\x01t\x04\x08\x00\x01#", EITHER),
    ("SUBSCRIBE with flags 0 [MQTT-3.8.1-1]", b"\x80\x07\x00\x01\x00\x00\x01t\x00", MALFORMED),
    ("SUBSCRIBE without filter [MQTT-3.8.3-2]", b"\x82\x03\x00\x01\x00", EITHER),
    ("SUBSCRIBE with identifier 0 [MQTT-2.2.1-3]", b"\x82\x07\x00\x00\x00\x00\x01t\x00", EITHER),
    ("reserved subscription options [MQTT-3.8.3-5]", b"\x82\x07\x00\x01\x00\x00\x01t\xc0", EITHER),
    ("subscription with QoS 3", b"\x82\x07\x00\x01\x00\x00\x01t\x03", EITHER),
    ("retain handling 3", b"\x82\x07\x00\x01\x00\x00\x01t\x30", EITHER),
    ("subscription identifier 0", b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01t\x00", EITHER),
    ("filter a#", b"\x82\x08\x00\x01\x00\x00\x02a#\x00", FILTER),
    ("filter #/a [MQTT-4.7.1-1]", b"\x82\x09\x00\x01\x00\x00\x03#/a\x00", FILTER),
    ("empty filter [MQTT-4.7.3-1]", b"\x82\x06\x00\x01\x00\x00\x00\x00", FILTER),
    ("UNSUBSCRIBE with flags 0 [MQTT-3.10.1-1]", b"\xa0\x06\x00\x01\x00\x00\x01t", MALFORMED),
    ("UNSUBSCRIBE without filter [MQTT-3.10.3-2]", b"\xa2\x03\x00\x01\x00", EITHER),
    ("PUBREL with flags 0 [MQTT-3.6.1-1]", b"\x60\x02\x00\x01", MALFORMED),
    ("PUBACK of 1 byte", b"\x40\x01\x00", MALFORMED),
    ("PINGREQ with a body", b"\xc0\x01\x00", SILENCE),
    ("CONNACK from a client", b"\x20\x03\x00\x00\x00", PROTOCOL),
    ("SUBACK from a client", b"\x90\x04\x00\x01\x00\x00", PROTOCOL),
    ("PINGRESP from a client", b"\xd0\x00", PROTOCOL),
    ("AUTH without a method", b"\xf0\x00", PROTOCOL),
    ("DISCONNECT with flags [MQTT-3.14.1-1]", b"\xe1\x00", MALFORMED),
];

async fn each_ends_the_connection_with_its_reason(target: Target) -> TestResult {
    // Other clients of the same broker notice nothing.
    let mut bystander = target.at_a("bystander").await?;
    let mut wrong = Vec::new();
    for (what, bytes, allowed) in TABLE {
        let mut client = target.at_a("sender").await?;
        client.timeout = Duration::from_secs(3);
        client.send_raw(bytes).await?;
        match client.expect_closed().await {
            Ok(Some(reason)) if allowed.contains(&reason) => {}
            Ok(_) if allowed.is_empty() => {}
            other => wrong.push(format!("{what}: {other:?}, wanted one of {allowed:?}")),
        }
    }
    bystander.expect_nothing().await?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Before 5.0 nothing is said.
async fn before_5_0_the_connection_just_ends(target: Target) -> TestResult {
    for bytes in [
        &b"\x30\x03\x00\x01+"[..],
        b"\x36\x05\x00\x01t\x00\x01",
        b"\x80\x06\x00\x01\x00\x01t\x00",
        b"\xf0\x00",
        b"\x82\x02\x00\x01",
    ] {
        let (mut client, _) =
            Connection::connected(target.a, target.connect_packet(ProtocolVersion::V311, "sender")).await?;
        client.send_raw(bytes).await?;
        assert!(client.recv_until_closed().await?.is_empty(), "{bytes:?}");
    }
    Ok(())
}

/// What comes instead of CONNECT, or as a broken one: no session, no crash.
async fn garbage_before_connect_is_refused(target: Target) -> TestResult {
    let cases: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: broker.example.org\r\nUser-Agent: something that is long enough\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x10\xff\xff\xff\xff\x7f",
        b"\x10\x00",
        b"\x11\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x01",
        b"\x10\x0e\x00\x04MQTT\x04\x1a\x00\x3c\x00\x01x",
        b"\x10\x15\x00\x04MQTT\x05\x02\x00\x3c\x08\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01x",
    ];
    for bytes in cases {
        let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
        connection.send_raw(bytes).await?;
        let answer = connection.recv_until_closed().await?;
        assert!(answer.is_empty() || answer[0] == 0x20 && answer[3] != 0, "{bytes:?} got {answer:?}");
    }
    target.at_a("after").await?.expect_nothing().await?;
    Ok(())
}

mod alone {
    use super::*;
    on_one_node!(
        each_ends_the_connection_with_its_reason,
        before_5_0_the_connection_just_ends,
        garbage_before_connect_is_refused
    );
}
