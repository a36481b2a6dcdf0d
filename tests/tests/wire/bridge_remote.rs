//! A bridge before a remote that the test controls: what goes over the wire, and when.
use mosquorum_proto::mqtt::{Ack, ConnAck, Connect, Disconnect, Packet, ProtocolVersion, Publish, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions},
    remote::{Remote, grant, next_message},
};

fn options(name: &str, remote: &Remote, lines: &[&str]) -> ClusterOptions {
    let address = remote.address().expect("an address");
    let mut options = ClusterOptions::new(name, 1).with_listener("connection link");
    options = options.with_listener(&format!("address {address}")).with_listener("remote_clientid site");
    options = options.with_listener("restart_timeout 1").with_listener("notifications false");
    for line in lines {
        options = options.with_listener(line);
    }
    options
}

/// A node with a bridge to `remote` that begins as soon as it can.
async fn site(name: &str, remote: &Remote, lines: &[&str]) -> Cluster {
    Cluster::start(options(name, remote, lines)).await.expect("a site")
}

async fn writer(site: &Cluster) -> Connection {
    let connect = Connect::new(ProtocolVersion::V5, "writer");
    Connection::connected(site.address(0), connect).await.expect("a writer").0
}

fn accepted() -> ConnAck {
    ConnAck::new(false, ReasonCode::Success)
}

fn alias(publish: &Publish) -> Option<u16> {
    publish.properties.as_ref().and_then(|properties| properties.topic_alias)
}

fn topic(publish: &Publish) -> Option<&str> {
    publish.topic.as_ref().map(|topic| topic.as_str())
}

#[tokio::test]
async fn topic_aliases_are_used_as_far_as_the_remote_allows_and_anew_on_each_connection() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["bridge_protocol_version mqttv50", "bridge_max_topic_alias 5", "topic power/# out 0 \"\" site/"];
    let site = site("bridge-alias", &remote, &lines).await;
    let mut writer = writer(&site).await;
    for connection in 0..2 {
        let connack = ConnAck { topic_alias_maximum: Some(2), ..accepted() };
        let (mut bridge, connect) = remote.accept(connack).await.expect("a bridge");
        assert_eq!(connect.topic_alias_maximum, Some(5));
        let mut sent = Vec::new();
        for name in ["power/1", "power/1", "power/2", "power/3", "power/2"] {
            writer.publish(message(name, "x", QoS::AtMostOnce)).await.expect("published");
            let publish = next_message(&mut bridge).await.expect("a message");
            sent.push((topic(&publish).map(str::to_owned), alias(&publish)));
        }
        let full = |name: &str, alias| (Some(name.to_owned()), alias);
        let expected = [
            full("site/power/1", Some(1)),
            (None, Some(1)),
            full("site/power/2", Some(2)),
            full("site/power/3", None),
            (None, Some(2)),
        ];
        assert_eq!(sent, expected, "connection {connection}");
    }
}

#[tokio::test]
async fn a_remote_without_aliases_gets_every_topic() {
    let remote = Remote::start().await.expect("a remote");
    let site = site("bridge-no-alias", &remote, &["bridge_protocol_version mqttv50", "topic power/# out 0"]).await;
    let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
    let mut writer = writer(&site).await;
    for _ in 0..2 {
        writer.publish(message("power/1", "x", QoS::AtMostOnce)).await.expect("published");
        let publish = next_message(&mut bridge).await.expect("a message");
        assert_eq!((topic(&publish), alias(&publish)), (Some("power/1"), None));
    }
}

#[tokio::test]
async fn the_remotes_receive_maximum_packet_size_qos_and_retain_are_kept() {
    let remote = Remote::start().await.expect("a remote");
    let site = site("bridge-limits", &remote, &["bridge_protocol_version mqttv50", "topic # out 2"]).await;
    let connack = ConnAck {
        receive_maximum: Some(2),
        maximum_packet_size: Some(100),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        // What is retained here is not sent again then.
        ..ConnAck::new(true, ReasonCode::Success)
    };
    let (mut bridge, _) = remote.accept(connack).await.expect("a bridge");
    let mut writer = writer(&site).await;
    writer.publish(message("large", vec![b'x'; 200], QoS::AtLeastOnce)).await.expect("published");
    for n in 0..5 {
        let publish = Publish { retain: true, ..message("a", n.to_string(), QoS::ExactlyOnce) };
        writer.publish(publish).await.expect("published");
    }
    let mut under_way = std::collections::VecDeque::new();
    for n in 0..5 {
        let publish = next_message(&mut bridge).await.expect("a message");
        assert_eq!(
            (&publish.payload[..], publish.qos, publish.retain),
            (n.to_string().as_bytes(), QoS::AtLeastOnce, false)
        );
        under_way.push_back(publish.packet_id);
        if under_way.len() == 2 {
            // A third one would be here before the answer to this.
            bridge.send(&Packet::PingReq).await.expect("sent");
            assert_eq!(bridge.recv().await.expect("an answer"), Packet::PingResp);
            let acknowledged = under_way.pop_front().expect("two");
            bridge.send(&Packet::PubAck(Ack::new(acknowledged))).await.expect("sent");
        }
    }
}

fn retained(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish { retain: true, ..message(topic, payload.to_owned(), qos) }
}

/// What the bridge sends until a message on `last` came and all before it.
async fn sent_until(bridge: &mut Connection, last: &str) -> Vec<(String, String, bool)> {
    let mut seen: Vec<(String, String, bool)> = Vec::new();
    while seen.last().is_none_or(|(topic, _, _)| topic != last) {
        let publish = next_message(bridge).await.unwrap_or_else(|error| panic!("{error} after {seen:?}"));
        if publish.qos != QoS::AtMostOnce {
            bridge.send(&Packet::PubAck(Ack::new(publish.packet_id))).await.expect("sent");
        }
        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
        seen.push((topic(&publish).expect("a topic").to_owned(), payload, publish.retain));
    }
    seen
}

/// Until the bridge asks by itself whether all has arrived: only what is sure needs not be sent again.
async fn made_sure(bridge: &mut Connection) {
    loop {
        match bridge.recv().await.expect("a packet") {
            Packet::PingReq => break bridge.send(&Packet::PingResp).await.expect("sent"),
            packet => grant(bridge, packet).await.expect("granted"),
        }
    }
    // What it was sent before is done when this is answered.
    bridge.send(&Packet::PingReq).await.expect("sent");
    while bridge.recv().await.expect("a packet") != Packet::PingResp {}
}

/// Retained values that changed and went while the bridge was away, in every kind of session.
#[tokio::test]
async fn at_a_reconnect_the_changes_of_retained_messages_are_sent_once_and_nothing_else() {
    let kinds: [(&str, &[&str], bool); 3] = [
        ("qos-0", &["topic power/# out 0"], true),
        ("clean", &["topic power/# out 1", "cleansession true"], false),
        ("durable", &["topic power/# out 1"], true),
    ];
    for (name, lines, session_present) in kinds {
        let remote = Remote::start().await.expect("a remote");
        let more = ["bridge_max_topic_alias 0", "keepalive_interval 5"];
        let lines: Vec<&str> = lines.iter().copied().chain(more).collect();
        // One under way: what follows a message follows all that the bridge did before it.
        let options = options(&format!("bridge-retained-{name}"), &remote, &lines).with("max_inflight_messages 1");
        let site = Cluster::start(options).await.expect("a site");
        let mut writer = writer(&site).await;
        let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
        for n in 0..2 {
            writer.publish(message(&format!("power/probe/{n}"), "x", QoS::AtLeastOnce)).await.expect("published");
            sent_until(&mut bridge, &format!("power/probe/{n}")).await;
        }
        for topic in ["power/same", "power/changed", "power/gone"] {
            writer.publish(retained(topic, "1", QoS::AtLeastOnce)).await.expect("published");
            sent_until(&mut bridge, topic).await;
        }
        made_sure(&mut bridge).await;
        drop(bridge);
        site.wait_logged(0, "Bridge link lost", 1).await.expect("it notices");
        for (topic, value) in [("power/changed", "2"), ("power/gone", ""), ("power/new", "1"), ("power/private", "")] {
            writer.publish(retained(topic, value, QoS::AtLeastOnce)).await.expect("published");
        }
        let (mut bridge, _) =
            remote.accept(ConnAck::new(session_present, ReasonCode::Success)).await.expect("a bridge");
        writer.publish(message("power/end", "2", QoS::AtLeastOnce)).await.expect("published");
        let mut seen = sent_until(&mut bridge, "power/end").await;
        seen.sort();
        let one = |topic: &str, value: &str, retain| (topic.to_owned(), value.to_owned(), retain);
        let mut expected = vec![
            one("power/changed", "2", true),
            one("power/end", "2", false),
            one("power/gone", "", true),
            one("power/new", "1", true),
        ];
        if name == "durable" {
            // What waits in the session is not compared: it goes as it came.
            expected.push(one("power/private", "", true));
        }
        assert_eq!(seen, expected, "{name}");
    }
}

/// Retained messages of the remote, one of which is too large to be kept here, over a reconnect, a restart and another
/// reconnect.
#[tokio::test]
async fn what_the_remote_retains_is_neither_removed_nor_sent_back_at_a_reconnect() {
    let remote = Remote::start().await.expect("a remote");
    let lines = ["topic power/# both 0", "bridge_max_topic_alias 0"];
    let options = options("bridge-remote-retains", &remote, &lines).with("max_packet_size 1000");
    let mut site = Cluster::start(options).await.expect("a site");
    let mut reader = writer(&site).await;
    reader.subscribe_to("power/#", QoS::AtMostOnce).await.expect("subscribed");
    let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
    reader.publish(message("power/begin", "x", QoS::AtMostOnce)).await.expect("published");
    assert_eq!(sent_until(&mut bridge, "power/begin").await.len(), 1);
    for (name, length) in [("power/large", 2000), ("power/small", 10)] {
        let publish = retained(name, &"v".repeat(length), QoS::AtMostOnce);
        bridge.send(&Packet::Publish(publish)).await.expect("sent");
    }
    while reader.receive().await.expect("a message").topic.is_none_or(|topic| topic.as_str() != "power/small") {}
    for round in 0..3 {
        drop(bridge);
        if round == 1 {
            site.stop_node(0).await.expect("it stops");
            site.start_node(0).expect("it starts");
            site.wait_serving(0, TIMEOUT).await.expect("it serves");
        }
        (bridge, _) = remote.accept(accepted()).await.expect("a bridge");
        // The bridge has its subscriptions when something comes by them.
        let mut writer = writer(&site).await;
        writer.publish(message("power/end", "x", QoS::AtMostOnce)).await.expect("published");
        let seen = sent_until(&mut bridge, "power/end").await;
        assert_eq!(seen, [("power/end".to_owned(), "x".to_owned(), false)], "round {round}");
    }
}

#[tokio::test]
async fn a_remote_that_says_nothing_more_still_learns_which_of_its_messages_were_taken() {
    for version in ["mqttv311", "mqttv50"] {
        let remote = Remote::start().await.expect("a remote");
        let line = format!("bridge_protocol_version {version}");
        let lines = [line.as_str(), "topic power/# in 2"];
        let _site = site("bridge-last-answers", &remote, &lines).await;
        let (mut bridge, _) = remote.accept(accepted()).await.expect("a bridge");
        let asked = bridge.recv().await.expect("a question");
        grant(&mut bridge, asked).await.expect("granted");
        for packet_id in 1..=50 {
            let qos = if packet_id % 2 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            bridge.queue(&Packet::Publish(Publish { packet_id, ..message("power/1", "x", qos) }));
        }
        if version == "mqttv50" {
            bridge.queue(&Packet::Disconnect(Disconnect::new(ReasonCode::ServerShuttingDown)));
        }
        bridge.close_sending().await.expect("sent");
        for packet_id in 1..=50 {
            match bridge.recv().await.expect("an answer") {
                Packet::PubAck(ack) if packet_id % 2 == 1 => assert_eq!(ack.packet_id, packet_id, "{version}"),
                Packet::PubRec(ack) if packet_id % 2 == 0 => assert_eq!(ack.packet_id, packet_id, "{version}"),
                packet => panic!("{version}: {packet:?}"),
            }
        }
        bridge.expect_closed().await.expect("then it is over");
    }
}
