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

/// Payloads that the last command left to members without a durable session.
fn chosen_again(world: &World) -> Vec<String> {
    let again = world.effects.iter().filter_map(|effect| match effect {
        Effect::ChooseAgain { message, group, .. } => {
            assert_eq!(group, &sub("$share/g/a", 0).filter);
            Some(String::from_utf8_lossy(&message.payload).into_owned())
        }
        _ => None,
    });
    again.collect()
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
    let whom = Whom::Group { group: filter, unreadable: Arc::default() };
    let only = PublishCommand { whom, ..command };
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
    assert_eq!(world.state.counters().dropped_session_ended, 3, "of QoS 2, and perhaps sent");
    assert_eq!(chosen_again(&world), ["x", "0"]);
    assert_eq!(world.state.totals().messages, 0);
}

/// UNSUBSCRIBE from the group.
fn leave(world: &mut World, client_id: &str, epoch: Epoch) -> Outcome {
    let filters = vec![sub("$share/g/a", 0).filter];
    world.apply(Command::Unsubscribe { client_id: client_id.into(), epoch, filters })
}

#[test]
fn when_a_member_unsubscribes_only_what_was_not_sent_moves() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a"], 1);
    publish_numbers(&mut world, 0..5, 1);
    group(&mut world, &["b"], 1);
    assert_eq!(leave(&mut world, "a", epochs[0]), Outcome::Unsubscribed { existed: vec![true] });
    assert_eq!(
        (world.queue("a"), world.queue("b")),
        (vec!["0".into(), "1".into(), "2".into()], vec!["3".into(), "4".into()])
    );
}

/// Acknowledgements that are on their way have let the connection send more than the state knows of.
#[test]
fn when_a_member_unsubscribes_its_qos_2_messages_stay() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a"], 2);
    publish_numbers(&mut world, 0..5, 2);
    group(&mut world, &["b"], 2);
    leave(&mut world, "a", epochs[0]);
    assert_eq!((world.queue("a").len(), world.queue("b").len()), (5, 0));
}

#[test]
fn last_member_that_unsubscribes_keeps_what_is_queued() {
    let mut world = World::new();
    let epochs = group(&mut world, &["a"], 1);
    publish_numbers(&mut world, 0..5, 1);
    leave(&mut world, "a", epochs[0]);
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

/// [MQTT-4.8.2-5]
#[test]
fn what_an_expired_session_had_not_acknowledged_goes_to_a_living_member() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand { expiry_seconds: 10, ..connect("a") });
    world.subscribe("a", epoch, sub("$share/g/a", 2));
    for (payload, qos) in [("sent", 1), ("sent", 2), ("queued", 1), ("queued", 2)] {
        world.publish(message("a", payload, qos));
    }
    world.disconnect_sent("a", epoch, false, 2);
    world.wait(10);
    assert!(world.state.session("a").is_none());
    assert_eq!(chosen_again(&world), ["sent", "queued", "queued"], "QoS 2 that was sent may go to nobody else");
    assert_eq!(world.state.counters().dropped_session_ended, 1);
}

#[test]
fn one_node_alone_is_told_who_is_to_be_chosen_again() {
    for (told, times) in [(NODE, 1), (OTHER, 0)] {
        let mut world = World::new();
        world.state.only_effects_for(told.node);
        group(&mut world, &["a"], 1);
        publish_numbers(&mut world, 0..1, 1);
        world.from(NODE, Command::EndSession { client_id: "a".into() });
        assert_eq!(chosen_again(&world).len(), times, "{told:?}");
    }
}

/// shared_offline_members
#[test]
fn members_that_are_away_take_their_turn_if_they_are_to() {
    let mut world = World::new();
    for member in ["a", "b", "c"] {
        let limits = QueueLimits { shared_offline: member == "a", ..connect(member).limits };
        let (epoch, ..) = world.connect(ConnectCommand { limits, ..connect(member) });
        world.subscribe(member, epoch, sub("$share/g/a", 1));
        if member != "c" {
            world.disconnect(member, epoch, true);
        }
    }
    let takes_turns = |world: &World| ["a", "b", "c"].map(|member| world.session(member).takes_turns());
    assert_eq!(takes_turns(&world), [true, false, true]);
    publish_numbers(&mut world, 0..2, 1);
    world.state = State::load(LogIndex(world.index), world.state.full_records()).unwrap();
    publish_numbers(&mut world, 2..4, 1);
    assert_eq!((world.queue("a").len(), world.queue("b").len(), world.queue("c").len()), (2, 0, 2));
}
