//! The state as a whole: commands in, outcomes, effects and what can be read out.
mod limits;
mod model;
mod publish;
mod records;
mod rights;
mod sessions;
mod shared;
mod speed;
mod steps;
mod walk;
mod wills;

use super::*;
use crate::{
    ids::{ConnectionId, Epoch, Incarnation, LogIndex, Millis},
    state::{deadlines::Deadline, *},
};
use bytes::Bytes;
use mosquorum_proto::mqtt::{PacketId, QoS, RetainHandling, Subscription, TopicFilter, TopicName, Utf8, Will};
use std::sync::Arc;

pub(super) const NODE: Origin = Origin { node: NodeId(1), incarnation: Incarnation(1) };
pub(super) const OTHER: Origin = Origin { node: NodeId(2), incarnation: Incarnation(1) };

/// A state that is fed one command at a time, from two nodes.
pub(super) struct World {
    pub(super) state: State,
    pub(super) index: u64,
    pub(super) now: u64,
    sequences: std::collections::BTreeMap<(u64, u64), u64>,
    pub(super) effects: Vec<Effect>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            index: 0,
            now: 1_000_000,
            sequences: Default::default(),
            effects: Vec::new(),
        };
        world.from(NODE, Command::NodeUp { name: "one".into() });
        world.from(OTHER, Command::NodeUp { name: "two".into() });
        world
    }

    pub(super) fn batch(&mut self, origin: Origin, commands: Vec<Command>) -> Batch {
        let sequence = self.sequences.entry((origin.node.0, origin.incarnation.0)).or_insert(0);
        *sequence += 1;
        Batch { origin, sequence: *sequence, time: Millis(self.now), commands }
    }

    pub(super) fn from(&mut self, origin: Origin, command: Command) -> Outcome {
        let batch = self.batch(origin, vec![command]);
        self.index += 1;
        let mut out = Applied::default();
        self.state.apply(LogIndex(self.index), &batch, &mut out);
        assert!(out.accepted);
        self.effects = out.effects;
        self.check();
        out.outcomes.pop().unwrap()
    }

    pub(super) fn apply(&mut self, command: Command) -> Outcome {
        self.from(NODE, command)
    }

    /// Lets time pass and ticks.
    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += seconds * 1000;
        self.apply(Command::Tick);
    }

    pub(super) fn connect(&mut self, connect: ConnectCommand) -> (Epoch, bool, Option<(Owner, Epoch)>) {
        let origin = Origin { node: connect.owner.node, incarnation: connect.owner.incarnation };
        match self.from(origin, Command::Connect(Box::new(connect))) {
            Outcome::Connected { epoch, session_present, previous } => (epoch, session_present, previous),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn disconnect(&mut self, client_id: &str, epoch: Epoch, clean: bool) -> Outcome {
        let sent_before = self.state.sessions.get(client_id).map_or(0, |session| session.queue().tail());
        self.disconnect_sent(client_id, epoch, clean, sent_before)
    }

    pub(super) fn disconnect_sent(&mut self, client_id: &str, epoch: Epoch, clean: bool, sent: u64) -> Outcome {
        self.apply(Command::Disconnect(DisconnectCommand {
            client_id: client_id.into(),
            epoch,
            discard_will: clean,
            expiry_seconds: None,
            sent_before: sent,
            unreadable: Arc::default(),
        }))
    }

    /// A client that stays away from now on, subscribed with QoS 2.
    pub(super) fn sleeper(&mut self, client_id: &str, filters: &[&str]) {
        let (epoch, ..) = self.connect(connect(client_id));
        for filter in filters {
            self.subscribe(client_id, epoch, sub(filter, 2));
        }
        self.disconnect(client_id, epoch, true);
    }

    pub(super) fn subscribe(&mut self, client_id: &str, epoch: Epoch, subscription: Subscription) -> bool {
        self.subscribe_as(client_id, epoch, subscription, None)
    }

    pub(super) fn subscribe_as(
        &mut self,
        client_id: &str,
        epoch: Epoch,
        subscription: Subscription,
        identifier: Option<u32>,
    ) -> bool {
        let subscriptions = vec![subscription];
        match self.apply(Command::Subscribe { client_id: client_id.into(), epoch, subscriptions, identifier }) {
            Outcome::Subscribed { existed } => existed[0],
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn publish(&mut self, message: Message) -> u32 {
        match self.apply(publish(message)) {
            Outcome::Published { matched, duplicate: false } => matched,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn acknowledge(&mut self, client_id: &str, epoch: Epoch, acks: &[(PacketId, AckKind)]) -> Outcome {
        self.apply(Command::Acknowledge { client_id: client_id.into(), epoch, acks: acks.to_vec() })
    }

    pub(super) fn session(&self, client_id: &str) -> &Session {
        self.state.session(client_id).unwrap_or_else(|| panic!("no session {client_id}"))
    }

    /// Payloads (or `released`) in the queue of a client.
    pub(super) fn queue(&self, client_id: &str) -> Vec<String> {
        self.session(client_id).queue().iter_from(0).map(text).collect()
    }

    /// Payloads published to live subscribers by the last command.
    pub(super) fn wills(&self) -> Vec<String> {
        let live = self.effects.iter().filter_map(|effect| match effect {
            Effect::PublishLive { message, .. } => Some(String::from_utf8_lossy(&message.payload).into_owned()),
            _ => None,
        });
        live.collect()
    }

    pub(super) fn check(&self) {
        check(&self.state);
    }
}

/// What is known of each group is what a walk over its members finds.
fn check_groups(state: &State) {
    for (filter, group) in state.routes.groups().iter() {
        let found: Vec<_> = group.members().all().values().map(|member| state.member_match(filter, member)).collect();
        let mut connected = std::collections::BTreeMap::new();
        for node in found.iter().filter_map(|found| found.owner).map(|owner| owner.node) {
            *connected.entry(node).or_insert(0) += 1;
        }
        let standing = GroupStanding {
            members: found.len(),
            ready: found.iter().filter(|found| found.takes_turns()).count(),
            queues_qos0: found.iter().any(DurableMatch::queues_qos0),
            connected: connected.into_iter().collect(),
        };
        assert_eq!(group.members().standing(|incarnation| state.is_over(incarnation)), standing);
        for (node, members) in &standing.connected {
            let turn = |turn| -> Vec<_> {
                state.connected_members(filter, *node, turn).map(|found| found.session.client_id().clone()).collect()
            };
            let (mut first, mut last) = (turn(0), turn(members - 1));
            assert_eq!(last.first(), first.last());
            first.sort();
            last.sort();
            assert_eq!(first, last);
            assert_eq!(first.len(), *members);
            assert!(
                found
                    .iter()
                    .filter(|f| f.owner.is_some_and(|o| o.node == *node))
                    .all(|f| first.contains(f.session.client_id()))
            );
        }
    }
}

/// Everything that is counted or derived is what it would be if it were made anew.
pub(super) fn check(state: &State) {
    let (mut references, mut ordinary, mut shared, mut connected) = (std::collections::BTreeMap::new(), 0, 0, 0);
    for (place, session) in state.sessions.iter() {
        session.queue().check();
        connected += usize::from(session.is_connected());
        for held in session.queue().iter_from(0).filter_map(Entry::held) {
            let (all, here) = references.entry(held.place).or_insert((0, 0));
            *all += 1;
            *here += u32::from(held.here);
        }
        for (filter, record) in session.subscriptions() {
            if filter.share_name().is_some() {
                shared += 1;
                let group = state.routes.group(filter).expect("group of a member");
                assert_eq!(group.members().all()[&record.since].session, place);
                assert_eq!(group.members().all()[&record.since].options, record.options());
            } else {
                ordinary += 1;
                assert_eq!(state.routes.options(filter, place), Some(&record.options()));
            }
        }
        assert_eq!(session.shared(), session.subscriptions().keys().filter(|f| f.share_name().is_some()).count());
        let deadline = |at: Option<Millis>, deadline| at.is_none_or(|at| state.deadlines.contains(at, deadline));
        assert!(deadline(session.will_due(), Deadline::Will(session.client_id().clone())));
        assert!(deadline(session.expires_at(), Deadline::Session(session.client_id().clone())));
        assert!(deadline(session.sweep_at(), Deadline::Sweep(session.client_id().clone())));
        assert!(session.is_connected() || session.expiry_seconds() > 0 || session.is_unsettled(), "left over");
        assert_eq!(state.connections.is_unsettled(session.epoch(), place), session.is_unsettled());
        if let Some(owner) = session.owner() {
            assert_eq!(state.connections.place_of(&owner, session.epoch()), Some(place));
        }
        assert!(session.inbound().is_sorted());
    }
    for place in state.sessions.aside() {
        let session = &state.sessions[place];
        assert!(session.is_ended() && state.sessions.find(session.client_id()) != Some(place));
        ordinary += session.subscriptions().len();
        for held in session.queue().iter_from(0).filter_map(Entry::held) {
            let (all, here) = references.entry(held.place).or_insert((0, 0));
            *all += 1;
            *here += u32::from(held.here);
        }
    }
    let waits = |session: &Session| {
        [session.will_due(), session.expires_at(), session.sweep_at()].iter().filter(|at| at.is_some()).count()
    };
    let retained = state.retained.iter().filter(|(_, kept)| kept.message.expiry_seconds.is_some()).count();
    let waiting: usize = state.sessions.iter().map(|(_, session)| waits(session)).sum();
    assert_eq!(state.deadlines.len(), waiting + retained);
    check_groups(state);
    for (client_id, filter) in state.replays.check() {
        assert!(state.session(client_id).is_some_and(|session| session.subscriptions().contains_key(filter)));
    }
    assert_eq!((state.routes.counts(), state.connections.len()), ((ordinary, shared), connected));
    for (_, kept) in state.retained.iter() {
        let (all, here) = references.entry(kept.place).or_insert((0, 0));
        (*all, *here) = (*all + 1, *here + 1);
        assert!(!kept.message.payload.is_empty());
    }
    assert_eq!(state.messages.len(), references.len());
    for (place, count) in references {
        assert_eq!(state.messages.references(place), count);
    }
}

fn text(entry: &Entry) -> String {
    entry.message().map_or("released".into(), |message| String::from_utf8_lossy(&message.payload).into_owned())
}

/// A durable session of node 1 that never expires.
pub(super) fn connect(client_id: &str) -> ConnectCommand {
    ConnectCommand {
        client_id: client_id.into(),
        username: None,
        clean_start: false,
        expiry_seconds: NEVER,
        will: None,
        owner: Owner { node: NodeId(1), incarnation: Incarnation(1), connection: ConnectionId(7) },
        limits: QueueLimits { messages: 100, inflight: 3, ..QueueLimits::default() },
        door: Door(1883),
        same_user: false,
    }
}

pub(super) fn sub(filter: &str, qos: u8) -> Subscription {
    Subscription::new(TopicFilter::try_from(filter).unwrap(), QoS::try_from(qos).unwrap())
}

pub(super) fn message(topic: &str, payload: &str, qos: u8) -> Message {
    let topic = TopicName::try_from(topic).unwrap();
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let message = Message::new(topic, payload, QoS::try_from(qos).unwrap(), Millis(1_000_000));
    Message { publisher_id: "publisher".into(), ..message }
}

/// From another site, over a bridge.
pub(super) fn relayed(topic: &str, number: u64, admit: LoopCheck) -> Command {
    let mark = Some(Box::new(LoopId { origin: [1; 16], number }));
    let Command::Publish(publish) = publish(Message { mark, ..message(topic, "relayed", 1) }) else { unreachable!() };
    Command::Publish(PublishCommand { admit, ..publish })
}

pub(super) fn publish(message: Message) -> Command {
    Command::Publish(PublishCommand::new(Arc::new(message)))
}

pub(super) fn will(topic: &str, payload: &str, delay: u32) -> Option<Will> {
    Some(Will {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_seconds: delay,
        properties: None,
    })
}
