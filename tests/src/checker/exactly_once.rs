//! Promise 3: a QoS 2 message is handed on to a QoS 2 subscriber once, also across failover, takeover and restart. The
//! subscriber keeps received packet identifiers until PUBREL as the standard says (MQTT 5.0 section 4.3.3), so a
//! repeated PUBLISH under a held identifier is no second message; one under a new identifier is.
//! A clean session is another one with each connection: to each of them once.
//! Not here: that it comes at all (`no_acknowledged_message_lost`).
use super::{View, Violation};
use mosquorum_proto::mqtt::QoS;
use std::collections::BTreeMap;

pub const NAME: &str = "exactly once";

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut handed_on: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for delivery in &view.deliveries {
        // A new subscription may bring the retained copy of a message beside the live one.
        if delivery.qos == QoS::ExactlyOnce
            && !delivery.repeat
            && delivery.live
            && let Some(session) = view.session(delivery.connection)
        {
            handed_on.entry((session, delivery.message)).or_default().push(delivery);
        }
    }
    handed_on
        .into_iter()
        .filter(|(_, deliveries)| deliveries.len() > 1)
        .map(|(((client, _), message), deliveries)| {
            let places: Vec<String> =
                deliveries.iter().map(|d| format!("{} at {:?}", d.connection, view.at(d.position))).collect();
            Violation {
                invariant: NAME,
                detail: format!("{message} was handed on to {client} {} times: {}", places.len(), places.join(", ")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::{Story, StoryDelivery};

    #[test]
    fn a_second_delivery_under_a_new_packet_identifier_is_a_duplicate() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t", 2).publish("p", 1, "t", 2);
        story.delivered("s", 1).lost("s").durable("s", 1).delivered("s", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_repeat_under_a_held_packet_identifier_is_not() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t", 2).publish("p", 1, "t", 2);
        story.delivered("s", 1).lost("s").durable("s", 1).delivered_as("s", 1, StoryDelivery::Repeated);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn once_for_each_clean_session() {
        let mut story = Story::new(3);
        story.clean("s", 0).subscribed("s", "t", 2).publish("p", 1, "t", 2).delivered("s", 1).lost("s");
        story.clean("s", 1).subscribed("s", "t", 2).delivered("s", 1);
        assert_eq!(check(&story.view()), vec![]);
        story.delivered("s", 1);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn what_comes_as_published_is_live_with_the_retain_flag_too() {
        let mut story = Story::new(3);
        story.durable("s", 0).interested("s", "t", 2, crate::history::Interest::AsPublished);
        story.send("p", 1, "t", 2, true).delivered_as("s", 1, StoryDelivery::Retained).delivered_as(
            "s",
            1,
            StoryDelivery::Retained,
        );
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn qos_1_may_repeat() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t", 1).publish("p", 1, "t", 1);
        story.delivered("s", 1).lost("s").durable("s", 1).delivered("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }
}
