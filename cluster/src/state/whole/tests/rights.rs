//! Who may not read a message, as the node that proposes it says.
use super::*;

fn epoch(world: &World, client: &str) -> Epoch {
    world.session(client).epoch()
}

/// To all but these clients.
fn but(world: &World, clients: &[&str], mut command: PublishCommand) -> Command {
    let mut unreadable: Vec<Epoch> = clients.iter().map(|client| epoch(world, client)).collect();
    unreadable.sort_unstable();
    command.whom = match command.whom {
        Whom::Group { group, .. } => Whom::Group { group, unreadable: unreadable.into() },
        _ => Whom::but(&unreadable.into()),
    };
    Command::Publish(command)
}

fn numbered(number: u32) -> PublishCommand {
    PublishCommand::new(Arc::new(message("a", &number.to_string(), 1)))
}

#[test]
fn a_queue_is_not_filled_with_what_its_client_may_not_read() {
    let mut world = World::new();
    let limits = QueueLimits { messages: 2, ..connect("c").limits };
    let (first, ..) = world.connect(ConnectCommand { limits, ..connect("c") });
    world.subscribe("c", first, sub("a", 1));
    world.disconnect("c", first, true);
    world.sleeper("other", &["a"]);
    for number in 0..10 {
        let command = but(&world, &["c"], numbered(number));
        assert_eq!(world.apply(command), Outcome::Published { matched: 1, duplicate: false });
    }
    world.publish(message("a", "allowed", 1));
    assert_eq!((world.queue("c"), world.queue("other").len()), (vec!["allowed".to_owned()], 11));
    assert_eq!(world.state.counters().dropped_queue_full, 0);
}

/// Its rights may be others by then, and what it may not read is held back when it is sent.
#[test]
fn who_connected_after_it_was_judged_misses_nothing() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    let judged = but(&world, &["c"], numbered(1));
    world.connect(connect("c"));
    world.apply(judged);
    assert_eq!(world.queue("c"), ["1"]);
}

#[test]
fn a_member_that_may_not_read_has_no_turn_in_its_group() {
    let mut world = World::new();
    for member in ["a", "b", "c"] {
        let (epoch, ..) = world.connect(connect(member));
        world.subscribe(member, epoch, sub("$share/g/a", 1));
    }
    for number in 0..4 {
        let command = but(&world, &["b"], numbered(number));
        assert_eq!(world.apply(command), Outcome::Published { matched: 1, duplicate: false });
    }
    assert_eq!((world.queue("a").len(), world.queue("b").len(), world.queue("c").len()), (2, 0, 2));
    let whom = Whom::Group { group: sub("$share/g/a", 0).filter, unreadable: Arc::default() };
    let again = PublishCommand { whom, ..numbered(4) };
    let command = but(&world, &["a", "b"], again.clone());
    world.apply(command);
    assert_eq!(world.queue("c").len(), 3);
    let command = but(&world, &["a", "b", "c"], again);
    assert_eq!(world.apply(command), Outcome::Published { matched: 0, duplicate: false });
}

#[test]
fn a_message_waits_for_a_member_that_is_away_if_nobody_who_is_there_may_read_it() {
    let mut world = World::new();
    let (there, ..) = world.connect(connect("there"));
    world.subscribe("there", there, sub("$share/g/a", 1));
    world.sleeper("away", &["$share/g/a"]);
    let command = but(&world, &["there"], numbered(1));
    world.apply(command);
    assert_eq!((world.queue("there").len(), world.queue("away").len()), (0, 1));
}

#[test]
fn a_will_goes_to_those_who_may_read_it_and_to_a_live_member_of_a_group_without_one() {
    let mut world = World::new();
    world.sleeper("barred", &["w", "$share/g/w"]);
    world.sleeper("reader", &["w", "$share/h/w"]);
    let (mortal, ..) = world.connect(ConnectCommand { will: will("w", "gone", 0), ..connect("mortal") });
    let unreadable = Arc::from([epoch(&world, "barred")]);
    world.apply(Command::Disconnect(DisconnectCommand {
        client_id: "mortal".into(),
        epoch: mortal,
        discard_will: false,
        expiry_seconds: None,
        sent_before: 0,
        unreadable,
    }));
    assert_eq!((world.queue("barred").len(), world.queue("reader").len()), (0, 2));
    let [Effect::PublishLive { served, .. }] = &world.effects[..] else { panic!("{:?}", world.effects) };
    assert_eq!(served[..], [sub("$share/h/w", 0).filter]);
}

#[test]
fn a_command_says_nothing_of_rights_when_everybody_may_read() {
    let size = |whom| postcard::to_extend(&PublishCommand { whom, ..numbered(1) }, Vec::new()).unwrap().len();
    assert_eq!(size(Whom::but(&Arc::default())), size(Whom::All));
    assert_eq!(postcard::to_extend(&Whom::All, Vec::new()).unwrap().len(), 1);
    assert_eq!(size(Whom::but(&Arc::from([Epoch(1 << 30)]))), size(Whom::All) + 6);
}

#[test]
fn rules_agree_only_among_serving_nodes_that_told_the_same() {
    let mut world = World::new();
    let (door, other) = (Door(1), Door(2));
    let agree = |world: &World, door| world.state.rules_agree(NODE.node, door, 7);
    assert!(!agree(&world, door), "the other node has told nothing");
    let before = world.state.subscriptions_version();
    world.from(OTHER, Command::NodeRules { rules: NodeRules::Same(7) });
    assert_ne!(world.state.subscriptions_version(), before, "who decided by it looks again");
    assert!(agree(&world, door) && agree(&world, other));
    world.from(OTHER, Command::NodeRules { rules: NodeRules::Each(vec![(door, 7), (Door(3), 8)]) });
    assert!(agree(&world, door) && !agree(&world, Door(3)));
    assert!(agree(&world, other), "nobody comes there by this door");
    world.state = State::load(LogIndex(world.index), world.state.full_records()).unwrap();
    assert!(agree(&world, door) && !agree(&world, Door(3)));
    let next = Origin { incarnation: Incarnation(2), ..OTHER };
    world.from(next, Command::NodeUp { name: "two".into() });
    assert!(!agree(&world, door), "it may have come up with other rules");
    world.apply(Command::NodeDown { node: next.node, incarnation: next.incarnation });
    assert!(agree(&world, door), "nobody can come back to it now");
}

#[test]
fn the_door_of_a_session_is_kept() {
    let mut world = World::new();
    world.connect(ConnectCommand { door: Door(8883), ..connect("c") });
    world.state = State::load(LogIndex(world.index), world.state.full_records()).unwrap();
    assert_eq!(world.session("c").door(), Door(8883));
}
