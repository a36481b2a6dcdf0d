//! What waits for clients that are away does not stay in memory, and is delivered all the same.
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use mosquorum_tests::{
    backlog::eventually,
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    http,
    metrics::Scrape,
    target::{Target, TestResult},
};
use std::time::Duration;

const MESSAGES: u64 = 200;
const PAYLOAD: usize = 256 << 10;
/// What a node keeps in memory of messages, and some more.
const MEMORY_MAX: f64 = 33.6e6 + 4.0 * PAYLOAD as f64;

async fn message_memory(cluster: &Cluster, node: usize) -> Option<f64> {
    let (_, text) = http::get(cluster.health_address(node), "/metrics").await.ok()?;
    Scrape::parse(&text).ok()?.get("mosquorum_memory_bytes", &[("owner", "messages")])
}

async fn wait_evicted(cluster: &Cluster) {
    for node in 0..cluster.len() {
        let within = async || message_memory(cluster, node).await.is_some_and(|bytes| bytes < MEMORY_MAX);
        let in_time = eventually(Duration::from_secs(30), within).await;
        assert!(in_time, "node {node} holds {:?} bytes of messages", message_memory(cluster, node).await);
    }
}

/// The payload's first bytes are its number.
fn number_of(payload: &[u8]) -> u64 {
    payload.first_chunk().copied().map_or(u64::MAX, u64::from_be_bytes)
}

async fn more_waits_than_memory_may_hold(nodes: usize) -> TestResult {
    let options = ClusterOptions::new("waits", nodes).persistent().with("max_queued_messages 0");
    let mut cluster = Cluster::start(options).await?;
    let target = Target::of(&cluster);
    let topic = target.unique("waits");
    let connect = target.durable_packet(ProtocolVersion::V5, "away");
    let (mut away, _) = Connection::connected(cluster.address(0), connect.clone()).await?;
    away.subscribe_to(&topic, QoS::ExactlyOnce).await?;
    away.disconnect().await?;
    let mut publisher = target.at_a("p").await?;
    let made = |number: u64| {
        let mut payload = vec![b'x'; PAYLOAD];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        message(&topic, payload, QoS::AtLeastOnce)
    };
    publisher.publish_many(MESSAGES, 8, made).await?;
    let mut last = made(MESSAGES);
    last.qos = QoS::ExactlyOnce;
    publisher.publish(last).await?;
    wait_evicted(&cluster).await;

    // A part, then a crash of a node, then the rest from another one.
    let (mut away, _) = Connection::connected(cluster.address(0), connect.clone()).await?;
    for expected in 0..MESSAGES / 2 {
        assert_eq!(number_of(&away.receive().await?.payload), expected);
    }
    away.disconnect().await?;
    cluster.kill(0);
    cluster.start_node(0)?;
    cluster.wait_all_serving(Duration::from_secs(30)).await?;
    wait_evicted(&cluster).await;
    let (mut away, connack) = Connection::connected(cluster.address(nodes - 1), connect).await?;
    assert!(connack.session_present);
    let first = number_of(&away.receive().await?.payload);
    // What was acknowledged last may not have been committed.
    assert!(first <= MESSAGES / 2, "began with {first}");
    for expected in first + 1..=MESSAGES {
        assert_eq!(number_of(&away.receive().await?.payload), expected);
    }
    away.expect_nothing().await?;
    Ok(())
}

#[tokio::test]
async fn more_waits_than_memory_may_hold_on_one_node_and_all_of_it_is_delivered() -> TestResult {
    more_waits_than_memory_may_hold(1).await
}

#[tokio::test]
async fn more_waits_than_memory_may_hold_on_three_nodes_and_all_of_it_is_delivered() -> TestResult {
    more_waits_than_memory_may_hold(3).await
}
