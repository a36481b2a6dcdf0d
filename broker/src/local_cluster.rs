//! `--local-cluster N`: N nodes as N processes on this machine, to try things out.
//! Always true: data stays below `./mosquorum-data`; certificates come from a throw-away CA made at each start; when this
//! process ends, so do its nodes.
use crate::{admin, private_file};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::{
    fmt::Write as _,
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

const FIRST_PORT: u16 = 1883;
const FIRST_PEER_PORT: u16 = 7883;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

struct Node {
    name: String,
    port: u16,
    peer_port: u16,
    folder: PathBuf,
    process: Option<Child>,
}

impl Node {
    fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }
}

/// Starts the nodes and stays until Ctrl-C.
pub async fn run(count: usize, verbose: bool) -> Result<(), String> {
    let base = std::env::current_dir().map_err(|e| e.to_string())?.join("mosquorum-data");
    let mut nodes = plan(count, &base)?;
    write_certificates(&base, &nodes).map_err(|error| format!("cannot write certificates: {error}"))?;
    for place in 0..nodes.len() {
        write_config(&base, &nodes, place).map_err(|error| format!("cannot write a configuration: {error}"))?;
        nodes[place].process =
            Some(start(&nodes[place], verbose).map_err(|error| format!("cannot start a node: {error}"))?);
    }
    println!("Starting {count} nodes below {} ...", base.display());
    let leader = match wait_until_ready(&mut nodes).await {
        Ok(leader) => leader,
        Err(error) => {
            stop(&mut nodes).await;
            return Err(error);
        }
    };
    println!("{}", screen(&nodes, &leader));
    let result = attend(&mut nodes).await;
    println!("Stopping ...");
    stop(&mut nodes).await;
    println!("All nodes have stopped. The data stays in {}.", base.display());
    result
}

fn plan(count: usize, base: &Path) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    for number in 0..u16::try_from(count).map_err(|_| "too many nodes")? {
        let (port, peer_port) = (FIRST_PORT + number, FIRST_PEER_PORT + number);
        for port in [port, peer_port] {
            TcpListener::bind(("127.0.0.1", port)).map_err(|error| format!("port {port} is not free: {error}"))?;
        }
        let name = format!("node-{}", number + 1);
        let folder = base.join(&name);
        private_file::folder(&folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
        nodes.push(Node { name, port, peer_port, folder, process: None });
    }
    Ok(nodes)
}

fn write_certificates(base: &Path, nodes: &[Node]) -> Result<(), Box<dyn std::error::Error>> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "mosquorum throw-away CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&ca_key)?;
    fs::write(base.join("ca.pem"), ca.pem())?;
    let issuer = Issuer::new(params, ca_key);
    for node in nodes {
        let key = KeyPair::generate()?;
        let names = vec![node.name.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, node.name.clone());
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(node.folder.join("node.pem"), certificate.pem())?;
        private_file::write(&node.folder.join("node.key"), key.serialize_pem().as_bytes())?;
    }
    Ok(())
}

fn write_config(base: &Path, nodes: &[Node], place: usize) -> io::Result<()> {
    let node = &nodes[place];
    let folder = node.folder.display();
    let mut text = format!(
        "user root\nlistener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n\
         cluster_name {}\ncluster_listener {} 127.0.0.1\ncluster_advertise 127.0.0.1:{}\n\
         cluster_cafile {}\ncluster_certfile {folder}/node.pem\ncluster_keyfile {folder}/node.key\n\
         cluster_admin_socket {}\n",
        node.port,
        node.name,
        node.peer_port,
        node.peer_port,
        base.join("ca.pem").display(),
        node.socket().display()
    );
    if nodes.len() == 1 {
        text.push_str("cluster_new true\n");
    }
    for other in nodes {
        let _ = writeln!(text, "cluster_peer 127.0.0.1:{}", other.peer_port);
    }
    fs::write(node.folder.join("mosquitto.conf"), text)
}

fn start(node: &Node, verbose: bool) -> io::Result<Child> {
    let log = private_file::append(&node.log())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("-c").arg(node.folder.join("mosquitto.conf"));
    if verbose {
        command.arg("-v");
    }
    // In a group of their own, so that Ctrl-C reaches this process, which then stops them in order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env("MOSQUORUM_PARENT", std::process::id().to_string())
        .spawn()
}

/// Waits until every node serves; the leader's name.
async fn wait_until_ready(nodes: &mut [Node]) -> Result<String, String> {
    let began = Instant::now();
    loop {
        if let Some((node, status)) = ended(nodes) {
            return Err(format!("{} ended at once ({status}); its log: {}", node.name, node.log().display()));
        }
        if nodes.iter().all(answers)
            && let Some(leader) = leader(nodes)
        {
            return Ok(leader);
        }
        if began.elapsed() > READY_TIMEOUT {
            return Err(format!("the nodes are not ready after {READY_TIMEOUT:?}; see {}", nodes[0].log().display()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn ended(nodes: &mut [Node]) -> Option<(&Node, ExitStatus)> {
    let place = nodes
        .iter_mut()
        .position(|node| node.process.as_mut().is_some_and(|process| process.try_wait().ok().flatten().is_some()))?;
    let status = nodes[place].process.as_mut()?.try_wait().ok().flatten()?;
    Some((&nodes[place], status))
}

/// Whether a client gets in.
fn answers(node: &Node) -> bool {
    use std::io::{Read, Write};
    let connect = mosquorum_proto::mqtt::Connect::new(mosquorum_proto::mqtt::ProtocolVersion::V311, "");
    let mut bytes = bytes::BytesMut::new();
    let packet = mosquorum_proto::mqtt::Packet::Connect(Box::new(connect));
    mosquorum_proto::mqtt::encode(&packet, mosquorum_proto::mqtt::ProtocolVersion::V311, &mut bytes);
    let ask = || -> io::Result<[u8; 4]> {
        #[allow(clippy::disallowed_methods)] // nothing else runs here yet
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", node.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&bytes)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        Ok(connack)
    };
    ask().is_ok_and(|connack| connack == [0x20, 2, 0, 0])
}

fn leader(nodes: &[Node]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let stream = std::os::unix::net::UnixStream::connect(node.socket()).ok()?;
        let json = admin::request(stream, "status json", &mut |_| {}).ok()?.result.ok()?;
        let status: serde_json::Value = serde_json::from_str(&json).ok()?;
        Some(status.get("leader")?.as_str()?.to_owned())
    })
}

fn screen(nodes: &[Node], leader: &str) -> String {
    let mut text = String::from("\n  name     MQTT   process  role\n");
    for node in nodes {
        let pid = node.process.as_ref().map_or(0, Child::id);
        let role = if node.name == *leader { "leader" } else { "" };
        let _ = writeln!(text, "  {:<8} {:<6} {:<8} {role}", node.name, node.port, pid);
    }
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
    let victim = nodes.get(1).unwrap_or(first);
    let pid = victim.process.as_ref().map_or(0, Child::id);
    let _ = write!(
        text,
        "\n  Subscribe:   mosquitto_sub -p {} -c -i meter -q 1 -t 'power/#' -v\n  \
         Publish:     mosquitto_pub -p {} -q 1 -t power/kitchen -m 230\n  \
         Kill a node: kill -9 {pid}            ({}; then subscribe again with -p {})\n  \
         Status:      mosquorum cluster status --socket {}\n  \
         Stop:        Ctrl-C\n",
        victim.port,
        first.port,
        victim.name,
        last.port,
        first.socket().display()
    );
    text
}

/// Until Ctrl-C; says so when a node ends before.
async fn attend(nodes: &mut [Node]) -> Result<(), String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        while let Some((node, status)) = ended(nodes) {
            println!("{} has ended ({status}). The others go on; start it again with:", node.name);
            let program = std::env::current_exe().unwrap_or_default();
            println!("  {} -c {}", program.display(), node.folder.join("mosquitto.conf").display());
            let name = node.name.clone();
            for node in nodes.iter_mut().filter(|node| node.name == name) {
                node.process = None;
            }
            if nodes.iter().all(|node| node.process.is_none()) {
                return Err("all nodes have ended".to_owned());
            }
        }
    }
}

async fn stop(nodes: &mut [Node]) {
    for process in nodes.iter().filter_map(|node| node.process.as_ref()) {
        if let Some(pid) = i32::try_from(process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    let began = Instant::now();
    for process in nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
        while process.try_wait().ok().flatten().is_none() {
            if began.elapsed() > STOP_TIMEOUT {
                let _ = process.kill();
                let _ = process.wait();
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
