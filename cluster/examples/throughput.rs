//! Measures commands per second and their latency through one node or three on loopback, with real files.
//! Usage: throughput <nodes> <concurrent submitters> <seconds> [payload bytes] [submit at: leader|follower]
#![allow(clippy::unwrap_used)] // what fails ends the test
use bytes::Bytes;
use mosquorum_cluster::{
    Answer, BoxFuture, Completion, Consensus, FenceReason, LiveSide, OrdinaryReceivers, RaftConsensus, RaftSettings,
    Submission,
    ids::{ConnectionId, Incarnation},
    state::{Command, Effect, Message, Owner, PublishCommand},
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};
use std::{
    net::TcpListener,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

struct Quiet;

impl LiveSide for Quiet {
    fn on_effects(&self, _: Vec<Effect>) {}
    fn deliver(&self, _: Arc<Message>, _: OrdinaryReceivers, groups: &[TopicFilter]) -> Vec<TopicFilter> {
        groups.to_vec()
    }
    fn fence(&self, _: Utf8, _: ConnectionId, _: FenceReason) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    fn lease_lost(&self, _: Incarnation) {}
    fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        Vec::new()
    }
}

struct Answers(Mutex<mpsc::Sender<u64>>);

impl Completion for Answers {
    fn complete(&self, ticket: u64, _: Answer) {
        let _ = self.0.lock().unwrap().send(ticket);
    }
}

fn publish(ticket: u64, payload: &Bytes, topic: &TopicName, retain: bool) -> Command {
    let _ = ticket;
    let message = Message::new(topic.clone(), payload.clone(), QoS::AtLeastOnce, mosquorum_cluster::ids::Millis(1));
    let message = Message { retain, publisher_id: "p".into(), ..message };
    Command::Publish(PublishCommand::new(Arc::new(message)))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (count, concurrent, seconds, bytes) =
        (number(1, 1) as usize, number(2, 64), number(3, 5), number(4, 300) as usize);
    let at_leader = arguments.get(5).is_none_or(|a| a == "leader");
    let dir = std::env::temp_dir().join(format!("mosquorum-throughput-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let nodes = runtime.block_on(start(count, &dir));
    let leads = |node: &Arc<RaftConsensus>| node.leadership().is_some_and(|(_, _, is_self)| is_self);
    let node = nodes.iter().find(|node| count == 1 || leads(node) == at_leader).expect("one leads, others do not");

    let (sender, receiver) = mpsc::channel();
    let answers = Arc::new(Answers(Mutex::new(sender)));
    let payload = Bytes::from(vec![b'x'; bytes]);
    let topics: Vec<TopicName> =
        (0..1000).map(|n| TopicName::try_from(format!("sensor/{n}/state").as_str()).unwrap()).collect();
    let submit = |ticket: u64| Submission {
        command: publish(ticket, &payload, &topics[(ticket % 1000) as usize], true),
        reply: answers.clone(),
        ticket,
        incarnation: None,
    };
    let mut sent_at: Vec<Instant> = Vec::new();
    let mut latencies = Vec::new();
    let since = Instant::now();
    for ticket in 0..concurrent {
        sent_at.push(Instant::now());
        node.submit(vec![submit(ticket)]);
    }
    let mut next = concurrent;
    while since.elapsed() < Duration::from_secs(seconds) {
        let mut batch = Vec::new();
        let Ok(first) = receiver.recv_timeout(Duration::from_secs(5)) else { panic!("no answer for 5 s") };
        for ticket in std::iter::once(first).chain(receiver.try_iter()) {
            latencies.push(sent_at[ticket as usize].elapsed().as_micros() as u64);
            sent_at.push(Instant::now());
            batch.push(submit(next));
            next += 1;
        }
        node.submit(batch);
    }
    let rate = latencies.len() as f64 / since.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |p: f64| latencies[((latencies.len() - 1) as f64 * p) as usize];
    println!(
        "{count} nodes, {concurrent} at once, {bytes} bytes: {rate:.0}/s, p50 {} us, p99 {} us, max {} us",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let barriers = 500;
    let since = Instant::now();
    for ticket in 0..barriers {
        node.barrier(answers.clone(), ticket);
        while receiver.recv().unwrap() != ticket {}
    }
    println!("barrier, one after the other: {} us", since.elapsed().as_micros() as u64 / barriers);
    drop(nodes);
    let _ = std::fs::remove_dir_all(dir);
}

async fn start(count: usize, dir: &std::path::Path) -> Vec<Arc<RaftConsensus>> {
    let ports: Vec<u16> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()).collect();
    let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut nodes = Vec::new();
    std::fs::create_dir_all(dir).unwrap();
    for index in 0..count {
        let alone = RaftSettings::alone(dir.join(format!("{index}")), &format!("node-{index}"));
        let settings = RaftSettings {
            advertise: addresses[index].clone(),
            listen: Some(addresses[index].parse().unwrap()),
            peers: addresses.clone(),
            ..alone
        };
        let fatal = Arc::new(|reason: String| panic!("{reason}"));
        nodes.push(RaftConsensus::start(settings, Arc::new(Quiet), fatal, None).await.unwrap());
    }
    while !nodes.iter().all(|node| node.available() && node.members().iter().filter(|m| m.voter).count() == count) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nodes
}
