//! Who disturbs whom: a steady flow of QoS 1 messages beside one disturber at a time, its longest pause, and what each node
//! takes for it.
//! Always true: every row has a cluster of its own that nothing happened to before; the flow does not go through a node that
//! the disturber takes away; the clients of the disturber run on a thread of lower priority, since on other machines they
//! would be somewhere else. What is above a bound is measured against the row without a disturber.
mod flow;
mod storms;

use super::{Measured, milliseconds};
use crate::{
    client::Connection,
    cluster::{Cluster, ClusterOptions},
    costs::Costs,
};
use flow::{Flow, LIVE_RATE, Pauses};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::{
    fmt::Write,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// No message of the flow is to wait longer, no node to take more of a core for somebody who only is there, and none to
/// write more lines in a minute.
const PAUSE_MAX_MS: f64 = 50.0;
const PROCESSOR_MAX_PERCENT: f64 = 5.0;
const LINES_MAX: u64 = 5;

/// The flow alone, before anything is looked at.
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct DisturbersOptions {
    /// One node with persistence instead of three.
    pub single: bool,
    /// Of each row, at least; a disturber that takes longer is waited for.
    pub seconds: u64,
    /// Names of rows, with commas; the one without a disturber is always there.
    pub only: Option<String>,
    /// Retained messages that filters and reports go through.
    pub retained: u64,
    /// Clients that lose their connections and come back.
    pub reconnects: usize,
    /// Durable sessions without a connection that all get one message.
    pub sleepers: usize,
}

impl Default for DisturbersOptions {
    fn default() -> Self {
        Self { single: false, seconds: 8, only: None, retained: 200_000, reconnects: 18_000, sleepers: 100_000 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturber {
    Nobody,
    /// As beside those who take a node away: the flow goes through the others.
    NobodyOfTwo,
    DeadPeer,
    UnresolvablePeer,
    IdleUnauthenticated,
    WildcardScanner,
    LoginStorm,
    HeavyPublishers,
    SlowReader,
    TopicReport,
    Checkpoint,
    Drain,
    Reconnects,
    Broadcast,
}

impl Disturber {
    const ALL: [(Self, &str); 14] = [
        (Self::Nobody, "nobody"),
        (Self::NobodyOfTwo, "nobody-of-two"),
        (Self::DeadPeer, "dead-peer"),
        (Self::UnresolvablePeer, "unresolvable-peer"),
        (Self::IdleUnauthenticated, "idle-strangers"),
        (Self::WildcardScanner, "wildcard-scanner"),
        (Self::LoginStorm, "login-storm"),
        (Self::HeavyPublishers, "heavy-publishers"),
        (Self::SlowReader, "slow-reader"),
        (Self::TopicReport, "sigusr2"),
        (Self::Checkpoint, "checkpoint"),
        (Self::Drain, "drain"),
        (Self::Reconnects, "reconnects"),
        (Self::Broadcast, "broadcast"),
    ];

    fn needs_peers(self) -> bool {
        self.takes_a_node() || self == Self::UnresolvablePeer
    }

    /// The victim carries nothing of the flow.
    fn takes_a_node(self) -> bool {
        matches!(self, Self::NobodyOfTwo | Self::DeadPeer | Self::Drain)
    }

    /// Asks for nothing: what a node takes beside it, it takes for nothing.
    fn only_is_there(self) -> bool {
        matches!(self, Self::DeadPeer | Self::UnresolvablePeer | Self::IdleUnauthenticated)
    }
}

/// A cluster and who disturbs it.
struct Disturbed {
    disturber: Disturber,
    cluster: Cluster,
    /// A follower, or the node.
    victim: usize,
    retained: u64,
    reconnects: usize,
    sleepers: usize,
    connections: Vec<Connection>,
    unauthenticated: Vec<TcpStream>,
    clients: Option<tokio::runtime::Runtime>,
    handle: tokio::runtime::Handle,
}

impl Disturbed {
    /// Where the disturber's clients run.
    fn handle(&self) -> tokio::runtime::Handle {
        self.handle.clone()
    }
}

impl Drop for Disturbed {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.take() {
            clients.shutdown_background();
        }
    }
}

/// # Errors
/// When a cluster does not start, or the flow beside breaks.
pub async fn run(options: &DisturbersOptions) -> Measured {
    let nodes = if options.single { 1 } else { 3 };
    let wanted = |name: &str| {
        options
            .only
            .as_deref()
            .is_none_or(|only| name.starts_with("nobody") || only.split(',').any(|wanted| wanted == name))
    };
    let room = descriptors_for(options.reconnects * 2);
    let reconnects = options.reconnects.min(room / 2);
    let options = &DisturbersOptions { reconnects, ..options.clone() };
    let (mut rows, mut quiet) = (Vec::new(), [None, None]);
    for (disturber, name) in Disturber::ALL {
        if !wanted(name) || (nodes == 1 && disturber.needs_peers()) {
            continue;
        }
        let found = row(options, nodes, disturber, name).await.map_err(|error| format!("{name}: {error}"))?;
        let quiet = quiet[usize::from(disturber.takes_a_node())].get_or_insert(found.busiest());
        let row = found.json(name, above(&found, *quiet, disturber));
        eprintln!("  {}", text(&row));
        rows.push(row);
    }
    Ok(json!({ "nodes": nodes, "rate": LIVE_RATE, "retained": options.retained, "reconnects": reconnects,
            "sleepers": options.sleepers, "rows": rows }))
}

/// Raises the limit of this process, which brokers inherit, if it may; returns what it is.
fn descriptors_for(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let (wanted, most) = (wanted as u64, limit.maximum.unwrap_or(u64::MAX));
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted.max(most)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return wanted as usize;
    }
    let kept = Rlimit { current: Some(most.min(wanted)), ..limit };
    let _ = setrlimit(Resource::Nofile, kept);
    getrlimit(Resource::Nofile).current.unwrap_or(wanted) as usize
}

/// What a row came to.
#[derive(Debug, Clone)]
struct Row {
    pauses: Pauses,
    seconds: f64,
    nodes: Vec<NodeTook>,
    load: f64,
}

#[derive(Debug, Clone)]
struct NodeTook {
    node: usize,
    processor_percent: f64,
    growth_mib: i64,
    log_lines: u64,
    descriptors: i64,
}

async fn row(options: &DisturbersOptions, nodes: usize, disturber: Disturber, name: &str) -> Result<Row, Failed> {
    let mut disturbed = lay_out(options, nodes, disturber, name).await?;
    storms::prepare(&mut disturbed).await?;
    let takes = disturber.takes_a_node();
    let flows: Vec<_> = (0..nodes)
        .filter(|node| !takes || *node != disturbed.victim)
        .map(|node| disturbed.cluster.address(node))
        .collect();
    let mut watches = disturbed.cluster.watches();
    let flow = Flow::start(&flows);
    sleep(WARM_UP).await;
    let before: Vec<Option<Costs>> = watches.iter_mut().map(|watch| watch.look()).collect();
    let (began, mut tasks) = (Instant::now(), JoinSet::new());
    storms::disturb(&mut disturbed, &mut tasks).await?;
    sleep((began + Duration::from_secs(options.seconds)).saturating_duration_since(Instant::now())).await;
    let after: Vec<Option<Costs>> = watches.iter_mut().map(|watch| watch.look()).collect();
    let (took, load) = (began.elapsed(), load_average());
    let pauses = flow.end(began, began + took)?;
    drop(tasks);
    let nodes = before.iter().zip(after).enumerate().filter_map(|(node, (before, after))| {
        let ((Some(before), Some(after)), signed) = ((before, after), |number: u64| number as i64) else { return None };
        let busy = after.processor.saturating_sub(before.processor).as_secs_f64();
        Some(NodeTook {
            node,
            processor_percent: (busy / took.as_secs_f64() * 1000.0).round() / 10.0,
            growth_mib: (signed(after.memory_kib) - signed(before.memory_kib)) / 1024,
            log_lines: after.log_lines - before.log_lines,
            descriptors: signed(after.descriptors) - signed(before.descriptors),
        })
    });
    Ok(Row { pauses, seconds: took.as_secs_f64(), nodes: nodes.collect(), load })
}

async fn lay_out(
    options: &DisturbersOptions,
    nodes: usize,
    disturber: Disturber,
    name: &str,
) -> Result<Disturbed, Failed> {
    let mut cluster = Cluster::prepare(ClusterOptions::new(&format!("disturbed-{name}"), nodes).persistent())?;
    if disturber == Disturber::LoginStorm {
        with_passwords(&cluster)?;
    }
    for node in 0..nodes {
        cluster.start_node(node)?;
    }
    cluster.wait_all_serving(Duration::from_secs(30)).await?;
    let leader = if nodes > 1 { cluster.leader().await.unwrap_or(0) } else { 0 };
    // Node 0 is where clients disturb.
    let victim = (1..nodes).find(|node| *node != leader).unwrap_or(0);
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // Of the thread alone.
        .on_thread_start(|| {
            let _ = rustix::process::nice(10);
        })
        .enable_all()
        .build()?;
    let handle = clients.handle().clone();
    Ok(Disturbed {
        disturber,
        cluster,
        victim,
        retained: options.retained,
        reconnects: options.reconnects,
        sleepers: options.sleepers,
        connections: Vec::new(),
        unauthenticated: Vec::new(),
        clients: Some(clients),
        handle,
    })
}

/// A password file as the broker's own program makes it.
fn with_passwords(cluster: &Cluster) -> Result<(), Failed> {
    let passwords = cluster.folder().join("passwords");
    let program = cluster.binary().with_file_name("mosquorum_passwd");
    let made =
        std::process::Command::new(&program).args(["-c", "-b"]).arg(&passwords).args(["somebody", "right"]).status()?;
    if !made.success() {
        return Err(format!("{}: {made}", program.display()).into());
    }
    for node in 0..cluster.len() {
        let file = cluster.configuration_file(node);
        let text = format!("password_file {}\n{}", passwords.display(), std::fs::read_to_string(file)?);
        std::fs::write(file, text)?;
    }
    Ok(())
}

/// Of the last minute: who else used the machine.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Which bounds a row is above; `quiet`: what the busiest node takes without a disturber, percent of a core.
fn above(row: &Row, quiet: f64, disturber: Disturber) -> Vec<String> {
    let mut above = Vec::new();
    for (name, pause) in [("pause", row.pauses.live), ("log pause", row.pauses.log)] {
        if milliseconds(pause) > PAUSE_MAX_MS {
            above.push(name.to_owned());
        }
    }
    if disturber.only_is_there() && row.busiest() - quiet > PROCESSOR_MAX_PERCENT {
        above.push("processor".to_owned());
    }
    if row.nodes.iter().any(|took| took.log_lines > LINES_MAX) {
        above.push("lines".to_owned());
    }
    above
}

impl Row {
    /// Which node leads, and so has more to do, is different in each cluster.
    fn busiest(&self) -> f64 {
        self.nodes.iter().map(|took| took.processor_percent).fold(0.0, f64::max)
    }

    fn json(&self, name: &str, above: Vec<String>) -> Value {
        let nodes = self.nodes.iter().map(|took| {
            json!({
                "node": took.node, "processor_percent": took.processor_percent, "growth_mib": took.growth_mib,
                "log_lines": took.log_lines, "descriptors": took.descriptors,
            })
        });
        json!({
            "disturber": name, "pause_ms": milliseconds(self.pauses.live), "log_pause_ms": milliseconds(self.pauses.log),
            "answers": self.pauses.messages, "seconds": (self.seconds * 10.0).round() / 10.0,
            "nodes": nodes.collect::<Vec<_>>(), "load_average": self.load, "above": above,
        })
    }
}

const HEAD: &str = "disturber          pause ms   log pause ms   processor %          memory +MiB       log lines     fds +         load  above";

/// The rows for people; `None` if these are other figures.
#[must_use]
pub fn table(figures: &Value) -> Option<String> {
    let mut table = format!("{HEAD}\n");
    for row in figures["rows"].as_array()? {
        let _ = writeln!(table, "{}", text(row));
    }
    let _ = writeln!(
        table,
        "{} nodes, {} messages per second; of each node, in its order; above: {PAUSE_MAX_MS} ms, {PROCESSOR_MAX_PERCENT} % of a core more for who only is there, {LINES_MAX} lines",
        figures["nodes"], figures["rate"]
    );
    Some(table)
}

fn text(row: &Value) -> String {
    let of_each = |name: &str| {
        let each = row["nodes"].as_array().into_iter().flatten().map(|node| node[name].to_string());
        each.collect::<Vec<_>>().join(" ")
    };
    let above: Vec<&str> = row["above"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    format!(
        "{:<18} {:>8} {:>14}   {:<20} {:<17} {:<13} {:<13} {:<5} {}",
        row["disturber"].as_str().unwrap_or_default(),
        row["pause_ms"].to_string(),
        row["log_pause_ms"].to_string(),
        of_each("processor_percent"),
        of_each("growth_mib"),
        of_each("log_lines"),
        of_each("descriptors"),
        row["load_average"].to_string(),
        above.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(live_ms: u64, processor: f64, lines: u64) -> Row {
        let node = NodeTook { node: 0, processor_percent: processor, growth_mib: 3, log_lines: lines, descriptors: -1 };
        let pauses = Pauses { live: Duration::from_millis(live_ms), log: Duration::from_millis(9), messages: 1 };
        Row { pauses, seconds: 8.0, nodes: vec![node], load: 0.5 }
    }

    #[test]
    fn a_row_says_which_bounds_it_is_above() {
        assert!(above(&row(50, 14.9, 5), 10.0, Disturber::DeadPeer).is_empty());
        assert_eq!(above(&row(51, 15.1, 6), 10.0, Disturber::DeadPeer), ["pause", "processor", "lines"]);
        assert!(above(&row(4, 90.0, 0), 10.0, Disturber::LoginStorm).is_empty(), "it asks for something");
    }

    #[test]
    fn the_table_has_a_line_for_each_disturber() {
        let rows = [row(4, 10.0, 0).json("nobody", vec![]), row(60, 10.0, 0).json("drain", vec!["pause".into()])];
        let table = table(&json!({ "nodes": 1, "rate": 1000, "rows": rows })).expect("it has rows");
        let line = table.lines().nth(2).expect("two rows").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line, "drain 60.0 9.0 10.0 3 0 -1 0.5 pause");
        assert_eq!(super::table(&json!({ "p50_ms": 1 })), None);
    }
}
