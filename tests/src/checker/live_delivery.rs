//! Promise 9 and the second half of 5: a SUBACK to a clean session means that every serving node routes to it. While its
//! connection lives, it gets every acknowledged QoS 1 or 2 message that was sent after the SUBACK.
//! A connection that lived until the run was drained is owed everything; one that ended before is owed what was
//! acknowledged well before its end, whichever node the publisher was at and whether that one died then. When a connection
//! breaks, a clean session is owed nothing more.
//! Not here: that QoS 2 comes once (`exactly_once`).
use super::{ConnectionView, View, Violation, view::Owed};
use crate::history::Interest;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

pub const NAME: &str = "live delivery";

/// What was acknowledged so long before a connection ended must have come over it. A client gives up a connection that is
/// silent for 4 s (`client::session::STALL`): when its node stops, that long messages are acknowledged elsewhere while it
/// still believes in it. The rest is for clients that are slow to notice.
const LIVE_GRACE: Duration = Duration::from_secs(5);

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut owed = Owed::new(view);
    let mut violations = Vec::new();
    let mut came: HashMap<_, HashSet<_>> = HashMap::new();
    for delivery in &view.deliveries {
        came.entry(delivery.connection).or_default().insert(delivery.message);
    }
    let nothing = HashSet::new();
    let judged = |s: &&super::SubscriptionView| {
        !s.durable && s.ended.is_none() && s.interest != Interest::Retained && !s.filter.starts_with("$share/")
    };
    for subscription in view.subscriptions.iter().filter(judged) {
        let (Some((since, granted)), Some(connection)) =
            (subscription.acknowledged, view.connections.get(&subscription.connection))
        else {
            continue;
        };
        let until = owed_until(view, connection);
        let came = came.get(&subscription.connection).unwrap_or(&nothing);
        for (id, message) in owed.to(&subscription.filter, since, granted) {
            let in_time = message.acknowledged.is_some_and(|at| until.is_none_or(|until| view.at(at) < until));
            if in_time && !came.contains(&id) {
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "{} ({}, node {}) never got {id} on {}, acknowledged at {:?}; the connection ended {:?}",
                        subscription.client,
                        subscription.connection,
                        connection.node,
                        message.topic,
                        message.acknowledged.map(|at| view.at(at)),
                        connection.closed.map(|(at, how)| (view.at(at), how))
                    ),
                });
            }
        }
    }
    violations
}

/// What was acknowledged before this moment is owed; `None`: everything.
fn owed_until(view: &View, connection: &ConnectionView) -> Option<Duration> {
    let (closed, _) = connection.closed?;
    if view.drained.is_some_and(|drained| closed > drained) {
        return None;
    }
    Some(view.at(closed).saturating_sub(LIVE_GRACE))
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
    fn a_connection_that_ends_is_owed_what_was_acknowledged_well_before() {
        let mut story = Story::new(3);
        story.clean("c", 1).subscribed("c", "t", 2).publish("p", 1, "t", 2).acknowledged("p", 1).delivered("c", 1);
        story.wait(10).publish("p", 2, "t", 2).acknowledged("p", 2).wait(4).lost("c");
        assert_eq!(check(&story.view()), vec![], "its node may have stopped before");
        story.clean("d", 1).subscribed("d", "t", 2).publish("p", 3, "t", 2).acknowledged("p", 3).wait(6).lost("d");
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_connection_that_outlives_the_drain_is_owed_everything() {
        let mut story = Story::new(3);
        story.clean("d", 1).subscribed("d", "t", 1).publish("p", 3, "t", 1).acknowledged("p", 3);
        story.event(Event::Drained).close("d", CloseKind::Normal);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn readers_of_retained_messages_keep_no_account() {
        let mut story = Story::new(3);
        story.clean("r", 1).interested("r", "t", 1, Interest::Retained).publish("p", 1, "t", 1).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn the_publishers_node_may_die_after_the_acknowledgement_or_before() {
        let mut story = Story::new(3);
        story.clean("c", 1).subscribed("c", "t", 2).durable("p", 0).publish("p", 1, "t", 2).lost("p");
        assert_eq!(check(&story.view()), vec![], "without an answer it is unknown");
        story.durable("p", 2).publish("p", 1, "t", 2).acknowledged("p", 1);
        assert_eq!(check(&story.view()).len(), 1);
        story.delivered("c", 1);
        assert_eq!(check(&story.view()), vec![]);
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
