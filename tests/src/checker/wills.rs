//! Promise 7: a will is published once after an unclean end, the death of the serving node included, and never after a
//! normal DISCONNECT or a reconnect within the will delay.
//! Counted at subscribers with a durable session and QoS 2 whose SUBACK came before the CONNECT that carried the will.
//! A client that returns to its session before the broker could notice the end takes the connection over, and then
//! Mosquitto 2.1 publishes nothing: at most once, too.
//! DISCONNECT has no answer: when the node that it was sent to failed around that time, the will may be published or
//! not, but at most once. The same holds for a CONNECT without an answer.
use super::{ConnectionView, SubscriptionView, View, Violation, view::Matcher};
use crate::history::{Client, CloseKind, ConnectionNumber, MessageId, WillPlan};
use mosquorum_proto::mqtt::QoS;
use std::{collections::HashMap, time::Duration};

pub const NAME: &str = "wills";

/// How far a broker's idea of when a connection ended may be from ours.
const SLACK: Duration = Duration::from_secs(10);

/// After this time a living node has noticed that a client closed its connection.
const NOTICED_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Once,
    Never,
    AtMostOnce,
}

/// What all wills of a history are judged by, found once.
struct Observed<'v> {
    connections: HashMap<&'v Client, Vec<ConnectionNumber>>,
    /// Durable subscriptions with QoS 2.
    observers: Vec<&'v SubscriptionView>,
    /// How often each client was handed each will.
    came: HashMap<MessageId, HashMap<&'v str, usize>>,
}

impl<'v> Observed<'v> {
    fn new(view: &'v View) -> Self {
        let mut connections: HashMap<&Client, Vec<ConnectionNumber>> = HashMap::new();
        for (number, connection) in &view.connections {
            connections.entry(&connection.client).or_default().push(*number);
        }
        let observes = |s: &&SubscriptionView| {
            s.durable && s.ended.is_none() && s.acknowledged.is_some_and(|(_, granted)| granted == QoS::ExactlyOnce)
        };
        let mut came: HashMap<MessageId, HashMap<&str, usize>> = HashMap::new();
        for delivery in view.deliveries.iter().filter(|d| !d.repeat && !d.retain) {
            let is_will = view.messages.get(&delivery.message).is_some_and(|message| message.will);
            if let Some(client) = view.client(delivery.connection).filter(|_| is_will) {
                *came.entry(delivery.message).or_default().entry(&**client).or_default() += 1;
            }
        }
        Self { connections, observers: view.subscriptions.iter().filter(observes).collect(), came }
    }
}

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let observed = Observed::new(view);
    let mut violations = missing_on(view, &observed);
    for (number, connection, plan) in with_wills(view) {
        let expected = expected(view, &observed, number, connection, plan);
        for (observer, count) in counts(&observed, connection, plan) {
            let too_many = if expected == Expected::Never { count > 0 } else { count > 1 };
            if too_many {
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "will {} of {} ({number}, ended {:?}) came {count} times to {observer}, expected {expected:?}",
                        plan.message,
                        connection.client,
                        connection.closed.map(|(at, how)| (view.at(at), how))
                    ),
                });
            }
        }
    }
    violations
}

/// Wills that must still come.
#[must_use]
pub fn missing(view: &View) -> Vec<Violation> {
    missing_on(view, &Observed::new(view))
}

fn missing_on(view: &View, observed: &Observed) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (number, connection, plan) in with_wills(view) {
        if expected(view, observed, number, connection, plan) != Expected::Once {
            continue;
        }
        for (observer, count) in counts(observed, connection, plan) {
            if count == 0 {
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "will {} of {} ({number}, node {}, ended {:?}) never came to {observer}",
                        plan.message,
                        connection.client,
                        connection.node,
                        connection.closed.map(|(at, how)| (view.at(at), how))
                    ),
                });
            }
        }
    }
    violations
}

fn with_wills<'v>(view: &'v View) -> impl Iterator<Item = (ConnectionNumber, &'v ConnectionView, &'v WillPlan)> {
    view.connections.iter().filter_map(|(number, connection)| Some((*number, connection, connection.will.as_ref()?)))
}

fn expected(
    view: &View,
    observed: &Observed,
    number: ConnectionNumber,
    connection: &ConnectionView,
    plan: &WillPlan,
) -> Expected {
    let Some((connected, _)) = connection.connected else {
        return Expected::AtMostOnce;
    };
    let of_client = observed.connections.get(&connection.client).into_iter().flatten();
    let next = of_client
        .filter(|other| **other > number)
        .map(|other| &view.connections[other])
        .find(|next| next.invoked > connected);
    let Some((closed, how)) = connection.closed else {
        return if next.is_some() { Expected::AtMostOnce } else { Expected::Never };
    };
    if how == CloseKind::Normal {
        return if node_failed_around(view, connection.node, view.at(closed)) {
            Expected::AtMostOnce
        } else {
            Expected::Never
        };
    }
    if how == CloseKind::Unclear {
        return Expected::AtMostOnce;
    }
    let Some(next) = next else {
        return Expected::Once;
    };
    if plan.delay_seconds == 0 {
        let resumes = connection.durable && !next.clean_start;
        let unnoticed = how == CloseKind::Lost || view.at(next.invoked) < view.at(closed) + NOTICED_AFTER;
        return if resumes && unnoticed { Expected::AtMostOnce } else { Expected::Once };
    }
    let delay = Duration::from_secs(u64::from(plan.delay_seconds));
    let Some((back, _)) = next.connected else {
        return Expected::AtMostOnce;
    };
    let slack = if how == CloseKind::Dropped { Duration::from_secs(1) } else { SLACK };
    if view.at(back) + slack < view.at(closed) + delay && !next.clean_start {
        Expected::Never
    } else if view.at(next.invoked) > view.at(closed) + delay + SLACK {
        Expected::Once
    } else {
        Expected::AtMostOnce
    }
}

fn node_failed_around(view: &View, node: usize, moment: Duration) -> bool {
    view.faults.iter().filter(|fault| fault.nodes.contains(&node) || fault.takes_majority(view.nodes)).any(|fault| {
        let until = fault.healed.map_or(Duration::MAX, |healed| view.at(healed));
        view.at(fault.began) < moment + SLACK && moment < until.saturating_add(SLACK)
    })
}

/// How often each entitled observer was handed the will.
fn counts(observed: &Observed, connection: &ConnectionView, plan: &WillPlan) -> Vec<(String, usize)> {
    let mut matcher = Matcher::default();
    let came = observed.came.get(&plan.message);
    let entitled = observed.observers.iter().filter(|subscription| {
        subscription.acknowledged.is_some_and(|(at, _)| at < connection.invoked)
            && matcher.matches(&subscription.filter, &plan.topic)
    });
    let count = |client: &Client| came.and_then(|came| came.get(&**client)).copied().unwrap_or(0);
    entitled.map(|subscription| (subscription.client.to_string(), count(&subscription.client))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::checker::story::StoryConnect::{Fresh, Resumed, Unanswered};
    use crate::history::{Event, FaultKind};

    fn observed() -> Story {
        let mut story = Story::new(3);
        story.durable("o", 0).subscribed("o", "w", 2);
        story
    }

    #[test]
    fn an_unclean_end_publishes_once() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 0)).close("c", CloseKind::Dropped);
        assert_eq!(check(&story.view()).len(), 1);
        story.delivered("o", 1);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn an_immediate_return_to_the_session_may_be_a_takeover() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 0)).close("c", CloseKind::Dropped);
        story.connect("c", 2, Resumed, None);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 1).delivered("o", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_normal_end_publishes_never() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 0)).close("c", CloseKind::Normal);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_normal_end_at_a_node_that_dies_is_unknown() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 0)).close("c", CloseKind::Normal);
        story.fault(1, FaultKind::Kill, &[1]).event(Event::Healed { fault: 1 }).delivered("o", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_reconnect_within_the_delay_publishes_never() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 60)).close("c", CloseKind::Dropped);
        story.connect("c", 2, Resumed, Story::will(2, 60)).close("c", CloseKind::Normal);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_disconnect_that_may_not_have_been_read_is_unknown() {
        let mut story = observed();
        story.connect("c", 1, Fresh, Story::will(1, 0)).close("c", CloseKind::Unclear);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_connect_without_an_answer_is_unknown_and_an_open_connection_has_no_will_yet() {
        let mut story = observed();
        story.connect("c", 1, Unanswered, Story::will(1, 0)).delivered("o", 1);
        story.connect("d", 1, Fresh, Story::will(2, 0));
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("o", 2);
        assert_eq!(check(&story.view()).len(), 1);
    }
}
