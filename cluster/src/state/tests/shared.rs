//! Shared subscriptions. Covers MQTT 5.0 section 4.8.2.
use super::*;

/// Connected members, in this order.
fn group(world: &mut World, members: &[&str], qos: u8) -> Vec<Epoch> {
    let mut epochs = Vec::new();
    for member in members {
        let (epoch, ..) = world.connect(connect(member));
        world.subscribe(member, epoch, sub("$share/g/a", qos));
        epochs.push(epoch);
    }
    epochs
}

fn publish_numbers(world: &mut World, numbers: std::ops::Range<u32>, qos: u8) {
    for number in numbers {
        assert_eq!(world.publish(message("a", &number.to_string(), qos)), 1);
    }
}

#[test]
fn members_take_turns_from_the_first_subscriber_on() {
    let mut world = World::new();
    group(&mut world, &["b", "a", "c"], 1);
    publish_numbers(&mut world, 0..7, 1);
    assert_eq!(world.queue("b"), ["0", "3", "6"]);
    assert_eq!(world.queue("a"), ["1", "4"]);
    assert_eq!(world.queue("c"), ["2", "5"]);
    assert_eq!(world.state.group_members(&sub("$share/g/a", 0).filter), (3, 3));
    let entry = world.session("b").queue().iter_from(0).next().unwrap();
    assert_eq!(entry.group(), Some(&sub("$share/g/a", 0).filter));
}

#[test]
fn connected_members_are_preferred_and_without_one_messages_wait() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a", "b"], 1);
    world.disconnect("a", epochs[0], true);
    publish_numbers(&mut world, 0..2, 1);
    assert_eq!(world.queue("b"), ["0", "1"]);
    world.disconnect("b", epochs[1], true);
    publish_numbers(&mut world, 2..4, 1);
    assert_eq!((world.queue("a"), world.queue("b").len()), (vec!["2".to_owned()], 3));
}

#[test]
fn group_served_by_a_live_member_gets_no_second_copy_and_a_redispatch_goes_to_one_group_only() {
    let mut world = World::new();
    group(&mut world, &["a"], 1);
    world.sleeper("plain", &["a"]);
    world.sleeper("other", &["$share/h/a"]);
    let Command::Publish(command) = publish(message("a", "1", 1)) else { unreachable!() };
    let filter = sub("$share/g/a", 0).filter;
    let served = PublishCommand { groups_served: vec![filter.clone()], ..command.clone() };
    assert_eq!(world.apply(Command::Publish(served)), Outcome::Published { matched: 2, duplicate: false });
    assert_eq!((world.queue("a").len(), world.queue("plain").len(), world.queue("other").len()), (0, 1, 1));
    let only = PublishCommand { only_group: Some(filter), ..command };
    assert_eq!(world.apply(Command::Publish(only)), Outcome::Published { matched: 1, duplicate: false });
    assert_eq!((world.queue("a").len(), world.queue("plain").len(), world.queue("other").len()), (1, 1, 1));
}

/// [MQTT-4.8.2-5]
#[test]
fn when_a_session_ends_its_messages_go_to_another_member() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a", "b"], 2);
    for (payload, qos) in [("0", 1), ("x", 1), ("2", 2), ("x", 2), ("4", 2)] {
        world.publish(message("a", payload, qos));
    }
    world.disconnect_sent("a", epochs[0], true, 2);
    let clean = ConnectCommand { clean_start: true, expiry_seconds: 0, ..connect("a") };
    world.connect(clean);
    assert_eq!(world.queue("b"), ["x", "x", "0", "4"], "2 was sent with QoS 2, nobody else may get it");
    assert_eq!(world.state.counters().dropped_session_ended, 1);
    world.apply(Command::EndSession { client_id: "b".into() });
    assert_eq!(world.state.counters().dropped_session_ended, 5);
    assert_eq!(world.state.totals().messages, 0);
}

#[test]
fn when_a_member_unsubscribes_only_what_was_not_sent_moves() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a"], 1);
    publish_numbers(&mut world, 0..5, 1);
    group(&mut world, &["b"], 1);
    let filters = vec![sub("$share/g/a", 0).filter];
    let unsubscribe = Command::Unsubscribe { client_id: "a".into(), epoch: epochs[0], filters };
    assert_eq!(world.apply(unsubscribe), Outcome::Unsubscribed { existed: vec![true] });
    assert_eq!(
        (world.queue("a"), world.queue("b")),
        (vec!["0".into(), "1".into(), "2".into()], vec!["3".into(), "4".into()])
    );
}

#[test]
fn last_member_that_unsubscribes_keeps_what_is_queued() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a"], 1);
    publish_numbers(&mut world, 0..5, 1);
    let filters = vec![sub("$share/g/a", 0).filter];
    world.apply(Command::Unsubscribe { client_id: "a".into(), epoch: epochs[0], filters });
    assert_eq!(world.queue("a").len(), 5);
    assert!(!world.state.matches_durable("a"));
}

#[test]
fn turn_survives_writing_and_loading() {
    let mut world = World::new();
    group(&mut world, &["b", "a", "c"], 1);
    publish_numbers(&mut world, 0..2, 1);
    world.state = State::load(LogIndex(world.index), world.state.full_records()).unwrap();
    publish_numbers(&mut world, 2..4, 1);
    assert_eq!((world.queue("c"), world.queue("b")), (vec!["2".to_owned()], vec!["0".to_owned(), "3".into()]));
}
