//! What arrived against what was acknowledged.
use super::traffic::{Published, Received};
use crate::history::MessageId;
use mosquorum_proto::mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) acknowledged: usize,
    pub(super) arrived: usize,
    /// Acknowledged and never arrived.
    pub(super) lost: usize,
    pub(super) lost_examples: Vec<String>,
    /// Arrived more than once with QoS 2.
    pub(super) repeated_qos_2: Vec<MessageId>,
    pub(super) repeated_qos_1: usize,
    /// First arrivals before an earlier one of the same publisher.
    pub(super) out_of_order: Vec<MessageId>,
    /// Arrived though never sent.
    pub(super) foreign: usize,
}

pub(super) fn verdict(published: &BTreeMap<u32, Published>, received: &Received) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (id, qos) in received {
        if published.get(&id.publisher).is_none_or(|known| id.sequence >= known.sent) {
            verdict.foreign += 1;
            continue;
        }
        let seen = seen.entry(id.publisher).or_default();
        if !seen.insert(id.sequence) {
            match qos {
                QoS::ExactlyOnce => verdict.repeated_qos_2.push(*id),
                _ => verdict.repeated_qos_1 += 1,
            }
        } else if seen.last().is_some_and(|last| *last > id.sequence) {
            verdict.out_of_order.push(*id);
        }
    }
    for (publisher, known) in published {
        let seen = seen.remove(publisher).unwrap_or_default();
        verdict.acknowledged += known.acknowledged.len();
        verdict.arrived += seen.len();
        let lost: Vec<_> = known.acknowledged.difference(&seen).collect();
        verdict.lost += lost.len();
        verdict.lost_examples.extend(lost.iter().take(3).map(|sequence| format!("p{publisher}/{sequence}")));
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_repetitions_and_disorder_are_distinguished() {
        let known = Published { acknowledged: BTreeSet::from([0, 1, 2, 3]), sent: 5 };
        let published = BTreeMap::from([(7, known)]);
        let id = |sequence| MessageId { publisher: 7, sequence };
        let received = vec![
            (id(0), QoS::AtLeastOnce),
            (id(2), QoS::AtLeastOnce),
            (id(1), QoS::AtLeastOnce),
            (id(2), QoS::ExactlyOnce),
            (id(9), QoS::ExactlyOnce),
        ];
        let found = verdict(&published, &received);
        assert_eq!((found.lost, found.lost_examples), (1, vec!["p7/3".to_owned()]));
        assert_eq!((found.repeated_qos_2, found.repeated_qos_1), (vec![id(2)], 0));
        assert_eq!((found.out_of_order, found.foreign), (vec![id(1)], 1));
        assert_eq!((found.acknowledged, found.arrived), (4, 3));
    }
}
