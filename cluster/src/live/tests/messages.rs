//! Forwarded messages: once, in order, answered when the other node has placed them.
use super::world::{Answers, World, filter};
use crate::{
    facade::{Answer, Forward, Peers},
    ids::NodeId,
    live::encode::message,
};
use mosquorum_proto::mqtt::QoS;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

fn forward(topic: &str, payload: &[u8], qos: QoS, nodes: &[u64]) -> Forward {
    let nodes = nodes.iter().map(|node| NodeId(*node)).collect();
    Forward { nodes, ..Forward::new(message(topic, payload, qos)) }
}

#[test]
fn a_message_is_answered_when_every_named_node_has_placed_it() {
    let world = World::new(3);
    let answers = Answers::new();
    let reply = |ticket| Some((answers.clone() as Arc<_>, ticket));
    let peers = &world.nodes[&1].peers;
    peers.forward(forward("a", b"one", QoS::AtLeastOnce, &[2, 3]), reply(1));
    peers.forward(forward("a", b"two", QoS::AtMostOnce, &[2]), reply(2));
    peers.forward(forward("a", &vec![7; 3 << 20], QoS::ExactlyOnce, &[2]), reply(3));
    world.wait("both are answered", |_| answers.count() == 2);
    let mut answered = answers.take();
    answered.sort_unstable_by_key(|(ticket, _)| *ticket);
    assert_eq!(answered, [(1, Answer::Forwarded), (3, Answer::Forwarded)]);
    let delivered = world.nodes[&2].live.delivered.lock();
    let payloads: Vec<_> = delivered.iter().map(|(message, ordinary, _)| (message.payload.len(), *ordinary)).collect();
    assert_eq!(payloads, [(3, true), (3, true), (3 << 20, true)]);
    assert_eq!(*delivered[0].0, *message("a", b"one", QoS::AtLeastOnce));
    assert_eq!(world.nodes[&3].live.delivered.lock().len(), 1);
}

#[test]
fn messages_arrive_once_and_in_order_over_broken_connections() {
    let world = World::new(2);
    let answers = Answers::new();
    for number in 0..3000u64 {
        let reply = Some((answers.clone() as Arc<_>, number));
        world.nodes[&1].peers.forward(forward("a", &number.to_be_bytes(), QoS::AtLeastOnce, &[2]), reply);
        if number % 500 == 250 {
            std::thread::sleep(Duration::from_millis(30));
            world.break_connections(1, 2);
        }
    }
    world.wait("all are answered", |_| answers.count() == 3000);
    assert!(answers.take().into_iter().map(|(ticket, _)| ticket).eq(0..3000));
    let delivered = world.nodes[&2].live.delivered.lock();
    let numbers: Vec<_> = delivered.iter().map(|(message, ..)| message.payload.clone()).collect();
    assert!(
        numbers.iter().map(|payload| &payload[..]).eq((0..3000u64).map(u64::to_be_bytes).collect::<Vec<_>>().iter())
    );
}

#[test]
fn a_group_without_members_on_one_node_is_served_on_another() {
    let world = World::new(3);
    let group = filter("$share/g/a");
    world.subscribe(2, &["$share/g/a"]);
    world.subscribe(3, &["$share/g/a"]);
    world.nodes[&3].live.groups.lock().insert(group.clone());
    let answers = Answers::new();
    let groups = vec![(group.clone(), NodeId(2))];
    let handed = Forward { groups, ..Forward::new(message("a", b"x", QoS::AtLeastOnce)) };
    world.nodes[&1].peers.forward(handed.clone(), Some((answers.clone(), 1)));
    world.wait("it is placed on node 3", |world| !world.nodes[&3].live.delivered.lock().is_empty());
    assert_eq!(world.nodes[&3].live.delivered.lock()[0].2, std::slice::from_ref(&group));
    world.nodes[&3].live.groups.lock().clear();
    world.nodes[&1].peers.forward(handed, Some((answers.clone(), 2)));
    world.wait("nobody has a member", |world| *world.nodes[&1].live.unserved.lock() == [group.clone()]);
    world.wait("both are answered", |_| answers.count() == 2);
    assert!(world.nodes[&2].live.delivered.lock().is_empty());
}

#[test]
fn a_group_message_on_its_way_to_a_node_that_dies_goes_to_another() {
    let mut world = World::new(3);
    let group = filter("$share/g/a");
    world.subscribe(2, &["$share/g/a"]);
    world.subscribe(3, &["$share/g/a"]);
    world.nodes[&2].live.groups.lock().insert(group.clone());
    world.kill(3);
    let answers = Answers::new();
    let groups = vec![(group.clone(), NodeId(3))];
    let handed = Forward { groups, ..Forward::new(message("a", b"x", QoS::AtLeastOnce)) };
    world.nodes[&1].peers.forward(handed, Some((answers.clone(), 1)));
    world.wait("it is placed on node 2", |world| !world.nodes[&2].live.delivered.lock().is_empty());
    world.wait("it is answered", |_| answers.count() == 1);
}

#[test]
fn messages_for_a_node_that_dies_are_answered_when_it_is_down() {
    let mut world = World::new(3);
    world.kill(3);
    let answers = Answers::new();
    world.nodes[&1].peers.forward(forward("a", b"x", QoS::AtLeastOnce, &[2, 3]), Some((answers.clone(), 1)));
    world.wait("node 3 is down", |world| world.shared.downs().len() == 1);
    world.wait("it is answered", |_| answers.count() == 1);
    world.nodes[&1].peers.forward(forward("a", b"x", QoS::AtLeastOnce, &[3]), Some((answers.clone(), 2)));
    assert_eq!(answers.count(), 2, "at once");
}

/// Run with `--release -- --ignored --nocapture` for figures.
#[test]
#[ignore = "a measurement"]
fn throughput() {
    const COUNT: u64 = 1_000_000;
    let world = World::new(2);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (from, to) = (&world.nodes[&1], &world.nodes[&2]);
        to.live.only_count.store(true, Ordering::Relaxed);
        to.live.count.store(0, Ordering::Relaxed);
        let answers = Answers::new();
        let one = forward("sensors/building/7/temperature", &[7; 64], qos, &[2]);
        let (started, cpu) = (Instant::now(), cpu_seconds());
        for ticket in 0..COUNT {
            while from.peers.congested() {
                std::thread::sleep(Duration::from_micros(200));
            }
            let message = Arc::new((*one.message).clone());
            from.peers.forward(Forward { message, ..one.clone() }, Some((answers.clone(), ticket)));
        }
        world.wait("all arrived", |_| to.live.count.load(Ordering::Relaxed) >= COUNT);
        let seconds = started.elapsed().as_secs_f64();
        let cpu = (cpu_seconds() - cpu) * 1e6 / COUNT as f64;
        println!("{qos:?}: {:.0} messages/s, {cpu:.2} us of CPU each, both ends", COUNT as f64 / seconds);
        println!("{:?}", from.peers.stats());
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
