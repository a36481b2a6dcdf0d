//! The backup of a node alone is one file, as Mosquitto's is: SIGUSR1 writes it, its copy restores everything.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use mosquorum_tests::{
    backlog::Backlog,
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::TestResult,
};
use std::fs;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_persistence_file_copied_away_alone_restores_sessions_queues_and_retained_messages() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which says nothing when its file is complete");
        return Ok(());
    }
    let options = |name| ClusterOptions::new(name, 1).persistent().with("persistence_file backup.db");
    let mut original = Cluster::start(options("backup-of")).await?;
    let mut backlog = Backlog::create(original.address(0), "meter", 100).await?;
    backlog.publish(original.address(0), 200).await?;
    let client = Connect::new(ProtocolVersion::V5, "retainer");
    let (mut publisher, _) = Connection::connected(original.address(0), client.clone()).await?;
    let mut retained = message("kept/value", "42", QoS::AtLeastOnce);
    retained.retain = true;
    publisher.publish(retained).await?;
    original.signal(0, rustix::process::Signal::USR1);
    original.wait_logged(0, "Saved the state to", 1).await?;
    let copy = original.folder().join("copied-away.db");
    fs::copy(original.data_folder(0).join("backup.db"), &copy)?;

    let mut restored = Cluster::prepare(options("backup-to"))?;
    fs::copy(&copy, restored.data_folder(0).join("backup.db"))?;
    drop(original);
    restored.start_node(0)?;
    restored.wait_serving(0, TIMEOUT).await?;
    backlog.fetch(restored.address(0)).await?;
    let (mut reader, _) = Connection::connected(restored.address(0), client).await?;
    reader.subscribe_to("kept/#", QoS::AtLeastOnce).await?;
    let kept = reader.receive().await?;
    assert_eq!((&kept.payload[..], kept.retain), (&b"42"[..], true));
    Ok(())
}
