//! Receive Maximum and Maximum Packet Size (MQTT 5.0 sections 3.1.2.11, 3.2.2.3, 4.9).
use mosquorum_proto::mqtt::{Ack, Packet, ProtocolVersion, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    on_both, on_one_node,
    target::{Target, TestResult},
};

/// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
async fn the_broker_keeps_to_the_clients_receive_maximum(target: Target) -> TestResult {
    let topic = target.unique("t");
    let mut connect = target.connect_packet(ProtocolVersion::V5, "s");
    connect.receive_maximum = Some(2);
    let (mut client, _) = Connection::connected(target.b, connect).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    for number in 0..5 {
        target.publish(&topic, &number.to_string(), false).await?;
    }
    let first = client.expect_publish().await?;
    let second = client.expect_publish().await?;
    client.expect_nothing().await?;
    client.send(&Packet::PubAck(Ack::new(first.packet_id))).await?;
    let third = client.expect_publish().await?;
    assert_eq!(third.payload, "2");
    client.expect_nothing().await?;
    for packet_id in [second.packet_id, third.packet_id] {
        client.send(&Packet::PubAck(Ack::new(packet_id))).await?;
    }
    assert_eq!(client.receive().await?.payload, "3");
    assert_eq!(client.receive().await?.payload, "4");
    Ok(())
}

/// QoS 2 holds its place until PUBCOMP (section 4.9).
async fn qos_2_counts_until_pubcomp(target: Target) -> TestResult {
    let topic = target.unique("t");
    let mut connect = target.connect_packet(ProtocolVersion::V5, "s");
    connect.receive_maximum = Some(1);
    let (mut client, _) = Connection::connected(target.b, connect).await?;
    client.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let mut publisher = target.at_a("p").await?;
    for payload in ["one", "two"] {
        publisher.publish(message(&topic, payload, QoS::ExactlyOnce)).await?;
    }
    let first = client.expect_publish().await?;
    client.send(&Packet::PubRec(Ack::new(first.packet_id))).await?;
    client.expect_pubrel().await?;
    client.expect_nothing().await?;
    client.send(&Packet::PubComp(Ack::new(first.packet_id))).await?;
    assert_eq!(client.receive().await?.payload, "two");
    Ok(())
}

/// [MQTT-3.3.4-7]: more unfinished QoS 2 than the broker takes.
async fn more_than_the_brokers_receive_maximum_is_an_error(target: Target) -> TestResult {
    let (mut client, connack) =
        Connection::connected(target.a, target.connect_packet(ProtocolVersion::V5, "p")).await?;
    let Some(maximum) = connack.receive_maximum.filter(|maximum| *maximum < 5000) else { return Ok(()) };
    for packet_id in 1..=maximum + 1 {
        let mut publish = message(&target.unique("t"), "x", QoS::ExactlyOnce);
        publish.packet_id = packet_id;
        client.queue(&Packet::Publish(publish));
    }
    client.flush().await?;
    loop {
        match client.recv().await? {
            Packet::PubRec(_) => {}
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::ReceiveMaximumExceeded);
                return Ok(());
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
async fn a_packet_too_large_for_the_client_is_not_sent(target: Target) -> TestResult {
    let topic = target.unique("t");
    let mut connect = target.connect_packet(ProtocolVersion::V5, "s");
    connect.maximum_packet_size = Some(100);
    let (mut client, _) = Connection::connected(target.b, connect).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, &"x".repeat(200), false).await?;
    target.publish(&topic, "small", false).await?;
    assert_eq!(client.receive().await?.payload, "small");
    client.expect_nothing().await?;
    Ok(())
}

/// Messages that fill every socket buffer at once, to a client that acknowledges each, and to one that acknowledges only
/// when it has as many as it may hold: both get all of them, in order.
async fn large_messages_do_not_stall(target: Target) -> TestResult {
    const MANY: u16 = 60;
    for (name, durable, at_the_end) in
        [("each", false, false), ("end", false, true), ("durable-each", true, false), ("durable-end", true, true)]
    {
        let topic = target.unique(name);
        let packet = if durable { Target::durable_packet } else { Target::connect_packet };
        let mut connect = packet(&target, ProtocolVersion::V5, name);
        connect.receive_maximum = Some(15);
        let (mut reader, _) = Connection::connected(target.b, connect.clone()).await?;
        reader.subscribe_to(&topic, QoS::AtLeastOnce).await?;
        let mut present = Some(reader);
        if durable && let Some(reader) = present.take() {
            reader.disconnect().await?;
        }
        let mut publisher = target.at_a(&format!("{name}-publisher")).await?;
        for number in 0..MANY {
            let mut payload = vec![b'x'; 100_000];
            payload[..2].copy_from_slice(&number.to_be_bytes());
            publisher.publish(message(&topic, payload, QoS::AtLeastOnce)).await?;
        }
        let mut reader = match present {
            Some(reader) => reader,
            None => Connection::connected(target.b, connect).await?.0,
        };
        let mut held = Vec::new();
        for number in 0..MANY {
            let publish = reader.expect_publish().await.map_err(|error| format!("{name}, {number}: {error}"))?;
            assert_eq!(publish.payload[..2], number.to_be_bytes(), "{name}");
            held.push(publish.packet_id);
            if !at_the_end || held.len() == 15 {
                for packet_id in held.drain(..) {
                    reader.queue(&Packet::PubAck(Ack::new(packet_id)));
                }
                reader.flush().await?;
            }
        }
        reader.disconnect().await?;
    }
    Ok(())
}

/// [MQTT-3.2.2-15]
#[tokio::test]
async fn a_packet_too_large_for_the_broker_ends_the_connection() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("packet-size", 1).with("max_packet_size 1000")).await?;
    let target = Target::of(&cluster);
    let (mut client, connack) =
        Connection::connected(target.a, target.connect_packet(ProtocolVersion::V5, "p")).await?;
    assert_eq!(connack.maximum_packet_size, Some(1000));
    let mut publish = message("t", vec![0; 2000], QoS::AtLeastOnce);
    publish.packet_id = 1;
    client.send(&Packet::Publish(publish)).await?;
    assert_eq!(client.expect_closed().await?, Some(ReasonCode::PacketTooLarge));
    Ok(())
}

on_both!(
    the_broker_keeps_to_the_clients_receive_maximum,
    qos_2_counts_until_pubcomp,
    a_packet_too_large_for_the_client_is_not_sent,
    large_messages_do_not_stall
);

mod alone {
    use super::*;
    on_one_node!(more_than_the_brokers_receive_maximum_is_an_error);
}
