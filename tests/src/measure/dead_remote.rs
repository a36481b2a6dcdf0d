//! Local traffic of a node whose bridges have a remote that is dead in one way or another, against that of a node without
//! bridges.
//! Always true: the nodes take turns in an order drawn anew for each round, the others stand still meanwhile, so what
//! disturbs the machine disturbs all alike; each has the same trickle of messages that a bridge would take. There are two
//! nodes without bridges: what they differ by is chance.
use super::{Measured, median};
use crate::{
    client::{Connection, message},
    cluster::{Cluster, ClusterOptions},
    random::Random,
    remote::{Remote, grant},
};
use mosquorum_proto::mqtt::{ConnAck, Connect, Packet, ProtocolVersion, QoS, ReasonCode};
use serde_json::{Map, Value, json};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    process::Command,
    task::AbortHandle,
    time::{interval, sleep, timeout},
};

#[derive(Debug, Clone)]
pub struct DeadRemoteOptions {
    pub rounds: usize,
    /// Of one turn.
    pub seconds: u64,
    /// Messages per second of the local traffic.
    pub rate: u32,
    /// `connection` blocks per node.
    pub bridges: usize,
}

impl Default for DeadRemoteOptions {
    fn default() -> Self {
        Self { rounds: 10, seconds: 3, rate: 5000, bridges: 4 }
    }
}

const TRICKLE: Duration = Duration::from_millis(10);
/// A connection that takes longer is not made at all.
const NO_ANSWER: Duration = Duration::from_millis(500);
/// After a turn began, before it counts.
const SETTLE: Duration = Duration::from_millis(300);

/// What the bridges of a node find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// No bridge at all.
    None,
    /// SYN is dropped.
    BlackHole,
    Refusing,
    /// TCP connects and nothing is ever said.
    Silent,
    /// CONNACK comes, then nothing is read any more.
    Stalled,
    /// The name cannot be resolved.
    Nameless,
}

const DEATHS: [(Death, &str); 7] = [
    (Death::None, "none"),
    (Death::None, "none_again"),
    (Death::BlackHole, "black_hole"),
    (Death::Refusing, "refusing"),
    (Death::Silent, "silent"),
    (Death::Stalled, "stalled"),
    (Death::Nameless, "nameless"),
];

/// What must exist for a remote to be dead in the right way.
enum Corpse {
    Nothing,
    Bound(#[allow(dead_code, reason = "holds its port")] TcpSocket),
    Listening(#[allow(dead_code, reason = "holds its queue")] TcpListener, #[allow(dead_code)] Vec<TcpStream>),
    Task(AbortHandle),
}

impl Drop for Corpse {
    fn drop(&mut self) {
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

/// # Errors
/// When a broker does not start or the load generator fails.
pub async fn run(options: &DeadRemoteOptions) -> Measured {
    let mut nodes = Vec::new();
    for (death, name) in DEATHS {
        let (address, corpse) = lay_out(death).await?;
        let mut settings = ClusterOptions::new(&format!("dead-{name}"), 1);
        if let Some(address) = &address {
            for number in 0..options.bridges {
                settings = bridge(settings, number, address);
            }
        }
        let mut cluster = Cluster::start(settings).await?;
        if death == Death::Stalled {
            cluster.wait_logged(0, " connected to ", options.bridges).await?;
        }
        cluster.pause(0);
        nodes.push((name, cluster, corpse, Vec::new()));
    }
    let mut random = Random::new(1);
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        for turn in order {
            let (name, cluster, _, figures) = &mut nodes[turn];
            cluster.resume(0);
            let trickle = tokio::spawn(trickle(cluster.address(0))).abort_handle();
            sleep(SETTLE).await;
            let found = bench(cluster.binary(), cluster.address(0), options).await;
            trickle.abort();
            cluster.pause(0);
            let (p50, p99) = found?;
            eprintln!("  round {round}, {name}: p50 {p50} ms, p99 {p99} ms");
            figures.push((p50, p99));
        }
    }
    Ok(figures(options, nodes.into_iter().map(|(name, _, _, figures)| (name, figures)).collect()))
}

fn bridge(settings: ClusterOptions, number: usize, address: &str) -> ClusterOptions {
    settings
        .with_listener(&format!("connection dead-{number}"))
        .with_listener(&format!("address {address}"))
        .with_listener(&format!("remote_clientid site-{number}"))
        .with_listener("restart_timeout 1")
        .with_listener("notifications false")
        .with_listener("topic shared/# out 1")
}

async fn lay_out(death: Death) -> std::io::Result<(Option<String>, Corpse)> {
    let any: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0));
    let with_backlog = |backlog| {
        let socket = TcpSocket::new_v4()?;
        socket.bind(any)?;
        socket.listen(backlog)
    };
    Ok(match death {
        Death::None => (None, Corpse::Nothing),
        Death::Nameless => (Some("nowhere.invalid:1883".to_owned()), Corpse::Nothing),
        Death::Refusing => {
            let socket = TcpSocket::new_v4()?;
            socket.bind(any)?;
            (Some(socket.local_addr()?.to_string()), Corpse::Bound(socket))
        }
        Death::BlackHole => {
            let listener = with_backlog(1)?;
            let address = listener.local_addr()?;
            // Once the queue of connections that nobody accepts is full, the kernel drops what asks for another.
            let mut waiting = Vec::new();
            while let Ok(stream) = timeout(NO_ANSWER, TcpStream::connect(address)).await {
                waiting.push(stream?);
            }
            (Some(address.to_string()), Corpse::Listening(listener, waiting))
        }
        Death::Silent => {
            let listener = with_backlog(4096)?;
            (Some(listener.local_addr()?.to_string()), Corpse::Listening(listener, Vec::new()))
        }
        Death::Stalled => {
            let remote = Remote::start().await.map_err(std::io::Error::other)?;
            let address = remote.address().map_err(std::io::Error::other)?;
            let task = tokio::spawn(stall(remote)).abort_handle();
            (Some(address.to_string()), Corpse::Task(task))
        }
    })
}

/// Accepts each bridge, grants what it asks for and reads nothing from then on.
async fn stall(remote: Remote) {
    let mut kept = Vec::new();
    while let Ok((mut bridge, _)) = remote.accept(ConnAck::new(false, ReasonCode::Success)).await {
        while let Ok(Some(packet)) = bridge.recv_within(NO_ANSWER).await {
            if matches!(packet, Packet::Publish(_)) || grant(&mut bridge, packet).await.is_err() {
                break;
            }
        }
        kept.push(bridge);
    }
}

/// What a bridge would take, slowly.
async fn trickle(address: SocketAddr) {
    let connect = Connect::new(ProtocolVersion::V311, "trickle");
    let Ok((mut client, _)) = Connection::connected(address, connect).await else { return };
    let mut due = interval(TRICKLE);
    loop {
        due.tick().await;
        if client.publish(message("shared/trickle", vec![0; 64], QoS::AtLeastOnce)).await.is_err() {
            return;
        }
    }
}

/// p50 and p99 of pairs of publisher and subscriber at a fixed rate, milliseconds.
async fn bench(
    binary: &Path,
    address: SocketAddr,
    options: &DeadRemoteOptions,
) -> Result<(f64, f64), Box<dyn std::error::Error + Send + Sync>> {
    let mut command = Command::new(binary);
    command.args(["bench", "p2p", "--qos", "1", "--json", "--quiet", "--address", &address.to_string()]);
    command.args(["--rate", &options.rate.to_string(), "--seconds", &options.seconds.to_string()]);
    let output = command.kill_on_drop(true).output().await?;
    let found: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("bench: {error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let of = |name: &str| found[name].as_f64().ok_or_else(|| format!("bench gave no {name}: {found}"));
    Ok((of("latency_p50_ms")?, of("latency_p99_ms")?))
}

/// For each kind the median and the lower quartile over the rounds: what others do on the machine only adds.
fn figures(options: &DeadRemoteOptions, all: Vec<(&str, Vec<(f64, f64)>)>) -> Value {
    let mut found = Map::new();
    found.insert("rate".to_owned(), json!(options.rate));
    found.insert("bridges".to_owned(), json!(options.bridges));
    found.insert("rounds".to_owned(), json!(options.rounds));
    for (name, figures) in &all {
        let mut p99s: Vec<f64> = figures.iter().map(|(_, p99)| *p99).collect();
        p99s.sort_by(f64::total_cmp);
        found.insert(
            (*name).to_owned(),
            json!({
                "p50_ms": median(figures.iter().map(|(p50, _)| *p50)), "p99_ms": median(p99s.iter().copied()),
                "p99_lower_quartile_ms": p99s.get(p99s.len() / 4), "p99_least_ms": p99s.first(),
            }),
        );
    }
    Value::Object(found)
}
