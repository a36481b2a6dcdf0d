//! Retained messages for new subscriptions of durable sessions, queued in steps.
//! Always true: a subscription has at most one replay under way, and none longer than it exists; names are searched in
//! their order, from a cursor on that is part of the state. The subscription gets what each topic kept when it was made, as
//! if that had been queued at once: before a topic is published to, the replays that have still to come to it queue what it
//! keeps (of messages that are not retained for [`DONE_MAX`] topics; beyond it the kept one may follow them). What was
//! published since comes to the subscription as such, and is not queued once more. They are queued beyond the queue's
//! limits, with No Local none of the client's own [MQTT-3.8.3-3].
//! Replays take turns, [`SLICE`] names each.
use super::{
    Message, MessageId, Session,
    deliver::DeliveryHandler,
    effects::Effects,
    publish::{Barred, Publishing},
    retained::{Retained, RetainedMessages},
    sessions::SessionPlace,
};
use crate::{ids::Millis, retained_tree::by_level};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, TopicName, Utf8};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    ops::ControlFlow,
};

/// Names that a replay looks at before others have their turn.
const SLICE: usize = 250;
/// Topics that a replay remembers because messages that are not retained came to them before it did.
const DONE_MAX: usize = 1000;

/// What is left of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replay {
    client_id: Utf8,
    filter: TopicFilter,
    qos: QoS,
    no_local: bool,
    /// 0 = none.
    identifier: u32,
    /// The first message that was published after the subscription was made.
    end: MessageId,
    /// The last name that was looked at.
    after: Option<TopicName>,
    /// Topics behind it that were seen to already.
    done: BTreeSet<TopicName>,
}

impl Replay {
    /// Whether it has still to come to the topic, which keeps this message.
    fn comes_to(&self, topic: &TopicName, kept: MessageId) -> bool {
        let is_behind = |after: &TopicName| by_level(topic.as_str(), after.as_str()).is_gt();
        kept < self.end
            && self.filter.matches(topic)
            && self.after.as_ref().is_none_or(is_behind)
            && !self.done.contains(topic)
    }

    /// With which QoS a kept message is queued, if it is.
    fn takes(&self, session: &Session, message: &Message, now: Millis) -> Option<QoS> {
        let qos = if session.limits().upgrade_qos { self.qos } else { self.qos.min(message.qos) };
        let own = self.no_local && message.publisher_id == *session.client_id();
        (qos != QoS::AtMostOnce && !own && !message.is_expired(now)).then_some(qos)
    }
}

/// Replays under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Replays {
    by_turn: BTreeMap<u64, Replay>,
    /// The turns of each session's filters.
    turns: BTreeMap<Utf8, BTreeMap<TopicFilter, u64>>,
    /// Turns that must be written again; past ones included.
    unwritten: BTreeSet<u64>,
}

impl Replays {
    pub(super) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    /// What must be written again, by turn; `None`: it is over.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (u64, Option<&Replay>)> {
        let by_turn = &self.by_turn;
        std::mem::take(&mut self.unwritten).into_iter().map(|turn| (turn, by_turn.get(&turn)))
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Replay)> {
        self.by_turn.iter().map(|(turn, replay)| (*turn, replay))
    }

    /// Its turn comes after those of all others. The subscription must have none.
    fn add(&mut self, replay: Replay) {
        let turn = self.by_turn.last_key_value().map_or(0, |(last, _)| last + 1);
        self.unwritten.insert(turn);
        self.restore(turn, replay);
    }

    pub(super) fn restore(&mut self, turn: u64, replay: Replay) {
        self.turns.entry(replay.client_id.clone()).or_default().insert(replay.filter.clone(), turn);
        self.by_turn.insert(turn, replay);
    }

    /// Takes out the one whose turn it is.
    fn next(&mut self) -> Option<Replay> {
        let (_, Replay { client_id, filter, .. }) = self.by_turn.first_key_value()?;
        let (client_id, filter) = (client_id.clone(), filter.clone());
        self.forget(&client_id, &filter)
    }

    /// The subscription is no more, or begins anew.
    pub(super) fn forget(&mut self, client_id: &Utf8, filter: &TopicFilter) -> Option<Replay> {
        let turns = self.turns.get_mut(client_id)?;
        let turn = turns.remove(filter)?;
        if turns.is_empty() {
            self.turns.remove(client_id);
        }
        self.unwritten.insert(turn);
        self.by_turn.remove(&turn)
    }

    /// The session is no more.
    pub(super) fn forget_all(&mut self, client_id: &Utf8) {
        for turn in self.turns.remove(client_id).into_iter().flatten().map(|(_, turn)| turn) {
            self.unwritten.insert(turn);
            self.by_turn.remove(&turn);
        }
    }

    /// Client identifiers and filters, for checking.
    #[cfg(test)]
    pub(super) fn check(&self) -> Vec<(&Utf8, &TopicFilter)> {
        let of = |(client_id, turns)| std::iter::repeat(client_id).zip(turns);
        let all: Vec<(&Utf8, (&TopicFilter, &u64))> = self.turns.iter().flat_map(of).collect();
        assert_eq!(all.len(), self.by_turn.len());
        let found = |(client_id, (filter, turn)): (_, (_, &u64))| {
            let replay = &self.by_turn[turn];
            assert_eq!((&replay.client_id, &replay.filter), (client_id, filter));
            (client_id, filter)
        };
        all.into_iter().map(found).collect()
    }
}

/// Queues retained messages for new subscriptions.
pub(super) struct ReplayHandler<'h, 'a> {
    delivery: &'h mut DeliveryHandler<'a>,
    replays: &'h mut Replays,
    topics: &'h RetainedMessages,
}

impl<'h, 'a> ReplayHandler<'h, 'a> {
    pub(super) fn new(
        delivery: &'h mut DeliveryHandler<'a>,
        replays: &'h mut Replays,
        topics: &'h RetainedMessages,
    ) -> Self {
        Self { delivery, replays, topics }
    }

    /// A subscription was made: queues what the topics that match keep, as far as this entry goes.
    pub(super) fn begin(
        &mut self,
        place: SessionPlace,
        subscription: &Subscription,
        identifier: Option<NonZeroU32>,
        out: &mut Effects<'_>,
    ) {
        let client_id = self.delivery.routing().session(place).client_id().clone();
        // The new one finds all that the former would.
        self.replays.forget(&client_id, &subscription.filter);
        if subscription.qos == QoS::AtMostOnce {
            return;
        }
        let replay = Replay {
            client_id,
            filter: subscription.filter.clone(),
            qos: subscription.qos,
            no_local: subscription.no_local,
            identifier: identifier.map_or(0, NonZeroU32::get),
            end: self.delivery.queues().next_message_id(),
            after: None,
            done: BTreeSet::new(),
        };
        let most = self.delivery.steps().left();
        if let Some(rest) = self.go_on_with(place, replay, most, out) {
            self.replays.add(rest);
        }
    }

    /// One step of the replays that are under way.
    pub(super) fn go_on(&mut self, out: &mut Effects<'_>) {
        while self.delivery.steps().left() > 0
            && let Some(replay) = self.replays.next()
        {
            let Some(place) = self.delivery.routing().sessions().find(&replay.client_id) else { continue };
            let most = self.delivery.steps().left().min(SLICE);
            if let Some(rest) = self.go_on_with(place, replay, most, out) {
                self.replays.add(rest);
            }
        }
    }

    /// The message's topic is published to: replays that have still to come to it queue what it keeps.
    pub(super) fn before(&mut self, message: &Message, out: &mut Effects<'_>) {
        let Some(kept) = self.topics.get(message.topic.as_str()) else { return };
        let now = self.delivery.queues().now().time;
        for (turn, place) in self.due_before(message, kept) {
            self.delivery.routing().detach_lost(place);
            let replay = self.replays.by_turn.get_mut(&turn).expect("it was found a moment ago");
            if !message.retain {
                if replay.done.len() >= DONE_MAX {
                    continue;
                }
                replay.done.insert(message.topic.clone());
                self.replays.unwritten.insert(turn);
            }
            let session = self.delivery.routing().session(place);
            let (taken, identifier) = (replay.takes(session, &kept.message, now), replay.identifier);
            if let Some(qos) = taken {
                self.queue_kept(place, kept, (qos, identifier), out);
            }
        }
    }

    /// Turns of the replays that have still to come to the message's topic, with their sessions.
    fn due_before(&mut self, message: &Message, kept: &Retained) -> BTreeSet<(u64, SessionPlace)> {
        let id = self.delivery.queues().message_id(kept.place);
        let (replays, routing) = (&*self.replays, &*self.delivery.routing());
        let mut due = BTreeSet::new();
        routing.routes().ordinary(message.topic.as_str(), |place, _| {
            let turns = replays.turns.get(routing.session(place).client_id()).into_iter().flatten();
            let comes = turns.filter(|(_, turn)| replays.by_turn[turn].comes_to(&message.topic, id));
            due.extend(comes.map(|(_, turn)| (*turn, place)));
        });
        due
    }

    fn queue_kept(
        &mut self,
        place: SessionPlace,
        kept: &Retained,
        (qos, identifier): (QoS, u32),
        out: &mut Effects<'_>,
    ) {
        let mut publishing = Publishing { message: &kept.message, place: Some(kept.place), barred: Barred::default() };
        self.delivery.queues().enqueue(&mut publishing, place, (qos, true, identifier, None), out);
    }

    /// Looks at no more than `most` names; returns what is left.
    fn go_on_with(
        &mut self,
        place: SessionPlace,
        mut replay: Replay,
        most: usize,
        out: &mut Effects<'_>,
    ) -> Option<Replay> {
        if most == 0 {
            return Some(replay);
        }
        self.delivery.routing().detach_lost(place);
        let (topics, queues) = (self.topics, &*self.delivery.queues());
        let (session, now) = (&queues.sessions()[place], queues.now().time);
        let (mut found, mut left) = (Vec::new(), most);
        let after = replay.after.as_ref().map(TopicName::as_str);
        let next = topics.matches(replay.filter.as_str(), after, &mut left, |topic, kept| {
            if queues.message_id(kept.place) < replay.end && !replay.done.contains(topic) {
                found.extend(replay.takes(session, &kept.message, now).map(|qos| (kept, qos)));
            }
            ControlFlow::Continue(())
        });
        // One that finds nothing costs something too.
        self.delivery.steps().take((most - left).max(1));
        for (kept, qos) in found {
            self.queue_kept(place, kept, (qos, replay.identifier), out);
        }
        let after = next?.clone();
        replay.done.retain(|topic| by_level(topic.as_str(), after.as_str()).is_gt());
        Some(Replay { after: Some(after), ..replay })
    }
}
