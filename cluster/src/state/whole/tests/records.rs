//! The durable form.
use super::*;
use std::collections::BTreeMap;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn write(store: &mut Records, state: &mut State) -> usize {
    let mut count = 0;
    for (key, value) in state.take_changes().into_ops() {
        count += 1;
        match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
    }
    count
}

fn busy() -> World {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand { will: will("w", "gone", 5), ..connect("c") });
    world.subscribe_as("c", epoch, sub("a/#", 2), Some(4));
    world.subscribe("c", epoch, sub("$share/g/a/b", 1));
    world.publish(Message { retain: true, expiry_seconds: Some(60), ..message("a/b", "1", 2) });
    world.publish(message("a/c", "2", 2));
    world.acknowledge("c", epoch, &[(3, AckKind::PubRec)]);
    let (epoch, ..) = world.connect(connect("publisher"));
    let Command::Publish(publish) = publish(message("a", "3", 2)) else { unreachable!() };
    world.apply(Command::Publish(PublishCommand { epoch: Some(epoch), packet_id: Some(1), ..publish }));
    world.apply(relayed("a/c", 7, LoopCheck::FirstOfMark));
    world.apply(Command::NodeAdded { name: "node-4".into(), host: "d.example".into() });
    world.apply(Command::NameRemoved { name: "node-3".into() });
    world
}

#[test]
fn state_is_the_same_after_writing_and_loading() {
    let mut world = busy();
    let mut store = BTreeMap::new();
    write(&mut store, &mut world.state);
    let whole: BTreeMap<_, _> = world.state.full_records().into_iter().collect();
    assert_eq!(store, whole);
    let loaded = State::load(LogIndex(world.index), &store).unwrap();
    check(&loaded);
    assert_eq!(loaded.full_records(), world.state.full_records());
    assert_eq!(loaded.digest(), world.state.digest());
    assert_eq!(loaded.next_deadline(), world.state.next_deadline());
    assert_eq!(loaded.totals(), world.state.totals());
}

#[test]
fn records_may_come_in_any_order() {
    let world = busy();
    let mut records = world.state.full_records();
    records.reverse();
    assert_eq!(State::load(LogIndex(world.index), records).unwrap().digest(), world.state.digest());
}

#[test]
fn what_came_and_went_between_two_cuts_is_not_written() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 1));
    let mut store = BTreeMap::new();
    write(&mut store, &mut world.state);
    let before = store.len();
    for _ in 0..10 {
        world.publish(message("a", "1", 1));
        let id = world.session("c").queue().iter_from(0).next().unwrap().packet_id();
        world.acknowledge("c", epoch, &[(id, AckKind::PubAck)]);
        world.publish(Message { retain: true, ..message("r", "1", 0) });
        world.publish(Message { retain: true, ..message("r", "", 0) });
    }
    let (epoch, ..) = world.connect(connect("short"));
    world.subscribe("short", epoch, sub("a", 1));
    world.apply(Command::EndSession { client_id: "short".into() });
    // The whole's record, the node's, the queue's header, and the topic that is not there.
    assert_eq!(write(&mut store, &mut world.state), 4);
    assert_eq!(store.len(), before);
    assert_eq!(write(&mut store, &mut world.state), 1, "nothing has changed since");
}

#[test]
fn messages_are_written_once_and_go_with_their_last_reference() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    world.sleeper("d", &["a"]);
    let mut store = BTreeMap::new();
    let messages = |store: &Records| store.keys().filter(|key| key[0] == 3).count();
    world.publish(Message { retain: true, ..message("a", "1", 1) });
    write(&mut store, &mut world.state);
    assert_eq!(messages(&store), 1);
    world.apply(Command::EndSession { client_id: "c".into() });
    world.apply(Command::EndSession { client_id: "d".into() });
    write(&mut store, &mut world.state);
    assert_eq!(messages(&store), 1);
    world.publish(Message { retain: true, ..message("a", "", 1) });
    write(&mut store, &mut world.state);
    assert_eq!(messages(&store), 0);
    let kinds: Vec<u8> = store.keys().map(|key| key[0]).collect();
    assert_eq!(kinds, [1, 2, 2], "the whole and two nodes");
}

#[test]
fn damage_is_an_error_with_its_place() {
    let world = busy();
    let load = |change: &dyn Fn(&mut Records)| {
        let mut records = world.state.full_records().into_iter().collect();
        change(&mut records);
        State::load(LogIndex(world.index), records).map(|_| ()).unwrap_err()
    };
    assert_eq!(load(&|records| drop(records.insert(vec![99], vec![]))), LoadError::Key(1));
    assert_eq!(load(&|records| drop(records.remove(&vec![1]))), LoadError::MetaMissing);
    assert!(matches!(load(&|records| records.retain(|key, _| key[0] != 3)), LoadError::MessageMissing(_)));
    assert_eq!(load(&|records| records.retain(|key, _| key[0] != 4)), LoadError::SessionMissing("c".into()));
    let version = |records: &mut Records| records.values_mut().for_each(|value| value[0] = 7);
    assert_eq!(load(&version), LoadError::Version { kind: 1, found: 7 });
    let cut = |records: &mut Records| records.values_mut().for_each(|value| value.truncate(1));
    assert_eq!(load(&cut), LoadError::Value { kind: 1 });
}

#[test]
fn messages_that_wait_are_put_out_oldest_sessions_first_until_memory_is_within_its_budget() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    world.sleeper("shared", &["$share/g/a"]);
    for number in 0..10 {
        world.publish(Message { expiry_seconds: Some(60), ..message("a", &number.to_string(), 1) });
    }
    let here = |state: &State, client: &str| {
        let entries = state.session(client).unwrap().queue().iter_from(0);
        entries.filter(|entry| matches!(state.body(entry), Body::Here(_))).count()
    };
    let all = world.state.totals().message_memory;
    assert!(
        world.state.put_out(0, &mut Evicted::default()).is_some_and(|freed| freed.is_empty()),
        "nothing is written"
    );
    write(&mut BTreeMap::new(), &mut world.state);
    world.publish(message("a", "not written", 1));
    assert!(world.state.put_out(all * 2, &mut Evicted::default()).is_none(), "within its budget");
    let freed = world.state.put_out(0, &mut Evicted::default()).unwrap();
    // The first of a queue, what is not written, and what may move to another member of its group stay.
    assert_eq!((freed.len(), here(&world.state, "c"), here(&world.state, "shared")), (9, 2, 11));
    check(&world.state);
    world.wait(70);
    assert_eq!(world.state.session("c").unwrap().queue().len(), 1, "messages expire wherever they are");
    check(&world.state);
}

#[test]
fn topics_and_properties_count_as_memory_and_not_against_the_limits_of_queues() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(ConnectCommand {
        limits: QueueLimits { bytes: 10, inflight: 1, ..QueueLimits::default() },
        ..connect("c")
    });
    world.subscribe("c", epoch, sub("a", 1));
    let text = "x".repeat(50_000);
    let properties = mosquorum_proto::mqtt::PublishProperties {
        user_properties: [(text.as_str().into(), text.as_str().into())].into_iter().collect(),
        ..Default::default()
    };
    for number in 0..4 {
        world.publish(Message {
            properties: Some(Box::new(properties.clone())),
            ..message("a", &number.to_string(), 1)
        });
    }
    let totals = world.state.totals();
    assert_eq!((world.queue("c").len(), totals.message_bytes), (4, 4));
    assert!((400_000..410_000).contains(&totals.message_memory), "{totals:?}");
    let mut store = BTreeMap::new();
    write(&mut store, &mut world.state);
    // Only the first fits.
    let records = store.iter().map(|(key, value)| Record::read(key, value));
    let loaded = State::load_within(LogIndex(world.index), records, 150_000, |key| store.get(key)).unwrap();
    let found = loaded.totals();
    assert_eq!(found.message_memory + found.message_memory_saved, totals.message_memory);
    assert!((100_000..150_000).contains(&found.message_memory), "{found:?}");
}

#[test]
fn empty_state_is_loaded_from_nothing() {
    let nothing: [(Vec<u8>, Vec<u8>); 0] = [];
    let state = State::load(LogIndex(0), nothing).unwrap();
    assert_eq!(state.digest(), State::default().digest());
}

#[test]
fn state_in_memory_keeps_no_notes() {
    let mut world = World::new();
    world.state = State::in_memory();
    let up = |node| Batch {
        origin: node,
        sequence: 1,
        time: Millis(0),
        commands: vec![Command::NodeUp { name: "n".into() }],
    };
    world.state.apply(LogIndex(1), &up(NODE), &mut Applied::default());
    world.index = 1;
    world.sleeper("c", &["a"]);
    world.publish(Message { retain: true, ..message("a", "1", 1) });
    assert_eq!(world.state.unwritten_parts(), 0);
    assert!(world.state.sessions.iter().all(|(_, session)| session.unwritten().filters.is_empty()));
}

#[test]
fn the_last_word_about_a_name_counts_and_the_oldest_goes_beyond_the_bound() {
    let mut world = World::new();
    let added = |name: &str| Command::NodeAdded { name: name.into(), host: "h".into() };
    let removed = |name: &str| Command::NameRemoved { name: name.into() };
    world.apply(added("z"));
    world.apply(removed("z"));
    let mut store = BTreeMap::new();
    write(&mut store, &mut world.state);
    let words =
        |state: &State| state.admissions().map(|(name, word)| (name.to_string(), word.clone())).collect::<Vec<_>>();
    assert_eq!(words(&world.state), [("z".to_owned(), Word::Removed)]);
    for number in 0..NAMES_MAX {
        world.apply(removed(&format!("n{number}")));
    }
    assert_eq!(world.state.admissions().count(), NAMES_MAX);
    assert!(!words(&world.state).iter().any(|(name, _)| name == "z"));
    write(&mut store, &mut world.state);
    assert_eq!(words(&State::load(LogIndex(world.index), &store).unwrap()), words(&world.state));
}
