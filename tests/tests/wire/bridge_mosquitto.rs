//! Bridges between us and Eclipse Mosquitto, whoever dials: what crosses, in each version, direction and QoS.
#![allow(clippy::unwrap_used)] // what fails ends the test
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions},
    skip::skip,
};
use std::path::{Path, PathBuf};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broker {
    Ours,
    Mosquitto,
}

fn options(broker: Broker, name: &str) -> ClusterOptions {
    let mut options = ClusterOptions::new(name, 1);
    if broker == Broker::Mosquitto {
        options.binary = Some(PathBuf::from(MOSQUITTO));
    }
    options
}

async fn client(cluster: &Cluster, name: &str) -> Connection {
    Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V311, name)).await.expect("a client").0
}

/// `site` dials `hub`.
async fn crossing(site: Broker, hub: Broker, version: &str) {
    let hub = Cluster::start(options(hub, "mosquitto-hub")).await.expect("a hub");
    let site = options(site, "mosquitto-site")
        .with_listener("connection link")
        .with_listener(&format!("address {}", hub.address(0)))
        .with_listener("remote_clientid site-1")
        .with_listener("notification_topic state/link")
        .with_listener(&format!("bridge_protocol_version {version}"))
        .with_listener("topic out/# out 2 \"\" site/")
        .with_listener("topic in/# in 2 \"\" site/")
        .with_listener("topic shared/# both 1");
    let site = Cluster::start(site).await.expect("a site");
    let (mut at_hub, mut at_site) = (client(&hub, "hub-client").await, client(&site, "site-client").await);
    at_hub.subscribe_to("state/link", QoS::AtLeastOnce).await.expect("subscribed");
    while at_hub.receive().await.expect("the bridge announces itself").payload != "1" {}
    at_hub.unsubscribe("state/link").await.expect("unsubscribed");
    // What it asks for at the beginning follows its announcement.
    at_site.subscribe_to("in/ready", QoS::AtLeastOnce).await.expect("subscribed");
    let came = eventually(TIMEOUT, async || {
        at_hub.publish(message("site/in/ready", "", QoS::AtLeastOnce)).await.expect("published");
        at_site.recv_within(std::time::Duration::from_millis(100)).await.expect("a connection").is_some()
    });
    assert!(came.await, "{version}: nothing comes in");
    drop(at_site);
    let mut at_site = client(&site, "site-reader").await;
    at_hub.subscribe_to("site/out/#", QoS::ExactlyOnce).await.expect("subscribed");
    at_hub.subscribe_to("shared/#", QoS::ExactlyOnce).await.expect("subscribed");
    at_site.subscribe_to("in/a", QoS::ExactlyOnce).await.expect("subscribed");
    let (mut from_hub, mut from_site) = (client(&hub, "hub-writer").await, client(&site, "site-writer").await);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        // Twice: with MQTT 5 the second one may have an alias for its topic.
        for payload in ["x", "y"] {
            from_site.publish(message("out/a", payload, qos)).await.expect("published");
            let publish = at_hub.receive().await.expect("it crosses");
            assert_eq!((publish.topic.unwrap().as_str(), publish.qos), ("site/out/a", qos), "{version}");
            from_hub.publish(message("site/in/a", payload, qos)).await.expect("published");
            let publish = at_site.receive().await.expect("it crosses");
            assert_eq!((publish.topic.unwrap().as_str(), publish.qos), ("in/a", qos), "{version}");
        }
    }
    from_site.publish(message("shared/a", "once", QoS::AtLeastOnce)).await.expect("published");
    assert_eq!(at_hub.receive().await.expect("it crosses").payload, "once");
    at_hub.expect_nothing().await.expect("it does not go round");
}

async fn both_versions(site: Broker, hub: Broker) {
    if !Path::new(MOSQUITTO).is_file() {
        return skip("no mosquitto");
    }
    for version in ["mqttv311", "mqttv50"] {
        crossing(site, hub, version).await;
    }
}

#[tokio::test]
async fn our_bridge_and_a_hub_of_mosquitto_understand_each_other() {
    both_versions(Broker::Ours, Broker::Mosquitto).await;
}

#[tokio::test]
async fn mosquittos_bridge_and_our_hub_understand_each_other() {
    both_versions(Broker::Mosquitto, Broker::Ours).await;
}
