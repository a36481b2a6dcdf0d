//! Promise 10 for large messages: what is on its way costs a few times its bytes, on whichever node, whoever gets it.
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    measure::{forget_peak, peak_kib},
    target::{Target, TestResult},
};
use std::time::Duration;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MESSAGE_BYTES: usize = 10_000_000;
/// Whatever else the nodes do meanwhile is in it, in a build without optimisation.
const TIMES_MAX: f64 = 3.0;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Who gets the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    /// Whoever subscribes later.
    Retained,
    /// A durable session whose client is away.
    Away,
    /// A clean session.
    Here,
}

async fn start(name: &str, nodes: usize) -> std::io::Result<Cluster> {
    let options = ClusterOptions::new(name, nodes).persistent().with("max_packet_size 20000000");
    let options = if nodes > 1 { options.with("cluster_commit_timeout 60") } else { options };
    Cluster::start(options.with("message_size_limit 20000000")).await
}

/// Publishes `count` messages at once, each over a connection of its own to node `from`, and waits until all are acknowledged
/// and have come. How many times their bytes each node's memory grew at most.
async fn growth(cluster: &Cluster, from: usize, to: usize, receiver: Receiver, count: usize) -> Result<Vec<f64>> {
    let target = Target::of(cluster);
    let topic = target.unique("large");
    let mut tasks = JoinSet::new();
    if receiver != Receiver::Retained {
        let connect = match receiver {
            Receiver::Away => target.durable_packet(ProtocolVersion::V5, "reader"),
            _ => target.connect_packet(ProtocolVersion::V5, "reader"),
        };
        let (mut reader, _) = Connection::connected(cluster.address(to), connect).await?;
        reader.subscribe_to(&format!("{topic}/#"), QoS::AtLeastOnce).await?;
        if receiver == Receiver::Away {
            reader.disconnect().await?;
        } else {
            reader.timeout = TIMEOUT;
            tasks.spawn(async move {
                for _ in 0..count {
                    assert_eq!(reader.receive().await?.payload.len(), MESSAGE_BYTES);
                }
                Result::Ok(())
            });
        }
    }
    let mut publishers = Vec::new();
    for number in 0..count {
        let connect = target.connect_packet(ProtocolVersion::V5, &format!("p{number}"));
        publishers.push(Connection::connected(cluster.address(from), connect).await?.0);
    }
    let nodes = 0..cluster.len();
    let before: Vec<u64> =
        nodes.clone().map(|node| forget_peak(cluster.process_id(node))).collect::<std::io::Result<_>>()?;
    for (number, mut publisher) in publishers.into_iter().enumerate() {
        let mut publish =
            message(&format!("{topic}/{number}"), vec![number as u8 + 1; MESSAGE_BYTES], QoS::AtLeastOnce);
        publish.retain = receiver == Receiver::Retained;
        publisher.timeout = TIMEOUT;
        tasks.spawn(async move { publisher.publish(publish).await.map(drop).map_err(Into::into) });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    // What applies and writes the last of them behind.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes = (count * MESSAGE_BYTES) as f64;
    let times = |(node, before): (usize, u64)| {
        let grown = peak_kib(cluster.process_id(node)).saturating_sub(before) * 1024;
        (grown as f64 / bytes * 100.0).round() / 100.0
    };
    Ok(nodes.zip(before).map(times).collect())
}

/// Each kind of receiver on brokers of its own: what the one before left in memory would hide what the next one takes.
async fn at_most(nodes: usize) -> TestResult {
    for receiver in [Receiver::Retained, Receiver::Away, Receiver::Here] {
        let mut cluster = start("large", nodes).await?;
        let leader = if nodes == 1 { 0 } else { cluster.leader().await.ok_or("no leader")? };
        let (origin, other) = ((leader + 1) % nodes, (leader + 2) % nodes);
        let times = growth(&cluster, origin, other, receiver, 4).await?;
        println!("{receiver:?}: {times:?} times the bytes on their way, leader {leader}, origin {origin}");
        assert!(times.iter().all(|times| *times <= TIMES_MAX), "{receiver:?}: {times:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_cost_a_node_alone_at_most_three_times_their_bytes() -> TestResult {
    at_most(1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_cost_leader_follower_and_origin_at_most_three_times_their_bytes() -> TestResult {
    at_most(3).await
}
