//! SIGUSR1 on a node with much state while clients are served: latency before and during the checkpoint, memory, and
//! whether the file restores alone.
use super::{Measured, durable, milliseconds, quantile, resident_mib};
use crate::{
    client::{Connection, Result, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions},
};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, task::JoinSet, time::sleep};

const FILE: &str = "measured.db";
/// Bytes of one retained message of the state.
const PIECE: usize = 5000;
const PAIRS: u32 = 10;
const WARM_UP: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct CheckpointOptions {
    /// Size of the retained messages, 10^6 bytes.
    pub megabytes: usize,
    /// Messages per second of the load, all pairs together.
    pub rate: u32,
    /// Subscribers with durable sessions: every message of the load goes through the log.
    pub durable: bool,
    /// How long the time before counts, seconds.
    pub seconds: u64,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        Self { megabytes: 500, rate: 10_000, durable: false, seconds: 10 }
    }
}

/// When a message was meant to be sent, and how long it took from then on to its subscriber.
type Latencies = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// # Errors
/// When the node does not start, take the state or write the file.
pub async fn run(options: &CheckpointOptions) -> Measured {
    let settings = |name: &str| {
        let settings = ClusterOptions::new(name, 1).persistent().with(&format!("persistence_file {FILE}"));
        settings.with("max_queued_messages 0").with("max_inflight_messages 1000").with("autosave_interval 0")
    };
    let mut cluster = Cluster::start(settings("checkpoint")).await?;
    let pieces = options.megabytes * 1_000_000 / PIECE;
    fill(cluster.address(0), pieces).await?;
    eprintln!("  {pieces} retained messages of {PIECE} bytes are there");
    let (latencies, ended) = (Latencies::default(), Arc::new(AtomicBool::new(false)));
    let mut load = JoinSet::new();
    for pair in 0..PAIRS {
        let every = Duration::from_secs(u64::from(PAIRS)) / options.rate.max(1);
        pair_of_clients(cluster.address(0), pair, every, options.durable, &latencies, &ended, &mut load).await?;
    }
    sleep(WARM_UP).await;
    let before = Instant::now();
    sleep(Duration::from_secs(options.seconds)).await;
    let (memory_before, requested) = (resident_mib(cluster.process_id(0)), Instant::now());
    cluster.signal(0, rustix::process::Signal::USR1);
    let mut memory_most = memory_before;
    while !cluster.log(0).contains("Saved the state to") {
        memory_most = memory_most.max(resident_mib(cluster.process_id(0)));
        if requested.elapsed() > Duration::from_secs(120) {
            return Err("no checkpoint within 120 s".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let written = Instant::now();
    ended.store(true, Ordering::Relaxed);
    while let Some(done) = load.join_next().await {
        done??;
    }
    let all = latencies.lock().await;
    let between = |from: Instant, to: Instant| {
        let mut chosen: Vec<_> = all.iter().filter(|(at, _)| *at >= from && *at < to).map(|(_, took)| *took).collect();
        chosen.sort();
        chosen
    };
    let (quiet, busy) = (between(before, requested), between(requested, written));
    let copied = fs::copy(cluster.data_folder(0).join(FILE), cluster.folder().join("copied"))?;
    let mut restored = Cluster::prepare(settings("checkpoint-restored"))?;
    fs::rename(cluster.folder().join("copied"), restored.data_folder(0).join(FILE))?;
    cluster.kill_all();
    let began = Instant::now();
    restored.start_node(0)?;
    restored.wait_serving(0, TIMEOUT * 4).await?;
    let start_took = began.elapsed();
    let found = count_retained(restored.address(0), pieces).await?;
    Ok(json!({
        "state_megabytes": options.megabytes, "rate": options.rate, "durable": options.durable,
        "p50_before_ms": milliseconds(quantile(&quiet, 0.5)), "p50_during_ms": milliseconds(quantile(&busy, 0.5)),
        "p99_before_ms": milliseconds(quantile(&quiet, 0.99)), "p99_during_ms": milliseconds(quantile(&busy, 0.99)),
        "messages_before": quiet.len(), "messages_during": busy.len(),
        "checkpoint_seconds": milliseconds(written - requested) / 1000.0, "file_bytes": copied,
        "rss_before_mib": memory_before, "rss_most_mib": memory_most,
        "restored_alone_of": [found, pieces], "restored_start_seconds": milliseconds(start_took) / 1000.0,
    }))
}

/// Makes the state: retained messages, a few hundred under way.
async fn fill(address: SocketAddr, pieces: usize) -> Result<()> {
    let client = Connect::new(ProtocolVersion::V311, "filler");
    let (mut publisher, _) = Connection::connected(address, client).await?;
    let make = |number: u64| {
        let content = number.to_le_bytes().repeat(PIECE / 8);
        let mut publish = message(&format!("state/{}/{number}", number % 1000), content, QoS::AtLeastOnce);
        publish.retain = true;
        publish
    };
    publisher.publish_many(pieces as u64, 200, make).await?;
    publisher.disconnect().await
}

async fn count_retained(address: SocketAddr, pieces: usize) -> Result<usize> {
    let client = Connect::new(ProtocolVersion::V311, "counter");
    let (mut reader, _) = Connection::connected(address, client).await?;
    reader.subscribe_to("state/#", QoS::AtMostOnce).await?;
    let mut found = 0;
    while found < pieces {
        match reader.recv_within(Duration::from_secs(5)).await? {
            Some(Packet::Publish(_)) => found += 1,
            Some(_) => {}
            None => break,
        }
    }
    Ok(found)
}

/// Starts a publisher at a fixed rate and its subscriber, QoS 1.
async fn pair_of_clients(
    address: SocketAddr,
    pair: u32,
    every: Duration,
    durable_session: bool,
    latencies: &Latencies,
    ended: &Arc<AtomicBool>,
    load: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let (name, topic) = (format!("subscriber-{pair}"), format!("load/{pair}"));
    let connect = if durable_session { durable(&name) } else { Connect::new(ProtocolVersion::V5, &*name) };
    let (mut subscriber, _) = Connection::connected(address, connect).await?;
    subscriber.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let client = Connect::new(ProtocolVersion::V311, format!("publisher-{pair}"));
    let (publisher, _) = Connection::connected(address, client).await?;
    // Stamps count from here.
    let origin = Instant::now();
    load.spawn(publish(publisher, topic, every, origin, ended.clone()));
    let (latencies, ended) = (latencies.clone(), ended.clone());
    load.spawn(async move {
        let mut taken = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let Some(Packet::Publish(publish)) = subscriber.recv_within(Duration::from_millis(100)).await? else {
                continue;
            };
            let stamp = publish.payload.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
            let meant = origin + Duration::from_nanos(stamp);
            taken.push((meant, meant.elapsed()));
            subscriber.send(&Packet::PubAck(Ack::new(publish.packet_id))).await?;
        }
        latencies.lock().await.append(&mut taken);
        Ok(())
    });
    Ok(())
}

/// Open loop: messages carry the time at which they were due, whatever kept them from being sent then.
async fn publish(
    mut publisher: Connection,
    topic: String,
    every: Duration,
    origin: Instant,
    ended: Arc<AtomicBool>,
) -> Result<()> {
    let mut due = origin + every;
    while !ended.load(Ordering::Relaxed) {
        while due <= Instant::now() {
            let mut payload = vec![0; 64];
            payload[..8].copy_from_slice(&((due - origin).as_nanos() as u64).to_le_bytes());
            let mut publish = message(&topic, payload, QoS::AtLeastOnce);
            publish.packet_id = publisher.next_packet_id();
            publisher.queue(&Packet::Publish(publish));
            due += every;
        }
        publisher.flush().await?;
        publisher.recv_within(due.saturating_duration_since(Instant::now())).await?;
        while publisher.buffered()?.is_some() {}
    }
    Ok(())
}
