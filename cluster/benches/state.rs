//! Matching a topic among many filters, and applying publishes for durable sessions. `cargo bench -p mosquorum-cluster`
use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use mosquorum_cluster::{
    ids::{ConnectionId, Epoch, Incarnation, LogIndex, Millis, NodeId},
    state::{
        AckKind, Applied, Batch, Command, ConnectCommand, Message, Origin, Outcome, Owner, PublishCommand, QueueLimits,
        State,
    },
    subscription_tree::SubscriptionTree,
};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, TopicName, Utf8};
use std::sync::Arc;

const BATCH: usize = 200;
const ORIGIN: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };

fn main() {
    divan::main();
}

/// Unrelated filters must not matter: three filters match, the others are of other devices.
#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn match_among(bencher: Bencher<'_, '_>, filters: u32) {
    let mut tree = SubscriptionTree::new();
    for number in 0..filters {
        tree.insert(&format!("site/{}/device/{number}/power", number % 1000), number, ());
    }
    for (key, filter) in ["site/7/device/7/power", "site/+/device/7/power", "site/7/#"].iter().enumerate() {
        tree.insert(filter, u32::MAX - key as u32, ());
    }
    bencher.bench_local(|| {
        let mut found = 0;
        tree.matches(black_box("site/7/device/7/power"), |_, ()| found += 1);
        found
    });
}

/// A state with so many durable sessions, all subscribed to one topic.
struct World {
    state: State,
    index: u64,
    epochs: Vec<Epoch>,
}

impl World {
    fn new(sessions: u64) -> Self {
        let mut world = Self { state: State::in_memory(), index: 0, epochs: Vec::new() };
        world.apply(vec![Command::NodeUp { name: Utf8::from("bench") }]);
        for number in 0..sessions {
            let client_id = Utf8::from(format!("session-{number}"));
            let owner = Owner { node: ORIGIN.node, incarnation: ORIGIN.incarnation, connection: ConnectionId(number) };
            let applied = world.apply(vec![Command::Connect(Box::new(ConnectCommand {
                client_id: client_id.clone(),
                username: None,
                clean_start: true,
                expiry_seconds: u32::MAX,
                will: None,
                owner,
                limits: QueueLimits { inflight: 20, ..QueueLimits::default() },
                door: mosquorum_cluster::state::Door(1883),
                same_user: false,
            }))]);
            let Some(Outcome::Connected { epoch, .. }) = applied.outcomes.first() else { panic!("{applied:?}") };
            world.epochs.push(*epoch);
            let filter = TopicFilter::new(Utf8::from("site/+/power")).expect("a filter");
            let subscriptions = vec![Subscription::new(filter, QoS::AtLeastOnce)];
            world.apply(vec![Command::Subscribe { client_id, epoch: *epoch, subscriptions, identifier: None }]);
        }
        world
    }

    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.index += 1;
        let batch = Batch { origin: ORIGIN, sequence: self.index, time: Millis(self.index), commands };
        let mut applied = Applied::default();
        self.state.apply(LogIndex(self.index), &batch, &mut applied);
        applied
    }
}

/// A batch of publishes, queued for every session and acknowledged by it, so that queues stay short.
#[divan::bench(args = [1, 10])]
fn apply_publish_and_acknowledge(bencher: Bencher<'_, '_>, sessions: u64) {
    let mut world = World::new(sessions);
    let topic = TopicName::new(Utf8::from("site/kitchen/power")).expect("a topic");
    let payload = Bytes::from(vec![b'x'; 64]);
    let message =
        Message { publisher_id: Utf8::from("publisher"), ..Message::new(topic, payload, QoS::AtLeastOnce, Millis(0)) };
    let message = Arc::new(message);
    let publish = Command::Publish(PublishCommand::new(message));
    bencher.counter(ItemsCount::new(BATCH * sessions as usize)).bench_local(|| {
        world.apply(vec![publish.clone(); BATCH]);
        let acks = (0..sessions).map(|number| {
            let client_id = Utf8::from(format!("session-{number}"));
            let session = world.state.session(&client_id).expect("it was made");
            let acks = session.queue().iter_from(0).map(|entry| (entry.packet_id(), AckKind::PubAck)).collect();
            Command::Acknowledge { epoch: world.epochs[number as usize], client_id, acks }
        });
        let acks = acks.collect();
        world.apply(acks).outcomes.len()
    });
}
