//! Random commands: what must hold whatever happens.
use super::*;
use std::collections::{BTreeMap, BTreeSet};

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "publisher"];
const TOPICS: [&str; 5] = ["t", "t/u", "t/v", "u", "t/u/w"];
const FILTERS: [&str; 9] = ["t", "t/#", "t/+", "#", "+", "u", "$share/g/t/#", "$share/h/t/#", "$share/g/u"];

/// What the test knows of the clients.
#[derive(Default)]
struct Clients {
    epochs: BTreeMap<&'static str, Epoch>,
    incarnations: [u64; 2],
    sequences: BTreeMap<Origin2, u64>,
    now: u64,
    published: u64,
}
type Origin2 = (u64, u64);

impl Clients {
    fn origin(&self, node: usize) -> Origin {
        Origin { node: NodeId(node as u64 + 1), incarnation: Incarnation(self.incarnations[node]) }
    }

    fn batch(&mut self, origin: Origin, commands: Vec<Command>) -> Batch {
        let sequence = self.sequences.entry((origin.node.0, origin.incarnation.0)).or_insert(0);
        *sequence += 1;
        Batch { origin, sequence: *sequence, time: Millis(self.now), commands }
    }

    fn connect(&mut self, random: &mut Random, origin: Origin) -> Command {
        let delay = random.below(4) as u32 * 3;
        Command::Connect(Box::new(ConnectCommand {
            client_id: (*random.pick(&CLIENTS)).into(),
            username: random.chance(2).then(|| "user".into()),
            clean_start: random.chance(5),
            expiry_seconds: *random.pick(&[0, 5, 20, NEVER]),
            will: if random.chance(2) { will(TOPICS[random.below(5)], "will", delay) } else { None },
            owner: Owner {
                node: origin.node,
                incarnation: origin.incarnation,
                connection: ConnectionId(random.below(1000) as u64),
            },
            limits: QueueLimits {
                messages: *random.pick(&[0, 2, 30]),
                bytes: *random.pick(&[0, 40]),
                inflight: *random.pick(&[0, 1, 4]),
                queue_qos0: random.chance(2),
                upgrade_qos: random.chance(4),
                merge_overlapping: random.chance(3),
                shared_offline: random.chance(3),
            },
            door: Door(random.below(3) as u32),
            same_user: random.chance(4),
        }))
    }

    /// Some sessions, as a node names those that may not read.
    fn some(&self, random: &mut Random) -> Arc<[Epoch]> {
        let mut some: Vec<Epoch> = self.epochs.values().copied().filter(|_| random.chance(2)).collect();
        some.sort_unstable();
        some.into()
    }

    fn publish(&mut self, random: &mut Random, client: &str, epoch: Epoch) -> Command {
        self.published += 1;
        let payload = if random.chance(8) { String::new() } else { format!("{}", self.published) };
        let mut message = message(TOPICS[random.below(5)], &payload, random.below(3) as u8);
        message.retain = random.chance(4);
        message.expiry_seconds = random.chance(4).then(|| random.below(15) as u32);
        message.received_at = Millis(self.now);
        message.publisher_id = client.into();
        let id = 1 + random.below(4) as u16;
        let packet_id = (message.qos == QoS::ExactlyOnce && random.chance(2)).then_some(id);
        let group = |random: &mut Random| TopicFilter::try_from(FILTERS[6 + random.below(3)]).unwrap();
        Command::Publish(PublishCommand {
            message: Arc::new(message),
            epoch: packet_id.map(|_| epoch),
            packet_id,
            groups_served: if random.chance(5) { vec![group(random)] } else { Vec::new() },
            whom: match random.below(20) {
                0 => Whom::Group { group: group(random), unreadable: self.some(random) },
                1..6 => Whom::but(&self.some(random)),
                _ => Whom::All,
            },
            admit: LoopCheck::Always,
            live: Live::ByOrigin,
        })
    }

    fn acknowledge(random: &mut Random, state: &State, client: &str, epoch: Epoch) -> Command {
        let mut acks = Vec::new();
        if let Some(session) = state.session(client) {
            for entry in session.queue().iter_from(0).take(8) {
                let kind = match (entry.qos(), entry.state()) {
                    (QoS::ExactlyOnce, EntryState::Released) => AckKind::PubComp,
                    (QoS::ExactlyOnce, EntryState::Queued) if random.chance(9) => AckKind::PubRecError,
                    (QoS::ExactlyOnce, EntryState::Queued) => AckKind::PubRec,
                    _ => AckKind::PubAck,
                };
                if random.chance(2) {
                    acks.push((entry.packet_id(), kind));
                }
            }
        }
        if random.chance(3) {
            acks.push((random.below(9) as u16, AckKind::PubComp));
        }
        Command::Acknowledge { client_id: client.into(), epoch, acks }
    }

    fn command(&mut self, random: &mut Random, state: &State, origin: Origin) -> Command {
        let client = *random.pick(&CLIENTS);
        let epoch = *self.epochs.get(client).unwrap_or(&Epoch(1));
        let client_id = Utf8::from(client);
        match random.below(20) {
            0..2 => self.connect(random, origin),
            2 => Command::Disconnect(DisconnectCommand {
                client_id,
                epoch,
                discard_will: random.chance(2),
                expiry_seconds: random.chance(4).then_some(7),
                sent_before: random.below(20) as u64,
                unreadable: self.some(random),
            }),
            3..6 => {
                let mut subscription = sub(FILTERS[random.below(9)], random.below(3) as u8);
                subscription.no_local = random.chance(4) && subscription.filter.share_name().is_none();
                subscription.retain_as_published = random.chance(2);
                subscription.retain_handling = *random.pick(&[
                    RetainHandling::SendAtSubscribe,
                    RetainHandling::SendIfNew,
                    RetainHandling::DoNotSend,
                ]);
                let identifier = random.chance(2).then(|| 1 + random.below(9) as u32);
                Command::Subscribe { client_id, epoch, subscriptions: vec![subscription], identifier }
            }
            6 => {
                let filters = vec![TopicFilter::try_from(FILTERS[random.below(9)]).unwrap()];
                Command::Unsubscribe { client_id, epoch, filters }
            }
            7 => Command::Release { client_id, epoch, packet_id: 1 + random.below(4) as u16 },
            8..11 => Self::acknowledge(random, state, client, epoch),
            11 => Command::Tick,
            12 if random.chance(6) => Command::EndSession { client_id },
            12 if random.chance(6) => Command::WithdrawWill { client_id, epoch },
            12 if random.chance(6) => {
                let rules = if random.chance(2) { NodeRules::Same(7) } else { NodeRules::Each(vec![(Door(1), 7)]) };
                Command::NodeRules { rules }
            }
            13 if random.chance(9) => {
                let node = random.below(2);
                Command::NodeDown { node: NodeId(node as u64 + 1), incarnation: Incarnation(self.incarnations[node]) }
            }
            _ => self.publish(random, client, epoch),
        }
    }
}

fn apply(state: &mut State, index: u64, batch: &Batch) -> Applied {
    let mut out = Applied::default();
    state.apply(LogIndex(index), batch, &mut out);
    out
}

/// Messages of one publisher stand in each queue in the order they were published, as far as they came by the same
/// subscription; no QoS 2 message stands there twice by the same subscription.
fn check_order(state: &State, retained_or_moved: &BTreeSet<(String, u64)>) {
    for session in state.sessions() {
        let mut last: BTreeMap<(String, u8, Vec<u32>, Option<String>), u64> = BTreeMap::new();
        for entry in session.queue().iter_from(0) {
            let Some(message) = entry.message() else { continue };
            let Ok(number) = std::str::from_utf8(&message.payload).unwrap_or_default().parse::<u64>() else { continue };
            if retained_or_moved.contains(&(session.client_id().to_string(), entry.seq())) {
                continue;
            }
            let group = entry.group().map(ToString::to_string);
            let options = entry.options();
            let stream = (message.topic.to_string(), u8::from(message.qos), options.identifiers.to_vec(), group);
            let before = last.insert(stream, number).unwrap_or(0);
            assert!(before <= number, "{number} after {before} for {}", session.client_id());
        }
    }
}

/// One life of a cluster, told by one seed. Notes which outcomes and effects it saw.
fn run(seed: u64, steps: usize, seen: &mut BTreeSet<String>) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut clients = Clients { incarnations: [1, 1], now: 1_000_000, ..Clients::default() };
    let (mut state, mut twin) = (State::default(), State::default());
    // Half of them do long work in steps so small that everything is long.
    let step_work = if seed.count_ones().is_multiple_of(2) { 2 } else { STEP_WORK };
    state.steps.set_max(step_work);
    twin.steps.set_max(step_work);
    let mut store: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut past: Vec<Batch> = Vec::new();
    let mut reordered = BTreeSet::new();
    let mut index = 0;
    for step in 0..steps {
        clients.now += random.below(1500) as u64;
        let node = if step < 2 { step } else { random.below(2) };
        let mut commands = Vec::new();
        let restarts = step >= 2 && random.chance(40);
        clients.incarnations[node] += u64::from(restarts);
        let origin = clients.origin(node);
        if step < 2 || restarts {
            commands.push(Command::NodeUp { name: "n".into() });
        }
        let fresh = step < 2 || restarts || !random.chance(10);
        let batch = if fresh {
            for _ in 0..random.below(4) {
                commands.push(clients.command(&mut random, &state, origin));
            }
            clients.batch(origin, commands)
        } else {
            random.pick(&past).clone()
        };
        index += 1;
        let before = (!fresh).then(|| state.full_records());
        let marks: BTreeMap<_, _> = state.sessions().map(|s| (s.client_id().clone(), s.queue().tail())).collect();
        let out = apply(&mut state, index, &batch);
        let again = apply(&mut twin, index, &batch);
        assert_eq!(out.outcomes, again.outcomes);
        assert_eq!(format!("{:?}", out.effects), format!("{:?}", again.effects));
        if let Some(before) = before {
            assert!(!out.accepted || !past.contains_batch(&batch), "a batch was applied twice");
            let after = state.full_records();
            assert_eq!(before[1..], after[1..], "a duplicate changed something");
        }
        let first_word = |text: String| text.split([' ', '(']).next().unwrap_or_default().to_owned();
        seen.extend(out.effects.iter().map(|effect| first_word(format!("{effect:?}"))));
        seen.extend(out.outcomes.iter().map(|outcome| first_word(format!("{outcome:?}"))));
        seen.extend(out.effects.iter().filter_map(|effect| match effect {
            Effect::Dropped { reason, .. } => Some(format!("{reason:?}")),
            _ => None,
        }));
        let under_way = [
            ("replaying", !state.replays.is_empty()),
            ("lost", state.connections.has_work()),
            ("remains", state.sessions.has_aside()),
        ];
        seen.extend(under_way.iter().filter(|(_, is)| *is).map(|(what, _)| (*what).to_owned()));
        for (command, outcome) in batch.commands.iter().zip(&out.outcomes) {
            if let (Command::Connect(connect), Outcome::Connected { epoch, .. }) = (command, outcome) {
                let client = CLIENTS.iter().find(|client| **client == connect.client_id.as_str()).unwrap();
                clients.epochs.insert(client, *epoch);
            }
            // Retained messages, and those that another member of a group left behind, come out of their order.
            let moves = !matches!(command, Command::Publish(publish) if !matches!(publish.whom, Whom::Group { .. }));
            if moves || batch.commands.len() > 1 {
                for session in state.sessions() {
                    let from = marks.get(session.client_id()).copied().unwrap_or(0);
                    let new =
                        session.queue().iter_from(from).map(|entry| (session.client_id().to_string(), entry.seq()));
                    reordered.extend(new);
                }
            }
        }
        past.push(batch);
        check(&state);
        check_order(&state, &reordered);
        if random.chance(7) {
            write(&mut store, &mut state);
            assert_eq!(used(&store, &state), whole(&state, &store));
            put_out(&mut state, 0);
            seen.extend(state.sessions().flat_map(|session| bodies(&state, session)));
            assert_eq!(used(&store, &state), whole(&state, &store));
            let budget = random.below(2) as u64 * 1000;
            let records = store.iter().map(|(key, value)| Record::read(key, value));
            let loaded = State::load_within(LogIndex(index), records, budget, |key| store.get(key)).unwrap();
            check(&state);
            check(&loaded);
            assert_eq!(whole(&loaded, &store), used(&store, &state));
            assert_eq!(whole(&twin, &store), used(&store, &state));
            if random.chance(2) {
                // From here on a node that was restarted goes along.
                twin = loaded;
                twin.steps.set_max(step_work);
            }
        }
    }
    write(&mut store, &mut state);
    assert_eq!(whole(&twin, &store), whole(&state, &store));
}

/// What the store has, without messages that only a session has which has ended and is not cleared yet.
fn used(store: &BTreeMap<Vec<u8>, Vec<u8>>, state: &State) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let whole = whole(state, store);
    let unused = |key: &Vec<u8>| state.sessions.has_aside() && key[0] == 3 && !whole.contains_key(key);
    store.iter().filter(|(key, _)| !unused(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// All records of a state, with the messages that it has evicted.
fn whole(state: &State, store: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records: BTreeMap<_, _> = state.full_records().into_iter().collect();
    let entries = state.sessions().flat_map(|session| session.queue().iter_from(0));
    for entry in entries {
        if let Body::Stored(id) = state.body(entry) {
            let value = store.get(&id.key()).expect("what was put out is in the durable form");
            assert_eq!(id.read(value).unwrap().payload.len() as u64, entry.bytes());
            records.insert(id.key(), value.clone());
        }
    }
    records
}

fn put_out(state: &mut State, budget: u64) {
    let mut at = Evicted::default();
    while state.put_out(budget, &mut at).is_some() {}
}

fn bodies(state: &State, session: &Session) -> Vec<String> {
    let of = |entry| match state.body(entry) {
        Body::Here(_) => "Here",
        Body::Stored(_) => "Stored",
        Body::Released => "Released body",
    };
    session.queue().iter_from(0).map(|entry| of(entry).to_owned()).collect()
}

fn write(store: &mut BTreeMap<Vec<u8>, Vec<u8>>, state: &mut State) {
    for (key, value) in state.take_changes().into_ops() {
        match value {
            Some(value) => store.insert(key, value),
            None => store.remove(&key),
        };
    }
}

trait ContainsBatch {
    fn contains_batch(&self, batch: &Batch) -> bool;
}
impl ContainsBatch for Vec<Batch> {
    fn contains_batch(&self, batch: &Batch) -> bool {
        self.iter().any(|past| past.origin == batch.origin && past.sequence == batch.sequence)
    }
}

#[test]
fn random_commands_keep_every_promise_of_the_state() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    let mut seen = BTreeSet::new();
    for seed in 1..=seeds {
        run(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed) | 1, 400, &mut seen);
    }
    for expected in [
        "Connected",
        "Subscribed",
        "Unsubscribed",
        "Published",
        "Released",
        "Done",
        "Superseded",
        "OtherUsers",
        "QueueGrew",
        "DeliverNow",
        "Stored",
        "Fence",
        "PublishLive",
        "ChooseAgain",
        "NodeChanged",
        "Dropped",
        "QueueFull",
        "QueueBytes",
        "Expired",
        "SessionEnded",
        "replaying",
        "lost",
        "remains",
    ] {
        assert!(seen.contains(expected), "no {expected} in all these lives");
    }
}
