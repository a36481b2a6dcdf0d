//! A bridge before a remote that does what the test tells it to: what goes over the wire, and when.
use mosquorum_proto::mqtt::{Ack, ConnAck, Connect, Packet, ProtocolVersion, Publish, QoS, ReasonCode};
use mosquorum_tests::{
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    remote::{Remote, next_message},
};

/// A node with a bridge to `remote` that begins as soon as it can.
async fn site(name: &str, remote: &Remote, lines: &[&str]) -> Cluster {
    let address = remote.address().expect("an address");
    let mut options = ClusterOptions::new(name, 1).with_listener("connection link");
    options = options.with_listener(&format!("address {address}")).with_listener("remote_clientid site");
    options = options.with_listener("restart_timeout 1").with_listener("notifications false");
    for line in lines {
        options = options.with_listener(line);
    }
    Cluster::start(options).await.expect("a site")
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
        // What is retained here is not told again then.
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
        assert_eq!((&publish.payload[..], publish.qos, publish.retain), (n.to_string().as_bytes(), QoS::AtLeastOnce, false));
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
