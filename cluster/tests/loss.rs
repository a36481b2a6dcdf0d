//! Nodes die while they are written to; whatever was answered stays.
#![allow(clippy::disallowed_methods)] // threads of tests may wait
#![allow(clippy::unwrap_used)] // what fails ends the test
mod common;
use bytes::Bytes;
use common::*;
use mosquorum_cluster::{
    Answer, Consensus, RaftSettings, Submission,
    ids::Millis,
    state::{Command, Message, PublishCommand},
};
use mosquorum_proto::mqtt::{QoS, TopicName};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);

fn publish(number: u64, now: Millis) -> Command {
    publish_bytes(number, Bytes::from(format!("{number}")), now)
}

fn publish_bytes(number: u64, payload: Bytes, now: Millis) -> Command {
    let message =
        Message::new(TopicName::try_from(format!("t/{number}").as_str()).unwrap(), payload, QoS::AtLeastOnce, now);
    let message = Message { retain: true, publisher_id: "p".into(), ..message };
    Command::Publish(PublishCommand::new(Arc::new(message)))
}

fn has_retained(node: &Node, number: u64) -> bool {
    let state = node.consensus.state().read();
    let topic = TopicName::try_from(format!("t/{number}").as_str()).unwrap();
    state.retained(&topic, Millis(0)).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_answered_is_lost_when_nodes_die_one_after_the_other() {
    let plan = Arc::new(Plan::new(3));
    // Small enough that snapshots and purges happen all the time.
    let settings = |plan: &Plan, index| RaftSettings { snapshot_log_bytes: 1 << 20, ..plan.settings(index, 3) };
    let mut first = Vec::new();
    for index in 0..3 {
        first.push(Some(start(settings(&plan, index)).await));
    }
    until("all serve", SOON, || first.iter().flatten().all(|node| node.consensus.available())).await;
    let nodes = Arc::new(Mutex::new(first));
    let answered: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3u64)
        .map(|index| {
            let (nodes, answered, stop) = (nodes.clone(), answered.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut number = index * 1_000_000;
                while !stop.load(Ordering::Relaxed) {
                    let answers = Answers::new();
                    {
                        let nodes = nodes.lock().unwrap();
                        let Some(node) = &nodes[index as usize] else {
                            drop(nodes);
                            std::thread::sleep(Duration::from_millis(20));
                            continue;
                        };
                        let now = node.consensus.now();
                        let batch = (number..number + 20).map(|number| Submission {
                            command: publish(number, now),
                            reply: answers.clone(),
                            ticket: number,
                            incarnation: None,
                        });
                        node.consensus.submit(batch.collect());
                    }
                    for _ in 0..20 {
                        let Some((ticket, Answer::Applied { .. })) = answers.next(Duration::from_secs(4)) else {
                            break;
                        };
                        answered.lock().unwrap().insert(ticket);
                    }
                    number += 20;
                }
            })
        })
        .collect();
    let since = Instant::now();
    let mut victim = 0;
    while since.elapsed() < Duration::from_secs(9) {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let killed = nodes.lock().unwrap()[victim].take();
        killed.unwrap().kill();
        tokio::time::sleep(Duration::from_millis(900)).await;
        let node = start(settings(&plan, victim)).await;
        until("the restarted node serves", SOON, || node.consensus.available()).await;
        nodes.lock().unwrap()[victim] = Some(node);
        victim = (victim + 1) % 3;
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    // Power off all of them at once, and on again.
    nodes.lock().unwrap().iter_mut().for_each(|node| node.take().unwrap().kill());
    let mut last = Vec::new();
    for index in 0..3 {
        last.push(start(settings(&plan, index)).await);
    }
    until("all serve again", SOON, || last.iter().all(|node| node.consensus.available())).await;
    let answered = answered.lock().unwrap().clone();
    eprintln!("{} answered", answered.len());
    assert!(answered.len() > 500);
    for node in &last {
        until("everything is applied", SOON, || answered.iter().all(|number| has_retained(node, *number))).await;
        assert!(node.failed.lock().unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_larger_than_any_frame_reaches_every_node() {
    const BYTES: usize = 24 << 20;
    let plan = Plan::new(3);
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(start(plan.settings(index, 3)).await);
    }
    until("all serve", SOON, || nodes.iter().all(|node| node.consensus.available())).await;
    let answers = Answers::new();
    for (number, node) in nodes.iter().enumerate() {
        let command = publish_bytes(number as u64, Bytes::from(vec![number as u8; BYTES]), node.consensus.now());
        let (reply, ticket) = (answers.clone(), number as u64);
        node.consensus.submit(vec![Submission { command, reply, ticket, incarnation: None }]);
    }
    let mut answered: Vec<u64> = (0..3).map(|_| answers.next(SOON).expect("an answer").0).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 1, 2]);
    for node in &nodes {
        until("it is everywhere", SOON, || (0..3).all(|number| has_retained(node, number))).await;
    }
    nodes[1].consensus.checkpoint().await.unwrap();
    let term = nodes[0].consensus.status().term;
    assert!(nodes.iter().all(|node| node.consensus.status().term == term && node.failed.lock().unwrap().is_none()));
}
