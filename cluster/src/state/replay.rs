//! Retained messages for new subscriptions of durable sessions, queued in steps.
//! Always true: a subscription has at most one replay under way, and none longer than it exists; names are searched in
//! their order, from a cursor on that is part of the state; what is queued is what the topic keeps at that moment, so it is
//! never older than a live message of that topic before it in the queue (a message that was published meanwhile may come
//! by both ways). They are queued beyond the queue's limits, with No Local none of the client's own [MQTT-3.8.3-3].
//! Replays take turns, [`SLICE`] names each.
use super::{
    Effect, Message, SessionPlace, State,
    publish::{Barred, Publishing},
};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, TopicName, Utf8};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    ops::ControlFlow,
};

/// Names that a replay looks at before others have their turn.
const SLICE: usize = 250;

/// What is left of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Replay {
    client_id: Utf8,
    filter: TopicFilter,
    qos: QoS,
    no_local: bool,
    /// 0 = none.
    identifier: u32,
    /// The last name that was looked at.
    after: Option<TopicName>,
}

/// Replays under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Replays {
    by_turn: BTreeMap<u64, Replay>,
    /// The turns of each session's filters.
    turns: BTreeMap<Utf8, BTreeMap<TopicFilter, u64>>,
    /// Turns that must be written again; past ones included.
    pub(super) unwritten: BTreeSet<u64>,
}

impl Replays {
    pub(super) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    pub(super) fn get(&self, turn: u64) -> Option<&Replay> {
        self.by_turn.get(&turn)
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

impl State {
    /// A subscription was made: queues what the topics that match keep, as far as this entry goes.
    pub(super) fn replay_retained(
        &mut self,
        place: SessionPlace,
        subscription: &Subscription,
        identifier: Option<NonZeroU32>,
        out: &mut Vec<Effect>,
    ) {
        let client_id = &self.sessions[place].client_id;
        // The new one finds all that the former would.
        self.replays.forget(client_id, &subscription.filter);
        if subscription.qos == QoS::AtMostOnce {
            return;
        }
        let replay = Replay {
            client_id: client_id.clone(),
            filter: subscription.filter.clone(),
            qos: subscription.qos,
            no_local: subscription.no_local,
            identifier: identifier.map_or(0, NonZeroU32::get),
            after: None,
        };
        if let Some(rest) = self.replay(place, replay, self.steps.left(), out) {
            self.replays.add(rest);
        }
    }

    /// One step of the replays that are under way.
    pub(super) fn go_on_replaying(&mut self, out: &mut Vec<Effect>) {
        while self.steps.left() > 0
            && let Some(replay) = self.replays.next()
        {
            let Some(place) = self.sessions.find(&replay.client_id) else { continue };
            let most = self.steps.left().min(SLICE);
            if let Some(rest) = self.replay(place, replay, most, out) {
                self.replays.add(rest);
            }
        }
    }

    /// Looks at no more than `most` names; returns what is left.
    fn replay(&mut self, place: SessionPlace, replay: Replay, most: usize, out: &mut Vec<Effect>) -> Option<Replay> {
        if most == 0 {
            return Some(replay);
        }
        self.detach_lost(place);
        let (session, now) = (&self.sessions[place], self.time);
        let upgrade = session.limits.upgrade_qos;
        let own = |message: &Message| replay.no_local && message.publisher_id == session.client_id;
        let (mut found, mut left) = (Vec::new(), most);
        let after = replay.after.as_ref().map(TopicName::as_str);
        let next = self.retained.matches(replay.filter.as_str(), after, &mut left, |_, kept| {
            let qos = if upgrade { replay.qos } else { replay.qos.min(kept.message.qos) };
            if qos != QoS::AtMostOnce && !kept.message.is_expired(now) && !own(&kept.message) {
                found.push((kept.clone(), qos));
            }
            ControlFlow::Continue(())
        });
        let next = next.cloned();
        // One that finds nothing costs something too.
        self.steps.take((most - left).max(1));
        for (kept, qos) in found {
            let mut publishing =
                Publishing { message: &kept.message, place: Some(kept.place), barred: Barred::default() };
            self.enqueue(&mut publishing, place, (qos, true, replay.identifier, None), out);
        }
        next.map(|after| Replay { after: Some(after), ..replay })
    }
}
