//! What every delivery must be, whatever failed: a message that somebody published before, unchanged, on its topic, to
//! a client that asked for it, with the smaller of the two QoS [MQTT-3.8.4-8], and not one that was refused.
use super::{View, Violation, view::Matcher};
use crate::history::Event;
use mosquorum_proto::mqtt::QoS;
use std::collections::HashMap;

pub const NAME: &str = "delivered as published";

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut matcher = Matcher::default();
    let mut violations: Vec<Violation> = view
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Forbidden { connection, what } => Some(violation(format!("{what} ({connection}, {:?})", record.at))),
            _ => None,
        })
        .collect();
    let requested = requested_qos(view);
    let by_client = view.subscriptions_by_client();
    for delivery in &view.deliveries {
        let Some(client) = view.client(delivery.connection) else {
            continue;
        };
        let Some(message) = view.messages.get(&delivery.message) else {
            violations.push(violation(format!("{} came to {client} but nobody sent it", delivery.message)));
            continue;
        };
        if message.sends.first().is_none_or(|(sent, _)| *sent > delivery.position) {
            violations.push(violation(format!("{} came to {client} before it was sent", delivery.message)));
        }
        if message.topic != delivery.topic {
            violations.push(violation(format!(
                "{} came on {} instead of {}",
                delivery.message, delivery.topic, message.topic
            )));
        }
        if delivery.live && delivery.retain && !message.retain {
            violations.push(violation(format!("{} came to {client} as retained and is not", delivery.message)));
        }
        if message.refused.is_some() && message.acknowledged.is_none() && message.sends.len() == 1 {
            violations.push(violation(format!("{} was refused and came to {client} nevertheless", delivery.message)));
        }
        let asked = by_client
            .get(client)
            .into_iter()
            .flatten()
            .filter(|subscription| subscription.invoked < delivery.position)
            .filter(|subscription| matcher.matches(&subscription.filter, &delivery.topic))
            .filter_map(|subscription| requested.get(&subscription.invoked).copied())
            .max();
        match asked {
            None => violations.push(violation(format!(
                "{client} got {} on {} without a subscription",
                delivery.message, delivery.topic
            ))),
            Some(qos) if delivery.qos != qos.min(message.qos) => violations.push(violation(format!(
                "{} came to {client} with {:?}: published with {:?}, subscribed with {qos:?}",
                delivery.message, delivery.qos, message.qos
            ))),
            Some(_) => {}
        }
    }
    violations
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

/// The QoS asked for in each SUBSCRIBE, by its position.
fn requested_qos(view: &View) -> HashMap<usize, QoS> {
    let asked = |(position, record): (usize, &crate::history::Record)| match record.event {
        Event::SubscribeInvoked { qos, .. } => Some((position, qos)),
        _ => None,
    };
    view.records.iter().enumerate().filter_map(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::{Story, id};

    #[test]
    fn a_message_from_nowhere_is_found() {
        let mut story = Story::new(1);
        story.durable("s", 0).subscribed("s", "#", 2).delivered("s", 9);
        assert!(check(&story.view())[0].detail.contains("nobody sent it"));
    }

    #[test]
    fn another_topic_another_qos_or_no_subscription_is_found() {
        let mut story = Story::new(1);
        story.durable("s", 0).subscribed("s", "t/#", 1).publish("p", 1, "t/a", 2);
        let connection = story.on("s");
        let deliver = |topic: &str, qos| Event::Delivered {
            connection,
            message: id(1),
            topic: topic.into(),
            qos,
            retain: false,
            dup: false,
            repeat: false,
        };
        story.event(deliver("t/a", QoS::AtLeastOnce));
        assert_eq!(check(&story.view()), vec![]);
        story.event(deliver("t/a", QoS::ExactlyOnce));
        assert_eq!(check(&story.view()).len(), 1);
        story.event(deliver("t/b", QoS::AtLeastOnce));
        assert_eq!(check(&story.view()).len(), 2);
        story.event(deliver("u", QoS::AtLeastOnce));
        assert_eq!(check(&story.view()).len(), 4, "wrong topic and no subscription");
    }

    #[test]
    fn a_refused_message_must_not_come() {
        let mut story = Story::new(1);
        story.durable("s", 0).subscribed("s", "t", 1).publish("p", 1, "t", 1);
        let connection = story.on("p");
        let reason = mosquorum_proto::mqtt::ReasonCode::QuotaExceeded;
        story.event(Event::PublishRefused { connection, message: id(1), reason }).delivered("s", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }
}
