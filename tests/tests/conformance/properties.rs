//! Properties of MQTT 5.0 that travel with messages, expire or shorten them (section 3.3.2.3).
use mosquorum_proto::mqtt::{Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message, topic_name},
    cluster::binary::is_stand_in,
    on_both, on_one_node,
    skip::skip,
    target::{Target, TestResult},
};
use std::{collections::HashMap, time::Duration};
use tokio::time::sleep;

fn with(mut publish: Publish, properties: PublishProperties) -> Publish {
    publish.properties = Some(Box::new(properties));
    publish
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
async fn everything_about_the_message_is_forwarded_unchanged(target: Target) -> TestResult {
    let topic = target.unique("all");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let sent = PublishProperties {
        payload_format_indicator: Some(true),
        response_topic: Some("answer/here".into()),
        correlation_data: Some(vec![0, 1, 255].into()),
        content_type: Some("text/plain".into()),
        user_properties: vec![("b".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), "3".into())],
        ..PublishProperties::default()
    };
    let mut publisher = target.at_a("p").await?;
    publisher.publish(with(message(&topic, "text", QoS::AtLeastOnce), sent.clone())).await?;
    let came = subscriber.receive().await?.properties.ok_or("properties")?;
    assert_eq!(*came, sent);
    Ok(())
}

/// [MQTT-3.3.2-6]
async fn the_remaining_expiry_is_sent(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect = target.durable_packet(ProtocolVersion::V5, "s");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    let expiring = PublishProperties { message_expiry_interval: Some(100), ..PublishProperties::default() };
    let mut publisher = target.at_a("p").await?;
    publisher.publish(with(message(&topic, "x", QoS::AtLeastOnce), expiring)).await?;
    // Time itself is what is tested.
    sleep(Duration::from_millis(2100)).await;
    let (mut client, _) = Connection::connected(target.c, connect).await?;
    let left = client.receive().await?.properties.and_then(|p| p.message_expiry_interval).ok_or("an expiry")?;
    assert!((70..=98).contains(&left), "{left}");
    Ok(())
}

/// [MQTT-3.3.2-6]: an interval like any other, whatever 0xFFFFFFFF means for sessions.
async fn the_longest_expiry_is_sent_as_it_came(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto drops it");
        return Ok(());
    }
    let topic = target.unique("longest");
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let longest = PublishProperties { message_expiry_interval: Some(u32::MAX), ..PublishProperties::default() };
    let mut publisher = target.at_a("p").await?;
    publisher.publish(with(message(&topic, "x", QoS::AtLeastOnce), longest)).await?;
    let received = subscriber.receive().await?.properties.and_then(|p| p.message_expiry_interval).ok_or("an expiry")?;
    assert!(received >= u32::MAX - 10, "{received}");
    Ok(())
}

/// [MQTT-3.3.2-5]
async fn an_expired_message_is_not_delivered(target: Target) -> TestResult {
    let topic = target.unique("q");
    let connect = target.durable_packet(ProtocolVersion::V5, "s");
    let (mut client, _) = Connection::connected(target.b, connect.clone()).await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    client.disconnect().await?;
    let mut publisher = target.at_a("p").await?;
    let expiring = PublishProperties { message_expiry_interval: Some(1), ..PublishProperties::default() };
    publisher.publish(with(message(&topic, "short", QoS::AtLeastOnce), expiring)).await?;
    publisher.publish(message(&topic, "long", QoS::AtLeastOnce)).await?;
    sleep(Duration::from_millis(2500)).await;
    let (mut client, _) = Connection::connected(target.c, connect).await?;
    assert_eq!(client.receive().await?.payload, "long");
    Ok(())
}

async fn an_expired_retained_message_is_gone(target: Target) -> TestResult {
    let topic = target.unique("r");
    let expiring = PublishProperties { message_expiry_interval: Some(1), ..PublishProperties::default() };
    let mut publish = with(message(&topic, "short", QoS::AtLeastOnce), expiring);
    publish.retain = true;
    target.at_a("p").await?.publish(publish).await?;
    sleep(Duration::from_millis(2500)).await;
    let mut client = target.at_b("s").await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, "fence", false).await?;
    assert_eq!(client.receive().await?.payload, "fence");
    Ok(())
}

fn aliased(topic: Option<&str>, alias: u16) -> Publish {
    let properties = PublishProperties { topic_alias: Some(alias), ..PublishProperties::default() };
    let mut publish = with(message("x", "aliased", QoS::AtLeastOnce), properties);
    publish.topic = topic.map(topic_name);
    publish
}

/// [MQTT-3.3.2-8] [MQTT-3.3.2-12]
async fn an_alias_stands_for_its_topic(target: Target) -> TestResult {
    let (one, two) = (target.unique("one"), target.unique("two"));
    let mut subscriber = target.at_b("s").await?;
    subscriber.subscribe_to(&one, QoS::AtLeastOnce).await?;
    subscriber.subscribe_to(&two, QoS::AtLeastOnce).await?;
    let (mut publisher, connack) =
        Connection::connected(target.a, target.connect_packet(ProtocolVersion::V5, "p")).await?;
    assert!(connack.topic_alias_maximum.unwrap_or(0) >= 1, "aliases are offered");
    let steps = [(Some(&*one), &one), (None, &one), (Some(&*two), &two), (None, &two)];
    for (topic, meant) in steps {
        publisher.publish(aliased(topic, 1)).await?;
        let publish = subscriber.receive().await?;
        assert_eq!(publish.topic.as_ref().map(|topic| topic.as_str()), Some(meant.as_str()));
        assert_eq!(publish.properties.and_then(|p| p.topic_alias), None, "aliases end at the broker");
    }
    Ok(())
}

/// [MQTT-3.3.2-8] [MQTT-3.3.2-9]
async fn a_bad_alias_ends_the_connection(target: Target) -> TestResult {
    let cases: [(Option<&str>, u16, &[ReasonCode]); 3] = [
        (Some("x"), 0, &[ReasonCode::TopicAliasInvalid, ReasonCode::ProtocolError, ReasonCode::MalformedPacket]),
        (Some("x"), u16::MAX, &[ReasonCode::TopicAliasInvalid]),
        (None, 1, &[ReasonCode::ProtocolError, ReasonCode::TopicAliasInvalid]),
    ];
    for (topic, alias, allowed) in cases {
        let mut publisher = target.at_a("p").await?;
        let mut publish = aliased(topic, alias);
        publish.packet_id = 1;
        publisher.send(&Packet::Publish(publish)).await?;
        let reason = publisher.expect_closed().await?;
        assert!(reason.is_some_and(|reason| allowed.contains(&reason)), "{topic:?} {alias}: {reason:?}");
    }
    Ok(())
}

/// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11]
async fn the_broker_uses_only_aliases_that_the_client_allows(target: Target) -> TestResult {
    let topics = [target.unique("one"), target.unique("two"), target.unique("three")];
    for maximum in [0_u16, 2] {
        let mut connect = target.connect_packet(ProtocolVersion::V5, &format!("s{maximum}"));
        connect.topic_alias_maximum = (maximum > 0).then_some(maximum);
        let (mut subscriber, _) = Connection::connected(target.b, connect).await?;
        for topic in &topics {
            subscriber.subscribe_to(topic, QoS::AtMostOnce).await?;
        }
        let mut known: HashMap<u16, String> = HashMap::new();
        for topic in topics.iter().chain(&topics) {
            target.publish(topic, topic, false).await?;
            let publish = subscriber.receive().await?;
            let alias = publish.properties.and_then(|p| p.topic_alias);
            assert!(alias.is_none_or(|alias| (1..=maximum).contains(&alias)), "{alias:?} of {maximum}");
            let name = match (publish.topic, alias) {
                (Some(name), alias) => {
                    alias.map(|alias| known.insert(alias, name.as_str().to_owned()));
                    name.as_str().to_owned()
                }
                (None, alias) => alias.and_then(|alias| known.get(&alias).cloned()).ok_or("a known alias")?,
            };
            assert_eq!(publish.payload, name);
        }
    }
    Ok(())
}

/// [MQTT-3.1.2-29]: without problem information, no reason string in acknowledgements.
async fn without_request_problem_information_no_reason_string_comes(target: Target) -> TestResult {
    let mut connect = target.connect_packet(ProtocolVersion::V5, "quiet");
    connect.request_problem_information = Some(false);
    let (mut client, _) = Connection::connected(target.a, connect).await?;
    let unsuback = client.unsubscribe("never/subscribed").await?;
    assert_eq!((unsuback.reason_string, unsuback.user_properties), (None, vec![]));
    let mut publish = message(&target.unique("nobody"), "x", QoS::AtLeastOnce);
    publish.packet_id = 1;
    client.send(&Packet::Publish(publish)).await?;
    let puback = client.expect_puback().await?;
    assert_eq!((puback.reason_string, puback.user_properties), (None, vec![]));
    Ok(())
}

on_both!(
    everything_about_the_message_is_forwarded_unchanged,
    the_remaining_expiry_is_sent,
    the_longest_expiry_is_sent_as_it_came,
    an_expired_message_is_not_delivered,
    an_expired_retained_message_is_gone,
    an_alias_stands_for_its_topic,
    the_broker_uses_only_aliases_that_the_client_allows,
);

mod alone {
    use super::*;
    on_one_node!(a_bad_alias_ends_the_connection, without_request_problem_information_no_reason_string_comes);
}
