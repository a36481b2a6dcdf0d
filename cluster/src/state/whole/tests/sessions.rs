//! Connections, takeover, expiry, nodes. Covers MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2, 3.1.4.
use super::*;

/// [MQTT-3.1.2-5]
#[test]
fn session_is_resumed_with_its_subscriptions_and_queue() {
    let mut world = World::new();
    world.sleeper("c", &["a/#"]);
    world.publish(message("a/b", "1", 1));
    let (_, present, previous) = world.connect(connect("c"));
    assert!(present && previous.is_none());
    assert_eq!(world.queue("c"), ["1"]);
    assert_eq!(world.session("c").subscriptions().len(), 1);
}

/// [MQTT-3.1.2-4]
#[test]
fn clean_start_ends_the_session_before() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    world.publish(message("a", "1", 1));
    let (_, present, _) = world.connect(ConnectCommand { clean_start: true, ..connect("c") });
    assert!(!present);
    assert!(world.queue("c").is_empty() && world.session("c").subscriptions().is_empty());
    assert_eq!(world.state.counters().dropped_session_ended, 1);
    assert_eq!(world.publish(message("a", "2", 1)), 0);
}

#[test]
fn clean_session_without_a_will_leaves_no_record() {
    let mut world = World::new();
    let clean = ConnectCommand { clean_start: true, expiry_seconds: 0, ..connect("c") };
    world.connect(clean.clone());
    assert!(world.state.session("c").is_none());
    world.sleeper("c", &["a"]);
    world.connect(clean);
    assert!(world.state.session("c").is_none());
    assert_eq!(world.state.totals(), Totals::default());
}

#[test]
fn session_resumed_without_an_interval_lives_as_long_as_the_connection() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    let (epoch, present, _) = world.connect(ConnectCommand { expiry_seconds: 0, ..connect("c") });
    assert!(present);
    assert_eq!(world.publish(message("a", "1", 1)), 1);
    world.disconnect("c", epoch, true);
    assert!(world.state.session("c").is_none());
}

#[test]
fn taken_over_connection_is_fenced_and_has_no_effect_any_more() {
    let mut world = World::new();
    let (old, ..) = world.connect(connect("c"));
    world.subscribe("c", old, sub("a", 1));
    world.publish(message("a", "1", 1));
    let owner = Owner { node: NodeId(2), connection: ConnectionId(9), ..connect("c").owner };
    let (new, present, previous) = world.connect(ConnectCommand { owner, ..connect("c") });
    assert!(present && new > old);
    assert_eq!(previous, Some((connect("c").owner, old)));
    let fenced =
        |effect: &Effect| matches!(effect, Effect::Fence { epoch, administrative: false, .. } if *epoch == old);
    assert!(world.effects.iter().any(fenced));
    assert_eq!(world.acknowledge("c", old, &[(1, AckKind::PubAck)]), Outcome::Superseded);
    assert_eq!(world.disconnect("c", old, true), Outcome::Superseded);
    let release = Command::Release { client_id: "c".into(), epoch: old, packet_id: 1 };
    assert_eq!(world.apply(release), Outcome::Superseded);
    assert_eq!(world.queue("c"), ["1"]);
    assert_eq!(world.session("c").queue().dup_before(), 1, "it may have been sent");
    assert_eq!(world.session("c").owner(), Some(owner));
}

/// [MQTT-3.1.2-23]
#[test]
fn session_expires_when_its_interval_has_passed() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand { expiry_seconds: 10, ..connect("c") });
    world.subscribe("c", epoch, sub("a", 1));
    world.disconnect("c", epoch, true);
    world.wait(9);
    assert_eq!(world.publish(message("a", "1", 1)), 1);
    assert_eq!(world.state.next_deadline(), Some(Millis(world.now + 1000)));
    world.wait(1);
    assert!(world.state.session("c").is_none());
    assert_eq!((world.state.counters().sessions_expired, world.state.counters().dropped_session_ended), (1, 1));
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn session_that_should_have_expired_is_not_resumed_even_before_the_tick() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand { expiry_seconds: 10, ..connect("c") });
    world.disconnect("c", epoch, true);
    world.now += 10_000;
    let (_, present, _) = world.connect(connect("c"));
    assert!(!present);
}

#[test]
fn disconnect_changes_the_interval_but_does_not_make_one() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand { expiry_seconds: 10, ..connect("c") });
    let mut command = DisconnectCommand {
        client_id: "c".into(),
        epoch,
        discard_will: true,
        expiry_seconds: Some(100),
        sent_before: 0,
        unreadable: Arc::default(),
    };
    world.apply(Command::Disconnect(command.clone()));
    world.wait(99);
    assert!(world.state.session("c").is_some());
    let none = ConnectCommand { clean_start: true, expiry_seconds: 0, will: will("w", "w", 0), ..connect("c") };
    command.epoch = world.connect(none).0;
    world.apply(Command::Disconnect(command));
    assert_eq!(world.state.session_count(), 0);
}

#[test]
fn sessions_of_a_node_that_went_down_have_no_owner_and_can_be_resumed() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 1));
    world.publish(message("a", "1", 1));
    world.from(OTHER, Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation });
    assert!(matches!(world.effects[..], [Effect::NodeChanged { node: NodeId(1), up: false, .. }]));
    let session = world.session("c");
    assert_eq!((session.owner(), session.disconnected_at()), (None, Some(Millis(world.now))));
    assert_eq!(session.queue().dup_before(), 1);
    assert_eq!((world.state.serving(NODE.node), world.state.serving(OTHER.node)), (None, Some(Incarnation(1))));
}

#[test]
fn batches_of_an_incarnation_that_is_down_are_ignored_until_a_larger_one_comes() {
    let mut world = World::new();
    world.from(OTHER, Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation });
    let late = world.batch(NODE, vec![publish(Message { retain: true, ..message("a", "1", 1) })]);
    let mut out = Applied::default();
    world.index += 1;
    world.state.apply(LogIndex(world.index), &late, &mut out);
    assert!(!out.accepted && out.outcomes.is_empty());
    assert_eq!(world.state.totals().retained, 0);
    let next = Origin { incarnation: Incarnation(2), ..NODE };
    world.from(next, Command::NodeUp { name: "one".into() });
    assert_eq!(world.state.serving(NODE.node), Some(Incarnation(2)));
    let refused = world.from(next, Command::Connect(Box::new(connect("c"))));
    assert_eq!(refused, Outcome::Superseded, "connections of the first life own nothing");
}

#[test]
fn restarted_node_frees_the_sessions_of_its_earlier_life() {
    let mut world = World::new();
    world.connect(ConnectCommand { will: will("w", "gone", 0), ..connect("c") });
    let next = Origin { incarnation: Incarnation(2), ..NODE };
    world.from(next, Command::NodeUp { name: "one".into() });
    assert_eq!(world.session("c").owner(), None);
    assert_eq!(world.wills(), ["gone"]);
}

#[test]
fn batch_is_applied_only_in_sequence_and_once() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    let first = world.batch(NODE, vec![publish(message("a", "1", 1))]);
    let second = world.batch(NODE, vec![publish(message("a", "2", 1))]);
    let mut accepted = Vec::new();
    for batch in [&second, &first, &first, &second, &second] {
        let mut out = Applied::default();
        world.index += 1;
        world.state.apply(LogIndex(world.index), batch, &mut out);
        accepted.push(out.accepted);
    }
    assert_eq!(accepted, [false, true, false, true, false]);
    assert_eq!(world.queue("c"), ["1", "2"]);
    let mut out = Applied::default();
    world.state.apply(LogIndex(world.index), &first, &mut out);
    assert!(!out.accepted, "an entry that was applied already");
}

#[test]
fn removed_node_never_comes_back() {
    let mut world = World::new();
    world.connect(connect("c"));
    world.from(OTHER, Command::NodeRemoved { node: NODE.node });
    assert_eq!(world.session("c").owner(), None);
    assert_eq!(world.state.nodes().map(|(node, _)| node).collect::<Vec<_>>(), [OTHER.node]);
    // Who it was is told to operators.
    let removed: Vec<_> = world.state.removed().map(|(node, record)| (node, record.name.to_string())).collect();
    assert_eq!(removed, [(NODE.node, "one".to_owned())]);
    let again = Origin { incarnation: Incarnation(2), ..NODE };
    let batch = world.batch(again, vec![Command::Tick]);
    let mut out = Applied::default();
    world.state.apply(LogIndex(world.index + 1), &batch, &mut out);
    assert!(!out.accepted);
}

#[test]
fn operator_ends_a_session_and_its_connection() {
    let mut world = World::new();
    world.connect(ConnectCommand { will: will("w", "gone", 60), ..connect("c") });
    world.apply(Command::EndSession { client_id: "c".into() });
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::Fence { administrative: true, .. })));
    assert_eq!(world.wills(), ["gone"]);
    assert_eq!(world.state.session_count(), 0);
    assert_eq!(world.apply(Command::EndSession { client_id: "c".into() }), Outcome::Done);
}

#[test]
fn time_of_the_log_never_goes_back() {
    let mut world = World::new();
    world.now += 5000;
    world.apply(Command::Tick);
    world.now -= 3000;
    world.apply(Command::Tick);
    assert_eq!(world.state.time(), Millis(world.now + 3000));
}

/// session_owner
#[test]
fn another_user_neither_resumes_nor_ends_a_session_that_is_to_be_its_users_alone() {
    for (owner, other) in [(Some("alice"), Some("bob")), (Some("alice"), None), (None, Some("bob"))] {
        let mut world = World::new();
        let as_user = |name: Option<&str>| ConnectCommand {
            username: name.map(Utf8::from),
            same_user: true,
            expiry_seconds: 10,
            ..connect("c")
        };
        let (epoch, ..) = world.connect(as_user(owner));
        for connected in [true, false] {
            for clean_start in [true, false] {
                let before = world.state.full_records();
                let command = Box::new(ConnectCommand { clean_start, ..as_user(other) });
                assert_eq!(world.apply(Command::Connect(command)), Outcome::OtherUsers);
                assert!(world.effects.is_empty());
                assert_eq!(before[2..], world.state.full_records()[2..], "{connected} {clean_start}");
            }
            world.disconnect("c", epoch, true);
        }
        let (epoch, present, _) = world.connect(as_user(owner));
        assert!(present);
        world.disconnect("c", epoch, true);
        world.wait(10);
        assert!(!world.connect(as_user(other)).1, "the session is over");
        assert!(world.connect(ConnectCommand { same_user: false, ..as_user(owner) }).1, "whoever it is");
    }
}
