//! `$SYS`: every number that Mosquitto documents, and what nodes of a cluster say about themselves and each other.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::{Failure, TestResult},
};
use std::collections::BTreeMap;
use tokio::time::timeout;

/// Below `$SYS/broker/`.
const DOCUMENTED: [&str; 51] = [
    "bytes/received",
    "bytes/sent",
    "clients/active",
    "clients/connected",
    "clients/disconnected",
    "clients/expired",
    "clients/inactive",
    "clients/maximum",
    "clients/total",
    "connections/socket/count",
    "heap/current",
    "heap/maximum",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "mqtt/auth/received",
    "mqtt/auth/sent",
    "mqtt/connack/sent",
    "mqtt/connect/received",
    "mqtt/disconnect/received",
    "mqtt/disconnect/sent",
    "mqtt/pingreq/received",
    "mqtt/pingresp/sent",
    "mqtt/puback/received",
    "mqtt/puback/sent",
    "mqtt/pubcomp/received",
    "mqtt/pubcomp/sent",
    "mqtt/publish/dropped",
    "mqtt/publish/received",
    "mqtt/publish/sent",
    "mqtt/pubrec/received",
    "mqtt/pubrec/sent",
    "mqtt/pubrel/received",
    "mqtt/pubrel/sent",
    "mqtt/suback/sent",
    "mqtt/subscribe/received",
    "mqtt/unsuback/sent",
    "mqtt/unsubscribe/received",
    "packet/out/bytes",
    "packet/out/count",
    "publish/bytes/received",
    "publish/bytes/sent",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
    "retained messages/count",
    "shared_subscriptions/count",
    "store/messages/bytes",
    "store/messages/count",
    "subscriptions/count",
    "version",
];
const LOADS: [&str; 9] = [
    "bytes/received",
    "bytes/sent",
    "connections",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];

/// Receives until every wanted topic has come; the last value of each.
async fn values(client: &mut Connection, wanted: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut seen = BTreeMap::new();
    let all = async {
        while !wanted.iter().all(|topic| seen.contains_key(topic)) {
            let message = client.receive().await?;
            let topic = message.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default();
            seen.insert(topic, String::from_utf8_lossy(&message.payload).into_owned());
        }
        Ok::<(), Failure>(())
    };
    if timeout(TIMEOUT, all).await.is_err() {
        let missing: Vec<&String> = wanted.iter().filter(|topic| !seen.contains_key(*topic)).collect();
        panic!("these did not come: {missing:?}");
    }
    Ok(seen)
}

async fn watcher(cluster: &Cluster, node: usize) -> Result<Connection, Failure> {
    let connect = Connect::new(ProtocolVersion::V5, format!("watcher-{node}"));
    let (mut client, _) = Connection::connected(cluster.address(node), connect).await?;
    client.subscribe_to("$SYS/broker/#", QoS::AtMostOnce).await?;
    Ok(client)
}

#[tokio::test]
async fn every_documented_number_is_published() -> TestResult {
    if is_stand_in() {
        skip("Debian's Mosquitto is older than these numbers");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("sys", 1).with("sys_interval 1")).await?;
    let mut client = watcher(&cluster, 0).await?;
    let mut wanted: Vec<String> = DOCUMENTED.iter().map(|name| format!("$SYS/broker/{name}")).collect();
    for name in LOADS {
        wanted.extend(["1min", "5min", "15min"].map(|minutes| format!("$SYS/broker/load/{name}/{minutes}")));
    }
    wanted.push("$SYS/broker/uptime".to_owned());
    let seen = values(&mut client, &wanted).await?;
    let heap: u64 = seen["$SYS/broker/heap/current"].parse()?;
    assert!(heap > 1_000_000, "{heap}");
    assert!(seen["$SYS/broker/uptime"].ends_with(" seconds"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_says_about_itself_is_read_at_every_node() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto has no cluster");
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("sys-nodes", 3).with("sys_interval 1")).await?;
    let leader = cluster.leader().await.map(|node| format!("node-{node}")).unwrap_or_default();
    for node in 0..3 {
        let mut client = watcher(&cluster, node).await?;
        let mut wanted: Vec<String> = (0..3)
            .flat_map(|other| {
                ["uptime", "clients/connected", "cluster/state", "version"]
                    .map(|name| format!("$SYS/broker/nodes/node-{other}/{name}"))
            })
            .collect();
        wanted.extend(["leader", "state", "latency/milliseconds"].map(|name| format!("$SYS/broker/cluster/{name}")));
        let seen = values(&mut client, &wanted).await?;
        assert_eq!(seen["$SYS/broker/cluster/leader"], leader);
        assert_eq!(seen[&format!("$SYS/broker/nodes/{leader}/cluster/state")], "leader");
    }
    Ok(())
}
