//! Routes are known everywhere before they are answered; those of a node that is down are gone.
use super::world::{Answers, World, all};
use crate::{
    facade::{Answer, Peers},
    ids::NodeId,
};

#[test]
fn a_change_of_routes_is_answered_when_every_serving_node_has_it() {
    let world = World::new(3);
    let version = world.nodes[&2].peers.routes_version();
    world.subscribe(1, &["a/+", "$share/g/b"]);
    for node in [2, 3] {
        assert_eq!(world.routes(node, "a/x"), [NodeId(1)]);
        assert_eq!(world.routes(node, "b"), [NodeId(1)]);
    }
    assert_ne!(world.nodes[&2].peers.routes_version(), version);
    assert_eq!(world.routes(1, "a/x"), [], "its own are not remote");
    world.subscribe(2, &["a/x"]);
    assert_eq!(world.routes(3, "a/x"), [NodeId(1), NodeId(2)]);
    let answers = Answers::new();
    world.nodes[&1].peers.change_routes(vec![], all(&["a/+"]), answers.clone(), 9);
    world.wait("the removal is known", |_| answers.take() == [(9, Answer::RoutesKnown)]);
    assert_eq!(world.routes(3, "a/x"), [NodeId(2)]);
}

#[test]
fn a_node_that_begins_to_serve_knows_all_routes_before() {
    let mut world = World::new(3);
    world.subscribe(1, &["a"]);
    world.kill(3);
    world.wait("node 3 is down", |world| world.shared.downs().len() == 1);
    let many: Vec<_> = (0..20_000).map(|n| format!("many/{n}/of/these")).collect();
    world.subscribe(2, &many.iter().map(String::as_str).collect::<Vec<_>>());
    world.start(3);
    world.wait("node 3 serves again", |world| world.nodes[&3].peers.may_serve());
    assert_eq!(world.routes(3, "a"), [NodeId(1)]);
    assert_eq!(world.routes(3, "many/19999/of/these"), [NodeId(2)]);
    assert_eq!(world.nodes[&3].peers.stats().remote_filters, 20_001);
}

#[test]
fn whoever_waits_for_a_node_that_dies_is_answered_when_it_is_down() {
    let mut world = World::new(3);
    world.subscribe(3, &["c"]);
    world.kill(3);
    let answers = Answers::new();
    world.nodes[&1].peers.change_routes(all(&["a"]), vec![], answers.clone(), 1);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(answers.count(), 0, "node 3 serves as far as anybody knows");
    world.wait("node 3 is down", |world| world.shared.downs().len() == 1);
    world.wait("the change is known", |_| answers.count() == 1);
    assert_eq!(world.routes(2, "a"), [NodeId(1)]);
    world.wait("its routes are gone", |world| world.routes(1, "c").is_empty() && world.routes(2, "c").is_empty());
}

#[test]
fn routes_survive_broken_connections() {
    let world = World::new(2);
    let answers = Answers::new();
    for round in 0..50u64 {
        let (added, removed) = (format!("a/{round}"), format!("a/{}", round.wrapping_sub(3)));
        let removed = if round >= 3 { all(&[&removed]) } else { vec![] };
        world.nodes[&1].peers.change_routes(all(&[&added]), removed, answers.clone(), round);
        if round % 7 == 0 {
            world.break_connections(1, 2);
        }
    }
    world.wait("all changes are known", |_| answers.count() == 50);
    assert!(answers.take().into_iter().map(|(ticket, _)| ticket).eq(0..50));
    assert_eq!(world.nodes[&2].peers.stats().remote_filters, 3);
}
