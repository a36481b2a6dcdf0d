//! Leases between nodes: who is cut off ends its incarnation before it is declared down, and comes back as another.
use super::world::World;
use crate::{
    facade::Peers,
    ids::{Incarnation, NodeId},
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

#[test]
fn a_node_that_is_cut_off_stops_serving_before_it_is_down_and_comes_back() {
    let world = World::new(3);
    let started = Instant::now();
    world.isolate(3, true);
    let mut last_served = started;
    world.wait("node 3 is down", |world| {
        if world.nodes[&3].peers.may_serve() {
            last_served = Instant::now();
        }
        world.shared.downs().len() == 1
    });
    let (node, incarnation, at) = world.shared.downs()[0];
    assert_eq!((node, incarnation), (NodeId(3), Incarnation(1)));
    assert!(last_served < at);
    assert!(at - started < Duration::from_millis(3500), "{:?}", at - started);
    world.wait("its connections are closed", |world| *world.nodes[&3].live.lost.lock() == [Incarnation(1)]);
    assert!(world.nodes[&1].peers.may_serve() && world.nodes[&2].peers.may_serve());
    world.isolate(3, false);
    // The stand-in for consensus: it sees itself down.
    world.shared.down(NodeId(3), Incarnation(1));
    crate::live::context::ClusterContext::incarnation_over(&*world.nodes[&3].context, Incarnation(1));
    world.wait("node 3 serves again", |world| world.nodes[&3].peers.may_serve());
    assert_eq!(world.owner(3, 1).incarnation, Incarnation(2));
    world.subscribe(3, &["a"]);
    assert_eq!(world.routes(1, "a"), [NodeId(3)]);
}

#[test]
fn a_node_that_is_pinged_but_does_not_get_what_others_applied_ends_its_incarnation() {
    let world = World::new(3);
    let applied = |node: u64, index: u64| world.nodes[&node].context.applied.store(index, Ordering::Relaxed);
    (1..=3).for_each(|node| applied(node, 7));
    (1..=2).for_each(|node| applied(node, 9));
    let since = Instant::now();
    world.wait("its connections are closed", |world| *world.nodes[&3].live.lost.lock() == [Incarnation(1)]);
    let after = since.elapsed();
    assert!(after > Duration::from_millis(2500) && after < Duration::from_millis(5000), "{after:?}");
    assert!(world.nodes[&1].peers.may_serve() && world.nodes[&2].peers.may_serve());
    applied(3, 9);
    world.wait("node 3 serves again", |world| world.nodes[&3].peers.may_serve());
    assert_eq!(world.owner(3, 1).incarnation, Incarnation(2));
}

#[test]
fn a_killed_node_is_down_in_time() {
    let mut world = World::new(3);
    world.kill(2);
    let killed = Instant::now();
    world.wait("node 2 is down", |world| world.shared.downs().len() == 1);
    let after = world.shared.downs()[0].2 - killed;
    println!("declared down {after:?} after its death");
    assert!(after < Duration::from_millis(3500), "{after:?}");
    assert!(after > Duration::from_millis(1000), "{after:?}");
}

#[test]
fn without_a_majority_nobody_serves_and_nobody_is_down() {
    let mut world = World::new(3);
    world.kill(2);
    world.kill(3);
    world.wait("node 1 stops", |world| !world.nodes[&1].peers.may_serve());
    std::thread::sleep(Duration::from_millis(500));
    assert!(world.shared.downs().is_empty());
    assert_eq!(*world.nodes[&1].live.lost.lock(), [Incarnation(1)]);
}

#[test]
fn a_single_node_serves_for_ever() {
    let world = World::new(1);
    std::thread::sleep(Duration::from_millis(2000));
    assert!(world.nodes[&1].peers.may_serve());
    world.subscribe(1, &["a"]);
}
