//! SUBSCRIBE and UNSUBSCRIBE of durable sessions.
//! Always true: a subscription that is replaced keeps its place in the order; one that goes takes its replay with it.
//! Retained messages with an effective QoS above 0 are queued by the state (`replay`); those with QoS 0 are sent by the
//! connection itself, which reads them with [`super::State::retained_matches`].
use super::{
    Entry,
    deliver::DeliveryHandler,
    effects::Effects,
    replay::{ReplayHandler, Replays},
    retained::RetainedMessages,
    session::SubscriptionRecord,
    sessions::SessionPlace,
};
use mosquorum_proto::mqtt::{QoS, RetainHandling, Subscription, TopicFilter};
use std::{collections::BTreeSet, num::NonZeroU32};

/// Changes what sessions subscribe to.
pub(super) struct SubscriptionHandler<'h, 'a> {
    delivery: &'h mut DeliveryHandler<'a>,
    replays: &'h mut Replays,
    topics: &'h RetainedMessages,
}

impl<'h, 'a> SubscriptionHandler<'h, 'a> {
    pub(super) fn new(
        delivery: &'h mut DeliveryHandler<'a>,
        replays: &'h mut Replays,
        topics: &'h RetainedMessages,
    ) -> Self {
        Self { delivery, replays, topics }
    }

    /// Of each, whether it existed.
    pub(super) fn subscribe(
        &mut self,
        place: SessionPlace,
        subscriptions: &[Subscription],
        identifier: Option<u32>,
        stamp: u64,
        out: &mut Effects<'_>,
    ) -> Vec<bool> {
        let identifier = identifier.and_then(NonZeroU32::new);
        let mut existed = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let before = self.add(place, subscription, identifier, stamp);
            existed.push(before);
            let replay = match subscription.retain_handling {
                RetainHandling::SendAtSubscribe => true,
                RetainHandling::SendIfNew => !before,
                RetainHandling::DoNotSend => false,
            };
            if replay && subscription.filter.share_name().is_none() {
                let mut replays = ReplayHandler::new(self.delivery, self.replays, self.topics);
                replays.begin(place, subscription, identifier, out);
            }
            self.delivery.routing().note_changed(&subscription.filter);
        }
        existed
    }

    /// Whether it existed.
    fn add(
        &mut self,
        place: SessionPlace,
        subscription: &Subscription,
        identifier: Option<NonZeroU32>,
        stamp: u64,
    ) -> bool {
        let Subscription { filter, qos, no_local, retain_as_published, retain_handling } = subscription;
        let routing = self.delivery.routing();
        let before = routing.session(place).subscriptions().get(filter).map(|record| record.since);
        let record = SubscriptionRecord {
            qos: *qos,
            no_local: *no_local,
            retain_as_published: *retain_as_published,
            retain_handling: *retain_handling,
            identifier,
            since: before.unwrap_or(stamp),
        };
        routing.put_subscription(place, filter, record);
        before.is_some()
    }

    /// Of each, whether it existed.
    pub(super) fn unsubscribe(
        &mut self,
        place: SessionPlace,
        filters: &[TopicFilter],
        out: &mut Effects<'_>,
    ) -> Vec<bool> {
        let (mut existed, mut left) = (Vec::with_capacity(filters.len()), BTreeSet::new());
        for filter in filters {
            existed.push(self.remove(place, filter));
            let routing = self.delivery.routing();
            if filter.share_name().is_some() && routing.routes().group(filter).is_some() {
                left.insert(filter);
            }
            routing.note_changed(filter);
        }
        // What was not sent yet goes to the others of the group; alone, the client still gets it. What was sent is not known
        // for certain: acknowledgements that are on their way have let the connection send more. A QoS 1 message may
        // come twice, QoS 2 stays with the client (section 3.10.4 lets it).
        if !left.is_empty() {
            let moves = |entry: &Entry| {
                entry.qos() != QoS::ExactlyOnce && entry.group().is_some_and(|group| left.contains(group))
            };
            let removed = self.delivery.queues().take_out(place, |entry, maybe_sent| !maybe_sent && moves(entry));
            self.delivery.give_to_group(place, removed, out);
        }
        existed
    }

    /// Whether it existed. Who remembers routes is still to be told.
    pub(super) fn remove(&mut self, place: SessionPlace, filter: &TopicFilter) -> bool {
        let routing = self.delivery.routing();
        let existed = routing.remove_subscription(place, filter);
        if existed {
            self.replays.forget(routing.session(place).client_id(), filter);
        }
        existed
    }

    /// The session is no more: none of its replays goes on.
    pub(super) fn forget_replays(&mut self, place: SessionPlace) {
        self.replays.forget_all(self.delivery.routing().session(place).client_id());
    }
}
