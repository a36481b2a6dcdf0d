//! Sessions: expiry, resumption, redelivery (MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2, 4.1, 4.4).
use mosquorum_proto::mqtt::{Ack, Connect, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message},
    on_both, on_one_node,
    target::{Target, TestResult},
};
use std::time::Duration;
use tokio::time::sleep;

/// [MQTT-3.1.2-5] [MQTT-3.2.2-3] [MQTT-4.1.0-1]
async fn a_session_waits_for_its_client_and_keeps_its_messages(target: Target) -> TestResult {
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        let topic = target.unique(&format!("q{}", version.level()));
        let connect = target.durable_packet(version, &format!("c{}", version.level()));
        let (mut client, connack) = Connection::connected(target.b, connect.clone()).await?;
        assert!(!connack.session_present);
        client.subscribe_to(&topic, QoS::ExactlyOnce).await?;
        client.disconnect().await?;
        for payload in ["one", "two", "three"] {
            target.publish(&topic, payload, false).await?;
        }
        let (mut client, connack) = Connection::connected(target.c, connect).await?;
        assert!(connack.session_present || version == ProtocolVersion::V31, "{version}");
        for payload in ["one", "two", "three"] {
            let publish = client.receive().await?;
            assert_eq!(publish.payload, payload, "{version}");
            assert!(!publish.dup);
        }
    }
    Ok(())
}

/// [MQTT-3.1.2-4]
async fn a_clean_start_forgets(target: Target) -> TestResult {
    let topic = target.unique("q");
    let mut connect = target.durable_packet(ProtocolVersion::V5, "c");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    target.publish(&topic, "lost", false).await?;
    connect.clean_start = true;
    let (mut client, connack) = Connection::connected(target.c, connect).await?;
    assert!(!connack.session_present);
    target.publish(&topic, "nobody", false).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, "new", false).await?;
    assert_eq!(client.receive().await?.payload, "new");
    Ok(())
}

/// Session Expiry Interval absent or 0: the session ends with its connection (section 3.1.2.11.2).
async fn without_expiry_a_session_ends_with_its_connection(target: Target) -> TestResult {
    let mut connect = target.connect_packet(ProtocolVersion::V5, "c");
    connect.clean_start = false;
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&target.unique("q"), QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    let (_client, connack) = Connection::connected(target.c, connect).await?;
    assert!(!connack.session_present);
    Ok(())
}

/// [MQTT-4.1.0-2]
async fn a_session_expires(target: Target) -> TestResult {
    let mut connect = target.durable_packet(ProtocolVersion::V5, "c");
    connect.session_expiry_interval = Some(1);
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&target.unique("q"), QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    // Time itself is what is tested.
    sleep(Duration::from_millis(3500)).await;
    let (_client, connack) = Connection::connected(target.c, connect).await?;
    assert!(!connack.session_present);
    Ok(())
}

/// DISCONNECT may change the expiry (section 3.14.2.2.2).
async fn disconnect_can_end_or_extend_the_session(target: Target) -> TestResult {
    for (kept, expiry) in [(false, 0), (true, 3600)] {
        let mut connect = target.durable_packet(ProtocolVersion::V5, &format!("c{kept}"));
        connect.session_expiry_interval = Some(60);
        let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
        client.subscribe_to(&target.unique("q"), QoS::AtLeastOnce).await?;
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.session_expiry_interval = Some(expiry);
        client.send(&Packet::Disconnect(disconnect)).await?;
        client.recv_until_closed().await?;
        let (_client, connack) = Connection::connected(target.c, connect).await?;
        assert_eq!(connack.session_present, kept);
    }
    Ok(())
}

/// [MQTT-3.14.2-2]
async fn a_session_without_expiry_cannot_get_one_at_disconnect(target: Target) -> TestResult {
    let mut client = target.at_a("c").await?;
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    disconnect.session_expiry_interval = Some(60);
    client.send(&Packet::Disconnect(disconnect)).await?;
    assert!(matches!(client.expect_closed().await?, Some(ReasonCode::ProtocolError) | None));
    Ok(())
}

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1]
async fn what_was_not_acknowledged_comes_again_with_dup(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect = target.durable_packet(ProtocolVersion::V5, "c");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    for payload in ["one", "two", "three"] {
        target.publish(&topic, payload, false).await?;
    }
    assert_eq!(client.receive().await?.payload, "one");
    assert_eq!(client.expect_publish().await?.payload, "two");
    assert_eq!(client.expect_publish().await?.payload, "three");
    // The PUBACK for "one" is known to the broker once it answered something later.
    client.expect_nothing().await?;
    client.disconnect().await?;
    let (mut client, connack) = Connection::connected(target.c, connect).await?;
    assert!(connack.session_present);
    let mut payloads = Vec::new();
    while payloads.last().is_none_or(|last| last != "three") {
        let publish = client.receive().await?;
        assert!(publish.dup, "{:?} was sent before", publish.payload);
        payloads.push(publish.payload);
    }
    // A lost QoS 1 acknowledgement is a redelivery, which is allowed; the order is not free.
    assert!(payloads == ["two", "three"] || payloads == ["one", "two", "three"], "{payloads:?}");
    Ok(())
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-7]: the subscriber's half of QoS 2 goes on where it was.
async fn a_subscriber_finishes_qos_2_over_another_connection(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect = target.durable_packet(ProtocolVersion::V5, "c");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let mut publisher = target.at_a("p").await?;
    publisher.publish(message(&topic, "once", QoS::ExactlyOnce)).await?;
    let packet_id = client.expect_publish().await?.packet_id;
    client.send(&Packet::PubRec(Ack::new(packet_id))).await?;
    assert_eq!(client.expect_pubrel().await?.packet_id, packet_id);
    drop(client);
    let (mut client, _) = Connection::connected(target.c, connect).await?;
    assert_eq!(client.expect_pubrel().await?.packet_id, packet_id, "PUBREL comes again, PUBLISH does not");
    client.send(&Packet::PubComp(Ack::new(packet_id))).await?;
    publisher.publish(message(&topic, "next", QoS::ExactlyOnce)).await?;
    assert_eq!(client.receive().await?.payload, "next");
    Ok(())
}

/// [MQTT-4.3.3-2] [MQTT-4.3.3-10]: the publisher's half of QoS 2 is part of its session.
async fn a_publisher_finishes_qos_2_over_another_connection(target: Target) -> TestResult {
    let topic = target.unique("q");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let connect = target.durable_packet(ProtocolVersion::V5, "p");
    let (mut publisher, _) = Connection::connected(target.a, connect.clone()).await?;
    let mut publish = message(&topic, "once", QoS::ExactlyOnce);
    publish.packet_id = 5;
    publisher.send(&Packet::Publish(publish.clone())).await?;
    publisher.expect_pubrec().await?;
    drop(publisher);
    let (mut publisher, connack) = Connection::connected(target.c, connect).await?;
    assert!(connack.session_present);
    // As if PUBREC had been lost: the same PUBLISH again must not become a second message.
    publish.dup = true;
    publisher.send(&Packet::Publish(publish)).await?;
    assert_eq!(publisher.expect_pubrec().await?.packet_id, 5);
    publisher.send(&Packet::PubRel(Ack::new(5))).await?;
    assert_eq!(publisher.expect_pubcomp().await?.reason, ReasonCode::Success);
    publisher.publish(message(&topic, "next", QoS::ExactlyOnce)).await?;
    assert_eq!(subscriber.receive().await?.payload, "once");
    assert_eq!(subscriber.receive().await?.payload, "next");
    Ok(())
}

/// [MQTT-3.1.4-3] [MQTT-4.4.0-1]
async fn a_takeover_keeps_the_session(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect = target.durable_packet(ProtocolVersion::V5, "c");
    let (mut earlier, _) = Connection::connected(target.b, connect.clone()).await?;
    earlier.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, "unacknowledged", false).await?;
    earlier.expect_publish().await?;
    let (mut later, connack) = Connection::connected(target.c, connect).await?;
    assert!(connack.session_present);
    assert_eq!(later.receive().await?.payload, "unacknowledged");
    assert_eq!(earlier.expect_closed().await?, Some(ReasonCode::SessionTakenOver));
    target.publish(&topic, "next", false).await?;
    assert_eq!(later.receive().await?.payload, "next");
    Ok(())
}

/// Sent in one piece with DISCONNECT: each counts.
async fn what_a_client_acknowledges_as_it_leaves_does_not_come_again(target: Target) -> TestResult {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let topic = target.unique(&format!("q{}", version.level()));
        let connect = target.durable_packet(version, &format!("c{}", version.level()));
        let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
        client.subscribe_to(&topic, QoS::ExactlyOnce).await?;
        let mut publisher = target.at_a(&format!("p{}", version.level())).await?;
        publisher.publish(message(&topic, "once", QoS::AtLeastOnce)).await?;
        publisher.publish(message(&topic, "exactly once", QoS::ExactlyOnce)).await?;
        let once = client.expect_publish().await?;
        let exactly_once = client.expect_publish().await?;
        client.queue(&Packet::PubAck(Ack::new(once.packet_id)));
        client.queue(&Packet::PubRec(Ack::new(exactly_once.packet_id)));
        client.queue(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
        client.flush().await?;
        let (mut client, connack) = Connection::connected(target.c, connect).await?;
        assert!(connack.session_present);
        assert_eq!(client.expect_pubrel().await?.packet_id, exactly_once.packet_id, "{version}");
        client.send(&Packet::PubComp(Ack::new(exactly_once.packet_id))).await?;
        publisher.publish(message(&topic, "next", QoS::AtLeastOnce)).await?;
        assert_eq!(client.receive().await?.payload, "next", "{version}");
    }
    Ok(())
}

/// QoS 0 is not queued for a client that is away (queue_qos0_messages false, the default).
async fn qos_0_does_not_wait(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect: Connect = target.durable_packet(ProtocolVersion::V311, "c");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    let mut publisher = target.at_a("p").await?;
    publisher.publish(message(&topic, "gone", QoS::AtMostOnce)).await?;
    publisher.publish(message(&topic, "kept", QoS::AtLeastOnce)).await?;
    let (mut client, _) = Connection::connected(target.c, connect).await?;
    assert_eq!(client.receive().await?.payload, "kept");
    Ok(())
}

on_both!(
    a_session_waits_for_its_client_and_keeps_its_messages,
    a_clean_start_forgets,
    without_expiry_a_session_ends_with_its_connection,
    a_session_expires,
    disconnect_can_end_or_extend_the_session,
    what_was_not_acknowledged_comes_again_with_dup,
    a_subscriber_finishes_qos_2_over_another_connection,
    a_publisher_finishes_qos_2_over_another_connection,
    a_takeover_keeps_the_session,
    qos_0_does_not_wait,
);

mod alone {
    use super::*;
    // On another node the next connection may be made before what the last one said has come there.
    on_one_node!(
        a_session_without_expiry_cannot_get_one_at_disconnect,
        what_a_client_acknowledges_as_it_leaves_does_not_come_again,
    );
}
