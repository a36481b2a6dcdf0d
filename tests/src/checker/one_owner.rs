//! Promise 6: one owner per client identifier in the cluster. Once a later connection of the same client got its
//! CONNACK, the earlier one neither acknowledges nor delivers anything that began after that moment. (What was on its way
//! to the earlier connection before may still arrive: it was sent while that was the owner.)
use super::{Position, View, Violation};
use crate::history::{Client, ConnectionNumber, Event};
use std::collections::HashMap;

pub const NAME: &str = "one owner";

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let superseded = superseded(view);
    let mut violations = Vec::new();
    for (position, record) in view.records.iter().enumerate() {
        let (connection, message, what) = match &record.event {
            Event::PublishAcknowledged { connection, message } => (connection, message, "acknowledged"),
            Event::Delivered { connection, message, .. } => (connection, message, "delivered"),
            _ => continue,
        };
        let (Some((since, by)), Some(view_of)) = (superseded.get(connection), view.messages.get(message)) else {
            continue;
        };
        // The publish that was answered went over this very connection; a delivery may come from anyone's publish.
        let began = match what {
            "acknowledged" => view_of
                .sends
                .iter()
                .filter(|(sent, on)| on == connection && *sent < position)
                .map(|(sent, _)| *sent)
                .min(),
            _ => view_of.sends.first().map(|(sent, _)| *sent),
        };
        if !view_of.will && began.is_some_and(|began| began > *since) {
            violations.push(Violation {
                invariant: NAME,
                detail: format!(
                    "{connection} {what} {message} at {:?} though {by} owned the client since {:?}",
                    record.at,
                    view.at(*since)
                ),
            });
        }
    }
    violations
}

/// Of each connection that a later one certainly replaced: where, and by which.
fn superseded(view: &View) -> HashMap<ConnectionNumber, (Position, ConnectionNumber)> {
    let mut by_client: HashMap<&Client, Vec<ConnectionNumber>> = HashMap::new();
    for (number, connection) in &view.connections {
        by_client.entry(&connection.client).or_default().push(*number);
    }
    let mut superseded = HashMap::new();
    for numbers in by_client.values() {
        for (index, earlier) in numbers.iter().enumerate() {
            let Some((owned, _)) = view.connections[earlier].connected else {
                continue;
            };
            let next = numbers[index + 1..]
                .iter()
                .filter(|later| view.connections[later].invoked > owned)
                .filter_map(|later| Some((view.connections[later].connected?.0, *later)))
                .min();
            if let Some(next) = next {
                superseded.insert(*earlier, next);
            }
        }
    }
    superseded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::StoryConnect::Unanswered;
    use crate::checker::story::{Story, id};
    use mosquorum_proto::mqtt::QoS;

    #[test]
    fn an_old_connection_must_not_acknowledge_what_it_was_sent_after_its_end() {
        let mut story = Story::new(3);
        let old = story.durable("p", 0).publish("p", 1, "t", 1).on("p");
        story.durable("p", 1);
        story.event(Event::PublishAcknowledged { connection: old, message: id(1) });
        assert_eq!(check(&story.view()), vec![], "it was sent while the old connection owned the client");
        story.event(Event::PublishSent {
            connection: old,
            message: id(2),
            topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
        });
        story.event(Event::PublishAcknowledged { connection: old, message: id(2) });
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn an_old_connection_must_not_deliver_what_was_published_after_its_end() {
        let mut story = Story::new(3);
        let old = story.durable("s", 0).subscribed("s", "t", 1).on("s");
        story.publish("p", 1, "t", 1).durable("s", 1).publish("p", 2, "t", 1);
        let deliver = |sequence| Event::Delivered {
            connection: old,
            message: id(sequence),
            topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            repeat: false,
        };
        story.event(deliver(1));
        assert_eq!(check(&story.view()), vec![]);
        story.event(deliver(2));
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_connect_without_an_answer_supersedes_nobody() {
        let mut story = Story::new(3);
        let old = story.durable("p", 0).on("p");
        story.connect("p", 1, Unanswered, None);
        story.event(Event::PublishSent {
            connection: old,
            message: id(2),
            topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
        });
        story.event(Event::PublishAcknowledged { connection: old, message: id(2) });
        assert_eq!(check(&story.view()), vec![]);
    }
}
