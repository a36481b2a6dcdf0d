//! Promise 5, live: deliveries of retained messages follow the order of the log on each topic, for every subscriber. So
//! 1. no two sessions see two messages in different orders, where each was sent once (one that was sent again may stand in
//!    the log twice);
//! 2. what a session saw last on a topic is what is retained there when all is quiet, if that was sent after its SUBACK.
//!
//! Judged: durable sessions, and for 2 clean ones whose connection lived until the run was drained. What a durable session
//! gets again over a new connection (DUP) may be a repetition of something older: both the last delivery and the last one
//! that is no repetition count as seen last.
//! Not here: that messages come at all (`no_acknowledged_message_lost`, `live_delivery`).
use super::{
    Delivery, View, Violation, retained,
    view::{SessionKey, SubscriptionView},
};
use crate::history::{ConnectionNumber, MessageId};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub const NAME: &str = "retained order";

/// Deliveries of retained messages of one topic, by session.
type Seen<'v> = BTreeMap<SessionKey, Vec<&'v Delivery>>;
/// Subscriptions that were not ended, by session.
type Subscriptions<'v> = HashMap<SessionKey, Vec<&'v SubscriptionView>>;

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut topics: BTreeMap<Arc<str>, Seen> = BTreeMap::new();
    let sharing = view.sharing();
    for delivery in view.deliveries.iter().filter(|delivery| delivery.live && !delivery.repeat) {
        let (Some(session), Some(message)) = (view.session(delivery.connection), view.messages.get(&delivery.message))
        else {
            continue;
        };
        if message.retain && !sharing.contains(&session.0) {
            topics.entry(message.topic.clone()).or_default().entry(session).or_default().push(delivery);
        }
    }
    let quiet = quiet_values(view);
    let mut subscriptions: Subscriptions = HashMap::new();
    for subscription in view.subscriptions.iter().filter(|s| s.ended.is_none()) {
        if let Some(session) = view.session(subscription.connection) {
            subscriptions.entry(session).or_default().push(subscription);
        }
    }
    let mut violations = Vec::new();
    for (topic, seen) in &topics {
        violations.extend(two_orders(view, topic, seen));
        if let Some(value) = quiet.get(topic) {
            let last_is_not = |(session, came): (&SessionKey, &Vec<&Delivery>)| {
                let subscriptions = subscriptions.get(session)?;
                last_is_not(view, topic, (session, subscriptions), came, *value)
            };
            violations.extend(seen.iter().filter_map(last_is_not));
        }
    }
    violations
}

/// What readers find on each topic once all is quiet; that they agree is `retained`'s.
fn quiet_values(view: &View) -> HashMap<Arc<str>, MessageId> {
    let Some(drained) = view.drained else {
        return HashMap::new();
    };
    let last = |(topic, reads): (Arc<str>, Vec<retained::Read>)| {
        let read = reads.into_iter().rfind(|read| read.began > drained)?;
        Some((topic, read.value?))
    };
    retained::reads(view).into_iter().filter_map(last).collect()
}

/// The first pair of messages that two sessions saw in different orders.
fn two_orders(view: &View, topic: &str, seen: &Seen) -> Option<Violation> {
    type Order<'a> = (&'a SessionKey, Vec<MessageId>, HashMap<MessageId, usize>);
    let order = |(session, came): (_, &Vec<&Delivery>)| {
        let order = sent_once(view, came);
        let places = order.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        (session, order, places)
    };
    let orders: Vec<Order> = seen.iter().map(order).collect();
    for (index, one) in orders.iter().enumerate() {
        for other in &orders[index + 1..] {
            // Clean sessions are many and short, durable ones few and long.
            let (short, long) = if one.1.len() < other.1.len() { (one, other) } else { (other, one) };
            let common: Vec<MessageId> = short.1.iter().copied().filter(|id| long.2.contains_key(id)).collect();
            if let Some(pair) = common.windows(2).find(|pair| long.2[&pair[0]] > long.2[&pair[1]]) {
                return Some(violation(format!(
                    "{topic}: {} saw {} before {}, {} saw them the other way round",
                    short.0.0, pair[0], pair[1], long.0.0
                )));
            }
        }
    }
    None
}

/// First occurrences of messages that were sent once: each stands in the log once at most.
fn sent_once(view: &View, came: &[&Delivery]) -> Vec<MessageId> {
    let mut known = HashSet::new();
    let once = |id: &MessageId| view.messages.get(id).is_some_and(|message| message.sends.len() == 1);
    came.iter().map(|delivery| delivery.message).filter(|id| once(id) && known.insert(*id)).collect()
}

fn last_is_not(
    view: &View,
    topic: &str,
    (session, subscriptions): (&SessionKey, &[&SubscriptionView]),
    came: &[&Delivery],
    value: MessageId,
) -> Option<Violation> {
    let message = view.messages.get(&value)?;
    // One without an answer is owed to nobody: it may be retained and still be on its way.
    message.acknowledged?;
    let since = subscribed(view, subscriptions, topic)?;
    if message.sends.first().is_none_or(|(sent, _)| *sent < since) {
        return None;
    }
    let last = came.last()?.message;
    let last_new = last_that_is_no_repetition(came).unwrap_or(last);
    (value != last && value != last_new).then(|| {
        violation(format!("{topic}: {} saw {last} last, but {value} is retained when all is quiet", session.0))
    })
}

/// Where one of these subscriptions to the topic was acknowledged; `None` if it did not last until the run was drained.
fn subscribed(view: &View, subscriptions: &[&SubscriptionView], topic: &str) -> Option<usize> {
    let topic: Arc<str> = topic.into();
    let mut matcher = super::view::Matcher::default();
    let lasted = |connection: ConnectionNumber| {
        view.connections
            .get(&connection)
            .is_some_and(|c| c.closed.is_none_or(|(at, _)| view.drained.is_some_and(|drained| at > drained)))
    };
    subscriptions
        .iter()
        .filter(|s| s.durable || lasted(s.connection))
        .filter(|s| matcher.matches(&s.filter, &topic))
        .find_map(|s| s.acknowledged.map(|(at, _)| at))
}

/// The last delivery without those that are marked as repetitions of what came over an earlier connection.
fn last_that_is_no_repetition(came: &[&Delivery]) -> Option<MessageId> {
    let mut first: HashMap<MessageId, ConnectionNumber> = HashMap::new();
    let mut last = None;
    for delivery in came {
        let on = *first.entry(delivery.message).or_insert(delivery.connection);
        if !delivery.dup || on == delivery.connection {
            last = Some(delivery.message);
        }
    }
    last
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::{Story, StoryDelivery, id};
    use crate::history::{Event, Interest};

    /// Two writers, a durable subscriber `d` and a clean one `c`, and three messages on their way.
    fn written() -> Story {
        let mut story = Story::new(3);
        story.durable("d", 0).subscribed("d", "r", 2).clean("c", 1).interested("c", "r", 1, Interest::AsPublished);
        story.send("p", 1, "r", 1, true).send("q", 2, "r", 1, true).send("p", 3, "r", 1, true);
        story.acknowledged("p", 1).acknowledged("q", 2).acknowledged("p", 3);
        story
    }

    fn quiet(story: &mut Story, value: u64) {
        story.event(Event::Drained);
        let connection = story.clean("r", 0).interested("r", "r", 1, Interest::Retained).on("r");
        story.event(Event::RetainedRead { connection, topic: "r".into(), value: Some(id(value)) });
    }

    #[test]
    fn one_order_for_all_and_its_end_is_retained() {
        let mut story = written();
        for sequence in [2, 1, 3] {
            story.delivered("d", sequence).delivered_as("c", sequence, StoryDelivery::Retained);
        }
        quiet(&mut story, 3);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn two_orders_are_found_though_both_end_alike() {
        let mut story = written();
        story.delivered("d", 1).delivered("d", 2).delivered("d", 3);
        story.delivered("c", 2).delivered("c", 1).delivered("c", 3);
        quiet(&mut story, 3);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn what_was_sent_again_may_stand_in_two_places() {
        let mut story = written();
        story.send("p", 1, "r", 1, true);
        for sequence in [1, 2, 3, 1] {
            story.delivered("d", sequence);
        }
        story.delivered("c", 2).delivered("c", 3).delivered("c", 1);
        quiet(&mut story, 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn another_value_than_the_one_seen_last_is_found() {
        let mut story = written();
        for sequence in [1, 2, 3] {
            story.delivered("d", sequence).delivered("c", sequence);
        }
        quiet(&mut story, 2);
        assert_eq!(check(&story.view()).len(), 2, "both subscribers saw 3 last");
    }

    #[test]
    fn redelivery_shows_nothing_new() {
        let mut story = written();
        story.delivered("d", 1).delivered("d", 2).delivered("d", 3).lost("d").durable("d", 1).redelivered("d", 2);
        quiet(&mut story, 3);
        assert_eq!(check(&story.view()), vec![]);
        let mut story = written();
        story.delivered("d", 1).delivered("d", 3).delivered("d", 2).lost("d").durable("d", 1).redelivered("d", 2);
        quiet(&mut story, 3);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn whoever_subscribed_later_or_left_before_is_not_asked() {
        let mut story = written();
        story.delivered("c", 1).lost("c").delivered("d", 1).delivered("d", 2).delivered("d", 3);
        story.clean("c", 1).subscribed("c", "r", 1).delivered_as("c", 3, StoryDelivery::Retained);
        quiet(&mut story, 3);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_value_without_an_answer_may_still_be_on_its_way() {
        let mut story = written();
        story.delivered("d", 1).delivered("d", 2).delivered("d", 3).send("p", 4, "r", 1, true);
        quiet(&mut story, 4);
        assert_eq!(check(&story.view()), vec![]);
    }
}
