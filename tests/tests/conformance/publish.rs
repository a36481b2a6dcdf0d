//! PUBLISH and its handshakes (MQTT 5.0 sections 3.3 to 3.7, 4.3, 4.6).
use mosquorum_proto::mqtt::{Ack, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message},
    on_both, on_one_node,
    target::{Target, TestResult},
};

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// [MQTT-3.8.4-8] [MQTT-4.3.1-1] [MQTT-4.3.2-1] [MQTT-4.3.3-1]
async fn a_message_comes_with_the_smaller_of_both_qos(target: Target) -> TestResult {
    for subscribed in LEVELS {
        for published in LEVELS {
            let topic = target.unique(&format!("{subscribed:?}/{published:?}"));
            let mut subscriber = target.at_b(&format!("s-{subscribed:?}-{published:?}")).await?;
            subscriber.subscribe_to(&topic, subscribed).await?;
            let mut publisher = target.at_a(&format!("p-{subscribed:?}-{published:?}")).await?;
            publisher.publish(message(&topic, "x", published)).await?;
            let publish = subscriber.receive().await?;
            assert_eq!(publish.qos, subscribed.min(published), "{subscribed:?} {published:?}");
            assert!(!publish.dup && !publish.retain);
            assert_eq!(&publish.payload[..], b"x");
        }
    }
    Ok(())
}

async fn versions_talk_to_each_other(target: Target) -> TestResult {
    let versions = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];
    for from in versions {
        for to in versions {
            let name = |side: &str| format!("{side}{}{}", from.level(), to.level());
            let topic = target.unique(&name("t"));
            let (mut subscriber, _) = Connection::connected(target.b, target.connect_packet(to, &name("s"))).await?;
            subscriber.subscribe_to(&topic, QoS::ExactlyOnce).await?;
            let (mut publisher, _) = Connection::connected(target.a, target.connect_packet(from, &name("p"))).await?;
            publisher.publish(message(&topic, "payload", QoS::ExactlyOnce)).await?;
            assert_eq!(&subscriber.receive().await?.payload[..], b"payload", "{from} to {to}");
        }
    }
    Ok(())
}

/// [MQTT-4.3.3-10] [MQTT-4.3.3-11]
async fn qos2_publish_repeated_before_pubrel_is_acknowledged_again_but_delivered_once(target: Target) -> TestResult {
    let topic = target.unique("once");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let mut publisher = target.at_a("p").await?;
    let mut publish = message(&topic, "first", QoS::ExactlyOnce);
    publish.packet_id = 7;
    publisher.send(&Packet::Publish(publish.clone())).await?;
    assert_eq!(publisher.expect_pubrec().await?.packet_id, 7);
    publish.dup = true;
    publisher.send(&Packet::Publish(publish)).await?;
    assert_eq!(publisher.expect_pubrec().await?.packet_id, 7);
    publisher.send(&Packet::PubRel(Ack::new(7))).await?;
    assert_eq!(publisher.expect_pubcomp().await?.packet_id, 7);
    publisher.publish(message(&topic, "second", QoS::ExactlyOnce)).await?;
    assert_eq!(&subscriber.receive().await?.payload[..], b"first");
    assert_eq!(&subscriber.receive().await?.payload[..], b"second");
    Ok(())
}

/// [MQTT-4.3.3-12]: after PUBREL the identifier names a new message.
async fn a_packet_identifier_is_free_again_after_pubcomp(target: Target) -> TestResult {
    let topic = target.unique("again");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let mut publisher = target.at_a("p").await?;
    for payload in ["one", "two"] {
        let mut publish = message(&topic, payload, QoS::ExactlyOnce);
        publish.packet_id = 9;
        assert_eq!(publisher.publish(publish).await?, ReasonCode::Success);
        assert_eq!(subscriber.receive().await?.payload, payload);
    }
    Ok(())
}

/// [MQTT-4.6.0-6]
async fn messages_of_one_publisher_keep_their_order(target: Target) -> TestResult {
    for qos in LEVELS {
        let topic = target.unique(&format!("order/{qos:?}"));
        let mut subscriber = target.at_b(&format!("s-{qos:?}")).await?;
        subscriber.subscribe_to(&topic, qos).await?;
        let mut publisher = target.at_a(&format!("p-{qos:?}")).await?;
        for number in 0..50 {
            publisher.publish(message(&topic, number.to_string(), qos)).await?;
        }
        for number in 0..50 {
            assert_eq!(subscriber.receive().await?.payload, number.to_string(), "{qos:?}");
        }
    }
    Ok(())
}

async fn a_publish_without_subscribers_is_acknowledged(target: Target) -> TestResult {
    let mut publisher = target.at_a("p").await?;
    let reason = publisher.publish(message(&target.unique("nobody"), "x", QoS::AtLeastOnce)).await?;
    assert!(matches!(reason, ReasonCode::Success | ReasonCode::NoMatchingSubscribers), "{reason:?}");
    Ok(())
}

async fn a_large_message_arrives_whole(target: Target) -> TestResult {
    let topic = target.unique("large");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let payload: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut publisher = target.at_a("p").await?;
    publisher.publish(message(&topic, payload.clone(), QoS::AtLeastOnce)).await?;
    assert!(subscriber.receive().await?.payload == payload);
    Ok(())
}

/// Many packets in one write are each answered, in order [MQTT-4.6.0-2].
async fn packets_in_one_write_are_answered_in_order(target: Target) -> TestResult {
    let topic = target.unique("burst");
    let mut publisher = target.at_a("p").await?;
    for packet_id in 1..=15 {
        let mut publish = message(&topic, "x", QoS::AtLeastOnce);
        publish.packet_id = packet_id;
        publisher.queue(&Packet::Publish(publish));
    }
    publisher.flush().await?;
    for packet_id in 1..=15 {
        assert_eq!(publisher.expect_puback().await?.packet_id, packet_id);
    }
    Ok(())
}

/// A packet that comes byte by byte is a packet.
async fn a_packet_in_pieces_is_understood(target: Target) -> TestResult {
    let topic = target.unique("pieces");
    let mut publish = message(&topic, "x", QoS::AtLeastOnce);
    publish.packet_id = 1;
    let mut bytes = bytes::BytesMut::new();
    mosquorum_proto::mqtt::encode(&Packet::Publish(publish), ProtocolVersion::V5, &mut bytes);
    let mut publisher = target.at_a("p").await?;
    for byte in bytes {
        publisher.send_raw(&[byte]).await?;
    }
    assert_eq!(publisher.expect_puback().await?.packet_id, 1);
    Ok(())
}

/// [MQTT-4.3.3-4]: PUBREL for an unknown identifier is answered.
async fn pubrel_without_publish_gets_pubcomp(target: Target) -> TestResult {
    let mut publisher = target.at_a("p").await?;
    publisher.send(&Packet::PubRel(Ack::new(77))).await?;
    let pubcomp = publisher.expect_pubcomp().await?;
    assert_eq!(pubcomp.packet_id, 77);
    assert!(matches!(pubcomp.reason, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound));
    Ok(())
}

on_both!(
    a_message_comes_with_the_smaller_of_both_qos,
    versions_talk_to_each_other,
    qos2_publish_repeated_before_pubrel_is_acknowledged_again_but_delivered_once,
    a_packet_identifier_is_free_again_after_pubcomp,
    messages_of_one_publisher_keep_their_order,
    a_publish_without_subscribers_is_acknowledged,
    a_large_message_arrives_whole,
);

mod alone {
    use super::*;
    on_one_node!(
        packets_in_one_write_are_answered_in_order,
        a_packet_in_pieces_is_understood,
        pubrel_without_publish_gets_pubcomp
    );
}
