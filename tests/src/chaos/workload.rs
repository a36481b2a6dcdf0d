//! Who does what in a chaos run. Rates are for a run of three nodes on two cores and scale with one number.
use super::{
    actors::{
        Afterlife, Stage,
        expirer::expirer,
        mortal,
        mover::{self, mover},
        newcomer,
        packer::packer,
        prober::prober,
        reader,
    },
    contest::contest,
};
use crate::{
    client::{
        publisher::{Publisher, PublisherPlan},
        subscriber::{Habit, Subscriber, SubscriberPlan},
    },
    random::Random,
};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use std::sync::Arc;
use tokio::task::JoinSet;

const QOS1_PUBLISHERS: u64 = 4;
const QOS2_PUBLISHERS: u64 = 4;
/// Durable subscribers of ordinary data; the promise asks for ten at least.
const SUBSCRIBERS: u64 = 10;

/// Clients that move from node to node: name, whether their sessions are durable, and with which QoS they publish.
const MOVERS: [(&str, bool, QoS); 4] = [
    ("clean-1", false, QoS::AtLeastOnce),
    ("clean-2", false, QoS::ExactlyOnce),
    ("durable-1", true, QoS::AtLeastOnce),
    ("durable-2", true, QoS::ExactlyOnce),
];
/// How long the sessions of those who stay away live, in seconds.
const EXPIRIES: [u32; 4] = [4, 6, 9, 15];

/// Retained topics that several write to.
fn contested_topics() -> Vec<Arc<str>> {
    (0..3).map(|topic| format!("retained/{topic}").into()).collect()
}

/// The topics whose retained messages are written and read.
#[must_use]
pub fn retained_topics() -> Vec<Arc<str>> {
    let mut topics = contested_topics();
    topics.extend(MOVERS.iter().map(|(name, _, _)| mover::topic(name)));
    topics
}

/// Starts every subscriber. Wait until their subscriptions are there before [`publishers`]: the run then owes more.
pub fn subscribers(stage: &Stage, random: &Random, actors: &mut JoinSet<()>) {
    let wander = Habit::Wander { connected: (1000, 6000), away: (50, 1500) };
    for index in 0..SUBSCRIBERS {
        let filters: Vec<(Arc<str>, QoS)> = match index % 5 {
            0 => vec![("data/#".into(), QoS::ExactlyOnce)],
            1 => vec![("data/#".into(), QoS::AtLeastOnce)],
            2 => vec![
                (format!("data/qos1-{}/+", index % QOS1_PUBLISHERS).into(), QoS::AtLeastOnce),
                (format!("data/qos2-{}/+", index % QOS2_PUBLISHERS).into(), QoS::ExactlyOnce),
            ],
            3 => vec![("data/+/0".into(), QoS::ExactlyOnce)],
            _ => vec![("data/qos2-1/#".into(), QoS::ExactlyOnce), ("data/qos2-3/#".into(), QoS::ExactlyOnce)],
        };
        let plan = SubscriberPlan {
            identity: stage.identity(&format!("sub-{index}"), version(index), true),
            filters,
            as_published: false,
            acknowledge_after: if index % 3 == 0 { 8 } else { 1 },
            habit: wander.clone(),
            first_node: index as usize,
        };
        subscriber(stage, plan, random.branch(100 + index), actors);
    }
    for index in 0..2 {
        let plan =
            one_filter(stage, &format!("observer-{index}"), true, "will/#", QoS::ExactlyOnce, wander.clone(), index);
        subscriber(stage, plan, random.branch(200 + index), actors);
    }
    for index in 0..stage.nodes.len() as u64 {
        let plan =
            one_filter(stage, &format!("watcher-{index}"), false, "live/#", QoS::ExactlyOnce, Habit::Stay, index);
        subscriber(stage, plan, random.branch(300 + index), actors);
        let plan = one_filter(
            stage,
            &format!("worker-{index}"),
            true,
            "$share/crew/shared/#",
            QoS::AtLeastOnce,
            wander.clone(),
            index,
        );
        subscriber(stage, plan, random.branch(400 + index), actors);
    }
    let plan = one_filter(stage, "probed", true, "probe/#", QoS::AtLeastOnce, wander.clone(), 1);
    subscriber(stage, plan, random.branch(440), actors);
    seers(stage, random, &wander, actors);
}

/// Those who see everything that is retained as it is published: a clean one at each node, and two durable ones. MQTT 5
/// ones get it with its flag.
fn seers(stage: &Stage, random: &Random, wander: &Habit, actors: &mut JoinSet<()>) {
    let nodes = stage.nodes.len() as u64;
    let clean = (0..nodes).map(|index| (format!("seer-{index}"), false, QoS::ExactlyOnce, Habit::Stay));
    let durable = [("seer-two", QoS::ExactlyOnce), ("seer-one", QoS::AtLeastOnce)];
    let durable = durable.map(|(name, qos)| (name.to_owned(), true, qos, wander.clone()));
    for (index, (name, durable, qos, habit)) in clean.chain(durable).enumerate() {
        let index = index as u64;
        let plan = SubscriberPlan {
            identity: stage.identity(&name, version(index), durable),
            filters: vec![("mover/#".into(), qos), ("retained/#".into(), qos)],
            as_published: version(index).is_v5(),
            acknowledge_after: 1,
            habit,
            first_node: index as usize,
        };
        subscriber(stage, plan, random.branch(460 + index), actors);
    }
}

/// QoS 2 messages per second of each publisher that has live subscribers only.
pub const LIVE_RATE: u32 = 20;

/// How much is published.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Messages per second of ordinary data, all publishers together.
    pub ordinary: u32,
    /// As [`LIVE_RATE`].
    pub live: u32,
    /// As [`PACKED_RATE`].
    pub packed: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { ordinary: 450, live: LIVE_RATE, packed: PACKED_RATE }
    }
}

/// Writes per second of the client that packs small messages among filler.
pub const PACKED_RATE: u32 = 2;

/// Starts everybody who publishes.
pub fn publishers(stage: &Stage, random: &Random, rates: Rates, actors: &mut JoinSet<()>) {
    let each = (rates.ordinary / (QOS1_PUBLISHERS + QOS2_PUBLISHERS) as u32).max(1);
    for index in 0..QOS1_PUBLISHERS {
        let plan = publisher_plan(stage, &format!("qos1-{index}"), index, QoS::AtLeastOnce, each);
        publisher(stage, plan, random.branch(500 + index), actors);
    }
    for index in 0..QOS2_PUBLISHERS {
        let plan = publisher_plan(stage, &format!("qos2-{index}"), index + 1, QoS::ExactlyOnce, each);
        publisher(stage, plan, random.branch(600 + index), actors);
    }
    for (index, qos) in [(0, QoS::AtLeastOnce), (1, QoS::ExactlyOnce)] {
        let mut plan = publisher_plan(stage, &format!("retainer-{index}"), index, qos, 15);
        // Both at all topics and often at once: their order is the log's alone.
        (plan.retain, plan.topics, plan.burst) = (true, contested_topics(), 9);
        publisher(stage, plan, random.branch(700 + index), actors);
        let mut plan = publisher_plan(stage, &format!("liver-twice-{index}"), index, QoS::ExactlyOnce, rates.live);
        plan.topics = vec![format!("live/twice-{index}").into()];
        publisher(stage, plan, random.branch(730 + index), actors);
        let mut plan = publisher_plan(stage, &format!("liver-{index}"), index, QoS::AtLeastOnce, 20);
        plan.topics = vec![format!("live/{index}").into()];
        publisher(stage, plan, random.branch(720 + index), actors);
    }
    let mut plan = publisher_plan(stage, "sharer", 0, QoS::AtLeastOnce, 30);
    plan.topics = vec!["shared/a".into(), "shared/b".into()];
    publisher(stage, plan, random.branch(740), actors);
    for index in 0..2 {
        let wills = [
            ("ended", Afterlife::Never),
            ("back", Afterlife::AtOnce),
            ("delayed", Afterlife::BeforeTheWill),
            ("late", Afterlife::DelayedEnd),
        ];
        for (kind, (name, afterlife)) in wills.into_iter().enumerate() {
            let random = random.branch(800 + index * 4 + kind as u64);
            actors.spawn(mortal(stage.clone(), format!("mortal-{name}-{index}"), afterlife, random));
        }
        actors.spawn(newcomer(stage.clone(), format!("newcomer-{index}"), random.branch(840 + index)));
        actors.spawn(reader(stage.clone(), format!("reader-{index}"), contested_topics(), random.branch(860 + index)));
        actors.spawn(contest(stage.clone(), format!("contest-{index}"), random.branch(880 + index)));
    }
    actors.spawn(packer(stage.clone(), rates.packed, random.branch(895)));
    watched(stage, random, actors);
}

/// Those of whom one thing each is looked at: nobody else writes where they do.
fn watched(stage: &Stage, random: &Random, actors: &mut JoinSet<()>) {
    for (index, (name, durable, qos)) in MOVERS.into_iter().enumerate() {
        actors.spawn(mover(stage.clone(), name.to_owned(), durable, qos, random.branch(900 + index as u64)));
    }
    for (index, seconds) in EXPIRIES.into_iter().enumerate() {
        let random = random.branch(920 + index as u64);
        actors.spawn(expirer(stage.clone(), format!("expirer-{seconds}"), seconds, random));
    }
    for node in 0..stage.nodes.len() {
        actors.spawn(prober(stage.clone(), node, random.branch(940 + node as u64)));
    }
}

fn version(index: u64) -> ProtocolVersion {
    if index.is_multiple_of(2) { ProtocolVersion::V5 } else { ProtocolVersion::V311 }
}

fn one_filter(
    stage: &Stage,
    name: &str,
    durable: bool,
    filter: &str,
    qos: QoS,
    habit: Habit,
    index: u64,
) -> SubscriberPlan {
    SubscriberPlan {
        identity: stage.identity(name, version(index), durable),
        filters: vec![(filter.into(), qos)],
        as_published: false,
        acknowledge_after: 1,
        habit,
        first_node: index as usize,
    }
}

fn subscriber(stage: &Stage, plan: SubscriberPlan, random: Random, actors: &mut JoinSet<()>) {
    let (recorder, phase) = (stage.recorder.clone(), stage.phase.clone());
    actors.spawn(async move {
        Subscriber::new(plan, recorder, random).run(phase).await;
    });
}

fn publisher_plan(stage: &Stage, name: &str, index: u64, qos: QoS, rate: u32) -> PublisherPlan {
    PublisherPlan {
        identity: stage.identity(name, version(index), true),
        number: stage.next_number(),
        qos,
        retain: false,
        topics: (0..2).map(|topic| format!("data/{name}/{topic}").into()).collect(),
        window: 16,
        rate,
        burst: 1,
        filler: 32,
        total: None,
        first_node: index as usize,
    }
}

fn publisher(stage: &Stage, plan: PublisherPlan, random: Random, actors: &mut JoinSet<()>) {
    let (recorder, phase) = (stage.recorder.clone(), stage.phase.clone());
    actors.spawn(async move {
        Publisher::new(plan, recorder, random).run(phase).await;
    });
}
