//! Promise 9 and the second half of 5: a SUBACK to a clean session means that every serving node routes to it. While its
//! connection lives, it gets every acknowledged QoS 1 or 2 message that was sent after the SUBACK.
//! Judged for connections that lived until the run was drained; when one breaks, a clean session is owed nothing.
use super::{View, Violation, view::Matcher};
use mosquorum_proto::mqtt::QoS;
use std::collections::HashSet;

pub const NAME: &str = "live delivery";

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut matcher = Matcher::default();
    let mut violations = Vec::new();
    for subscription in
        view.subscriptions.iter().filter(|s| !s.durable && s.ended.is_none() && !s.filter.starts_with("$share/"))
    {
        let (Some((since, granted)), Some(connection)) =
            (subscription.acknowledged, view.connections.get(&subscription.connection))
        else {
            continue;
        };
        if connection.closed.is_some_and(|(closed, _)| view.drained.is_none_or(|drained| closed < drained)) {
            continue;
        }
        let came: HashSet<_> =
            view.deliveries.iter().filter(|d| d.connection == subscription.connection).map(|d| d.message).collect();
        for (id, message) in &view.messages {
            let owed = !message.will
                && message.acknowledged.is_some()
                && message.qos.min(granted) > QoS::AtMostOnce
                && message.sends.first().is_some_and(|(sent, _)| *sent > since);
            if owed && !came.contains(id) && matcher.matches(&subscription.filter, &message.topic) {
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "{} ({}, node {}) never got {id} on {}",
                        subscription.client, subscription.connection, connection.node, message.topic
                    ),
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::history::{CloseKind, Event};

    #[test]
    fn a_clean_session_gets_what_is_sent_after_its_suback() {
        let mut story = Story::new(3);
        story.publish("p", 1, "t", 1).clean("c", 1).subscribed("c", "t", 1).acknowledged("p", 1);
        story.publish("p", 2, "t", 1).acknowledged("p", 2).delivered("c", 2);
        assert_eq!(check(&story.view()), vec![]);
        story.publish("p", 3, "t", 1).acknowledged("p", 3);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_broken_connection_is_owed_nothing_but_one_closed_after_the_drain_is() {
        let mut story = Story::new(3);
        story.clean("c", 1).subscribed("c", "t", 1).publish("p", 2, "t", 1).acknowledged("p", 2).lost("c");
        assert_eq!(check(&story.view()), vec![]);
        story.clean("d", 1).subscribed("d", "t", 1).publish("p", 3, "t", 1).acknowledged("p", 3);
        story.event(Event::Drained).close("d", CloseKind::Normal);
        assert_eq!(check(&story.view()).len(), 1);
    }
}
