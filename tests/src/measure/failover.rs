//! kill -9 of the leader under load: from the kill to the first acknowledgement of a QoS 1 publish that was sent after it
//! through another node, to a topic that an offline durable session holds. What was acknowledged must be there at the end.
use super::{Measured, durable, milliseconds, offline_session, quantile};
use crate::{
    client::{ClientError, Connection, Result, TIMEOUT, message},
    cluster::{Build, Cluster, ClusterOptions},
    history::MessageId,
};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use serde_json::json;
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{sleep, timeout},
};

const TOPIC: &str = "failover/meter";
const SESSION: &str = "failover-offline";

#[derive(Debug, Clone)]
pub struct FailoverOptions {
    pub kills: usize,
    /// Messages per second of the load, all publishers together.
    pub rate: u32,
}

impl Default for FailoverOptions {
    fn default() -> Self {
        Self { kills: 20, rate: 1000 }
    }
}

/// One publisher of the load: every acknowledged message and when.
#[derive(Debug, Default)]
struct Acknowledged {
    /// Name, when it was sent, when it was acknowledged.
    messages: Vec<(MessageId, Instant, Instant)>,
}

/// # Errors
/// When the cluster does not start or does not come back.
pub async fn run(options: &FailoverOptions) -> Measured {
    let settings = ClusterOptions::new("failover", 3).with("max_queued_messages 0").with("max_queued_bytes 0");
    let mut cluster = Cluster::start(ClusterOptions { build: Build::Plain, ..settings }).await?;
    offline_session(cluster.address(0), SESSION, TOPIC).await?;
    let ended = Arc::new(AtomicBool::new(false));
    let acknowledged: Vec<Arc<Mutex<Acknowledged>>> = (0..3).map(|_| Arc::default()).collect();
    let mut load = JoinSet::new();
    for (node, acknowledged) in acknowledged.iter().enumerate() {
        let every = Duration::from_secs(3) / options.rate.max(3);
        load.spawn(publisher(cluster.address(node), node as u32, every, acknowledged.clone(), ended.clone()));
    }
    let mut times = Vec::new();
    while times.len() < options.kills {
        sleep(Duration::from_millis(1500)).await;
        let Some(leader) = cluster.leader().await else { continue };
        let killed = Instant::now();
        cluster.kill(leader);
        let first = first_after(&acknowledged, leader, Instant::now()).await;
        let time = first.ok_or("no publish was acknowledged any more")? - killed;
        eprintln!("  kill {:>2} of {}: node {leader}, {} ms", times.len() + 1, options.kills, milliseconds(time));
        times.push(time);
        cluster.start_node(leader)?;
        cluster.wait_serving(leader, TIMEOUT * 2).await?;
    }
    ended.store(true, Ordering::Relaxed);
    while load.join_next().await.is_some() {}
    let mut owed = HashSet::new();
    for acknowledged in &acknowledged {
        owed.extend(acknowledged.lock().await.messages.iter().map(|(id, ..)| *id));
    }
    let total = owed.len();
    fetch(cluster.address(1), &mut owed).await?;
    times.sort();
    Ok(json!({
        "kills": times.len(), "acknowledged": total, "lost": owed.len(),
        "median_ms": milliseconds(quantile(&times, 0.5)), "worst_ms": milliseconds(quantile(&times, 1.0)),
        "best_ms": milliseconds(quantile(&times, 0.0)),
    }))
}

/// Waits for the first acknowledgement, through another node than `dead`, of a message sent after `gone`.
async fn first_after(all: &[Arc<Mutex<Acknowledged>>], dead: usize, gone: Instant) -> Option<Instant> {
    while gone.elapsed() < Duration::from_secs(60) {
        let mut first = None;
        for (_, acknowledged) in all.iter().enumerate().filter(|(node, _)| *node != dead) {
            let acknowledged = acknowledged.lock().await;
            let after = acknowledged.messages.iter().rev().take_while(|(_, sent, _)| *sent >= gone);
            first = after.map(|(_, _, at)| *at).chain(first).min();
        }
        if first.is_some() {
            return first;
        }
        sleep(Duration::from_millis(2)).await;
    }
    None
}

async fn publisher(
    address: SocketAddr,
    number: u32,
    every: Duration,
    acknowledged: Arc<Mutex<Acknowledged>>,
    ended: Arc<AtomicBool>,
) {
    let mut sequence = 0;
    while !ended.load(Ordering::Relaxed) {
        // Its node may be the dead one.
        let _ = publish(address, number, &mut sequence, every, &acknowledged, &ended).await;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn publish(
    address: SocketAddr,
    number: u32,
    sequence: &mut u64,
    every: Duration,
    acknowledged: &Mutex<Acknowledged>,
    ended: &AtomicBool,
) -> Result<()> {
    let client = Connect::new(ProtocolVersion::V311, format!("failover-publisher-{number}"));
    let (mut publisher, _) = Connection::connected(address, client).await?;
    let mut under_way = std::collections::HashMap::new();
    let mut next = Instant::now();
    while !ended.load(Ordering::Relaxed) || !under_way.is_empty() {
        if Instant::now() >= next && under_way.len() < 5000 && !ended.load(Ordering::Relaxed) {
            next += every;
            let id = MessageId { publisher: number, sequence: *sequence };
            *sequence += 1;
            let mut publish = message(TOPIC, id.payload(32), QoS::AtLeastOnce);
            publish.packet_id = publisher.next_packet_id();
            under_way.insert(publish.packet_id, (id, Instant::now()));
            publisher.send(&Packet::Publish(publish)).await?;
        }
        let wait = next.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
        match timeout(wait, publisher.recv_forever()).await {
            Err(_) => {}
            Ok(Ok(Packet::PubAck(ack))) => {
                if let Some((id, sent)) = under_way.remove(&ack.packet_id) {
                    acknowledged.lock().await.messages.push((id, sent, Instant::now()));
                }
            }
            Ok(Ok(_)) => return Err(ClientError::Closed),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Takes everything that is owed out of the session; what stays in `owed` never came.
async fn fetch(address: SocketAddr, owed: &mut HashSet<MessageId>) -> Result<()> {
    let (mut client, _) = Connection::connected(address, durable(SESSION)).await?;
    while !owed.is_empty() {
        let Ok(publish) = client.expect_publish().await else { break };
        if let Some(id) = MessageId::from_payload(&publish.payload) {
            owed.remove(&id);
        }
        client.send(&Packet::PubAck(Ack::new(publish.packet_id))).await?;
    }
    Ok(())
}
