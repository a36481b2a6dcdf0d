//! Promise 1 for sessions: once a client with a durable session got a SUBACK or a PUBREC, every later CONNACK says that
//! the session is present, until the client itself asks for a clean start.
//! Not here: sessions that expire within a run (`expiry`).
use super::{View, Violation};
use crate::history::{Client, Event};
use mosquorum_proto::mqtt::QoS;
use std::collections::HashSet;

pub const NAME: &str = "session kept";

/// Sessions that live so long after their connections outlive every absence of a run.
const LASTS_SECONDS: u32 = 3600;

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut kept: HashSet<Client> = HashSet::new();
    let mut violations = Vec::new();
    for record in view.records {
        match &record.event {
            Event::ConnectInvoked { client, clean_start: true, .. } => {
                kept.remove(client);
            }
            Event::Subscribed { connection, .. } => kept.extend(durable_client(view, *connection)),
            Event::PublishAcknowledged { connection, message }
                if view.messages.get(message).is_some_and(|message| message.qos == QoS::ExactlyOnce) =>
            {
                kept.extend(durable_client(view, *connection));
            }
            Event::Connected { connection, session_present: false } => {
                if let Some(client) = view.client(*connection).filter(|client| kept.contains(*client)) {
                    violations.push(Violation {
                        invariant: NAME,
                        detail: format!("{client} found no session at {:?} ({connection})", record.at),
                    });
                }
            }
            _ => {}
        }
    }
    violations
}

fn durable_client(view: &View, connection: crate::history::ConnectionNumber) -> Option<Client> {
    let owner = view.connections.get(&connection)?;
    (owner.durable && owner.expiry_seconds >= LASTS_SECONDS).then(|| owner.client.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::checker::story::StoryConnect::Fresh;

    #[test]
    fn a_session_with_an_acknowledged_subscription_must_be_found_again() {
        let mut story = Story::new(1);
        story.durable("s", 0).subscribed("s", "t", 1).lost("s").connect("s", 0, Fresh, None);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn before_the_first_acknowledgement_and_after_a_clean_start_nothing_is_owed() {
        let mut story = Story::new(1);
        story.durable("s", 0).lost("s").connect("s", 0, Fresh, None);
        story.subscribed("s", "t", 1).clean("s", 0).connect("s", 0, Fresh, None);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_publisher_keeps_its_session_after_pubrec() {
        let mut story = Story::new(1);
        story.durable("p", 0).publish("p", 1, "t", 2).acknowledged("p", 1).lost("p");
        story.connect("p", 0, Fresh, None);
        assert_eq!(check(&story.view()).len(), 1);
    }
}
