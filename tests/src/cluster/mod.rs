//! Brokers as real processes: one node or many, started from generated configuration, killed, stopped, cut off and
//! started again.
//! Always true: every process dies with the test that started it; data folders lie below `target`, never on a tmpfs, and
//! stay when something failed.
//! Not here: what the brokers ought to do (tests), which fault comes when (`chaos`).
use crate::{
    backlog::eventually,
    client::{Connection, TIMEOUT},
    costs::NodeWatch,
};
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, ReasonCode};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;

pub mod binary;
mod certificates;
mod configuration;
mod cuts;
mod faults;
pub mod folder;
mod network;
pub(crate) mod process;

pub use binary::Build;
pub use cuts::Cut;
pub use faults::CLOCK_READ_EVERY;
pub use folder::TestFolder;
pub use network::{Namespaces, why_no_namespaces};
pub use process::Ended;

pub(crate) use network::Loopback;
use network::Place;
use process::BrokerProcess;

/// How nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// A loopback address of their own, one port each.
    Loopback,
    /// A network namespace each, so that links can be cut. Needs root.
    Namespaces,
}

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Part of folder names and client ids.
    pub name: String,
    /// 1 is a node alone, without cluster options.
    pub nodes: usize,
    pub build: Build,
    /// Another broker instead, Debian's `mosquitto` for example.
    pub binary: Option<PathBuf>,
    /// Only for a node alone; a cluster always persists.
    pub persistence: bool,
    pub wiring: Wiring,
    pub environment: Vec<(String, String)>,
    /// Each node has a clock file, so that its clocks can be set.
    pub clocks: bool,
    /// Lines for every node's mosquitto.conf, before the listener.
    pub global_lines: Vec<String>,
    /// Lines for every node's mosquitto.conf, after the listener.
    pub listener_lines: Vec<String>,
    /// A folder for the data of all nodes instead of one below `target` (a small file system, for example).
    pub data: Option<PathBuf>,
}

impl ClusterOptions {
    #[must_use]
    pub fn new(name: &str, nodes: usize) -> Self {
        Self {
            name: name.to_owned(),
            nodes,
            build: Build::Plain,
            binary: None,
            persistence: nodes > 1,
            wiring: Wiring::Loopback,
            environment: Vec::new(),
            clocks: false,
            global_lines: Vec::new(),
            listener_lines: Vec::new(),
            data: None,
        }
    }

    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.persistence = true;
        self
    }

    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.global_lines.push(line.to_owned());
        self
    }

    #[must_use]
    pub fn with_listener(mut self, line: &str) -> Self {
        self.listener_lines.push(line.to_owned());
        self
    }

    /// The test build, whose unsynced bytes die with the process.
    #[must_use]
    pub fn power_cut(mut self) -> Self {
        self.build = Build::Faults;
        self.environment.push(("MOSQUORUM_FS".into(), "power-cut".into()));
        self
    }

    /// The test build, whose clocks can be set.
    #[must_use]
    pub fn clocks(mut self) -> Self {
        (self.build, self.clocks) = (Build::Faults, true);
        self
    }

    /// The test build with a bug (`--plant` of the chaos runner).
    #[must_use]
    pub fn planted(mut self, bug: &str) -> Self {
        self.build = Build::Faults;
        self.environment.push(("MOSQUORUM_PLANT".into(), bug.into()));
        self
    }
}

/// One node's place, files and process.
#[derive(Debug)]
struct Node {
    place: Place,
    folder: PathBuf,
    configuration: PathBuf,
    admin_socket: PathBuf,
    clock: Option<PathBuf>,
    process: Option<BrokerProcess>,
    /// The id of the last process, for whoever watches it.
    process_id: Arc<AtomicU32>,
}

#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    binary: PathBuf,
    nodes: Vec<Node>,
    // Dropped after the nodes: processes end before their network and files go.
    namespaces: Option<Namespaces>,
    _loopback: Option<Loopback>,
    folder: TestFolder,
}

impl Cluster {
    /// Starts all nodes and waits until each serves.
    /// # Errors
    /// When a file, process or network cannot be made, or a node does not serve in time (its log is in the text).
    pub async fn start(options: ClusterOptions) -> io::Result<Self> {
        let mut cluster = Self::prepare(options)?;
        for node in 0..cluster.len() {
            cluster.start_node(node)?;
        }
        cluster.wait_all_serving(TIMEOUT * 2).await?;
        Ok(cluster)
    }

    /// Makes files and network; starts nothing.
    /// # Errors
    /// When a file or network cannot be made or the broker cannot be built.
    pub fn prepare(options: ClusterOptions) -> io::Result<Self> {
        let binary = options.binary.clone().map_or_else(|| binary::path(options.build), Ok)?;
        let folder = TestFolder::new(&options.name)?;
        let (namespaces, loopback, places) = match options.wiring {
            Wiring::Loopback => {
                let loopback = Loopback::reserve()?;
                let places = loopback.places(options.nodes);
                (None, Some(loopback), places)
            }
            Wiring::Namespaces => {
                let namespaces = Namespaces::create(options.nodes)?;
                let places = namespaces.places();
                (Some(namespaces), None, places)
            }
        };
        if options.nodes > 1 {
            certificates::write(folder.path(), &places)?;
        }
        let data = options.data.clone().unwrap_or_else(|| folder.path().to_path_buf());
        let mut nodes = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let node_folder = data.join(format!("node-{index}"));
            std::fs::create_dir_all(&node_folder)?;
            let configuration = folder.path().join(format!("node-{index}.conf"));
            let admin_socket = folder.short_path(&format!("{index}.sock"));
            let text = configuration::text(
                &options,
                index,
                &places,
                &node_folder,
                folder.path(),
                &admin_socket,
                binary::is_mosquitto(&binary),
            );
            std::fs::write(&configuration, text)?;
            let clock = options.clocks.then(|| folder.path().join(format!("node-{index}.clock")));
            clock.as_ref().map_or(Ok(()), |file| faults::write_clock(file, 0, 0))?;
            nodes.push(Node {
                place: place.clone(),
                folder: node_folder,
                configuration,
                admin_socket,
                clock,
                process: None,
                process_id: Arc::default(),
            });
        }
        Ok(Self { options, binary, nodes, namespaces, _loopback: loopback, folder })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where clients reach a node.
    #[must_use]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].place.client_address
    }

    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.place.client_address).collect()
    }

    /// Where a node keeps its data.
    #[must_use]
    pub fn data_folder(&self, node: usize) -> &Path {
        &self.nodes[node].folder
    }

    /// The folder of the whole test: configuration, certificates, logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn configuration_file(&self, node: usize) -> &Path {
        &self.nodes[node].configuration
    }

    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Keeps the folder when the test ends.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }

    #[must_use]
    pub fn log_file(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}.log"))
    }

    /// A node's log so far, over all its starts.
    #[must_use]
    pub fn log(&self, node: usize) -> String {
        let bytes = std::fs::read(self.log_file(node)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts a node that does not run; does not wait for it.
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node(&mut self, node: usize) -> io::Result<()> {
        self.start_node_under(node, &[])
    }

    /// As [`Self::start_node`], with words before the broker's own (`strace -f ...`).
    /// # Errors
    /// When the process cannot be started.
    pub fn start_node_under(&mut self, node: usize, wrapper: &[String]) -> io::Result<()> {
        let (log, environment) = (self.log_file(node), self.environment(node));
        let entry = &mut self.nodes[node];
        let mut words: Vec<String> = entry.place.wrapper();
        words.extend_from_slice(wrapper);
        words.push(self.binary.display().to_string());
        words.extend(["-c".to_owned(), entry.configuration.display().to_string()]);
        let process = BrokerProcess::start(&words, &environment, &log)?;
        entry.process_id.store(process.id(), Ordering::Relaxed);
        entry.process = Some(process);
        Ok(())
    }

    /// The environment of a node's process besides its configuration.
    fn environment(&self, node: usize) -> Vec<(String, String)> {
        let clock =
            self.nodes[node].clock.iter().map(|file| (faults::CLOCK_VARIABLE.into(), file.display().to_string()));
        self.options.environment.iter().cloned().chain(clock).collect()
    }

    /// Waits until a client of this node gets a CONNACK with success.
    /// # Errors
    /// When it takes longer than `timeout`, or the process ended; with the end of the node's log.
    pub async fn wait_serving(&mut self, node: usize, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut connect = Connect::new(ProtocolVersion::V5, format!("ready-{}-{node}", std::process::id()));
            connect.keep_alive_seconds = 10;
            let attempt = Connection::connect_within(self.address(node), connect, Duration::from_secs(2)).await;
            if let Ok((connection, connack)) = attempt
                && connack.reason == ReasonCode::Success
            {
                let _ = connection.disconnect().await;
                return Ok(());
            }
            if let Some(ended) = self.nodes[node].process.as_mut().and_then(BrokerProcess::ended) {
                return Err(io::Error::other(format!("node {node} ended: {ended:?}\n{}", self.log_tail(node, 40))));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "node {node} does not serve after {timeout:?}\n{}",
                    self.log_tail(node, 40)
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// # Errors
    /// As [`Self::wait_serving`].
    pub async fn wait_all_serving(&mut self, timeout: Duration) -> io::Result<()> {
        for node in 0..self.len() {
            self.wait_serving(node, timeout).await?;
        }
        Ok(())
    }

    /// kill -9; returns when the process is gone. False if it did not run.
    pub fn kill(&mut self, node: usize) -> bool {
        let Some(mut process) = self.nodes[node].process.take() else {
            return false;
        };
        process.kill_9()
    }

    /// kill -9 of all nodes at one instant: no node sees another one die first. How many ran.
    pub fn kill_all(&mut self) -> usize {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).for_each(BrokerProcess::send_kill);
        (0..self.len()).filter(|node| self.kill(*node)).count()
    }

    /// SIGSTOP; false if the process does not stop.
    pub fn pause(&mut self, node: usize) -> bool {
        self.nodes[node].process.as_mut().is_some_and(BrokerProcess::pause)
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) -> bool {
        self.nodes[node].process.as_mut().is_some_and(BrokerProcess::resume)
    }

    /// SIGTERM, SIGHUP, SIGUSR1.
    pub fn signal(&mut self, node: usize, signal: rustix::process::Signal) -> bool {
        self.nodes[node].process.as_ref().is_some_and(|process| process.signal(signal))
    }

    /// Whether the process runs (a stopped one counts).
    pub fn runs(&mut self, node: usize) -> bool {
        self.nodes[node].process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    #[must_use]
    pub fn process_id(&self, node: usize) -> Option<u32> {
        self.nodes[node].process.as_ref().map(BrokerProcess::id)
    }

    /// To look at what each node costs, in all its starts, without the cluster in hand.
    #[must_use]
    pub fn watches(&self) -> Vec<NodeWatch> {
        let watch = |node: usize| NodeWatch::new(self.nodes[node].process_id.clone(), self.log_file(node));
        (0..self.len()).map(watch).collect()
    }

    /// SIGTERM and the end of the process.
    /// # Errors
    /// When it does not end in time (it is then killed).
    pub async fn stop_node(&mut self, node: usize) -> io::Result<Ended> {
        self.signal(node, rustix::process::Signal::TERM);
        self.wait_end(node, TIMEOUT).await
    }

    /// Waits for a process to end by itself.
    /// # Errors
    /// When it does not in time (it is then killed).
    pub async fn wait_end(&mut self, node: usize, timeout: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(process) = self.nodes[node].process.as_mut() else {
                return Err(io::Error::other("the node does not run"));
            };
            if let Some(ended) = process.ended() {
                self.nodes[node].process = None;
                return Ok(ended);
            }
            if Instant::now() > deadline {
                self.kill(node);
                return Err(io::Error::other(format!("node {node} did not end\n{}", self.log_tail(node, 40))));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The status of the cluster as a node reports it, or `None` if it does not answer.
    pub async fn status(&self, node: usize) -> Option<serde_json::Value> {
        let socket = self.nodes[node].admin_socket.display().to_string();
        let mut command = tokio::process::Command::new(&self.binary);
        command.args(["cluster", "status", "--socket", &socket, "--json"]).kill_on_drop(true);
        command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let output = tokio::time::timeout(Duration::from_secs(2), command.output()).await.ok()?.ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The answer of `mosquorum cluster <words>` to a node, or what it says on stderr.
    /// # Errors
    /// When the program cannot be run.
    pub async fn operate(&self, node: usize, words: &str) -> io::Result<Result<String, String>> {
        self.command(node, &format!("cluster {words}")).await
    }

    /// The answer of `mosquorum <words>` with a node's admin socket, or what it says on stderr.
    /// # Errors
    /// When the program cannot be run.
    pub async fn command(&self, node: usize, words: &str) -> io::Result<Result<String, String>> {
        let output = self.mosquorum(node, words).output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        Ok(if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) })
    }

    /// `mosquorum <words>` with a node's admin socket, ready to be run.
    fn mosquorum(&self, node: usize, words: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.binary);
        command.args(words.split(' ')).arg("--socket").arg(&self.nodes[node].admin_socket);
        command.kill_on_drop(true).stdin(std::process::Stdio::null());
        command
    }

    /// Where other nodes reach a node.
    #[must_use]
    pub fn cluster_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].place.cluster_address
    }

    /// Where a node answers probes and serves its metrics.
    #[must_use]
    pub fn health_address(&self, node: usize) -> SocketAddr {
        self.nodes[node].place.health_address
    }

    /// Another authority and other certificates between nodes, in the files that they name. Nodes are not notified.
    /// # Errors
    /// When the files cannot be written.
    pub fn renew_certificates(&self) -> io::Result<()> {
        let places: Vec<Place> = self.nodes.iter().map(|node| node.place.clone()).collect();
        certificates::write(self.folder.path(), &places)
    }

    /// The node that leads, as far as a running node knows.
    pub async fn leader(&mut self) -> Option<usize> {
        for node in 0..self.len() {
            if !self.runs(node) {
                continue;
            }
            let Some(status) = self.status(node).await else {
                continue;
            };
            let Some(name) = status.get("leader").and_then(serde_json::Value::as_str) else {
                continue;
            };
            if let Some(leader) = (0..self.len()).find(|other| configuration::node_name(*other) == name) {
                return Some(leader);
            }
        }
        None
    }

    /// Whether a kill takes unsynced bytes with it.
    #[must_use]
    pub fn loses_unsynced(&self) -> bool {
        self.options.environment.iter().any(|(key, value)| key == "MOSQUORUM_FS" && value == "power-cut")
    }

    /// Waits until a node has logged `text` so often.
    /// # Errors
    /// When it does not in time; with the end of the node's log.
    pub async fn wait_logged(&self, node: usize, text: &str, times: usize) -> io::Result<()> {
        if eventually(TIMEOUT, async || self.log(node).matches(text).count() >= times).await {
            return Ok(());
        }
        Err(io::Error::other(format!("{text:?} is not in the log {times} times\n{}", self.log_tail(node, 40))))
    }

    /// The last lines of a node's log.
    #[must_use]
    pub fn log_tail(&self, node: usize, lines: usize) -> String {
        let log = self.log(node);
        let all: Vec<&str> = log.lines().collect();
        let text = all[all.len().saturating_sub(lines)..].join("\n");
        format!("--- {} (last {lines} lines)\n{text}", self.log_file(node).display())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            for node in 0..self.len() {
                eprintln!("{}", self.log_tail(node, 60));
            }
            self.folder.keep();
        }
    }
}
