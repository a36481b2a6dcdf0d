//! CONNECT, CONNACK, keep alive and takeover (MQTT 5.0 sections 3.1, 3.2, 4.13).
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT},
    on_both, on_one_node,
    target::{Target, TestResult},
};
use std::time::{Duration, Instant};

/// [MQTT-3.2.0-1] [MQTT-3.2.2-2]
async fn every_version_is_welcome_and_a_clean_start_finds_no_session(target: Target) -> TestResult {
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        let (_connection, connack) = Connection::connected(target.a, target.connect_packet(version, "any")).await?;
        assert!(!connack.session_present, "{version}");
    }
    Ok(())
}

/// [MQTT-3.1.0-1]
async fn the_first_packet_must_be_connect(target: Target) -> TestResult {
    let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
    connection.send(&Packet::PingReq).await?;
    assert!(connection.recv_until_closed().await?.is_empty());
    Ok(())
}

/// [MQTT-3.1.0-2]
async fn a_second_connect_is_a_protocol_error(target: Target) -> TestResult {
    let connect = target.connect_packet(ProtocolVersion::V5, "twice");
    let (mut connection, _) = Connection::connected(target.a, connect.clone()).await?;
    connection.send(&Packet::Connect(Box::new(connect))).await?;
    assert_eq!(connection.expect_closed().await?, Some(ReasonCode::ProtocolError));
    Ok(())
}

/// [MQTT-3.1.2-1] [MQTT-3.1.2-2] [3.1.1:MQTT-3.1.2-2]
async fn an_unknown_protocol_is_refused(target: Target) -> TestResult {
    // Another name: no answer that it could understand.
    let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
    connection.send_raw(b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x3c\x00\x01x").await?;
    assert!(connection.recv_until_closed().await?.is_empty());
    // A later version: CONNACK 0x84, or 0x01 in the form that all versions understand.
    let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
    connection.send_raw(b"\x10\x0d\x00\x04MQTT\x07\x02\x00\x3c\x00\x01x").await?;
    let answer = connection.recv_until_closed().await?;
    assert!(answer[..] == [0x20, 2, 0, 1] || answer[..] == [0x20, 3, 0, 0x84, 0], "{answer:?}");
    Ok(())
}

/// [MQTT-3.1.2-3]
async fn the_reserved_connect_flag_must_be_0(target: Target) -> TestResult {
    let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
    connection.send_raw(b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x3c\x00\x01x").await?;
    let answer = connection.recv_until_closed().await?;
    assert!(!answer.starts_with(&[0x20, 2, 0, 0]), "{answer:?}");
    Ok(())
}

/// [MQTT-3.1.3-6] [MQTT-3.2.2-16] [3.1.1:MQTT-3.1.3-8]
async fn an_empty_client_identifier_is_given_a_name(target: Target) -> TestResult {
    let (_one, first) = Connection::connected(target.a, Connect::new(ProtocolVersion::V5, "")).await?;
    let (_two, second) = Connection::connected(target.b, Connect::new(ProtocolVersion::V5, "")).await?;
    let (first, second) = (first.assigned_client_identifier, second.assigned_client_identifier);
    assert!(first.as_ref().is_some_and(|name| !name.is_empty()));
    assert_ne!(first, second);
    Connection::connected(target.a, Connect::new(ProtocolVersion::V311, "")).await?;
    let mut lasting = Connect::new(ProtocolVersion::V311, "");
    lasting.clean_start = false;
    let (mut connection, connack) = Connection::connect(target.a, lasting).await?;
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    connection.expect_closed().await?;
    Ok(())
}

/// [MQTT-3.2.2-16]: only a name that the server made is sent.
async fn a_name_of_its_own_is_not_assigned(target: Target) -> TestResult {
    let (_connection, connack) =
        Connection::connected(target.a, target.connect_packet(ProtocolVersion::V5, "own")).await?;
    assert_eq!(connack.assigned_client_identifier, None);
    Ok(())
}

/// [MQTT-3.1.4-3]
async fn a_takeover_ends_the_earlier_connection_with_8e(target: Target) -> TestResult {
    let connect = target.connect_packet(ProtocolVersion::V5, "same");
    let (mut earlier, _) = Connection::connected(target.a, connect.clone()).await?;
    let (mut later, _) = Connection::connected(target.b, connect).await?;
    assert_eq!(earlier.expect_closed().await?, Some(ReasonCode::SessionTakenOver));
    later.expect_nothing().await?;
    Ok(())
}

/// [3.1.1:MQTT-3.1.4-2]
async fn a_takeover_before_5_0_closes_without_a_word(target: Target) -> TestResult {
    let connect = target.connect_packet(ProtocolVersion::V311, "same");
    let (mut earlier, _) = Connection::connected(target.a, connect.clone()).await?;
    let (mut later, _) = Connection::connected(target.b, connect).await?;
    assert_eq!(earlier.expect_closed().await?, None);
    later.expect_nothing().await?;
    Ok(())
}

/// [MQTT-3.1.2-22]
async fn silence_beyond_the_keep_alive_ends_the_connection(target: Target) -> TestResult {
    let mut connect = target.connect_packet(ProtocolVersion::V5, "silent");
    connect.keep_alive_seconds = 1;
    let (mut connection, connack) = Connection::connected(target.a, connect).await?;
    assert_eq!(connack.server_keep_alive, None);
    let began = Instant::now();
    assert_eq!(connection.expect_closed().await?, Some(ReasonCode::KeepAliveTimeout));
    assert!(began.elapsed() >= Duration::from_millis(1000), "one and a half times the keep alive at the earliest");
    Ok(())
}

/// [MQTT-3.1.2-22] [MQTT-3.12.4-1]
async fn pingreq_is_answered_and_keeps_the_connection(target: Target) -> TestResult {
    let mut connect = target.connect_packet(ProtocolVersion::V5, "pinging");
    connect.keep_alive_seconds = 1;
    let (mut connection, _) = Connection::connected(target.a, connect).await?;
    for _ in 0..6 {
        assert_eq!(connection.recv_within(Duration::from_millis(500)).await?, None);
        connection.expect_nothing().await?;
    }
    Ok(())
}

/// [3.1.1:MQTT-3.1.2-22]
async fn a_password_needs_a_user_name_before_5_0(target: Target) -> TestResult {
    let mut connection = Connection::open(target.a, ProtocolVersion::V311, TIMEOUT).await?;
    connection.send_raw(b"\x10\x10\x00\x04MQTT\x04\x42\x00\x3c\x00\x01x\x00\x01p").await?;
    let answer = connection.recv_until_closed().await?;
    assert!(!answer.starts_with(&[0x20, 2, 0, 0]), "{answer:?}");
    Ok(())
}

/// [MQTT-3.14.4-2] [MQTT-3.14.4-1]
async fn the_broker_closes_after_disconnect(target: Target) -> TestResult {
    let connection = target.at_a("leaving").await?;
    connection.disconnect().await?;
    Ok(())
}

on_both!(
    every_version_is_welcome_and_a_clean_start_finds_no_session,
    an_empty_client_identifier_is_given_a_name,
    a_takeover_ends_the_earlier_connection_with_8e,
    a_takeover_before_5_0_closes_without_a_word,
);

mod alone {
    use super::*;
    on_one_node!(
        the_first_packet_must_be_connect,
        a_second_connect_is_a_protocol_error,
        an_unknown_protocol_is_refused,
        the_reserved_connect_flag_must_be_0,
        a_name_of_its_own_is_not_assigned,
        silence_beyond_the_keep_alive_ends_the_connection,
        pingreq_is_answered_and_keeps_the_connection,
        a_password_needs_a_user_name_before_5_0,
        the_broker_closes_after_disconnect,
    );
}
