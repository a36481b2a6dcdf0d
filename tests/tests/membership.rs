//! Changes of a cluster's size, and what is left of one that has lost its majority.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, PATIENCE, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::TestResult,
};
use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

const STAND_IN: &str = "MOSQUORUM_BIN is Eclipse Mosquitto, which has no cluster";

fn durable(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    connect.clean_start = false;
    connect.session_expiry_interval = Some(3600);
    connect
}

/// Numbers of the voters by name, as a node tells them.
async fn voters(cluster: &Cluster, node: usize) -> BTreeMap<String, u64> {
    let status = cluster.status(node).await.unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let voters = members.iter().filter(|member| member["voter"] == true);
    voters.filter_map(|member| Some((member["name"].as_str()?.to_owned(), member["id"].as_u64()?))).collect()
}

async fn wait_voters(cluster: &Cluster, node: usize, wanted: usize) -> BTreeMap<String, u64> {
    let deadline = Instant::now() + 2 * PATIENCE;
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
    cluster.wait_serving(0, PATIENCE).await?;
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
    cluster.wait_all_serving(PATIENCE).await?;
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
    assert!(!done && said.contains("nothing was changed") && said.contains("lost: whatever"), "{said}");
    assert!(said.contains("2 sessions and 1 retained messages"), "{said}");
    let (done, said) = recover(&cluster, 0, true).await?;
    assert!(done && said.contains("the only member of the new cluster"), "{said}");
    // Once more: nothing depends on how often it is done.
    let (done, said) = recover(&cluster, 0, true).await?;
    assert!(done && said.contains("other members: none"), "{said}");
    cluster.start_node(0)?;
    cluster.wait_serving(0, PATIENCE).await?;
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
    cluster.wait_all_serving(PATIENCE).await?;
    let (mut reader, _) =
        Connection::connected(cluster.address(2), Connect::new(ProtocolVersion::V5, "reader")).await?;
    reader.subscribe_to("kept/b", QoS::AtMostOnce).await?;
    assert_eq!(reader.receive().await?.payload, "for ever");
    Ok(())
}
