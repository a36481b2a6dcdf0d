//! SUBSCRIBE and UNSUBSCRIBE of durable sessions.
//! Always true: the tree holds exactly the ordinary subscriptions of all sessions, the groups exactly the shared ones;
//! a subscription that is replaced keeps its place in the order.
//! Retained messages with an effective QoS above 0 are queued by the state (`replay`); those with QoS 0 are sent by the
//! connection itself, which reads them with [`State::retained_matches`].
use super::{
    DropReason, Effect, Entry, Outcome, SessionPlace, State,
    members::Presence,
    publish::{Barred, Publishing},
    queue::Removed,
    session::SubscriptionRecord,
};
use crate::ids::Epoch;
use mosquorum_proto::mqtt::{QoS, RetainHandling, Subscription, TopicFilter, Utf8};
use std::{collections::BTreeSet, num::NonZeroU32};

impl State {
    pub(super) fn subscribe(
        &mut self,
        client_id: &Utf8,
        epoch: Epoch,
        subscriptions: &[Subscription],
        identifier: Option<u32>,
        stamp: u64,
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(place) = self.owned(client_id, epoch) else { return Outcome::Superseded };
        let identifier = identifier.and_then(NonZeroU32::new);
        let mut existed = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let before = self.add_subscription(place, subscription, identifier, stamp);
            existed.push(before);
            let replay = match subscription.retain_handling {
                RetainHandling::SendAtSubscribe => true,
                RetainHandling::SendIfNew => !before,
                RetainHandling::DoNotSend => false,
            };
            if replay && subscription.filter.share_name().is_none() {
                self.replay_retained(place, subscription, identifier, out);
            }
            self.route_changes.changed(&subscription.filter);
        }
        Outcome::Subscribed { existed }
    }

    /// Whether it existed.
    fn add_subscription(
        &mut self,
        place: SessionPlace,
        subscription: &Subscription,
        identifier: Option<NonZeroU32>,
        stamp: u64,
    ) -> bool {
        let Subscription { filter, qos, no_local, retain_as_published, retain_handling } = subscription;
        let session = &mut self.sessions[place];
        let before = session.subscriptions.get(filter).map(|record| record.since);
        let record = SubscriptionRecord {
            qos: *qos,
            no_local: *no_local,
            retain_as_published: *retain_as_published,
            retain_handling: *retain_handling,
            identifier,
            since: before.unwrap_or(stamp),
        };
        session.subscriptions.insert(filter.clone(), record);
        session.shared += usize::from(before.is_none() && filter.share_name().is_some());
        self.index_subscription(place, filter, &record);
        self.unwritten(place).filters.insert(filter.clone());
        before.is_some()
    }

    /// Puts a session's subscription where publishes find it.
    pub(super) fn index_subscription(
        &mut self,
        place: SessionPlace,
        filter: &TopicFilter,
        record: &SubscriptionRecord,
    ) {
        if filter.share_name().is_some() {
            let presence = Presence::of(&self.sessions[place]);
            self.groups.insert(filter, record.since, (place, record.options()), presence);
        } else {
            self.tree.insert(filter.as_str(), place, record.options());
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        client_id: &Utf8,
        epoch: Epoch,
        filters: &[TopicFilter],
        out: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(place) = self.owned(client_id, epoch) else { return Outcome::Superseded };
        let (mut existed, mut left) = (Vec::with_capacity(filters.len()), BTreeSet::new());
        for filter in filters {
            existed.push(self.remove_subscription(place, filter));
            if filter.share_name().is_some() && self.groups.get(filter).is_some() {
                left.insert(filter);
            }
            self.route_changes.changed(filter);
        }
        // What was not sent yet goes to the others of the group; alone, the client still gets it. What was sent is not known
        // for certain: acknowledgements that are on their way have let the connection send more. A QoS 1 message may
        // come twice, QoS 2 stays with the client (section 3.10.4 lets it).
        if !left.is_empty() {
            let moves = |entry: &Entry| {
                entry.qos() != QoS::ExactlyOnce && entry.group().is_some_and(|group| left.contains(group))
            };
            let queue = &mut self.sessions[place].queue;
            let removed = queue.remove_where(|entry, maybe_sent| !maybe_sent && moves(entry));
            self.give_to_group(place, removed, out);
        }
        Outcome::Unsubscribed { existed }
    }

    pub(super) fn remove_subscription(&mut self, place: SessionPlace, filter: &TopicFilter) -> bool {
        let Some(record) = self.sessions[place].subscriptions.remove(filter) else { return false };
        self.replays.forget(&self.sessions[place].client_id, filter);
        if filter.share_name().is_some() {
            self.sessions[place].shared -= 1;
            self.groups.remove(filter, record.since);
        } else {
            self.tree.remove(filter.as_str(), &place);
        }
        self.unwritten(place).filters.insert(filter.clone());
        true
    }

    /// Hands entries that left a session's queue to other members of their groups, where the standard allows it
    /// [MQTT-4.8.2-5], and counts the others as dropped. Durable members come first: their queues survive every failure.
    pub(super) fn give_to_group(&mut self, place: SessionPlace, removed: Vec<Removed>, out: &mut Vec<Effect>) {
        if !removed.is_empty() {
            self.unwritten(place).header = true;
        }
        let mut dropped = 0;
        for Removed { entry, maybe_sent } in removed {
            let Some(held) = entry.held() else { continue };
            let may_move = entry.qos() == QoS::AtLeastOnce || (entry.qos() == QoS::ExactlyOnce && !maybe_sent);
            match (entry.group().filter(|_| may_move), entry.message()) {
                (Some(group), Some(message)) => {
                    let mut publishing = Publishing { message, place: Some(held.place), barred: Barred::default() };
                    if !self.deliver_to_group(&mut publishing, group, out) {
                        let (node, message, group) = (self.origin, message.clone(), group.clone());
                        self.add_effect(Effect::ChooseAgain { node, message, group }, out);
                    }
                }
                _ => dropped += 1,
            }
            self.messages.release(held);
        }
        self.note_dropped(place, DropReason::SessionEnded, dropped, out);
    }
}
