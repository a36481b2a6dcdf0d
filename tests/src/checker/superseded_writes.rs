//! The second half of promise 6: what a superseded connection proposed is never applied after its successor's CONNACK.
//! Certain from a history: a message all of whose transmissions went over one connection was applied before any message
//! was that the same client sent first over a later connection, if that one's CONNECT was sent after the earlier one's
//! CONNACK: clients send after CONNACK. So it neither
//! 1. comes to a session for the first time behind the later message (same topic and QoS: one stream), nor
//! 2. is what a reader finds retained that subscribed after the later message was acknowledged, whoever else writes there.
//!
//! One that was applied in time and comes late is legal: it comes before the later message. Whether the earlier message
//! was acknowledged does not matter. Clean sessions are judged by retained messages alone, since these go through the log.
use super::{MessageView, Position, View, Violation, retained, view::SessionKey};
use crate::history::{Client, ConnectionNumber, MessageId};
use mosquorum_proto::mqtt::QoS;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub const NAME: &str = "superseded writes";

/// The publishing client, topic and QoS.
type Stream = (Client, Arc<str>, QoS);

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut violations = behind_a_later_connection(view);
    violations.extend(retained_again(view));
    violations
}

fn behind_a_later_connection(view: &View) -> Vec<Violation> {
    let sharing = view.sharing();
    let mut seen: HashSet<(SessionKey, MessageId)> = HashSet::new();
    // Of each stream to a session: the message seen that began over the latest connection.
    let mut latest: HashMap<(SessionKey, Stream), (ConnectionNumber, MessageId)> = HashMap::new();
    let mut violations = Vec::new();
    for delivery in view.deliveries.iter().filter(|delivery| delivery.live && !delivery.repeat) {
        let (Some(session), Some(message)) = (view.session(delivery.connection), view.messages.get(&delivery.message))
        else {
            continue;
        };
        let logged = session.1 == 0 || message.retain;
        if message.will || !logged || sharing.contains(&session.0) || !seen.insert((session.clone(), delivery.message))
        {
            continue;
        }
        let Some((began_on, stream)) = stream(view, message) else {
            continue;
        };
        let key = (session, stream);
        let newest = latest.entry(key.clone()).or_insert((began_on, delivery.message));
        if newest.0 > began_on {
            if let Some(only) = only_connection(message).filter(|only| supersedes(view, newest.0, *only)) {
                violations.push(violation(format!(
                    "{} of {} ({only}) came to {} at {:?} behind {} of {}",
                    delivery.message,
                    key.1.0,
                    key.0.0,
                    view.at(delivery.position),
                    newest.1,
                    newest.0
                )));
            }
        } else {
            *newest = (began_on, delivery.message);
        }
    }
    violations
}

fn retained_again(view: &View) -> Vec<Violation> {
    // Of each topic, client and connection: the message that was acknowledged first of those that began there.
    type Acknowledged = BTreeMap<ConnectionNumber, (Position, MessageId)>;
    let mut writes: HashMap<(&Arc<str>, &Client), Acknowledged> = HashMap::new();
    for (id, message) in view.messages.iter().filter(|(_, message)| message.retain && !message.will) {
        let (Some((_, on)), Some(acknowledged)) = (message.sends.first(), message.acknowledged) else {
            continue;
        };
        let Some(client) = view.client(*on) else { continue };
        let first = writes.entry((&message.topic, client)).or_default().entry(*on).or_insert((acknowledged, *id));
        *first = (acknowledged, *id).min(*first);
    }
    let mut violations = Vec::new();
    for (topic, reads) in retained::reads(view) {
        for read in reads {
            let Some((value, message)) = read.value.and_then(|value| Some((value, view.messages.get(&value)?))) else {
                continue;
            };
            let Some((only, client)) = only_connection(message).and_then(|only| Some((only, view.client(only)?)))
            else {
                continue;
            };
            let later = writes.get(&(&topic, client)).and_then(|writes| {
                let mut later = writes.range(ConnectionNumber(only.0 + 1)..);
                later.find(|(on, (acknowledged, _))| *acknowledged < read.began && supersedes(view, **on, only))
            });
            if let Some((on, (_, later))) = later {
                violations.push(violation(format!(
                    "{topic}: {} got {value} of {client} ({only}) at {:?} although {later} of {on} was acknowledged before",
                    read.reader,
                    view.at(read.ended)
                )));
            }
        }
    }
    violations
}

/// The connection that a message was sent over first, and its stream.
fn stream(view: &View, message: &MessageView) -> Option<(ConnectionNumber, Stream)> {
    let (_, began_on) = *message.sends.first()?;
    Some((began_on, (view.client(began_on)?.clone(), message.topic.clone(), message.qos)))
}

/// The connection of all transmissions, if there is one only.
fn only_connection(message: &MessageView) -> Option<ConnectionNumber> {
    let (_, first) = *message.sends.first()?;
    message.sends.iter().all(|(_, on)| *on == first).then_some(first)
}

/// Whether the CONNECT of `later` left after the CONNACK of `earlier` came.
fn supersedes(view: &View, later: ConnectionNumber, earlier: ConnectionNumber) -> bool {
    let (Some(later), Some(earlier)) = (view.connections.get(&later), view.connections.get(&earlier)) else {
        return false;
    };
    later.connected.is_some() && earlier.connected.is_some_and(|(at, _)| at < later.invoked)
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::{Story, id};
    use crate::history::Event;

    /// Message 1 over the first connection of `m`, 2 over the second one; both retained.
    fn moved() -> Story {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "m", 2);
        story.clean("m", 1).send("m", 1, "m", 1, true).clean("m", 2).send("m", 2, "m", 1, true);
        story
    }

    fn read(story: &mut Story, value: u64) {
        let connection = story.clean("r", 0).subscribed("r", "m", 1).on("r");
        story.event(Event::RetainedRead { connection, topic: "m".into(), value: Some(id(value)) });
    }

    #[test]
    fn what_was_applied_before_comes_before() {
        let mut story = moved();
        story.delivered("s", 1).delivered("s", 2);
        assert_eq!(check(&story.view()), vec![], "however late");
    }

    #[test]
    fn what_comes_behind_the_successor_was_applied_after_it() {
        let mut story = moved();
        story.delivered("s", 2).delivered("s", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_redelivery_is_no_second_write() {
        let mut story = moved();
        story.delivered("s", 1).delivered("s", 2).lost("s").durable("s", 1).redelivered("s", 1).redelivered("s", 2);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn what_was_sent_again_is_a_write_of_the_successor() {
        let mut story = moved();
        story.send("m", 1, "m", 1, true).delivered("s", 2).delivered("s", 1);
        read(&mut story, 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn two_connects_at_once_have_no_order() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "m", 2).durable("m", 1);
        let first = story.on("m");
        story.durable("m", 2);
        let second = story.on("m");
        // The CONNACK of the first comes after the CONNECT of the second.
        story.event(Event::Connected { connection: first, session_present: true });
        for (connection, sequence) in [(first, 1), (second, 2)] {
            let (topic, qos) = ("m".into(), QoS::AtLeastOnce);
            story.event(Event::PublishSent { connection, message: id(sequence), topic, qos, retain: false });
        }
        story.delivered("s", 2).delivered("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn live_messages_to_clean_sessions_are_judged_when_they_are_retained() {
        for (retain, expected) in [(false, 0), (true, 1)] {
            let mut story = Story::new(3);
            story.clean("s", 0).subscribed("s", "m", 1);
            story.clean("m", 1).send("m", 1, "m", 1, retain).clean("m", 2).send("m", 2, "m", 1, retain);
            story.delivered("s", 2).delivered("s", 1);
            assert_eq!(check(&story.view()).len(), expected);
        }
    }

    #[test]
    fn a_successor_that_was_acknowledged_is_not_replaced_by_its_predecessor() {
        let mut story = moved();
        read(&mut story, 1);
        assert_eq!(check(&story.view()), vec![], "the later one has no answer yet");
        story.acknowledged("m", 2).send("o", 3, "m", 1, true).acknowledged("o", 3);
        read(&mut story, 3);
        assert_eq!(check(&story.view()), vec![], "another client may write there");
        read(&mut story, 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn another_client_supersedes_nobody() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "m", 1).clean("m", 1).send("m", 1, "m", 1, true);
        story.clean("n", 2).send("n", 2, "m", 1, true).acknowledged("n", 2).delivered("s", 2).delivered("s", 1);
        read(&mut story, 1);
        assert_eq!(check(&story.view()), vec![]);
    }
}
