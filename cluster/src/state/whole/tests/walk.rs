//! Walks in steps.
use super::*;

#[test]
fn a_step_of_a_walk_looks_at_a_bounded_number_of_sessions_and_all_are_seen_once_whoever_comes_and_goes() {
    let mut world = World::new();
    let number = 3 * WALK_VISITS + 7;
    let connects = (0..number).map(|number| Command::Connect(Box::new(connect(&format!("c{number:05}")))));
    let batch = world.batch(NODE, connects.collect());
    world.index += 1;
    world.state.apply(LogIndex(world.index), &batch, &mut Applied::default());
    let (mut seen, mut walk, mut steps) = (Vec::new(), SessionWalk::default(), 0);
    loop {
        let before = seen.len();
        let more = world.state.walk_sessions(&mut walk, |session| seen.push(session.client_id().clone()));
        assert!(seen.len() <= before + WALK_VISITS);
        if !more {
            break;
        }
        steps += 1;
        world.apply(Command::EndSession { client_id: format!("c{:05}", steps * 1000 + 5).into() });
        world.connect(connect(&format!("new{steps}")));
    }
    assert_eq!(steps, 3);
    let stayed = |client_id: &Utf8| client_id.starts_with('c') && world.state.session(client_id).is_some();
    let mut old: Vec<_> = seen.iter().filter(|client_id| stayed(client_id)).collect();
    old.sort_unstable();
    old.dedup();
    assert_eq!(old.len(), number - 3);
    assert_eq!(seen.iter().filter(|client_id| stayed(client_id)).count(), number - 3, "each once");
}

#[test]
fn a_walk_over_subscriptions_goes_on_within_a_session_and_not_into_another_one_at_its_place() {
    let mut world = World::new();
    let filters = 2 * WALK_VISITS + 10;
    for client_id in ["a", "b"] {
        let (epoch, ..) = world.connect(connect(client_id));
        let subscriptions = (0..filters).map(|number| sub(&format!("{client_id}/{number:05}"), 1)).collect();
        world.apply(Command::Subscribe { client_id: client_id.into(), epoch, subscriptions, identifier: None });
    }
    let (mut seen, mut walk) = (Vec::new(), SubscriptionWalk::default());
    let step = |world: &World, walk: &mut SubscriptionWalk, seen: &mut Vec<String>| {
        let before = seen.len();
        let more = world.state.walk_subscriptions(walk, |_, filter, _| seen.push(filter.to_string()));
        assert!(seen.len() <= before + WALK_VISITS);
        more
    };
    while step(&world, &mut walk, &mut seen) {}
    let all = |client_id: &str| (0..filters).map(|number| format!("{client_id}/{number:05}")).collect::<Vec<_>>();
    assert_eq!(seen, [all("a"), all("b")].concat());
    let (mut seen, mut walk) = (Vec::new(), SubscriptionWalk::default());
    assert!(step(&world, &mut walk, &mut seen));
    world.apply(Command::EndSession { client_id: "a".into() });
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("0", 1));
    while step(&world, &mut walk, &mut seen) {}
    assert!(seen.contains(&"0".to_owned()), "from its beginning");
    assert_eq!(seen.len(), WALK_VISITS - 1 + 1 + filters);
}
