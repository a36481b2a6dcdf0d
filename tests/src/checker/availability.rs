//! Promise 8: service resumes by itself. With a majority left, and at the latest once a fault is over, publishes are
//! acknowledged again without an operator. Without a majority, and on a node that is cut off, nothing new is acknowledged.
//! The limit here is a generous one, since machines that run tests are slow; the times are reported.
//! And for each node by itself: every node that reaches a majority serves again within `View::serve_again_max` after any
//! fault began, ended or was healed (`pauses`; the promise is [`SERVE_AGAIN`] on a machine that is fast enough).
use super::{FaultView, Position, View, Violation};
use crate::history::{Event, FaultKind};
use std::{collections::HashSet, time::Duration};

pub use super::pauses::{NodeRecovery, Pause, SERVE_AGAIN, longest, node_recoveries, pauses};

pub const NAME: &str = "availability";

/// Service that takes longer than this to resume does not resume by itself.
pub const RESUME_MAX: Duration = Duration::from_secs(30);

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut violations: Vec<Violation> = view
        .records
        .iter()
        .filter_map(|record| match record.event {
            Event::NodeNotServing { node, waited } => {
                Some(violation(format!("node {node} did not serve within {waited:?} at {:?}", record.at)))
            }
            _ => None,
        })
        .collect();
    violations.extend(pauses(view).iter().filter(|pause| pause.unchanged > view.serve_again_max).map(not_serving));
    let end = view.records.last().map_or(Duration::ZERO, |record| record.at);
    for fault in &view.faults {
        violations.extend(acknowledged_without_majority(view, fault));
        let Some(from) = service_due(view, fault) else {
            continue;
        };
        let resumed = first_acknowledged_after(view, from);
        let waited = resumed.map_or(end, |at| view.at(at)).saturating_sub(view.at(from));
        if waited > RESUME_MAX {
            violations.push(violation(format!(
                "no publish was acknowledged for {waited:?} after fault {} ({} of {:?})",
                fault.fault, fault.kind, fault.nodes
            )));
        }
    }
    violations
}

/// Of each fault, how long it took from the moment a majority was there until the next publish, sent after that moment,
/// was acknowledged by another node than those concerned.
#[must_use]
pub fn recoveries(view: &View) -> Vec<(u32, FaultKind, Vec<usize>, Duration)> {
    let time = |fault: &FaultView| {
        let from = service_due(view, fault)?;
        let resumed = first_acknowledged_after(view, from)?;
        Some((fault.fault, fault.kind, fault.nodes.clone(), view.at(resumed).saturating_sub(view.at(from))))
    };
    view.faults.iter().filter_map(time).collect()
}

/// Where service is due again: at once if a majority is left, else when the fault was taken back.
fn service_due(view: &View, fault: &FaultView) -> Option<Position> {
    if fault.takes_majority(view.nodes) { fault.ended } else { Some(fault.began) }
}

fn first_acknowledged_after(view: &View, from: Position) -> Option<Position> {
    view.messages
        .values()
        .filter(|message| message.sends.first().is_some_and(|(sent, _)| *sent > from))
        .filter_map(|message| message.acknowledged)
        .min()
}

/// Publishes first sent while the fault lasted and acknowledged while it lasted, by nodes that could not have had a
/// majority: all of them when the majority is down, those cut off by a partition otherwise. Faults that were in effect
/// when this one began count with it, as long as all of them last.
fn acknowledged_without_majority(view: &View, fault: &FaultView) -> Vec<Violation> {
    let holds_back = |fault: &FaultView| fault.kind.stops_nodes() || fault.kind.isolates_nodes();
    if !holds_back(fault) {
        return Vec::new();
    }
    let ended = |fault: &FaultView| fault.ended.unwrap_or(view.records.len());
    let in_effect = |other: &&FaultView| holds_back(other) && other.began <= fault.began && ended(other) > fault.began;
    let together: Vec<&FaultView> = view.faults.iter().filter(in_effect).collect();
    let nodes: HashSet<usize> = together.iter().flat_map(|other| other.nodes.iter().copied()).collect();
    let alone = fault.takes_majority(view.nodes);
    let majority_lost = alone || view.nodes.saturating_sub(nodes.len()) * 2 <= view.nodes;
    let least = together.iter().map(|other| ended(other)).min().unwrap_or(fault.began);
    let mut violations = Vec::new();
    for position in fault.began..ended(fault) {
        let Event::PublishAcknowledged { connection, message } = &view.records[position].event else {
            continue;
        };
        let (Some(owner), Some(message_view)) = (view.connections.get(connection), view.messages.get(message)) else {
            continue;
        };
        let began = message_view.sends.first().is_some_and(|(sent, _)| *sent > fault.began);
        let all_helpless = majority_lost && (alone || position < least);
        let cut_off = fault.kind.isolates_nodes() && fault.nodes.contains(&owner.node);
        if began && (all_helpless || cut_off) {
            violations.push(violation(format!(
                "node {} acknowledged {message} at {:?} without a majority (fault {}, {} of {:?})",
                owner.node, view.records[position].at, fault.fault, fault.kind, fault.nodes
            )));
        }
    }
    violations
}

fn not_serving(pause: &Pause) -> Violation {
    let causes: Vec<String> = pause.causes.iter().map(ToString::to_string).collect();
    violation(format!(
        "node {} acknowledged no probe from {:?} to {:?} ({:?} without any change) though it had a majority (faults: {})",
        pause.node,
        pause.from,
        pause.to,
        pause.unchanged,
        causes.join(", ")
    ))
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;

    #[test]
    fn service_resumes_while_one_node_is_down() {
        let mut story = Story::new(3);
        story.durable("p", 1).fault(1, FaultKind::Kill, &[0]).wait(2).publish("p", 1, "t", 1).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![]);
        assert!(recoveries(&story.view())[0].3 >= Duration::from_secs(2));
    }

    #[test]
    fn service_that_never_resumes_is_found() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Kill, &[0]).wait(60).event(Event::FaultEnded { fault: 1 });
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn each_node_serves_again_in_time() {
        let mut story = Story::new(3);
        story.durable("prober-1", 1).publish("prober-1", 1, "probe/1", 1).acknowledged("prober-1", 1);
        story.fault(1, FaultKind::PartialCut, &[0, 1]).wait(10);
        story.publish("prober-1", 2, "probe/1", 1).acknowledged("prober-1", 2);
        let mut view = story.view();
        assert_eq!(check(&view), vec![]);
        view.serve_again_max = SERVE_AGAIN;
        assert_eq!(check(&view).len(), 1);
    }

    #[test]
    fn without_a_majority_nothing_new_is_acknowledged() {
        let mut story = Story::new(3);
        story.durable("p", 2).publish("p", 1, "t", 1).fault(1, FaultKind::Kill, &[0, 1]).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![], "it may have been durable before");
        story.publish("p", 2, "t", 1).acknowledged("p", 2);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn a_node_that_is_cut_off_acknowledges_nothing_new_but_the_others_do() {
        let mut story = Story::new(3);
        story.durable("p", 0).durable("q", 1).fault(1, FaultKind::Partition, &[0]);
        story.publish("q", 1, "t", 1).acknowledged("q", 1);
        assert_eq!(check(&story.view()), vec![]);
        story.publish("p", 2, "t", 1).acknowledged("p", 2);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn two_faults_together_take_the_majority_as_long_as_both_last() {
        let mut story = Story::new(3);
        story.durable("p", 2).fault(1, FaultKind::Wipe, &[0]).fault(2, FaultKind::Pause, &[1]);
        story.publish("p", 1, "t", 1).event(Event::FaultEnded { fault: 1 }).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![], "node 0 may be back");
        story.fault(3, FaultKind::Kill, &[0]).publish("p", 2, "t", 1).acknowledged("p", 2);
        assert_eq!(check(&story.view()).len(), 1);
    }

    #[test]
    fn links_clocks_and_lost_packets_take_nobody_the_majority() {
        let mut story = Story::new(3);
        story.durable("p", 0).fault(1, FaultKind::PartialCut, &[0, 1]).fault(2, FaultKind::Loss, &[0]);
        story.fault(3, FaultKind::Clock, &[0]).fault(4, FaultKind::Kill, &[2]);
        story.publish("p", 1, "t", 1).acknowledged("p", 1);
        assert_eq!(check(&story.view()), vec![]);
    }
}
