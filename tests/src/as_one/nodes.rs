//! The processes of the nodes.
use super::{NODES, arguments::Serve, layout::Layout, output::Output};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

/// A broker that takes longer to stop is stuck.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two ends for the same reason.
const SAME_END: Duration = Duration::from_secs(1);

pub(super) struct Nodes {
    processes: Vec<Node>,
    output: Output,
}

struct Node {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Node {
    async fn end(&mut self) {
        if self.ended.is_none() {
            self.ended = self.child.wait().await.ok();
        }
    }
}

impl Nodes {
    pub(super) fn start(broker: &Path, serve: &Serve, layout: &Layout) -> io::Result<Self> {
        let mut nodes = Self { processes: Vec::new(), output: Output::default() };
        for node in 0..NODES {
            let mut child = command(broker, serve, layout, node).spawn()?;
            nodes.output.follow(node, &mut child)?;
            nodes.processes.push(Node { child, ended: None });
        }
        Ok(nodes)
    }

    /// From now on every node's output is shown: until here they all say the same.
    pub(super) fn show_all(&self) {
        self.output.show_all();
    }

    pub(super) fn signal(&self, signal: Signal) {
        for node in self.processes.iter().filter(|node| node.ended.is_none()) {
            let pid = node.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    }

    /// The first node that has ended.
    pub(super) fn ended(&mut self) -> Option<usize> {
        for node in &mut self.processes {
            if node.ended.is_none() {
                node.ended = node.child.try_wait().ok().flatten();
            }
        }
        self.processes.iter().position(|node| node.ended.is_some())
    }

    /// Returns when a node has ended.
    pub(super) async fn any_end(&mut self) {
        let [a, b, c] = self.processes.as_mut_slice() else { return };
        tokio::select! {
            status = a.child.wait() => a.ended = status.ok(),
            status = b.child.wait() => b.ended = status.ok(),
            status = c.child.wait() => c.ended = status.ok(),
        }
    }

    /// Ends all that run; the exit code of the first that failed, else 0.
    pub(super) async fn end(&mut self) -> u8 {
        let first = self.ended();
        if first.is_some() {
            // What ended one at its start ends all: the node that is shown gets the time to say it.
            let _ = tokio::time::timeout(SAME_END, self.processes[0].end()).await;
        }
        self.signal(Signal::TERM);
        for node in &mut self.processes {
            if tokio::time::timeout(TIMEOUT, node.end()).await.is_err() {
                let _ = node.child.kill().await;
            }
        }
        let code = |node: &Node| node.ended.and_then(|status| status.code()).map_or(1, |code| code as u8);
        let codes: Vec<u8> = self.processes.iter().map(code).collect();
        let shown = self.processes[0].ended.and_then(|status| status.code());
        if let Some(node) = first.filter(|node| codes[*node] != 0 && shown != Some(i32::from(codes[*node]))) {
            self.output.show_one(node);
        }
        first
            .map(|node| codes[node])
            .filter(|code| *code != 0)
            .or(codes.into_iter().find(|code| *code != 0))
            .unwrap_or(0)
    }

    /// Shows what is still in the pipes.
    pub(super) fn finish_output(&mut self) {
        self.output.finish();
    }
}

fn command(broker: &Path, serve: &Serve, layout: &Layout, node: usize) -> Command {
    let place = layout.node(node);
    let mut command = Command::new(broker);
    command.args(place.configuration.iter().flat_map(|path| ["-c".as_ref(), path.as_os_str()])).args(&serve.rest);
    for port in layout.ports(node) {
        command.args(["-p", &port.to_string()]);
    }
    let peers: Vec<String> = (0..NODES).map(|peer| layout.cluster_address(peer).to_string()).collect();
    let listener = |address: std::net::SocketAddr| format!("{} {}", address.port(), address.ip());
    command
        .env_remove("MOSQUORUM_BIN")
        .env_remove("MOSQUITTO_PERSISTENCE_LOCATION")
        .env("MOSQUORUM_PARENT", std::process::id().to_string())
        .env("MOSQUORUM_PERSISTENCE", "true")
        .env("MOSQUORUM_PERSISTENCE_LOCATION", format!("{}/", place.data.display()))
        .env("MOSQUORUM_CLUSTER_NAME", format!("node-{node}"))
        .env("MOSQUORUM_CLUSTER_LISTENER", listener(layout.cluster_address(node)))
        .env("MOSQUORUM_CLUSTER_ADVERTISE", &peers[node])
        .env("MOSQUORUM_CLUSTER_PEER", peers.join(","))
        .env("MOSQUORUM_CLUSTER_INSECURE", "true")
        .env("MOSQUORUM_CLUSTER_ADMIN_SOCKET", &place.admin_socket)
        .env("MOSQUORUM_HEALTH_LISTENER", listener(layout.health_address(node)));
    // A Ctrl-C of the terminal reaches this program, which passes it on.
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
