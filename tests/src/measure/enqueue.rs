//! QoS 1 messages for offline durable sessions, one publisher per session: PUBACKs per second, then everything is
//! fetched through another node and must be there once and in order.
use super::{Measured, cpu_seconds, durable, offline_session};
use crate::{
    client::{Connection, Result, message},
    cluster::{Cluster, ClusterOptions},
    history::MessageId,
};
use mosquorum_proto::mqtt::{Ack, Connect, Packet, ProtocolVersion, QoS};
use serde_json::json;
use std::{net::SocketAddr, time::Instant};
use tokio::task::JoinSet;

#[derive(Debug, Clone)]
pub struct EnqueueOptions {
    /// 1: one node with `persistence true`.
    pub nodes: usize,
    pub sessions: usize,
    /// Messages for each session.
    pub messages: u64,
    /// Bytes of each payload, that of the name and checksum at least.
    pub payload: usize,
    /// Unacknowledged messages of a publisher at most.
    pub window: u64,
}

impl Default for EnqueueOptions {
    fn default() -> Self {
        Self { nodes: 3, sessions: 10, messages: 10_000, payload: 64, window: 200 }
    }
}

fn topic(session: usize) -> String {
    format!("enqueue/{session}")
}

/// # Errors
/// When the cluster does not start, refuses a message or loses a connection.
pub async fn run(options: &EnqueueOptions) -> Measured {
    let settings = ClusterOptions::new("enqueue", options.nodes).persistent().with("max_queued_messages 0");
    let settings = settings.with("max_queued_bytes 0").with("max_inflight_messages 1000").with("log_type none");
    let cluster = Cluster::start(settings).await?;
    let at = |session: usize, shift: usize| cluster.address((session + shift) % options.nodes);
    for session in 0..options.sessions {
        offline_session(at(session, 1), &format!("offline-{session}"), &topic(session)).await?;
    }
    let processor = || (0..options.nodes).map(|node| cpu_seconds(cluster.process_id(node))).sum::<f64>();
    let (cpu_before, began) = (processor(), Instant::now());
    let mut publishers = JoinSet::new();
    for session in 0..options.sessions {
        publishers.spawn(publish(at(session, 0), session, options.clone()));
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let (took, cpu) = (began.elapsed(), processor() - cpu_before);
    let began = Instant::now();
    let mut fetchers = JoinSet::new();
    for session in 0..options.sessions {
        fetchers.spawn(fetch(at(session, 2), session, options.messages));
    }
    let (mut missing, mut repeated, mut disordered) = (0, 0, 0);
    while let Some(done) = fetchers.join_next().await {
        let verdict = done??;
        (missing, repeated, disordered) =
            (missing + verdict.missing, repeated + verdict.repeated, disordered + verdict.disordered);
    }
    let total = options.sessions as f64 * options.messages as f64;
    Ok(json!({
        "nodes": options.nodes, "sessions": options.sessions, "messages": options.messages,
        "payload_bytes": options.payload, "window": options.window,
        "pubacks_per_second": (total / took.as_secs_f64()).round(),
        "cpu_seconds_per_million": (cpu / total * 1e8).round() / 100.0,
        "fetched_per_second": (total / began.elapsed().as_secs_f64()).round(),
        "missing": missing, "repeated": repeated, "out_of_order": disordered,
    }))
}

async fn publish(address: SocketAddr, session: usize, options: EnqueueOptions) -> Result<()> {
    let client = Connect::new(ProtocolVersion::V5, format!("enqueuer-{session}"));
    let (mut publisher, connack) = Connection::connected(address, client).await?;
    let window = options.window.min(connack.receive_maximum.map_or(u64::from(u16::MAX), u64::from));
    let topic = topic(session);
    let make = |sequence| {
        let id = MessageId { publisher: session as u32, sequence };
        let filler = options.payload.saturating_sub(id.payload(0).len());
        message(&topic, id.payload(filler), QoS::AtLeastOnce)
    };
    publisher.publish_many(options.messages, window, make).await?;
    publisher.disconnect().await
}

#[derive(Debug, Default)]
struct Verdict {
    missing: u64,
    repeated: u64,
    disordered: u64,
}

async fn fetch(address: SocketAddr, session: usize, messages: u64) -> Result<Verdict> {
    let (mut client, _) = Connection::connected(address, durable(&format!("offline-{session}"))).await?;
    let (mut verdict, mut seen, mut last, mut came) = (Verdict::default(), vec![false; messages as usize], None, 0);
    while came < messages {
        let publish = match client.buffered()? {
            Some(Packet::Publish(publish)) => publish,
            Some(_) => continue,
            None => {
                client.flush().await?;
                let Ok(publish) = client.expect_publish().await else { break };
                publish
            }
        };
        client.queue(&Packet::PubAck(Ack::new(publish.packet_id)));
        let Some(id) = MessageId::from_payload(&publish.payload) else { continue };
        let Some(seen) = seen.get_mut(id.sequence as usize) else { continue };
        if std::mem::replace(seen, true) {
            verdict.repeated += 1;
            continue;
        }
        came += 1;
        verdict.disordered += u64::from(last > Some(id.sequence));
        last = Some(id.sequence);
    }
    verdict.missing = messages - came;
    client.disconnect().await?;
    Ok(verdict)
}
