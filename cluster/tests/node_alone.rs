//! A node alone: the same way as in a cluster, with a majority of one.
mod common;
use bytes::Bytes;
use common::*;
use mosquorum_cluster::{
    Answer, Consensus, Persistence, RaftSettings, Submission,
    ids::Millis,
    state::{Command, Message, PublishCommand},
};
use mosquorum_proto::mqtt::{QoS, TopicName};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn settings(dir: &TempDir) -> RaftSettings {
    RaftSettings {
        snapshot_path: Some(dir.0.join("mosquorum.db")),
        ..RaftSettings::alone(dir.0.join("mosquorum.db.d"), "alone")
    }
}

fn expect_in_order(answers: &Answers, tickets: std::ops::Range<u64>) {
    for ticket in tickets {
        let (got, answer) = answers.next(SOON).expect("an answer");
        assert_eq!(got, ticket);
        assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_answered_is_there_after_a_restart() {
    let dir = TempDir::new();
    let answers = Answers::new();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    assert!(dir.0.join("mosquorum.db").exists(), "the persistence file is there before anybody is served");
    node.submit(&answers, 0..500);
    expect_in_order(&answers, 0..500);
    let first = node.consensus.status();
    let origin = node.consensus.origin();
    node.consensus.shutdown().await;
    drop(node);

    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    let second = node.consensus.status();
    assert!(second.applied > first.applied);
    assert!(node.consensus.origin().incarnation > origin.incarnation);
    node.submit(&answers, 500..600);
    expect_in_order(&answers, 500..600);
    node.kill();

    let node = start(settings(&dir)).await;
    until("serving after a kill", SOON, || node.consensus.available()).await;
    assert!(node.consensus.status().applied > second.applied);
    assert!(node.failed.lock().unwrap().is_none());
    node.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn barriers_pass_and_a_checkpoint_is_written_on_request() {
    let dir = TempDir::new();
    let answers = Answers::new();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    node.submit(&answers, 0..100);
    expect_in_order(&answers, 0..100);
    node.consensus.barrier(answers.clone(), 7);
    assert_eq!(answers.next(SOON), Some((7, Answer::BarrierPassed)));
    let applied = node.consensus.status().applied;
    node.consensus.checkpoint().await.unwrap();
    assert!(node.consensus.status().snapshot >= applied);
    node.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_removed_persistence_file_means_an_empty_start_and_deletes_nothing() {
    let dir = TempDir::new();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    let before = node.consensus.cluster_id();
    node.consensus.shutdown().await;
    drop(node);
    std::fs::remove_file(dir.0.join("mosquorum.db")).unwrap();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    assert_ne!(node.consensus.cluster_id(), before);
    assert!(dir.0.join("mosquorum.db.d.damaged-1").exists());
    node.consensus.shutdown().await;
}

/// Twice, since the first start after a restore writes files of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_copy_of_the_persistence_file_alone_restores_the_node() {
    let (dir, elsewhere) = (TempDir::new(), TempDir::new());
    let answers = Answers::new();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    node.submit(&answers, 0..100);
    expect_in_order(&answers, 0..100);
    let (before, origin) = (node.consensus.status(), node.consensus.origin());
    // A node that stops leaves a file that is complete.
    node.consensus.shutdown().await;
    drop(node);
    std::fs::copy(dir.0.join("mosquorum.db"), elsewhere.0.join("mosquorum.db")).unwrap();
    let mut last = origin.incarnation;
    for tickets in [100..200, 200..300] {
        let node = start(settings(&elsewhere)).await;
        until("serving again", SOON, || node.consensus.available()).await;
        assert!(node.consensus.status().applied > before.applied);
        assert!(node.consensus.origin().incarnation > last);
        last = node.consensus.origin().incarnation;
        node.submit(&answers, tickets.clone());
        expect_in_order(&answers, tickets);
        node.consensus.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_persistence_the_same_way_goes_through_memory() {
    let dir = TempDir::new();
    let answers = Answers::new();
    let node =
        start(RaftSettings { persistence: Persistence::Memory, ..RaftSettings::alone(dir.0.join("unused"), "alone") })
            .await;
    until("serving", SOON, || node.consensus.available()).await;
    node.submit(&answers, 0..100);
    expect_in_order(&answers, 0..100);
    assert!(!dir.0.join("unused").exists());
    node.consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_value_that_is_damaged_in_the_state_store_stops_the_node_once_and_is_there_again_at_the_next_start() {
    let dir = TempDir::new();
    let answers = Answers::new();
    let node = start(settings(&dir)).await;
    until("serving", SOON, || node.consensus.available()).await;
    let topic = TopicName::try_from("large").unwrap();
    // Too large for sled itself: it lies in a file beside.
    let payload = Bytes::from(vec![5; 20 << 10]);
    let message = Message::new(topic.clone(), payload.clone(), QoS::AtLeastOnce, node.consensus.now());
    let message = Message { retain: true, publisher_id: "p".into(), ..message };
    let command = Command::Publish(PublishCommand::new(message.into()));
    node.consensus.submit(vec![Submission { command, reply: answers.clone(), ticket: 0, incarnation: None }]);
    expect_in_order(&answers, 0..1);
    node.consensus.checkpoint().await.unwrap();
    let blobs = dir.0.join("mosquorum.db.d/state/blobs");
    let blob = std::fs::read_dir(blobs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[10_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    assert!(node.consensus.checkpoint().await.is_err());
    assert!(node.failed.lock().unwrap().as_ref().is_some_and(|why| why.contains("state store")));
    node.kill();
    for _ in 0..2 {
        let node = start(settings(&dir)).await;
        until("serving again", SOON, || node.consensus.available()).await;
        let found = node.consensus.state().read().retained(&topic, Millis(0)).map(|message| message.payload.clone());
        assert_eq!(found, Some(payload.clone()));
        node.consensus.shutdown().await;
    }
    assert!(dir.0.join("mosquorum.db.d/state.damaged-1").exists(), "nothing was deleted");
    assert!(!dir.0.join("mosquorum.db.d/state.damaged-2").exists());
}
