//! What operators do with a running broker: `mosquorum cluster add | remove | transfer-leader | status`, and watching
//! its log over MQTT.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, PATIENCE},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::TestResult,
};
use std::time::{Duration, Instant};

/// Makes a node list other peers than all.
fn list_peers(cluster: &Cluster, node: usize, peers: &[usize]) {
    let file = cluster.configuration_file(node);
    let text = std::fs::read_to_string(file).expect("a configuration");
    let kept = text.lines().filter(|line| !line.starts_with("cluster_peer ")).map(str::to_owned);
    let listed = peers.iter().map(|peer| format!("cluster_peer {}", cluster.cluster_address(*peer)));
    std::fs::write(file, listed.chain(kept).collect::<Vec<_>>().join("\n")).expect("a writable configuration");
}

async fn wait_leader(cluster: &mut Cluster, wanted: usize) {
    let deadline = Instant::now() + PATIENCE;
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
        cluster.wait_serving(node, PATIENCE * 2).await.expect("three nodes form the cluster");
    }
    let nowhere = cluster.operate(1, &format!("add node-4 {}", cluster.cluster_address(4))).await.expect("an answer");
    assert!(nowhere.as_ref().is_err_and(|text| text.contains("no node answers")), "{nowhere:?}");
    let added = cluster.operate(1, &format!("add node-3 {}", cluster.cluster_address(3))).await.expect("an answer");
    assert!(added.as_ref().is_ok_and(|text| text.contains("4 nodes do")), "{added:?}");
    cluster.wait_serving(3, PATIENCE).await.expect("the added node serves");
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
    cluster.wait_serving(2, PATIENCE).await.expect("it is let in");
    std::fs::write(cluster.folder().join("ca.pem"), "not a certificate").expect("written");
    cluster.signal(0, rustix::process::Signal::HUP);
    cluster.wait_logged(0, "the certificates between nodes stay as they were", 1).await.expect("it says so");
    cluster.wait_serving(0, PATIENCE).await.expect("it goes on");
}
