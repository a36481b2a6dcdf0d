//! What a start costs: many durable sessions that wait, each with a subscription; the nodes are killed and started again,
//! and the time counts until each of them serves and knows its sessions.
use super::{Measured, durable, offline_session, resident_mib};
use crate::{
    client::{Connection, Result},
    cluster::{Cluster, ClusterOptions},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Clients that make sessions at one time.
const MAKERS: usize = 64;
const START_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct RestartOptions {
    /// 1: one node with `persistence true`.
    pub nodes: usize,
    pub sessions: usize,
    /// Ended by SIGTERM, not by SIGKILL.
    pub orderly: bool,
}

impl Default for RestartOptions {
    fn default() -> Self {
        Self { nodes: 1, sessions: 100_000, orderly: false }
    }
}

/// # Errors
/// When a node does not start, or does not know a session afterwards.
pub async fn run(options: &RestartOptions) -> Measured {
    let settings = ClusterOptions::new("restart", options.nodes).persistent().with("log_type none");
    let mut cluster = Cluster::start(settings).await?;
    let began = Instant::now();
    let addresses = cluster.addresses();
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        makers.spawn(make_sessions(addresses[maker % addresses.len()], maker, options.sessions));
    }
    while let Some(made) = makers.join_next().await {
        made??;
    }
    eprintln!("  {} sessions are there after {:.0} s", options.sessions, began.elapsed().as_secs_f64());
    let resident = resident_mib(cluster.process_id(0));
    let stopped = Instant::now();
    if options.orderly {
        for node in 0..options.nodes {
            cluster.stop_node(node).await?;
        }
    } else {
        cluster.kill_all();
    }
    let stop_took = stopped.elapsed();
    let began = Instant::now();
    for node in 0..options.nodes {
        cluster.start_node(node)?;
    }
    let mut served = Vec::new();
    for node in 0..options.nodes {
        cluster.wait_serving(node, START_TIMEOUT).await?;
        served.push(began.elapsed().as_secs_f64());
    }
    let last = options.sessions.saturating_sub(1);
    let (client, connack) = Connection::connected(cluster.address(0), durable(&name(last))).await?;
    client.disconnect().await?;
    if !connack.session_present {
        return Err(format!("the session of {} is gone", name(last)).into());
    }
    Ok(json!({
        "nodes": options.nodes, "sessions": options.sessions, "orderly": options.orderly,
        "stop_seconds": stop_took.as_secs_f64(), "serves_after_seconds": served,
        "rss_before_mib": resident, "rss_after_mib": resident_mib(cluster.process_id(0)),
        "store_bytes": folder_bytes(cluster.data_folder(0)),
    }))
}

fn name(session: usize) -> String {
    format!("sleeper-{session:07}")
}

async fn make_sessions(address: SocketAddr, maker: usize, sessions: usize) -> Result<()> {
    for session in (maker..sessions).step_by(MAKERS) {
        offline_session(address, &name(session), &format!("site/{}/meter/{session}", session % 1000)).await?;
    }
    Ok(())
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
