//! Bounds of queues, message expiry, packet identifiers over a long life.
use super::*;

fn limited(messages: u32, bytes: u64, inflight: u16) -> ConnectCommand {
    ConnectCommand { limits: QueueLimits { messages, bytes, inflight, ..QueueLimits::default() }, ..connect("c") }
}

#[test]
fn connected_client_has_its_limit_beyond_those_in_flight() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(limited(2, 0, 3));
    world.subscribe("c", epoch, sub("a", 1));
    for number in 0..7 {
        world.publish(message("a", &number.to_string(), 1));
    }
    assert_eq!(world.queue("c"), ["0", "1", "2", "3", "4"]);
    assert!(matches!(&world.effects[..], [Effect::Dropped { reason: DropReason::QueueFull, count: 1, .. }]));
    assert_eq!(world.state.counters().dropped_queue_full, 2);
    world.acknowledge("c", epoch, &[(2, AckKind::PubAck)]);
    world.publish(message("a", "7", 1));
    world.publish(message("a", "8", 1));
    assert_eq!(world.queue("c"), ["0", "2", "3", "4", "7"], "the newest is dropped");
}

#[test]
fn client_that_is_away_has_its_limit_beyond_those_sent() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(limited(2, 0, 3));
    world.subscribe("c", epoch, sub("a", 1));
    world.publish(message("a", "sent", 1));
    world.disconnect_sent("c", epoch, true, 1);
    for number in 0..4 {
        world.publish(message("a", &number.to_string(), 1));
    }
    assert_eq!(world.queue("c"), ["sent", "0", "1"]);
}

#[test]
fn bytes_are_bounded_too() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(limited(0, 10, 1));
    world.subscribe("c", epoch, sub("a", 1));
    for payload in ["in flight, however long", "12345", "123456", "x"] {
        world.publish(message("a", payload, 1));
    }
    assert_eq!(world.queue("c").len(), 3);
    assert_eq!(world.state.counters().dropped(DropReason::QueueBytes), 1);
    world.acknowledge("c", epoch, &[(1, AckKind::PubAck)]);
    world.publish(message("a", "y", 1));
    assert_eq!(world.queue("c").len(), 3);
}

#[test]
fn retained_messages_of_a_subscription_are_not_limited() {
    let mut world = World::new();
    for number in 0..9 {
        world.publish(Message { retain: true, ..message(&format!("a/{number}"), "x", 1) });
    }
    let (epoch, ..) = world.connect(limited(1, 1, 1));
    world.subscribe("c", epoch, sub("a/+", 1));
    assert_eq!(world.queue("c").len(), 9);
}

/// [MQTT-3.3.2-5]
#[test]
fn message_that_waited_too_long_is_removed_and_counted() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    world.publish(Message { expiry_seconds: Some(7), ..message("a", "short", 1) });
    world.publish(Message { expiry_seconds: Some(70), ..message("a", "long", 1) });
    world.publish(message("a", "ever", 1));
    world.wait(6);
    assert_eq!(world.queue("c").len(), 3);
    world.wait(5);
    assert_eq!(world.queue("c"), ["long", "ever"]);
    assert_eq!(world.state.counters().dropped_expired, 1);
    assert!(matches!(&world.effects[..], [Effect::Dropped { reason: DropReason::Expired, count: 1, .. }]));
    world.wait(100);
    assert_eq!(world.queue("c"), ["ever"]);
    assert_eq!(world.state.next_deadline(), None);
}

/// [MQTT-4.4.0-1]
#[test]
fn message_that_was_sent_is_kept_for_redelivery_even_when_expired() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 1));
    let expiring = |payload| Message { expiry_seconds: Some(1), ..message("a", payload, 1) };
    world.publish(expiring("sent"));
    world.publish(expiring("not sent"));
    world.wait(10);
    assert_eq!(world.queue("c").len(), 2, "the connection decides about those in flight");
    world.disconnect_sent("c", epoch, false, 1);
    world.wait(10);
    assert_eq!(world.queue("c"), ["sent"]);
    assert_eq!(world.state.next_deadline(), None);
}

/// [MQTT-2.2.1-3]
#[test]
fn packet_identifiers_wrap_and_one_in_use_blocks_its_next_turn() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(limited(0, 0, 0));
    world.subscribe("c", epoch, sub("a", 1));
    let shared = Arc::new(message("a", "x", 1));
    let batches = |world: &mut World, count: usize, acknowledge: bool| {
        let mut commands = Vec::new();
        for _ in 0..count {
            commands.push(Command::Publish(PublishCommand::new(shared.clone())));
        }
        let batch = world.batch(NODE, commands);
        world.index += 1;
        world.state.apply(LogIndex(world.index), &batch, &mut Applied::default());
        if acknowledge {
            let acks = world.session("c").queue().iter_from(1).map(|e| (e.packet_id(), AckKind::PubAck)).collect();
            world.apply(Command::Acknowledge { client_id: "c".into(), epoch, acks });
        }
    };
    batches(&mut world, 1, false);
    for _ in 0..2 {
        batches(&mut world, 30_000, true);
    }
    batches(&mut world, 6000, false);
    let queue = world.session("c").queue();
    let last = queue.iter_from(0).last().unwrap();
    assert_eq!((last.seq(), last.packet_id()), (66_000, 466));
    let blocked: Vec<_> = queue.iter_from(0).filter(|entry| queue.is_blocked(entry.seq())).map(Entry::seq).collect();
    assert_eq!(blocked, [65_535], "the first entry still has identifier 1");
    world.acknowledge("c", epoch, &[(1, AckKind::PubAck)]);
    let queue = world.session("c").queue();
    assert!(queue.get(0).is_none() && queue.get(65_535).is_some() && !queue.is_blocked(65_535));
}

#[test]
fn tick_works_off_a_bounded_number_of_deadlines() {
    let mut world = World::new();
    let mut commands = Vec::new();
    for number in 0..STEP_WORK + 5 {
        let message = Message { retain: true, expiry_seconds: Some(1), ..message(&number.to_string(), "x", 0) };
        commands.push(publish(message));
    }
    let batch = world.batch(NODE, commands);
    world.index += 1;
    world.state.apply(LogIndex(world.index), &batch, &mut Applied::default());
    world.wait(2);
    assert_eq!(world.state.totals().retained, 5);
    assert!(world.state.next_deadline().unwrap() < Millis(world.now));
    world.wait(0);
    assert_eq!(world.state.totals().retained, 0);
}

/// The room that queue and store keep is looked at after each step.
#[test]
fn room_of_a_long_queue_goes_as_its_messages_go() {
    const MESSAGES: u16 = 1500;
    let mut world = World::new();
    let (epoch, ..) = world.connect(limited(0, 0, 0));
    world.subscribe("c", epoch, sub("a", 1));
    for number in 0..MESSAGES {
        world.publish(message("a", &number.to_string(), 1));
    }
    for packet_id in 1..=MESSAGES {
        world.acknowledge("c", epoch, &[(packet_id, AckKind::PubAck)]);
        let (messages, room) = (&world.state.messages, world.state.messages.capacity());
        assert!(room <= messages.len() + 12, "{room} places for {} messages", messages.len());
    }
    assert!(world.queue("c").is_empty());
}
