//! Long work: how much of it one entry of the log does, and that nothing of it is lost.
use super::*;
use std::collections::BTreeMap;

/// With `retained` topics `r/00000` and so on, each of which keeps `old`.
fn with_retained(retained: usize) -> World {
    let mut world = World::new();
    let old = |number| publish(Message { retain: true, ..message(&topic(number), "old", 1) });
    world.apply_all((0..retained).map(old).collect());
    world
}

fn topic(number: usize) -> String {
    format!("r/{number:05}")
}

impl World {
    /// As one entry.
    fn apply_all(&mut self, commands: Vec<Command>) {
        let batch = self.batch(NODE, commands);
        self.index += 1;
        self.state.apply(LogIndex(self.index), &batch, &mut Applied::default());
    }

    /// Ticks as long as there is something to do; returns how many.
    fn go_on(&mut self) -> usize {
        let mut ticks = 0;
        while self.state.is_behind() {
            self.apply(Command::Tick);
            ticks += 1;
        }
        ticks
    }

    /// A node that starts with what this one has written.
    fn restart(&mut self, store: &mut BTreeMap<Vec<u8>, Vec<u8>>, step_work: usize) {
        for (key, value) in self.state.take_changes().into_ops() {
            match value {
                Some(value) => store.insert(key, value),
                None => store.remove(&key),
            };
        }
        let loaded = State::load(LogIndex(self.index), &*store).unwrap();
        assert_eq!(loaded.full_records(), self.state.full_records());
        self.state = loaded;
        self.state.steps.set_max(step_work);
    }

    /// Topics in the queue of a client, with what they bring.
    fn topics(&self, client_id: &str) -> Vec<(String, String)> {
        let of = |entry: &Entry| (entry.message().unwrap().topic.to_string(), text(entry));
        self.session(client_id).queue().iter_from(0).map(of).collect()
    }
}

fn old(numbers: impl Iterator<Item = usize>) -> Vec<(String, String)> {
    numbers.map(|number| (topic(number), "old".to_owned())).collect()
}

#[test]
fn one_entry_queues_a_bounded_number_of_retained_messages_and_ticks_bring_the_others_in_order() {
    let mut world = with_retained(3 * STEP_WORK + 10);
    let (epoch, ..) = world.connect(connect("c"));
    let (other, ..) = world.connect(connect("other"));
    let subscribe = |client_id: &str, epoch| Command::Subscribe {
        client_id: client_id.into(),
        epoch,
        subscriptions: vec![sub("#", 1)],
        identifier: None,
    };
    let queued = |world: &World| world.session("c").queue().len() + world.session("other").queue().len();
    world.apply_all(vec![subscribe("c", epoch), subscribe("other", other)]);
    assert_eq!(queued(&world), STEP_WORK, "both together");
    let mut ticks = 0;
    while world.state.next_deadline() == Some(Millis(0)) {
        let before = queued(&world);
        world.apply(Command::Tick);
        assert!(queued(&world) <= before + STEP_WORK);
        ticks += 1;
    }
    assert!((6..9).contains(&ticks), "{ticks}");
    assert_eq!(world.topics("c"), old(0..3 * STEP_WORK + 10), "beyond the limits of the queue");
    assert_eq!(world.topics("other"), world.topics("c"));
}

/// As long as a search finds nothing, nobody else's command waits for it.
#[test]
fn a_filter_that_matches_nothing_is_searched_for_in_steps_too() {
    let mut world = World::new();
    world.state.steps.set_max(10);
    let retained = |number: usize| publish(Message { retain: true, ..message(&format!("r/{number}/x"), "old", 1) });
    world.apply_all((0..1000).map(retained).collect());
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("r/+/y", 1));
    assert!(world.go_on() >= 99);
}

#[test]
fn a_short_replay_does_not_wait_for_a_long_one() {
    let mut world = with_retained(3 * STEP_WORK);
    let (epoch, ..) = world.connect(connect("long"));
    world.subscribe("long", epoch, sub("#", 1));
    let (epoch, ..) = world.connect(connect("short"));
    world.subscribe("short", epoch, sub("r/00007", 1));
    assert_eq!(world.topics("short"), old(7..8), "its own entry does it");
    let (epoch, ..) = world.connect(connect("medium"));
    world.subscribe("medium", epoch, sub("r/+", 1));
    world.apply(Command::Tick);
    assert!(world.session("medium").queue().len() >= STEP_WORK + 250);
}

#[test]
fn a_message_of_the_meantime_is_never_followed_by_an_older_retained_one() {
    let mut world = with_retained(20);
    world.state.steps.set_max(5);
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("r/#", 1));
    for number in [2, 13] {
        world.publish(Message { retain: true, ..message(&topic(number), "new", 2) });
    }
    world.publish(Message { retain: true, ..message(&topic(14), "", 1) });
    world.go_on();
    let of = |number| -> Vec<String> {
        world.topics("c").into_iter().filter(|(at, _)| *at == topic(number)).map(|(_, what)| what).collect()
    };
    assert_eq!(of(2), ["old", "new"]);
    assert_eq!(of(13), ["old", "new"], "what was kept at the SUBSCRIBE, and each once");
    assert_eq!(of(14), ["old", ""]);
    assert_eq!(of(19), ["old"]);
}

#[test]
fn what_is_not_retained_does_not_come_before_what_was_retained_before_it_and_a_restart_forgets_nothing() {
    let (mut world, mut store) = (with_retained(20), BTreeMap::new());
    world.state.steps.set_max(5);
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("r/#", 1));
    world.disconnect("c", epoch, true);
    for (number, retain, qos) in [(12, false, 1), (13, true, 0), (2, false, 1), (12, false, 1)] {
        world.publish(Message { retain, ..message(&topic(number), "new", qos) });
        world.restart(&mut store, 5);
    }
    world.go_on();
    let of = |number| -> Vec<String> {
        world.topics("c").into_iter().filter(|(at, _)| *at == topic(number)).map(|(_, what)| what).collect()
    };
    assert_eq!(of(12), ["old", "new", "new"]);
    assert_eq!(of(13), ["old"], "QoS 0 is not kept for it, what it took the place of is");
    assert_eq!(of(2), ["old", "new"]);
    assert_eq!(world.topics("c").len(), 20 + 3);
}

#[test]
fn what_a_replay_remembers_is_bounded_and_each_message_comes_once() {
    let mut world = with_retained(2 * STEP_WORK);
    world.state.steps.set_max(1);
    let limits = QueueLimits { inflight: 20, ..QueueLimits::default() };
    let (epoch, ..) = world.connect(ConnectCommand { limits, ..connect("c") });
    world.subscribe("c", epoch, sub("r/#", 1));
    let new = |number| publish(message(&topic(number), "new", 1));
    world.apply_all((0..2 * STEP_WORK).map(new).collect());
    world.state.steps.set_max(STEP_WORK);
    world.go_on();
    let queued = world.topics("c");
    let count = |wanted| queued.iter().filter(|(_, what)| what == wanted).count();
    assert_eq!((count("old"), count("new")), (2 * STEP_WORK, 2 * STEP_WORK));
}

#[test]
fn a_replay_goes_on_over_restarts_of_nodes_and_takeovers() {
    let (mut world, mut store) = (with_retained(30), BTreeMap::new());
    world.state.steps.set_max(4);
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe_as("c", epoch, sub("r/#", 1), Some(9));
    world.disconnect("c", epoch, true);
    world.restart(&mut store, 4);
    world.apply(Command::Tick);
    world.connect(ConnectCommand { owner: Owner { node: OTHER.node, ..connect("c").owner }, ..connect("c") });
    world.apply(Command::Tick);
    world.restart(&mut store, 4);
    world.go_on();
    assert_eq!(world.topics("c"), old(0..30));
    assert!(world.session("c").queue().iter_from(0).all(|entry| entry.retain() && entry.identifier() == 9));
    world.restart(&mut store, 4);
    assert!(!world.state.has_work());
}

#[test]
fn a_replay_ends_with_its_subscription_and_begins_anew_with_the_next() {
    for end in 0..4 {
        let mut world = with_retained(30);
        world.state.steps.set_max(4);
        let (epoch, ..) = world.connect(connect("c"));
        world.subscribe("c", epoch, sub("r/#", 1));
        match end {
            0 => drop(world.apply(Command::Unsubscribe {
                client_id: "c".into(),
                epoch,
                filters: vec![TopicFilter::try_from("r/#").unwrap()],
            })),
            1 => drop(world.connect(ConnectCommand { clean_start: true, ..connect("c") })),
            2 => drop(world.apply(Command::EndSession { client_id: "c".into() })),
            _ => {
                let keep = Subscription { retain_handling: RetainHandling::DoNotSend, ..sub("r/#", 1) };
                world.subscribe("c", epoch, keep);
                assert!(!world.state.replays.is_empty(), "it goes on");
                world.subscribe("c", epoch, sub("r/#", 0));
            }
        }
        assert!(world.state.replays.is_empty(), "{end}");
    }
    let mut world = with_retained(30);
    world.state.steps.set_max(4);
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("r/#", 1));
    world.subscribe("c", epoch, sub("r/#", 2));
    world.go_on();
    assert_eq!(world.topics("c"), [old(0..4), old(0..30)].concat());
}

/// So many sessions of node 1, each with a will of its name, which lasts for a minute.
fn crowd(world: &mut World, sessions: usize) {
    let connect =
        |number| ConnectCommand { will: will("w", &client(number), 0), expiry_seconds: 60, ..connect(&client(number)) };
    world.apply_all((0..sessions).map(|number| Command::Connect(Box::new(connect(number)))).collect());
}

/// Not in the order of the numbers.
fn client(number: usize) -> String {
    format!("c{:04}", number * 7919 % 10_000)
}

const DOWN: Command = Command::NodeDown { node: NODE.node, incarnation: NODE.incarnation };

#[test]
fn one_entry_sees_to_a_bounded_number_of_sessions_of_a_dead_node_and_ticks_to_the_others_in_order() {
    let mut world = World::new();
    let sessions = 3 * STEP_WORK + 10;
    crowd(&mut world, sessions);
    let died = world.now;
    let mut wills = Vec::new();
    world.from(OTHER, DOWN);
    loop {
        assert!(world.wills().len() <= STEP_WORK);
        wills.append(&mut world.wills());
        if !world.state.is_behind() {
            break;
        }
        world.now += 1000;
        world.from(OTHER, Command::Tick);
    }
    assert_eq!(wills, (0..sessions).map(client).collect::<Vec<_>>(), "as they connected");
    assert_eq!(world.state.totals().connected, 0);
    assert!(world.state.sessions().all(|session| session.disconnected_at() == Some(Millis(died))));
    assert_eq!(world.state.next_deadline(), Some(Millis(died + 60_000)), "from the death on, not from their turn");
}

#[test]
fn a_member_that_lost_its_node_is_passed_over_by_all_its_groups_and_when_an_entry_has_done_its_work() {
    let mut world = World::new();
    world.state.steps.set_max(1);
    crowd(&mut world, 9);
    for client_id in ["lost", "here"] {
        let node = if client_id == "here" { OTHER.node } else { NODE.node };
        let owner = Owner { node, ..connect(client_id).owner };
        let (epoch, ..) = world.connect(ConnectCommand { owner, ..connect(client_id) });
        for filter in ["$share/g/s", "$share/h/s", "$share/i/s"] {
            world.subscribe(client_id, epoch, sub(filter, 1));
        }
    }
    world.from(OTHER, DOWN);
    assert!(world.session("lost").is_connected(), "it had no turn");
    world.from(OTHER, publish(message("s", "after", 1)));
    assert_eq!(world.queue("here"), ["after", "after", "after"]);
    assert!(world.queue("lost").is_empty());
}

#[test]
fn a_session_of_a_dead_node_is_without_its_connection_before_its_turn() {
    let mut world = World::new();
    world.state.steps.set_max(1);
    crowd(&mut world, 9);
    let last = ConnectCommand {
        limits: QueueLimits { queue_qos0: true, inflight: 20, ..QueueLimits::default() },
        ..connect("last")
    };
    let (epoch, ..) = world.connect(ConnectCommand { will: will("w", "last", 0), ..last });
    world.subscribe("last", epoch, sub("a", 1));
    world.subscribe("last", epoch, sub("$share/g/s", 1));
    let here = Owner { node: OTHER.node, ..connect("here").owner };
    let (other, ..) = world.connect(ConnectCommand { owner: here, ..connect("here") });
    world.subscribe("here", other, sub("$share/g/s", 1));
    world.publish(message("a", "before", 1));
    world.from(OTHER, DOWN);
    assert!(world.session("last").is_connected(), "it had no turn");
    assert_eq!(world.state.connection_of(world.session("last")), None);
    let ack = Command::Acknowledge { client_id: "last".into(), epoch, acks: vec![(1, AckKind::PubAck)] };
    assert_eq!(world.from(OTHER, ack), Outcome::Superseded);
    for (topic, qos) in [("s", 1), ("a", 0), ("a", 1), ("s", 1)] {
        world.from(OTHER, publish(message(topic, "after", qos)));
    }
    assert_eq!(world.queue("last"), ["before", "after", "after"], "QoS 0 waits for who is away");
    assert_eq!(world.queue("here"), ["after", "after"], "its group passes over it");
    assert_eq!(world.session("last").queue().dup_before(), 1);
    assert!(!world.session("last").is_connected() && world.session("last").will().is_some());
    let takeover = Command::Connect(Box::new(ConnectCommand { owner: here, ..connect("last") }));
    let Outcome::Connected { session_present: true, previous: None, .. } = world.from(OTHER, takeover) else {
        panic!()
    };
    assert_eq!(world.wills(), ["last"], "as if it had had its turn");
    while world.state.is_behind() {
        world.from(OTHER, Command::Tick);
        assert!(!world.wills().contains(&"last".to_owned()));
    }
    assert!(world.session("last").is_connected());
}

/// Whatever is reached by others' wills, and wherever nodes restart.
#[test]
fn sessions_of_a_dead_node_come_to_the_same_in_small_steps_as_at_once() {
    let end = |step_work: usize, restarts: bool| {
        let (mut world, mut store) = (World::new(), BTreeMap::new());
        world.state.steps.set_max(step_work);
        crowd(&mut world, 40);
        for number in 0..40 {
            let (epoch, expiry) = (world.session(&client(number)).epoch(), if number % 3 == 0 { 0 } else { NEVER });
            world.subscribe(&client(number), epoch, sub("w", 1));
            if number % 4 == 0 {
                let again = ConnectCommand {
                    will: will("w", "x", number as u32),
                    expiry_seconds: expiry,
                    ..connect(&client(number))
                };
                world.connect(again);
            }
        }
        world.from(OTHER, DOWN);
        let mut wills = world.wills();
        while world.state.is_behind() {
            if restarts {
                world.restart(&mut store, step_work);
            }
            world.from(OTHER, Command::Tick);
            wills.append(&mut world.wills());
        }
        let sessions = world.state.sessions().map(|session| {
            let queue: Vec<_> = session.queue().iter_from(0).map(text).collect();
            (session.client_id().clone(), queue, session.expires_at(), session.will_due())
        });
        (wills, sessions.collect::<Vec<_>>())
    };
    let at_once = end(STEP_WORK * 1000, false);
    assert_eq!(at_once.0.len(), 34, "six wait for their delay: the others have none, or end");
    let (few, restarted) = (end(3, false), end(3, true));
    assert_eq!(few, restarted);
    assert_eq!(few, at_once);
}

/// With `filters` subscriptions and `entries` messages that wait.
fn hoarder(world: &mut World, filters: usize, entries: usize) -> Epoch {
    let limits = QueueLimits::default();
    let (epoch, ..) = world.connect(ConnectCommand { expiry_seconds: 60, limits, ..connect("hoarder") });
    let subscriptions = (0..filters).map(|number| sub(&format!("h/{number}"), 1)).collect();
    world.apply(Command::Subscribe { client_id: "hoarder".into(), epoch, subscriptions, identifier: None });
    let messages = (0..entries).map(|number| publish(message("h/7", &number.to_string(), 1)));
    world.apply_all(messages.collect());
    epoch
}

/// A new one of the same name may come at once, restarts included.
#[test]
fn a_large_session_is_gone_at_once_and_cleared_in_steps() {
    let size = 2 * STEP_WORK;
    for how in 0..3 {
        let (mut world, mut store) = (World::new(), BTreeMap::new());
        let epoch = hoarder(&mut world, size, size);
        world.restart(&mut store, STEP_WORK);
        let again = Command::Connect(Box::new(ConnectCommand { clean_start: true, ..connect("hoarder") }));
        match how {
            0 => drop(world.apply(Command::EndSession { client_id: "hoarder".into() })),
            1 => drop(world.apply(again.clone())),
            _ => {
                world.disconnect("hoarder", epoch, true);
                world.wait(60);
            }
        }
        let taken = |world: &World| world.state.routes.counts().0 + world.state.messages.len();
        assert!(taken(&world) >= 2 * size - 2 * STEP_WORK, "{}", taken(&world));
        assert_eq!(world.state.session("hoarder").is_some(), how == 1);
        assert_eq!(world.state.counters().dropped(DropReason::SessionEnded), size as u64);
        assert_eq!(world.publish(message("h/1900", "nobody", 1)), 0);
        let mut found = 0;
        world.state.for_each_durable_match("h/1900", |_| found += 1);
        assert_eq!(found, 0);
        let (epoch, ..) = world.connect(connect("hoarder"));
        world.subscribe("hoarder", epoch, sub("h/+", 1));
        world.publish(message("h/3", "fresh", 1));
        while world.state.is_behind() {
            let before = taken(&world);
            world.apply(Command::Tick);
            assert!(taken(&world) + STEP_WORK + STEP_WORK / 16 >= before);
        }
        assert_eq!(taken(&world), 2);
        world.restart(&mut store, STEP_WORK);
        assert_eq!(world.queue("hoarder"), ["fresh"]);
        let kept: Vec<_> = world.state.full_records().into_iter().map(|(key, _)| key).collect();
        assert_eq!(store.into_keys().collect::<Vec<_>>(), kept, "nothing of the former is left in the store");
    }
}

#[test]
fn a_node_that_starts_while_a_session_is_cleared_has_nothing_of_it() {
    let (mut world, mut store) = (World::new(), BTreeMap::new());
    hoarder(&mut world, 2000, 3000);
    world.restart(&mut store, STEP_WORK);
    world.apply(Command::EndSession { client_id: "hoarder".into() });
    assert!(world.state.has_work());
    world.restart(&mut store, STEP_WORK);
    assert!(!world.state.has_work());
    assert_eq!(world.state.routes.counts().0 + world.state.messages.len(), 0);
    world.restart(&mut store, STEP_WORK);
    let messages = store.keys().filter(|key| key[0] == 3).count();
    assert_eq!(messages, 0, "messages that nothing refers to are removed by the next cut");
}

#[test]
fn one_tick_ends_sessions_as_long_as_what_they_have_is_little() {
    let mut world = World::new();
    for number in 0..40 {
        let connect = ConnectCommand { expiry_seconds: 1, ..connect(&client(number)) };
        let (epoch, ..) = world.connect(connect);
        let subscriptions = (0..50).map(|number| sub(&format!("h/{number}"), 1)).collect();
        world.apply(Command::Subscribe { client_id: client(number).into(), epoch, subscriptions, identifier: None });
        world.disconnect(&client(number), epoch, true);
    }
    world.wait(2);
    assert_eq!(world.state.session_count(), 20, "50 subscriptions and itself each");
    world.go_on();
    assert_eq!(world.state.session_count(), 0);
}
