//! Promises 1 and 2: an acknowledged QoS 1 or 2 message reaches every durable session whose subscription was
//! acknowledged before the publish was first sent. "Reaches" means that the client has dealt with it (sent PUBACK or
//! PUBREC): a message that came over a connection which then broke must come again [MQTT-4.4.0-1].
//! Of a shared group, one member at least must have dealt with it.
//! Not here: subscriptions that were ended, wills (`wills`), clean sessions (`live_delivery`).
use super::{View, Violation, view::Owed};
use std::collections::{BTreeMap, HashSet};

pub const NAME: &str = "no acknowledged message lost";

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut owed = Owed::new(view);
    let seen: HashSet<_> = view
        .deliveries
        .iter()
        .filter_map(|delivery| Some((view.client(delivery.connection)?.clone(), delivery.message)))
        .collect();
    let mut violations = Vec::new();
    let mut groups: BTreeMap<&str, Vec<&super::SubscriptionView>> = BTreeMap::new();
    for subscription in &view.subscriptions {
        if !subscription.durable || subscription.ended.is_some() {
            continue;
        }
        if subscription.filter.starts_with("$share/") {
            groups.entry(&subscription.filter).or_default().push(subscription);
            continue;
        }
        let Some((since, granted)) = subscription.acknowledged else {
            continue;
        };
        for (id, message) in owed.to(&subscription.filter, since, granted) {
            if !view.dealt_with.contains(&(subscription.client.clone(), id)) {
                let how = if seen.contains(&(subscription.client.clone(), id)) {
                    "came once, its connection broke, and it never came again"
                } else {
                    "never came"
                };
                violations.push(Violation {
                    invariant: NAME,
                    detail: format!(
                        "{id} on {}, acknowledged at {:?}: for {} it {how}",
                        message.topic,
                        message.acknowledged.map(|p| view.at(p)),
                        subscription.client
                    ),
                });
            }
        }
    }
    for (filter, members) in groups {
        violations.extend(check_group(view, &mut owed, filter, &members));
    }
    violations
}

fn check_group(view: &View, owed: &mut Owed, filter: &str, members: &[&super::SubscriptionView]) -> Vec<Violation> {
    let Some((since, granted)) = members.iter().filter_map(|member| member.acknowledged).min() else {
        return Vec::new();
    };
    let nobody_got = |id| !members.iter().any(|member| view.dealt_with.contains(&(member.client.clone(), id)));
    owed.to(&members[0].filter, since, granted)
        .into_iter()
        .filter(|(id, _)| nobody_got(*id))
        .map(|(id, message)| Violation {
            invariant: NAME,
            detail: format!("{id} on {}: no member of {filter} got it", message.topic),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;

    #[test]
    fn everything_delivered_is_fine() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t/#", 1);
        story.publish("p", 1, "t/a", 1).acknowledged("p", 1).delivered("s", 1).dealt_with("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn an_acknowledged_message_that_never_came_is_lost() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t/#", 1);
        story.publish("p", 1, "t/a", 1).acknowledged("p", 1);
        let found = check(&story.view());
        assert_eq!(found.len(), 1);
        assert!(found[0].detail.contains("never came"), "{}", found[0]);
    }

    #[test]
    fn an_unacknowledged_message_may_be_lost() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t/#", 1).publish("p", 1, "t/a", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_subscription_acknowledged_after_the_publish_was_sent_is_owed_nothing() {
        let mut story = Story::new(3);
        story.durable("s", 0).publish("p", 1, "t/a", 1).subscribed("s", "t/#", 1).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn a_message_that_came_over_a_broken_connection_must_come_again() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t/#", 1);
        story.publish("p", 1, "t/a", 1).acknowledged("p", 1).delivered("s", 1).lost("s");
        assert_eq!(check(&story.view()).len(), 1);
        story.durable("s", 1).delivered("s", 1).dealt_with("s", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn one_member_of_a_shared_group_is_enough() {
        let mut story = Story::new(3);
        story.durable("a", 0).subscribed("a", "$share/g/t/#", 1).durable("b", 1).subscribed("b", "$share/g/t/#", 1);
        story.publish("p", 1, "t/a", 1).acknowledged("p", 1);
        assert_eq!(check(&story.view()).len(), 1);
        story.delivered("b", 1).dealt_with("b", 1);
        assert_eq!(check(&story.view()), vec![]);
    }

    #[test]
    fn qos_0_and_ended_subscriptions_are_owed_nothing() {
        let mut story = Story::new(3);
        story.durable("s", 0).subscribed("s", "t/#", 0).durable("u", 0).subscribed("u", "t/#", 1);
        story.publish("p", 1, "t/a", 1).acknowledged("p", 1).unsubscribe("u", "t/#");
        assert_eq!(check(&story.view()), vec![]);
    }
}
