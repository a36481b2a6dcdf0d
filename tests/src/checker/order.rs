//! Promise 4: order per publisher, topic and QoS for each subscription that is not shared.
//!
//! A publisher sends its messages in order and, after a lost connection, sends unacknowledged ones again in order. Call
//! all its transmissions on one topic with one QoS `S` (for example 1 2 3 2 3 4). Then
//! 1. messages come for the first time in the order in which they were first sent, over all connections of the
//!    subscriber: a message never comes for the first time after a later one did;
//! 2. what comes over one connection is a subsequence of `S`: a broker that redelivers starts again at some earlier
//!    message and goes on in order, and repeats nothing within a connection unless the publisher repeated it.
//!
//! Of a clean session all this holds for each connection by itself. A message that was sent while a session subscribed
//! may have been missed and come later, if its publisher sent it again.
//! Retained copies sent because of a SUBSCRIBE are not part of the stream.
use super::{Delivery, Position, SubscriptionView, View, Violation, view::SessionKey};
use crate::history::{Client, ConnectionNumber};
use mosquorum_proto::mqtt::QoS;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub const NAME: &str = "order";

/// Publisher, topic, the publisher's QoS.
type Stream = (u32, Arc<str>, QoS);

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let transmissions = transmissions(view);
    let subscribed = last_suback(view);
    let mut streams: BTreeMap<(SessionKey, Stream), Vec<&Delivery>> = BTreeMap::new();
    let sharing = only_sharing(view);
    for delivery in view.deliveries.iter().filter(|delivery| delivery.live) {
        let (Some(session), Some(message)) = (view.session(delivery.connection), view.messages.get(&delivery.message))
        else {
            continue;
        };
        if message.will || sharing.contains(&session.0) {
            continue;
        }
        let stream = (delivery.message.publisher, message.topic.clone(), message.qos);
        streams.entry((session, stream)).or_default().push(delivery);
    }
    let mut violations = Vec::new();
    for ((session, stream), deliveries) in &streams {
        let client = &session.0;
        let since = subscribed.get(session).copied().unwrap_or(0);
        violations.extend(first_occurrences_out_of_order(view, client, since, stream, deliveries));
        let Some(sent) = transmissions.get(stream) else {
            continue;
        };
        let mut by_connection: BTreeMap<ConnectionNumber, Vec<u64>> = BTreeMap::new();
        for delivery in deliveries {
            by_connection.entry(delivery.connection).or_default().push(delivery.message.sequence);
        }
        for (connection, came) in by_connection {
            if let Some(culprit) = not_a_subsequence(&came, sent) {
                let from = culprit.saturating_sub(4);
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "{client} got {:?} of p{} on {} over {connection}: no order it was sent in",
                        &came[from..=culprit],
                        stream.0,
                        stream.1
                    ),
                });
            }
        }
    }
    violations
}

/// Sequence numbers of every transmission, in the order sent.
fn transmissions(view: &View) -> BTreeMap<Stream, Vec<u64>> {
    let mut all: BTreeMap<Stream, Vec<(usize, u64)>> = BTreeMap::new();
    for (id, message) in &view.messages {
        let stream = all.entry((id.publisher, message.topic.clone(), message.qos)).or_default();
        stream.extend(message.sends.iter().map(|(position, _)| (*position, id.sequence)));
    }
    let in_order = |mut sends: Vec<(usize, u64)>| {
        sends.sort_unstable();
        sends.into_iter().map(|(_, sequence)| sequence).collect()
    };
    all.into_iter().map(|(stream, sends)| (stream, in_order(sends))).collect()
}

/// Clients all of whose subscriptions are shared ones.
fn only_sharing<'v>(view: &'v View) -> HashSet<&'v Client> {
    let all_shared =
        |subscriptions: &[&SubscriptionView]| subscriptions.iter().all(|s| s.filter.starts_with("$share/"));
    let by_client = view.subscriptions_by_client();
    by_client.into_iter().filter(|(_, subscriptions)| all_shared(subscriptions)).map(|(client, _)| client).collect()
}

/// Where the last SUBACK of each session came.
fn last_suback(view: &View) -> HashMap<SessionKey, Position> {
    let mut last = HashMap::new();
    for subscription in &view.subscriptions {
        if let (Some(session), Some((at, _))) = (view.session(subscription.connection), subscription.acknowledged) {
            let entry = last.entry(session).or_insert(at);
            *entry = at.max(*entry);
        }
    }
    last
}

fn first_occurrences_out_of_order(
    view: &View,
    client: &Client,
    since: Position,
    stream: &Stream,
    deliveries: &[&Delivery],
) -> Vec<Violation> {
    let may_have_been_missed = |delivery: &Delivery| {
        let sends = view.messages.get(&delivery.message).map_or(&[][..], |message| &message.sends);
        sends.len() > 1 && sends[0].0 < since
    };
    let mut seen = HashSet::new();
    let mut newest: Option<&Delivery> = None;
    let mut violations = Vec::new();
    for delivery in deliveries {
        if !seen.insert(delivery.message.sequence) {
            continue;
        }
        match newest {
            Some(later) if later.message.sequence > delivery.message.sequence && may_have_been_missed(delivery) => {}
            Some(later) if later.message.sequence > delivery.message.sequence => violations.push(Violation {
                invariant: NAME,
                detail: format!(
                    "{client} got {} ({}) for the first time after {} ({}) on {}",
                    delivery.message, delivery.connection, later.message, later.connection, stream.1
                ),
            }),
            _ => newest = Some(delivery),
        }
    }
    violations
}

/// The index in `came` of the first element that cannot be placed. Taking the earliest place for each is exact.
fn not_a_subsequence(came: &[u64], sent: &[u64]) -> Option<usize> {
    let mut rest = sent.iter();
    came.iter().position(|wanted| !rest.any(|sequence| sequence == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;

    fn published(count: u64) -> Story {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t", 1);
        for sequence in 1..=count {
            story.publish("p", sequence, "t", 1);
        }
        story
    }

    #[test]
    fn redelivery_repeats_from_an_earlier_message() {
        let mut story = published(5);
        story.delivered("s", 1).delivered("s", 2).delivered("s", 3).lost("s").durable("s", 1);
        story.delivered("s", 2).delivered("s", 3).delivered("s", 4).delivered("s", 5);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn redelivery_must_not_reorder() {
        let mut story = published(5);
        story.delivered("s", 1).delivered("s", 2).delivered("s", 3).lost("s").durable("s", 1);
        story.delivered("s", 3).delivered("s", 2).delivered("s", 4);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_later_message_must_not_come_first_even_over_another_connection() {
        let mut story = published(5);
        story.delivered("s", 1).delivered("s", 3).lost("s").durable("s", 1).delivered("s", 2).delivered("s", 3);
        let found = check(&story.view());
        assert_eq!(found.len(), 1);
        assert!(found[0].detail.contains("for the first time after"));
    }

    #[test]
    fn a_message_must_not_come_twice_over_one_connection() {
        let mut story = published(3);
        story.delivered("s", 1).delivered("s", 2).delivered("s", 2);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn unless_its_publisher_sent_it_again() {
        let mut story = published(3);
        story.lost("p").durable("p", 1).publish("p", 2, "t", 1).publish("p", 3, "t", 1).publish("p", 4, "t", 1);
        for sequence in [1, 2, 3, 2, 3, 4] {
            story.delivered("s", sequence);
        }
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_message_missed_while_subscribing_may_come_when_its_publisher_sends_it_again() {
        let mut story = Story::new(3);
        story.publish("p", 1, "t", 1).clean("s", 0).subscribed("s", "t", 1).publish("p", 2, "t", 1).delivered("s", 2);
        story.lost("p").durable("p", 1).publish("p", 1, "t", 1).publish("p", 2, "t", 1);
        story.delivered("s", 1).delivered("s", 2);
        assert_eq!(check(&story.view()), vec![]);
        story.publish("p", 3, "t", 1).publish("p", 4, "t", 1).delivered("s", 4).delivered("s", 3);
        assert!(!check(&story.view()).is_empty());
    }

    #[test]
    fn a_clean_session_begins_anew_with_each_connection() {
        let mut story = Story::new(3);
        story.clean("s", 0).subscribed("s", "t", 1).publish("p", 1, "t", 1).publish("p", 2, "t", 1);
        story.delivered("s", 1).delivered("s", 2).lost("s").clean("s", 1).subscribed("s", "t", 1);
        story.publish("p", 1, "t", 1).delivered("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn topics_and_levels_have_an_order_of_their_own() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "#", 2);
        story.publish("p", 1, "a", 1).publish("p", 2, "b", 1).publish("p", 3, "a", 2);
        story.delivered("s", 3).delivered("s", 2).delivered("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }
}
