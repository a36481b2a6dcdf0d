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
        world.publish(Message { retain: true, ..message(&topic(number), "new", 1) });
    }
    world.publish(Message { retain: true, ..message(&topic(14), "", 1) });
    world.go_on();
    let of = |number| -> Vec<String> {
        world.topics("c").into_iter().filter(|(at, _)| *at == topic(number)).map(|(_, what)| what).collect()
    };
    assert_eq!(of(2), ["old", "new"]);
    assert_eq!(of(13), ["new", "new"], "as it was published, and as it is retained");
    assert_eq!(of(14), [""]);
    assert_eq!(of(19), ["old"]);
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
                assert!(world.state.has_work(), "it goes on");
                world.subscribe("c", epoch, sub("r/#", 0));
            }
        }
        assert!(!world.state.has_work(), "{end}");
    }
    let mut world = with_retained(30);
    world.state.steps.set_max(4);
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("r/#", 1));
    world.subscribe("c", epoch, sub("r/#", 2));
    world.go_on();
    assert_eq!(world.topics("c"), [old(0..4), old(0..30)].concat());
}
