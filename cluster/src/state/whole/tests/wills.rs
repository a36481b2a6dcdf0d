//! Wills. Covers [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3] and Mosquitto's family 07.
use super::*;

fn with_will(delay: u32, expiry_seconds: u32) -> ConnectCommand {
    ConnectCommand { will: will("w", "gone", delay), expiry_seconds, ..connect("c") }
}

#[test]
fn will_is_published_after_an_unclean_end_only() {
    let mut world = World::new();
    world.sleeper("watcher", &["w"]);
    let (epoch, ..) = world.connect(with_will(0, 60));
    world.disconnect("c", epoch, true);
    assert!(world.wills().is_empty());
    let (epoch, ..) = world.connect(with_will(0, 60));
    world.disconnect("c", epoch, false);
    assert_eq!(world.wills(), ["gone"]);
    world.wait(100);
    assert!(world.wills().is_empty(), "once");
    assert_eq!(world.queue("watcher"), ["gone"]);
}

#[test]
fn will_waits_for_its_delay() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(3, 60));
    world.disconnect("c", epoch, false);
    world.wait(2);
    assert!(world.wills().is_empty());
    world.wait(1);
    assert_eq!(world.wills(), ["gone"]);
    assert_eq!(world.state.session_count(), 1);
}

/// [MQTT-3.1.2-8]: the session ends first.
#[test]
fn will_of_a_session_without_an_interval_is_published_at_once_whatever_its_delay() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(3, 0));
    world.subscribe("c", epoch, sub("a", 1));
    world.disconnect("c", epoch, false);
    assert_eq!(world.wills(), ["gone"]);
    assert_eq!(world.state.session_count(), 0);
    let (epoch, ..) = world.connect(with_will(3, 60));
    world.apply(Command::Disconnect(DisconnectCommand {
        client_id: "c".into(),
        epoch,
        discard_will: false,
        expiry_seconds: Some(0),
        sent_before: 0,
        unreadable: Arc::default(),
    }));
    assert_eq!(world.wills(), ["gone"], "DISCONNECT ended the session");
    world.wait(10);
    assert!(world.wills().is_empty(), "once");
}

#[test]
fn will_is_published_at_the_end_of_the_session_if_that_comes_first() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(100, 2));
    world.disconnect("c", epoch, false);
    world.wait(1);
    assert!(world.wills().is_empty());
    world.wait(1);
    assert_eq!(world.wills(), ["gone"]);
    assert_eq!(world.state.session_count(), 0);
}

/// [MQTT-3.1.3-9]
#[test]
fn new_connection_to_the_session_within_the_delay_cancels_the_will() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(3, 60));
    world.disconnect("c", epoch, false);
    world.wait(1);
    let (_, present, _) = world.connect(connect("c"));
    assert!(present && world.wills().is_empty());
    world.wait(10);
    assert!(world.wills().is_empty());
}

/// [MQTT-3.1.2-8]
#[test]
fn clean_start_within_the_delay_ends_the_session_and_publishes_its_will_at_once() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(3, 60));
    world.disconnect("c", epoch, false);
    world.wait(1);
    let (_, present, _) = world.connect(ConnectCommand { clean_start: true, ..connect("c") });
    assert!(!present);
    assert_eq!(world.wills(), ["gone"]);
    world.wait(10);
    assert!(world.wills().is_empty(), "once");
}

#[test]
fn will_that_was_due_is_published_before_a_new_connection() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(with_will(3, 60));
    world.disconnect("c", epoch, false);
    world.now += 3000;
    world.connect(connect("c"));
    assert_eq!(world.wills(), ["gone"]);
}

/// [MQTT-3.1.2-8], and without a delay as Mosquitto's 07-will-takeover.py.
#[test]
fn takeover_publishes_the_will_only_if_the_session_ends_with_it() {
    for (expiry, clean_start, delay, published) in [
        (0, true, 0, true),
        (60, true, 0, true),
        (0, false, 0, true),
        (60, false, 0, false),
        (60, true, 5, true),
        (0, true, 5, true),
        (0, false, 5, true),
        (60, false, 5, false),
    ] {
        let mut world = World::new();
        world.connect(with_will(delay, expiry));
        world.connect(ConnectCommand { clean_start, ..connect("c") });
        assert_eq!(world.wills().len(), usize::from(published), "{expiry} {clean_start} {delay}");
        world.wait(100);
        assert!(world.wills().is_empty());
    }
}

#[test]
fn will_of_a_dead_node_is_published_once_and_kept_if_retained() {
    let mut world = World::new();
    let mut command = with_will(0, 60);
    command.will.as_mut().unwrap().retain = true;
    world.connect(command);
    world.from(OTHER, Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation });
    assert_eq!(world.wills(), ["gone"]);
    assert_eq!(world.state.totals().retained, 1);
    world.from(OTHER, Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation });
    assert!(world.effects.is_empty());
}

#[test]
fn will_carries_its_properties_and_publisher() {
    let mut world = World::new();
    let mut command = with_will(0, 60);
    let properties = mosquorum_proto::mqtt::PublishProperties {
        message_expiry_interval: Some(30),
        content_type: Some("text".into()),
        ..Default::default()
    };
    command.username = Some("user".into());
    command.will.as_mut().unwrap().properties = Some(Box::new(properties));
    let (epoch, ..) = world.connect(command);
    world.now += 500;
    world.disconnect("c", epoch, false);
    let [Effect::PublishLive { message, .. }] = &world.effects[..] else { panic!("{:?}", world.effects) };
    assert_eq!((message.expiry_seconds, message.received_at), (Some(30), Millis(world.now)));
    assert_eq!((message.publisher_id.as_str(), message.publisher_name.as_deref()), ("c", Some("user")));
    let properties = message.properties.as_ref().unwrap();
    assert_eq!((properties.message_expiry_interval, properties.content_type.as_deref()), (None, Some("text")));
}

#[test]
fn a_withdrawn_will_is_not_published_whatever_ends_the_connection() {
    for expiry in [0, 60] {
        let mut world = World::new();
        let withdraw = |world: &mut World, epoch| world.apply(Command::WithdrawWill { client_id: "c".into(), epoch });
        let (first, ..) = world.connect(with_will(0, expiry));
        assert_eq!(withdraw(&mut world, first), Outcome::Done);
        let (second, ..) = world.connect(ConnectCommand { clean_start: true, ..with_will(0, expiry) });
        assert!(world.wills().is_empty(), "taken over");
        assert_eq!(withdraw(&mut world, first), Outcome::Superseded, "another connection's will");
        assert_eq!(withdraw(&mut world, second), Outcome::Done);
        world.from(OTHER, Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation });
        assert!(world.wills().is_empty(), "its node died");
    }
}
