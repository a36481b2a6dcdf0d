//! Changes of a cluster's size, and what is left of one that has lost its majority.
use mosquorum_proto::mqtt::{Connect, Disconnect, Packet, ProtocolVersion, QoS, ReasonCode, Will};
use mosquorum_tests::{
    backlog::eventually,
    client::{ClientError, Connection, TIMEOUT, message, topic_name},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    http,
    skip::skip,
    target::TestResult,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

const STAND_IN: &str = "MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster";

fn durable(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    connect.clean_start = false;
    connect.session_expiry_interval = Some(3600);
    connect
}

/// Numbers of the voters by name, as a node reports them.
async fn voters(cluster: &Cluster, node: usize) -> BTreeMap<String, u64> {
    let status = cluster.status(node).await.unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let voters = members.iter().filter(|member| member["voter"] == true);
    voters.filter_map(|member| Some((member["name"].as_str()?.to_owned(), member["id"].as_u64()?))).collect()
}

async fn wait_voters(cluster: &Cluster, node: usize, wanted: usize) -> BTreeMap<String, u64> {
    let deadline = Instant::now() + 2 * TIMEOUT;
    loop {
        let voters = voters(cluster, node).await;
        if voters.len() == wanted {
            return voters;
        }
        assert!(Instant::now() < deadline, "{voters:?}, {wanted} wanted\n{}", cluster.log_tail(node, 30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The disk of a node is lost.
fn lose_data(cluster: &Cluster, node: usize) -> io::Result<()> {
    let folder = cluster.data_folder(node);
    std::fs::rename(folder, folder.with_extension("lost"))?;
    std::fs::create_dir_all(folder)
}

async fn recover(cluster: &Cluster, node: usize, force: bool) -> io::Result<(bool, String)> {
    let mut command = tokio::process::Command::new(cluster.binary());
    command.args(["recover", "-c"]).arg(cluster.configuration_file(node)).kill_on_drop(true);
    if force {
        command.arg("--force-new-cluster");
    }
    let output = command.output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_shrinks_from_its_last_node_on_and_numbers_are_never_used_again() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("resize", 3)).await?;
    let before = wait_voters(&cluster, 0, 3).await;
    // Also when the leader is among those that leave.
    cluster.operate(0, "transfer-leader node-2").await?.expect("node 2 leads");
    let answer = cluster.operate(0, "resize 1").await?;
    assert!(answer.as_ref().is_ok_and(|text| text.contains("1 nodes vote")), "{answer:?}");
    let left: Vec<String> = wait_voters(&cluster, 0, 1).await.into_keys().collect();
    assert_eq!(left, ["node-0"]);
    cluster.wait_serving(0, TIMEOUT).await?;
    for node in [1, 2] {
        cluster.stop_node(node).await?;
        lose_data(&cluster, node)?;
        cluster.start_node(node)?;
    }
    let after = wait_voters(&cluster, 0, 3).await;
    assert_eq!(after["node-0"], before["node-0"]);
    for name in ["node-1", "node-2"] {
        assert!(after[name] > before.values().copied().max().unwrap_or(0), "{before:?} {after:?}");
    }
    cluster.wait_all_serving(TIMEOUT).await?;
    Ok(())
}

/// Connects with a will and sends DISCONNECT, again and again, as long as the node lets it in. Which wills must not be published.
async fn disconnect_often(at: SocketAddr, name: String, all: Arc<Semaphore>) -> BTreeSet<String> {
    let mut sent = BTreeSet::new();
    for number in 0.. {
        let text = format!("{name}-{number}");
        let mut connect = Connect::new(ProtocolVersion::V311, &*name);
        connect.will = Some(Will {
            topic: topic_name("gone"),
            payload: text.clone().into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_seconds: 0,
            properties: None,
        });
        let Ok((mut client, _)) = Connection::connected(at, connect).await else { break };
        // A reset instead of the end of the stream: it was not read.
        if client.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success))).await.is_ok()
            && matches!(client.recv().await, Err(ClientError::Closed))
        {
            sent.insert(text);
            all.add_permits(1);
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_nodes_that_leave_go_to_those_that_stay_and_their_disconnects_count() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let cluster = Cluster::start(ClusterOptions::new("leave", 3)).await?;
    wait_voters(&cluster, 0, 3).await;
    let (mut observer, _) = Connection::connected(cluster.address(0), durable("observer")).await?;
    observer.subscribe_to("gone", QoS::AtLeastOnce).await?;
    let mut staying = Vec::new();
    for node in [1, 2] {
        for number in 0..10 {
            let connect = durable(&format!("client-{node}-{number}"));
            staying.push(Connection::connected(cluster.address(node), connect).await?.0);
        }
    }
    let all = Arc::new(Semaphore::new(0));
    let brief = (0..8).map(|number| {
        let (at, all) = (cluster.address(1 + number % 2), all.clone());
        tokio::spawn(disconnect_often(at, format!("brief-{number}"), all))
    });
    let brief: Vec<_> = brief.collect();
    all.acquire_many(40).await.expect("they disconnect").forget();
    let answer = cluster.operate(0, "resize 1 --drain 2").await?;
    assert!(answer.as_ref().is_ok_and(|text| text.contains("1 nodes vote")), "{answer:?}");
    for mut client in staying {
        let disconnect = client.recv_forever().await;
        let Ok(Packet::Disconnect(disconnect)) = disconnect else { panic!("{disconnect:?}") };
        assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
        let place: SocketAddr = disconnect.server_reference.expect("node 0 stays").parse().expect("an address");
        assert_eq!(place, cluster.address(0));
    }
    let mut sent = BTreeSet::new();
    for one in brief {
        sent.extend(one.await.expect("it ends"));
    }
    assert!(sent.len() >= 40, "{sent:?}");
    let (mut last, _) = Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "last")).await?;
    last.publish(message("gone", "last", QoS::AtLeastOnce)).await?;
    loop {
        let payload = String::from_utf8_lossy(&observer.receive().await?.payload).into_owned();
        if payload == "last" {
            break;
        }
        assert!(!sent.contains(&payload), "{payload} sent DISCONNECT, and its will was published");
    }
    eprintln!("{} DISCONNECTs counted", sent.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_a_lost_majority_is_made_a_cluster_that_has_what_it_had_and_grows_again() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("recover", 3)).await?;
    let before = wait_voters(&cluster, 0, 3).await;
    let (mut meter, _) = Connection::connected(cluster.address(0), durable("meter")).await?;
    meter.subscribe_to("kept/#", QoS::AtLeastOnce).await?;
    drop(meter);
    // A session whose connection a lost node served.
    let (mut elsewhere, _) = Connection::connected(cluster.address(1), durable("elsewhere")).await?;
    elsewhere.subscribe_to("kept/#", QoS::AtLeastOnce).await?;
    let (mut publisher, _) =
        Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "publisher")).await?;
    for number in 0..20 {
        publisher.publish(message("kept/a", format!("{number}"), QoS::AtLeastOnce)).await?;
    }
    let mut retained = message("kept/b", "for ever", QoS::AtLeastOnce);
    retained.retain = true;
    publisher.publish(retained).await?;
    let (done, running) = recover(&cluster, 0, true).await?;
    assert!(!done && running.contains("in use"), "{running}");
    cluster.kill_all();
    lose_data(&cluster, 1)?;
    lose_data(&cluster, 2)?;
    let (done, said) = recover(&cluster, 0, false).await?;
    assert!(!done && said.contains("nothing of the cluster was changed") && said.contains("lost: whatever"), "{said}");
    assert!(said.contains("2 sessions and 1 retained messages"), "{said}");
    let (done, said) = recover(&cluster, 0, true).await?;
    assert!(done && said.contains("the only member of the new cluster"), "{said}");
    // Once more: nothing depends on how often it is done.
    let (done, said) = recover(&cluster, 0, true).await?;
    assert!(done && said.contains("other members: none"), "{said}");
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    assert_eq!(wait_voters(&cluster, 0, 1).await["node-0"], before["node-0"]);
    for name in ["meter", "elsewhere"] {
        let (mut session, connack) = Connection::connected(cluster.address(0), durable(name)).await?;
        assert!(connack.session_present, "{name}");
        for number in 0..20 {
            assert_eq!(session.receive().await?.payload, format!("{number}"), "{name}");
        }
        assert_eq!(session.receive().await?.payload, "for ever", "{name}");
    }
    // The others join with empty disks, under new numbers.
    for node in [1, 2] {
        cluster.start_node(node)?;
    }
    let after = wait_voters(&cluster, 0, 3).await;
    assert!(after["node-1"] > before["node-1"] && after["node-2"] > before["node-2"], "{before:?} {after:?}");
    cluster.wait_all_serving(TIMEOUT).await?;
    let (mut reader, _) =
        Connection::connected(cluster.address(2), Connect::new(ProtocolVersion::V5, "reader")).await?;
    reader.subscribe_to("kept/b", QoS::AtMostOnce).await?;
    assert_eq!(reader.receive().await?.payload, "for ever");
    Ok(())
}

/// Waits until `/readyz` of a node says 503 with a line that has all of this in it.
async fn wait_kept_out(cluster: &Cluster, node: usize, parts: &[&str]) {
    let last = std::cell::RefCell::default();
    let said = eventually(2 * TIMEOUT, async || {
        let answer = http::get(cluster.health_address(node), "/readyz").await;
        let has_it = |body: &str| body.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let said = answer.as_ref().is_ok_and(|(status, body)| *status == 503 && has_it(body));
        *last.borrow_mut() = format!("{answer:?}");
        said
    });
    assert!(said.await, "{parts:?} wanted, {}\n{}", last.borrow(), cluster.log_tail(node, 20));
}

/// Files of the folder, copied into another one.
fn copy(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Replaces the peers that a node lists, and adds lines.
fn list(cluster: &Cluster, node: usize, peers: &[usize], lines: &[&str]) {
    let file = cluster.configuration_file(node);
    let text = std::fs::read_to_string(file).expect("a configuration");
    let kept = text.lines().filter(|line| !line.starts_with("cluster_peer ")).map(str::to_owned);
    let listed = peers.iter().map(|peer| format!("cluster_peer {}", cluster.cluster_address(*peer)));
    let lines = lines.iter().map(|&line| line.to_owned());
    std::fs::write(file, lines.chain(listed).chain(kept).collect::<Vec<_>>().join("\n")).expect("a configuration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lists_nobody_waits_to_be_added_and_the_log_shows_what_happens_to_the_cluster() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("alone", 2))?;
    list(&cluster, 0, &[], &["cluster_new true"]);
    list(&cluster, 1, &[], &[]);
    for node in [0, 1] {
        cluster.start_node(node)?;
    }
    cluster.wait_serving(0, TIMEOUT).await?;
    cluster.wait_logged(0, "Cluster: this node forms the cluster", 1).await?;
    cluster.wait_logged(1, &format!("mosquorum cluster add node-1 {}", cluster.cluster_address(1)), 1).await?;
    assert_eq!(wait_voters(&cluster, 0, 1).await.len(), 1);
    let added = cluster.operate(0, &format!("add node-1 {}", cluster.cluster_address(1))).await?;
    assert!(added.as_ref().is_ok_and(|text| text.contains("2 nodes do")), "{added:?}");
    cluster.wait_serving(1, TIMEOUT).await?;
    for line in ["is admitted as n", ", 2 nodes vote"] {
        cluster.wait_logged(0, line, 1).await?;
    }
    cluster.wait_logged(1, "invites this node into its cluster", 1).await?;
    let removed = cluster.operate(0, "remove node-1 --drain 1").await?;
    assert!(removed.is_ok(), "{removed:?}");
    cluster.wait_logged(0, "was removed, 1 nodes vote", 1).await?;
    // Its disk is empty, and its name stays refused: one line says so, however often it asks.
    cluster.kill(1);
    lose_data(&cluster, 1)?;
    list(&cluster, 1, &[0], &[]);
    cluster.start_node(1)?;
    cluster.wait_logged(0, "`node-1` was removed from the cluster", 1).await?;
    wait_kept_out(&cluster, 1, &["this node waits to form or join a cluster", "does not let it in", "was removed"])
        .await;
    assert_eq!(wait_voters(&cluster, 0, 1).await.len(), 1);
    let added = cluster.operate(0, &format!("add node-1 {}", cluster.cluster_address(1))).await?;
    assert!(added.is_ok(), "{added:?}");
    cluster.wait_serving(1, TIMEOUT).await?;
    assert_eq!(cluster.log(0).matches("`node-1` was removed from the cluster").count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_foreign_authority_says_why_it_waits_to_whoever_asks_whether_it_is_ready() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("kept-out", 2))?;
    list(&cluster, 0, &[], &["cluster_new true"]);
    list(&cluster, 1, &[0], &[]);
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    // Of another authority than what node 0 has read.
    cluster.renew_certificates()?;
    cluster.start_node(1)?;
    wait_kept_out(&cluster, 1, &["this node waits to form or join a cluster", "does not answer", "ertificate"]).await;
    let line = "this node waits to form or join a cluster: ";
    cluster.wait_logged(1, line, 1).await?;
    wait_kept_out(&cluster, 1, &[line, "ertificate"]).await;
    assert_eq!(cluster.log(1).matches(line).count(), 1, "the log says it once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_the_data_of_another_one_or_of_a_former_cluster_says_so() -> TestResult {
    if is_stand_in() {
        skip(STAND_IN);
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("odd", 3)).await?;
    wait_voters(&cluster, 0, 3).await;
    for node in [1, 2] {
        cluster.stop_node(node).await?;
    }
    lose_data(&cluster, 2)?;
    copy(cluster.data_folder(1), cluster.data_folder(2))?;
    cluster.start_node(1)?;
    cluster.wait_serving(1, TIMEOUT).await?;
    cluster.start_node(2)?;
    wait_kept_out(&cluster, 2, &["this node finds no majority", "a copy cannot be another node"]).await;
    cluster.kill_all();
    let (done, said) = recover(&cluster, 0, true).await?;
    assert!(done, "{said}");
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    cluster.start_node(1)?;
    wait_kept_out(&cluster, 1, &["this node finds no majority", "belongs to another cluster"]).await;
    Ok(())
}
