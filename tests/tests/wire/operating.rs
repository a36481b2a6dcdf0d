//! What operators do with a running broker: `mosquorum cluster add | remove | transfer-leader | status`, waiting for a node,
//! and watching its log over MQTT.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::TestResult,
};
use serde_json::{Value, json};
use std::{
    os::unix::net::UnixDatagram,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

/// Makes a node list other peers than all.
fn list_peers(cluster: &Cluster, node: usize, peers: &[usize]) {
    let file = cluster.configuration_file(node);
    let text = std::fs::read_to_string(file).expect("a configuration");
    let kept = text.lines().filter(|line| !line.starts_with("cluster_peer ")).map(str::to_owned);
    let listed = peers.iter().map(|peer| format!("cluster_peer {}", cluster.cluster_address(*peer)));
    std::fs::write(file, listed.chain(kept).collect::<Vec<_>>().join("\n")).expect("a writable configuration");
}

async fn wait_leader(cluster: &mut Cluster, wanted: usize) {
    let deadline = Instant::now() + TIMEOUT;
    while cluster.leader().await != Some(wanted) {
        assert!(Instant::now() < deadline, "node {wanted} does not lead");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_added_made_the_leader_and_removed_while_the_cluster_runs() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster");
    }
    // Node 3 lists a peer that never runs (4): it finds no cluster by itself.
    let mut cluster = Cluster::prepare(ClusterOptions::new("operating", 5)).expect("files");
    for node in 0..3 {
        list_peers(&cluster, node, &[0, 1, 2]);
    }
    list_peers(&cluster, 3, &[4]);
    for node in 0..4 {
        cluster.start_node(node).expect("a process");
    }
    for node in 0..3 {
        cluster.wait_serving(node, TIMEOUT * 2).await.expect("three nodes form the cluster");
    }
    let nowhere = cluster.operate(1, &format!("add node-4 {}", cluster.cluster_address(4))).await.expect("an answer");
    assert!(nowhere.as_ref().is_err_and(|text| text.contains("no node answers")), "{nowhere:?}");
    let added = cluster.operate(1, &format!("add node-3 {}", cluster.cluster_address(3))).await.expect("an answer");
    assert!(added.as_ref().is_ok_and(|text| text.contains("4 nodes do")), "{added:?}");
    cluster.wait_serving(3, TIMEOUT).await.expect("the added node serves");
    cluster.operate(0, "transfer-leader node-3").await.expect("an answer").expect("it leads");
    wait_leader(&mut cluster, 3).await;
    cluster.operate(0, "transfer-leader node-2").await.expect("an answer").expect("it leads");
    wait_leader(&mut cluster, 2).await;
    let removed = cluster.operate(0, "remove node-3").await.expect("an answer");
    assert!(removed.as_ref().is_ok_and(|text| text.contains("left the cluster")), "{removed:?}");
    let unknown = cluster.operate(0, "remove node-3").await.expect("an answer");
    assert!(unknown.as_ref().is_err_and(|text| text.contains("no node is named `node-3`")), "{unknown:?}");
    let status = cluster.status(0).await.expect("a status");
    let members = status["members"].as_array().expect("members").len();
    assert_eq!(members, 3, "{status}");
}

#[tokio::test]
async fn log_dest_topic_brings_log_lines_to_their_subscribers() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("log-topic", 1).with("log_dest topic")).await?;
    let connect = |name: &str| Connect::new(ProtocolVersion::V5, name);
    let (mut watcher, _) = Connection::connected(cluster.address(0), connect("watcher")).await?;
    watcher.subscribe_to("$SYS/broker/log/N", QoS::AtMostOnce).await?;
    let (_other, _) = Connection::connected(cluster.address(0), connect("watched-client")).await?;
    loop {
        let line = watcher.receive().await?;
        assert_eq!(line.topic.as_ref().map(|topic| topic.as_str()), Some("$SYS/broker/log/N"));
        assert!(!line.retain);
        if String::from_utf8_lossy(&line.payload).contains("watched-client") {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn certificates_between_nodes_are_renewed_by_a_reload() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster");
    }
    let mut cluster = Cluster::start(ClusterOptions::new("renewal", 3)).await.expect("three nodes");
    cluster.renew_certificates().expect("files");
    for node in 0..3 {
        cluster.signal(node, rustix::process::Signal::HUP);
    }
    // One that knows only the new authority gets in; it would be refused by nodes that know only the old one.
    assert!(cluster.kill(2));
    cluster.start_node(2).expect("a process");
    cluster.wait_serving(2, TIMEOUT).await.expect("it is let in");
    std::fs::write(cluster.folder().join("ca.pem"), "not a certificate").expect("written");
    cluster.signal(0, rustix::process::Signal::HUP);
    cluster.wait_logged(0, "the certificates between nodes stay as they were", 1).await.expect("it says so");
    cluster.wait_serving(0, TIMEOUT).await.expect("it goes on");
}

/// `mosquorum <words>` with a node's configuration.
async fn run(cluster: &Cluster, node: usize, words: &str) -> Output {
    let mut command = tokio::process::Command::new(cluster.binary());
    command.args(words.split(' ')).arg("-c").arg(cluster.configuration_file(node));
    let output = command.kill_on_drop(true).stdin(Stdio::null()).output();
    tokio::time::timeout(TIMEOUT * 4, output).await.expect("an end in time").expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn member<'a>(status: &'a Value, name: &str) -> &'a Value {
    let members = status["members"].as_array().expect("members");
    members.iter().find(|member| member["name"] == name).unwrap_or_else(|| panic!("{name}: {status}"))
}

/// The status as a node reports it once it says something.
async fn status_with(cluster: &Cluster, node: usize, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = cluster.status(node).await.unwrap_or_default();
        if holds(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "node {node} says {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_reports_who_is_ready_drained_silent_and_that_there_is_no_majority() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster");
    }
    let mut cluster = Cluster::start(ClusterOptions::new("status", 3)).await.expect("three nodes");
    for node in 0..3 {
        let all = |status: &Value| (0..3).all(|of| member(status, &format!("node-{of}"))["state"] == "ready");
        let status = status_with(&cluster, node, |status| status["members"].is_array() && all(status)).await;
        assert_eq!(status["majority"], true);
        for of in 0..3 {
            let of = member(&status, &format!("node-{of}"));
            let known = of["lag"].is_u64() && of["uptime"].is_u64() && of["version"].is_string();
            assert!(known && of["serving"] == true, "{status}");
        }
    }
    cluster.command(2, "drain").await.expect("an answer").expect("it is drained");
    for node in 0..3 {
        status_with(&cluster, node, |status| member(status, "node-2")["state"] == "draining").await;
    }
    assert!(cluster.kill(2));
    for node in 0..2 {
        let gone = |status: &Value| {
            let gone = member(status, "node-2");
            gone["reachable"] == false && gone["silent"].as_u64().is_some_and(|silent| silent > 0)
        };
        let status = status_with(&cluster, node, gone).await;
        let gone = member(&status, "node-2");
        assert!(gone["serving"] == false && gone["ready"] == false && gone["error"].is_string(), "{status}");
        assert!(gone["lag"].is_u64(), "node {node}: {status}");
    }
    assert_eq!(run(&cluster, 0, "cluster status").await.status.code(), Some(0));
    assert!(cluster.kill(1));
    status_with(&cluster, 0, |status| status["majority"] == false).await;
    let output = run(&cluster, 0, "cluster status").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).starts_with("No majority: 1 of 3 voters answer, 2 are needed."), "{output:?}");
    for words in ["transfer-leader", "remove node-2", "resize 1", "accept-time"] {
        let since = Instant::now();
        let output = run(&cluster, 0, &format!("cluster {words} --json")).await;
        let took = since.elapsed();
        assert!(took < Duration::from_secs(3), "{words}: {took:?}");
        assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
        let answer = document(&output);
        assert_eq!((&answer["ok"], &answer["no_majority"]), (&json!(false), &json!(true)));
        let why = answer["error"].as_str().unwrap_or_default();
        let named = why.contains("node-1 (n") && why.contains("node-2 (n");
        assert!(named && why.starts_with("no majority of the cluster: 1 of 3 voters answer, 2 are needed"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_reports_how_far_it_is_and_afterwards_every_node_who_was_removed() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster");
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("removal", 3)).await?;
    // At 50 a second at least, the last of them has to go within 70 % of the time.
    let mut clients = Vec::new();
    for number in 0..120 {
        let connect = Connect::new(ProtocolVersion::V5, format!("client-{number}"));
        clients.push(Connection::connected(cluster.address(2), connect).await?);
    }
    let output = run(&cluster, 0, "cluster remove node-2 --drain 5 --json").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(document(&output)["ok"], true);
    assert!(text(&output.stdout).contains("node-2 (n"), "{output:?}");
    let progress = text(&output.stderr);
    let line: Value = serde_json::from_str(progress.lines().next().expect("progress")).expect("JSON");
    let line = line["progress"].as_str().unwrap_or_default().to_owned();
    assert!(line.starts_with("node-2 hands its clients over, ") && line.ends_with(" are left"), "{progress}");
    for node in 0..2 {
        let status =
            status_with(&cluster, node, |status| status["removed"].as_array().is_some_and(|all| !all.is_empty()));
        let status = status.await;
        assert_eq!(status["removed"][0]["name"], "node-2", "{status}");
        assert_eq!(status["members"].as_array().map(Vec::len), Some(2), "{status}");
    }
    status_with(&cluster, 2, |status| status["removed_here"] == true).await;
    let output = run(&cluster, 2, "cluster status").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stdout).starts_with("This node was removed from the cluster"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn a_reader_that_goes_is_no_failure_and_an_unknown_word_is_json_if_that_is_wanted() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has no commands");
        return Ok(());
    }
    let socket = std::env::temp_dir().join(format!("mosquorum-pipe-{}", std::process::id()));
    let options = ClusterOptions::new("pipe", 1).with(&format!("cluster_admin_socket {}", socket.display()));
    let cluster = Cluster::start(options).await?;
    for words in [
        vec!["--help"],
        vec!["cluster", "--help"],
        vec!["completions", "bash"],
        vec!["cluster", "status", "--json"],
        vec!["cluster", "status", "--jsn"],
    ] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = tokio::process::Command::new(cluster.binary());
        command.args(&words).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        if words.contains(&"status") {
            command.arg("-c").arg(cluster.configuration_file(0));
        }
        let output = command.spawn()?.wait_with_output().await?;
        let code = if words.contains(&"--jsn") { 3 } else { 0 };
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        assert!(!text(&output.stderr).contains("panicked"), "{output:?}");
    }
    let output = run(&cluster, 0, "cluster stop --json").await;
    assert_eq!(output.status.code(), Some(3));
    let error = "Unknown cluster command 'stop'. Try cluster --help.";
    assert_eq!(document(&output), json!({"ok": false, "error": error, "no_majority": false}));
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_that_it_is_ready_to_the_service_manager_and_to_who_waits_when_it_serves() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, built without systemd");
        return Ok(());
    }
    let mut options = ClusterOptions::new("ready", 3);
    // A socket's path is short: one that no other test has.
    let socket = std::env::temp_dir().join(format!("mosquorum-ready-{}", std::process::id()));
    options.environment.push(("NOTIFY_SOCKET".into(), socket.display().to_string()));
    let listening = UnixDatagram::bind(&socket)?;
    listening.set_read_timeout(Some(TIMEOUT))?;
    let notified = || {
        let mut buffer = [0; 4096];
        let length = listening.recv(&mut buffer).expect("a notification in time");
        text(&buffer[..length])
    };
    let mut cluster = Cluster::prepare(options)?;
    cluster.start_node(0)?;
    let first = notified();
    assert!(first.starts_with("EXTEND_TIMEOUT_USEC=30000000\nSTATUS=Not ready: "), "{first}");
    let output = run(&cluster, 0, "healthcheck --wait 1").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("answers 503: this node waits to form or join a cluster: "), "{said}");
    assert!(said.contains("; not a voter of the cluster yet"), "{said}");
    listening.set_nonblocking(true)?;
    let mut buffer = [0; 4096];
    while let Ok(length) = listening.recv(&mut buffer) {
        let word = text(&buffer[..length]);
        assert!(!word.contains("READY=1"), "nobody is served without a majority: {word}");
    }
    listening.set_nonblocking(false)?;
    cluster.start_node(1)?;
    cluster.start_node(2)?;
    let output = run(&cluster, 0, "healthcheck --wait 60 --json").await;
    assert_eq!(document(&output), json!({"ok": true, "message": "ready"}));
    let mut ready = 0;
    while ready < 3 {
        ready += usize::from(notified().lines().any(|line| line == "READY=1"));
    }
    let _ = std::fs::remove_file(&socket);
    Ok(())
}
