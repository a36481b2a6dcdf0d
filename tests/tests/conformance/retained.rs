//! Retained messages (MQTT 5.0 sections 3.3.1.3 and 3.8.3.1).
use mosquorum_proto::mqtt::{ProtocolVersion, Publish, QoS, RetainHandling, Subscription};
use mosquorum_tests::{
    client::{Connection, Result, message, topic_filter},
    on_both,
    target::{Target, TestResult},
};

async fn fence(target: Target, topic: &str) -> Result<()> {
    target.publish(topic, "fence", false).await
}

fn with(filter: &str, change: impl FnOnce(&mut Subscription)) -> Vec<Subscription> {
    let mut subscription = Subscription::new(topic_filter(filter), QoS::AtLeastOnce);
    change(&mut subscription);
    vec![subscription]
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-8] [MQTT-3.3.1-12]
async fn a_later_subscriber_gets_it_with_retain_set_and_an_earlier_one_without(target: Target) -> TestResult {
    let topic = target.unique("r");
    let mut earlier = target.at_b("earlier").await?;
    earlier.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    target.publish(&topic, "kept", true).await?;
    let live = earlier.receive().await?;
    assert!(!live.retain && live.payload == "kept");
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let kept = later.receive().await?;
    assert!(kept.retain && kept.payload == "kept");
    Ok(())
}

/// [MQTT-3.3.1-5]
async fn the_last_one_replaces_the_others(target: Target) -> TestResult {
    let topic = target.unique("r");
    for payload in ["one", "two", "three"] {
        target.publish(&topic, payload, true).await?;
    }
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    assert_eq!(later.receive().await?.payload, "three");
    fence(target, &topic).await?;
    assert_eq!(later.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-7]
async fn an_empty_one_removes_it(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    target.publish(&topic, "", true).await?;
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    fence(target, &topic).await?;
    assert_eq!(later.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.3.1-8]: a message without the flag leaves the retained one alone.
async fn a_message_that_is_not_retained_changes_nothing(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    target.publish(&topic, "passing", false).await?;
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    assert_eq!(later.receive().await?.payload, "kept");
    Ok(())
}

/// [MQTT-3.3.1-9]
async fn retain_handling_0_sends_at_every_subscribe(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    let mut client = target.at_b("c").await?;
    for _ in 0..2 {
        client.subscribe(with(&topic, |s| s.retain_handling = RetainHandling::SendAtSubscribe)).await?;
        assert_eq!(client.receive().await?.payload, "kept");
    }
    Ok(())
}

/// [MQTT-3.3.1-10]
async fn retain_handling_1_sends_only_to_a_new_subscription(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    let mut client = target.at_b("c").await?;
    for round in 0..2 {
        client.subscribe(with(&topic, |s| s.retain_handling = RetainHandling::SendIfNew)).await?;
        if round == 0 {
            assert_eq!(client.receive().await?.payload, "kept");
        }
    }
    fence(target, &topic).await?;
    assert_eq!(client.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.3.1-11]
async fn retain_handling_2_sends_nothing(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    let mut client = target.at_b("c").await?;
    client.subscribe(with(&topic, |s| s.retain_handling = RetainHandling::DoNotSend)).await?;
    fence(target, &topic).await?;
    assert_eq!(client.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.3.1-13]
async fn retain_as_published_keeps_the_flag(target: Target) -> TestResult {
    let topic = target.unique("r");
    let mut client = target.at_b("c").await?;
    client.subscribe(with(&topic, |s| s.retain_as_published = true)).await?;
    target.publish(&topic, "kept", true).await?;
    target.publish(&topic, "passing", false).await?;
    assert!(client.receive().await?.retain);
    assert!(!client.receive().await?.retain);
    Ok(())
}

async fn receive_all(client: &mut Connection, count: usize) -> Result<Vec<Publish>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(client.receive().await?);
    }
    Ok(all)
}

async fn a_wildcard_gets_every_match(target: Target) -> TestResult {
    let root = target.unique("w");
    for name in ["a", "b", "b/c"] {
        target.publish(&format!("{root}/{name}"), name, true).await?;
    }
    let mut client = target.at_b("c").await?;
    client.subscribe_to(&format!("{root}/#"), QoS::AtLeastOnce).await?;
    let mut payloads: Vec<String> =
        receive_all(&mut client, 3).await?.iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect();
    payloads.sort();
    assert_eq!(payloads, ["a", "b", "b/c"]);
    Ok(())
}

/// A retained QoS 0 message is kept like any other once a later one of the same publisher is acknowledged.
async fn qos_0_is_retained_too(target: Target) -> TestResult {
    let topic = target.unique("r");
    let mut publisher = target.at_a("p").await?;
    let mut publish = message(&topic, "kept", QoS::AtMostOnce);
    publish.retain = true;
    publisher.publish(publish).await?;
    let mut other = message(&target.unique("other"), "x", QoS::AtLeastOnce);
    other.retain = true;
    publisher.publish(other).await?;
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let kept = later.receive().await?;
    assert!(kept.retain && kept.qos == QoS::AtMostOnce && kept.payload == "kept");
    Ok(())
}

/// Retained messages are not sent to a new shared subscription (MQTT 5.0 section 4.8.2).
async fn a_shared_subscription_gets_no_retained_message(target: Target) -> TestResult {
    let topic = target.unique("r");
    target.publish(&topic, "kept", true).await?;
    let mut client = target.at_b("c").await?;
    client.subscribe_to(&format!("$share/g/{topic}"), QoS::AtLeastOnce).await?;
    fence(target, &topic).await?;
    assert_eq!(client.receive().await?.payload, "fence");
    Ok(())
}

/// More than windows, queues and socket buffers hold at once.
async fn many_all_come_before_what_is_published_after_the_subscription(target: Target) -> TestResult {
    const MANY: usize = 2000;
    let base = target.unique("many");
    let mut publisher = target.at_a("filler").await?;
    let make = |number| {
        let mut publish = message(&format!("{base}/{number}"), vec![b'x'; 4000], QoS::AtLeastOnce);
        publish.retain = true;
        publish
    };
    publisher.publish_many(MANY as u64, 20, make).await?;
    for (name, qos, durable) in
        [("qos0", QoS::AtMostOnce, false), ("qos1", QoS::AtLeastOnce, false), ("durable", QoS::AtMostOnce, true)]
    {
        let packet = if durable { Target::durable_packet } else { Target::connect_packet };
        let (mut reader, _) = Connection::connected(target.b, packet(&target, ProtocolVersion::V311, name)).await?;
        reader.subscribe_to(&format!("{base}/#"), qos).await?;
        target.publish(&format!("{base}/0"), "live", false).await?;
        for number in 0..MANY {
            let kept = reader.receive().await?;
            assert!(kept.retain && kept.payload.len() == 4000, "{name}: {number} came, then {kept:?}");
        }
        assert_eq!(reader.receive().await?.payload, "live", "{name}");
        reader.disconnect().await?;
    }
    Ok(())
}

/// The state hands it to durable sessions, the publisher's node to the others: nobody gets both.
async fn qos_0_comes_once_to_a_durable_session_on_another_node(target: Target) -> TestResult {
    let topic = target.unique("once");
    let (mut durable, _) =
        Connection::connected(target.b, target.durable_packet(ProtocolVersion::V5, "durable")).await?;
    let mut clean = target.at_b("clean").await?;
    durable.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    clean.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let mut publisher = target.at_a("publisher").await?;
    let mut kept = message(&topic, "kept", QoS::AtMostOnce);
    kept.retain = true;
    publisher.publish(kept).await?;
    // The first fence is acknowledged when everything before it was handed over.
    for fence in ["fence", "second fence"] {
        publisher.publish(message(&topic, fence, QoS::AtLeastOnce)).await?;
    }
    for client in [&mut durable, &mut clean] {
        for expected in ["kept", "fence", "second fence"] {
            assert_eq!(client.receive().await?.payload, expected);
        }
    }
    Ok(())
}

/// What a bridge of another broker says of itself is a message like any other.
async fn the_state_of_a_bridge_comes_once_to_a_durable_session(target: Target) -> TestResult {
    let name = target.unique("hub");
    target.publish(&format!("$SYS/broker/connection/{name}/state"), "1", true).await?;
    let (mut durable, _) =
        Connection::connected(target.b, target.durable_packet(ProtocolVersion::V5, "durable")).await?;
    durable.subscribe_to(&format!("$SYS/broker/connection/{name}/#"), QoS::AtLeastOnce).await?;
    durable.subscribe_to(&name, QoS::AtLeastOnce).await?;
    target.publish(&name, "fence", false).await?;
    let state = durable.receive().await?;
    assert_eq!((&state.payload[..], state.qos, state.retain), (&b"1"[..], QoS::AtLeastOnce, true));
    assert_eq!(durable.receive().await?.payload, "fence");
    Ok(())
}

on_both!(
    qos_0_comes_once_to_a_durable_session_on_another_node,
    the_state_of_a_bridge_comes_once_to_a_durable_session,
    a_later_subscriber_gets_it_with_retain_set_and_an_earlier_one_without,
    the_last_one_replaces_the_others,
    an_empty_one_removes_it,
    a_message_that_is_not_retained_changes_nothing,
    retain_handling_0_sends_at_every_subscribe,
    retain_handling_1_sends_only_to_a_new_subscription,
    retain_handling_2_sends_nothing,
    retain_as_published_keeps_the_flag,
    a_wildcard_gets_every_match,
    qos_0_is_retained_too,
    a_shared_subscription_gets_no_retained_message,
    many_all_come_before_what_is_published_after_the_subscription,
);
