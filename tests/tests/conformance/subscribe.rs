//! SUBSCRIBE, UNSUBSCRIBE and topic matching (MQTT 5.0 sections 3.8 to 3.11, 4.7).
use mosquorum_proto::mqtt::{Packet, ProtocolVersion, QoS, ReasonCode, Subscribe, Subscription, Unsubscribe};
use mosquorum_tests::{
    client::{Connection, message, topic_filter},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    on_both, on_one_node,
    skip::skip,
    target::{Target, TestResult},
};

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-6] [MQTT-3.9.3-1]
async fn every_filter_gets_its_answer_in_order(target: Target) -> TestResult {
    let mut client = target.at_a("c").await?;
    let filters = [("x/+", QoS::ExactlyOnce), ("#", QoS::AtMostOnce), ("y", QoS::AtLeastOnce)];
    let suback = client
        .subscribe(filters.iter().map(|(filter, qos)| Subscription::new(topic_filter(filter), *qos)).collect())
        .await?;
    assert_eq!(suback.reasons, [ReasonCode::GrantedQos2, ReasonCode::Success, ReasonCode::GrantedQos1]);
    Ok(())
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-4]
async fn wildcards_match_whole_levels(target: Target) -> TestResult {
    let root = target.unique("w");
    let table: [(&str, &[&str], &[&str]); 5] = [
        ("+", &["a", ""], &["a/b"]),
        ("#", &["a", "a/b", "a/b/c"], &[]),
        ("a/#", &["a", "a/b", "a/b/c"], &["b"]),
        ("+/b", &["a/b", "/b"], &["a/b/c", "b"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/d"]),
    ];
    for (index, (filter, matching, others)) in table.into_iter().enumerate() {
        let mut client = target.at_b(&format!("c{index}")).await?;
        client.subscribe_to(&format!("{root}{index}/{filter}"), QoS::AtLeastOnce).await?;
        let mut publisher = target.at_a(&format!("p{index}")).await?;
        for name in others.iter().chain(matching) {
            publisher.publish(message(&format!("{root}{index}/{name}"), (*name).to_owned(), QoS::AtLeastOnce)).await?;
        }
        for name in matching {
            assert_eq!(client.receive().await?.payload, *name, "{filter}");
        }
    }
    Ok(())
}

/// [MQTT-4.7.2-1]
async fn a_leading_wildcard_does_not_match_dollar_topics(target: Target) -> TestResult {
    let name = target.unique("hidden");
    let mut client = target.at_b("c").await?;
    client.subscribe_to("+/#", QoS::AtLeastOnce).await?;
    let mut publisher = target.at_a("p").await?;
    publisher.publish(message(&format!("$other/{name}"), "hidden", QoS::AtLeastOnce)).await?;
    publisher.publish(message(&name, "open", QoS::AtLeastOnce)).await?;
    loop {
        let publish = client.receive().await?;
        let topic = publish.topic.ok_or("a topic")?;
        assert!(!topic.as_str().starts_with('$'), "{topic}");
        if topic.as_str() == name {
            return Ok(());
        }
    }
}

/// [MQTT-3.8.3-3]
async fn no_local_keeps_own_messages_away(target: Target) -> TestResult {
    let topic = target.unique("own");
    let mut client = target.at_a("c").await?;
    let mut subscription = Subscription::new(topic_filter(&topic), QoS::AtLeastOnce);
    subscription.no_local = true;
    client.subscribe(vec![subscription]).await?;
    client.publish(message(&topic, "own", QoS::AtLeastOnce)).await?;
    let mut other = target.at_b("other").await?;
    other.publish(message(&topic, "foreign", QoS::AtLeastOnce)).await?;
    assert_eq!(client.receive().await?.payload, "foreign");
    Ok(())
}

/// [MQTT-3.8.3-3] speaks of all messages, retained ones included.
async fn no_local_keeps_own_retained_messages_away(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto sends them");
        return Ok(());
    }
    for durable in [false, true] {
        let topic = target.unique(&format!("own-kept-{durable}"));
        let packet = if durable { Target::durable_packet } else { Target::connect_packet };
        let connect = packet(&target, ProtocolVersion::V5, &topic);
        let (mut client, _) = Connection::connected(target.a, connect).await?;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut own = message(&format!("{topic}/own{}", qos as u8), "own", qos);
            own.retain = true;
            client.publish(own).await?;
        }
        target.publish(&format!("{topic}/foreign"), "foreign", true).await?;
        let mut subscription = Subscription::new(topic_filter(&format!("{topic}/+")), QoS::AtLeastOnce);
        subscription.no_local = true;
        client.subscribe(vec![subscription]).await?;
        assert_eq!(client.receive().await?.payload, "foreign");
        target.publish(&format!("{topic}/fence"), "fence", false).await?;
        assert_eq!(client.receive().await?.payload, "fence", "durable: {durable}");
    }
    Ok(())
}

/// [MQTT-3.1.2-24]
async fn an_answer_that_the_client_does_not_take_ends_the_connection(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto sends it");
        return Ok(());
    }
    let filters: Vec<_> = (0..30).map(|number| topic_filter(&target.unique(&format!("f{number}")))).collect();
    let subscriptions = filters.iter().map(|filter| Subscription::new(filter.clone(), QoS::AtLeastOnce)).collect();
    for packet in
        [Packet::Subscribe(Subscribe::new(1, subscriptions)), Packet::Unsubscribe(Unsubscribe::new(1, filters.clone()))]
    {
        let mut connect = target.connect_packet(ProtocolVersion::V5, "small");
        connect.maximum_packet_size = Some(30);
        let (mut client, _) = Connection::connected(target.a, connect).await?;
        client.send(&packet).await?;
        assert_eq!(client.expect_closed().await?, Some(ReasonCode::PacketTooLarge));
    }
    Ok(())
}

/// Section 3.8.2.1.2.
async fn a_subscription_identifier_of_0_is_a_protocol_error(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto calls it malformed");
        return Ok(());
    }
    let mut client = target.at_a("c").await?;
    client.send_raw(b"\x82\x09\x00\x01\x02\x0b\x00\x00\x01t\x00").await?;
    assert_eq!(client.expect_closed().await?, Some(ReasonCode::ProtocolError));
    Ok(())
}

/// [MQTT-3.8.3-4]
async fn no_local_on_a_shared_subscription_is_a_protocol_error(target: Target) -> TestResult {
    let mut client = target.at_a("c").await?;
    let mut subscription = Subscription::new(topic_filter("$share/g/x"), QoS::AtLeastOnce);
    subscription.no_local = true;
    let packet = Packet::Subscribe(Subscribe::new(1, vec![subscription]));
    client.send(&packet).await?;
    assert_eq!(client.expect_closed().await?, Some(ReasonCode::ProtocolError));
    Ok(())
}

/// [MQTT-3.8.4-3]
async fn subscribing_again_replaces_the_subscription(target: Target) -> TestResult {
    let topic = target.unique("again");
    let mut client = target.at_b("c").await?;
    client.subscribe_to(&topic, QoS::AtMostOnce).await?;
    client.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    let mut publisher = target.at_a("p").await?;
    publisher.publish(message(&topic, "one", QoS::ExactlyOnce)).await?;
    publisher.publish(message(&topic, "two", QoS::ExactlyOnce)).await?;
    for payload in ["one", "two"] {
        let publish = client.receive().await?;
        assert_eq!((publish.payload, publish.qos), (payload.into(), QoS::ExactlyOnce));
    }
    Ok(())
}

/// [MQTT-3.10.4-1] [MQTT-3.10.4-4] [MQTT-3.11.3-1]
async fn after_unsubscribe_nothing_comes(target: Target) -> TestResult {
    let (topic, fence) = (target.unique("gone"), target.unique("fence"));
    let mut client = target.at_b("c").await?;
    client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    client.subscribe_to(&fence, QoS::AtLeastOnce).await?;
    assert_eq!(client.unsubscribe(&topic).await?.reasons, [ReasonCode::Success]);
    assert_eq!(client.unsubscribe(&topic).await?.reasons, [ReasonCode::NoSubscriptionExisted]);
    target.publish(&topic, "gone", false).await?;
    target.publish(&fence, "fence", false).await?;
    assert_eq!(client.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
async fn subscription_identifiers_come_back_with_messages(target: Target) -> TestResult {
    let root = target.unique("ids");
    let mut client = target.at_b("c").await?;
    for (packet_id, filter, identifier) in [(1, format!("{root}/#"), 7), (2, format!("{root}/+"), 268_435_455)] {
        let mut subscribe = Subscribe::new(packet_id, vec![Subscription::new(topic_filter(&filter), QoS::AtLeastOnce)]);
        subscribe.subscription_identifier = Some(identifier);
        client.subscribe_with(subscribe).await?;
    }
    target.publish(&format!("{root}/a/b"), "one", false).await?;
    let publish = client.receive().await?;
    assert_eq!(publish.properties.map(|p| p.subscription_identifiers), Some(vec![7]));
    // Both match: one message with both, or one for each subscription.
    target.publish(&format!("{root}/a"), "both", false).await?;
    let mut identifiers = Vec::new();
    while identifiers.len() < 2 {
        let publish = client.receive().await?;
        assert_eq!(publish.payload, "both");
        identifiers.extend(publish.properties.map(|p| p.subscription_identifiers).unwrap_or_default());
    }
    identifiers.sort_unstable();
    assert_eq!(identifiers, [7, 268_435_455]);
    Ok(())
}

/// A replaced subscription loses the identifier that its predecessor had [MQTT-3.8.4-3].
async fn a_replaced_subscription_identifier_is_gone(target: Target) -> TestResult {
    let topic = target.unique("id");
    let mut client = target.at_b("c").await?;
    let mut subscribe = Subscribe::new(1, vec![Subscription::new(topic_filter(&topic), QoS::AtLeastOnce)]);
    subscribe.subscription_identifier = Some(3);
    client.subscribe_with(subscribe.clone()).await?;
    (subscribe.packet_id, subscribe.subscription_identifier) = (2, Some(4));
    client.subscribe_with(subscribe).await?;
    target.publish(&topic, "x", false).await?;
    let publish = client.receive().await?;
    assert_eq!(publish.properties.map(|p| p.subscription_identifiers), Some(vec![4]));
    Ok(())
}

/// With a SUBACK to a clean session every node routes to it (promise 9).
async fn a_suback_means_that_messages_of_every_node_come(target: Target) -> TestResult {
    for round in 0..20 {
        let topic = target.unique(&format!("at-once/{round}"));
        let mut client = target.at_b(&format!("c{round}")).await?;
        client.subscribe_to(&topic, QoS::AtLeastOnce).await?;
        target.publish(&topic, "x", false).await?;
        assert_eq!(client.receive().await?.payload, "x", "round {round}");
    }
    Ok(())
}

on_both!(
    wildcards_match_whole_levels,
    a_leading_wildcard_does_not_match_dollar_topics,
    no_local_keeps_own_messages_away,
    no_local_keeps_own_retained_messages_away,
    subscribing_again_replaces_the_subscription,
    after_unsubscribe_nothing_comes,
    subscription_identifiers_come_back_with_messages,
    a_replaced_subscription_identifier_is_gone,
    a_suback_means_that_messages_of_every_node_come,
);

mod alone {
    use super::*;
    on_one_node!(
        every_filter_gets_its_answer_in_order,
        no_local_on_a_shared_subscription_is_a_protocol_error,
        an_answer_that_the_client_does_not_take_ends_the_connection,
        a_subscription_identifier_of_0_is_a_protocol_error,
    );
}

/// [3.1.1: MQTT-3.3.5-1]; MQTT 5.0 clients get a copy for each subscription all the same, as with Mosquitto.
#[tokio::test]
async fn without_duplicates_overlapping_subscriptions_give_one_copy_with_the_highest_qos() -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto takes the QoS of the first match");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("merged", 1).with("allow_duplicate_messages false")).await?;
    let target = Target::of(&cluster);
    let mut publisher = target.at_a("publisher").await?;
    for (version, copies) in [(ProtocolVersion::V311, 1), (ProtocolVersion::V5, 2)] {
        for durable in [false, true] {
            let name = format!("{}-{durable}", version.level());
            let packet = if durable { Target::durable_packet } else { Target::connect_packet };
            let (mut client, _) = Connection::connected(target.a, packet(&target, version, &name)).await?;
            let fence = format!("fence/{name}");
            for (filter, qos) in [("t/#", QoS::AtLeastOnce), ("t/+", QoS::AtMostOnce), (&*fence, QoS::AtLeastOnce)] {
                client.subscribe_to(filter, qos).await?;
            }
            for (topic, qos) in [("t/a", QoS::AtLeastOnce), ("t/a", QoS::AtMostOnce), (&*fence, QoS::AtLeastOnce)] {
                publisher.publish(message(topic, format!("{}", qos as u8), qos)).await?;
            }
            let mut came = Vec::new();
            loop {
                let publish = client.receive().await?;
                if publish.topic.as_ref().is_some_and(|topic| topic.as_str() == fence) {
                    break;
                }
                came.push((String::from_utf8_lossy(&publish.payload).into_owned(), publish.qos as u8));
            }
            came.sort_unstable();
            let one = |payload: &str, qos| (payload.to_owned(), qos);
            let expected = match copies {
                1 => vec![one("0", 0), one("1", 1)],
                _ => vec![one("0", 0), one("0", 0), one("1", 0), one("1", 1)],
            };
            assert_eq!(came, expected, "{name}");
            client.disconnect().await?;
        }
    }
    Ok(())
}
