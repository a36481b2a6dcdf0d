//! Claims between nodes.
use super::world::World;
use crate::{
    facade::Peers,
    ids::{ConnectionId, Epoch},
};
use std::time::{Duration, Instant};

#[test]
fn a_later_claim_ends_the_earlier_connection_wherever_it_is() {
    let world = World::new(3);
    let claim = |node: u64, connection| {
        let owner = world.owner(node, connection);
        world.block_on(world.nodes[&node].peers.claim("client".into(), owner, None)).expect("a majority is there").epoch
    };
    let first = claim(2, 21);
    let second = claim(3, 31);
    assert_eq!(*world.nodes[&2].live.fenced.lock(), [ConnectionId(21)]);
    assert!(second > first);
    let third = claim(1, 11);
    assert_eq!(*world.nodes[&3].live.fenced.lock(), [ConnectionId(31)]);
    world.elect(2);
    let fourth = claim(3, 32);
    assert_eq!(*world.nodes[&1].live.fenced.lock(), [ConnectionId(11)], "known from the announcement");
    assert!(third > second && fourth > third);
    world.nodes[&3].peers.release(&"client".into(), world.owner(3, 32));
    world.wait("it is released", |world| world.nodes[&2].peers.stats().claims_held == 0);
    claim(1, 12);
    assert_eq!(world.nodes[&3].live.fenced.lock().len(), 1);
}

#[test]
fn a_claim_waits_until_the_former_owner_s_node_is_down() {
    let mut world = World::new(3);
    let owner = world.owner(3, 31);
    world.block_on(world.nodes[&3].peers.claim("client".into(), owner, None)).expect("a majority is there");
    world.kill(3);
    let started = Instant::now();
    let (next, session) = (world.owner(2, 21), owner);
    let claim = world.nodes[&2].peers.claim("client".into(), next, None);
    let fence = world.nodes[&1].peers.fence("other".into(), session, Epoch(5));
    world.block_on(claim).expect("the node is down at last");
    world.block_on(fence).expect("the node is down at last");
    assert!(started.elapsed() > Duration::from_millis(1000), "its lease may have been valid until then");
    assert_eq!(world.shared.downs().len(), 1);
}

#[test]
fn claims_on_their_way_survive_a_change_of_the_leader() {
    let world = World::new(3);
    let claims: Vec<_> = (0..300u64)
        .map(|number| {
            if number % 60 == 59 {
                world.elect(1 + number / 60 % 3);
            }
            let node = 1 + number % 3;
            let client = format!("client{}", number / 3);
            let owner = world.owner(node, 1000 + number);
            (client.clone(), world.nodes[&node].peers.claim(client.as_str().into(), owner, None))
        })
        .collect();
    let mut won = std::collections::BTreeMap::<_, usize>::new();
    world.block_on(async {
        for (client, claim) in claims {
            *won.entry(client).or_default() += usize::from(claim.await.is_ok());
        }
    });
    assert!(won.values().all(|won| *won >= 1), "{won:?}");
}

#[test]
fn a_claim_that_is_given_up_leaves_nothing_behind() {
    let world = World::new(2);
    world.isolate(2, true);
    drop(world.nodes[&1].peers.claim("client".into(), world.owner(1, 1), None));
    world.wait("nothing is left", |world| {
        let stats = world.nodes[&1].peers.stats();
        stats.claims_held == 0 && stats.claims_pending == 0
    });
}

#[test]
fn a_storm_of_connects_is_answered() {
    const CLIENTS: u64 = 10_000;
    let world = World::new(3);
    let started = Instant::now();
    let claims: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let owner = world.owner(2, number);
            world.nodes[&2].peers.claim(format!("client{number}").as_str().into(), owner, None)
        })
        .collect();
    world.block_on(async {
        for claim in claims {
            claim.await.expect("a majority is there");
        }
    });
    println!("{CLIENTS} claims in {:?}", started.elapsed());
    assert_eq!(world.nodes[&1].peers.stats().claims_held, CLIENTS);
}
