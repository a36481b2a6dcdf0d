//! How long each node did not serve, as its prober saw it: a client that publishes one message at a time through one
//! node, and connects to it again at once when the connection breaks.
//! Always true: a node that a fault keeps from serving, or that reaches no majority, is not counted (`reach`); a prober's
//! own timeout lengthens what it sees by 2.5 s at most.
use super::{Position, View, reach};
use crate::history::{CloseKind, Event, FaultKind};
use std::{collections::BTreeMap, time::Duration};

/// The promise: a node that reaches a majority serves again so soon after any fault began or ended.
pub const SERVE_AGAIN: Duration = Duration::from_secs(5);

/// Shorter ones are usual.
const WORTH_REPORTING: Duration = Duration::from_secs(1);

/// How long a prober waits for CONNACK, and for an answer to its message.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

const PROBERS: &str = "prober-";

/// The client identifier of a node's prober.
#[must_use]
pub fn prober(node: usize) -> String {
    format!("{PROBERS}{node}")
}

/// A time without an acknowledged probe in which nothing excused the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub node: usize,
    pub from: Duration,
    pub to: Duration,
    /// The longest part of it in which no fault began or ended.
    pub unchanged: Duration,
    /// Faults that lasted or were not healed yet.
    pub causes: Vec<FaultKind>,
}

/// All pauses of a second and more.
#[must_use]
pub fn pauses(view: &View) -> Vec<Pause> {
    let pieces = reach::pieces(view);
    let mut pauses = Vec::new();
    for (node, moments) in moments(view) {
        for gap in moments.windows(2).filter(|gap| gap[1] - gap[0] >= WORTH_REPORTING) {
            pauses.extend(within(view, node, gap[0], gap[1], &pieces));
        }
    }
    pauses
}

/// The longest pause of each node that had a prober.
#[must_use]
pub fn longest(view: &View) -> BTreeMap<usize, Duration> {
    let mut longest: BTreeMap<usize, Duration> = moments(view).into_keys().map(|node| (node, Duration::ZERO)).collect();
    for pause in pauses(view) {
        let entry = longest.entry(pause.node).or_default();
        *entry = (*entry).max(pause.to - pause.from);
    }
    longest
}

/// Where probing of each node began, each acknowledgement, and where it ended.
fn moments(view: &View) -> BTreeMap<usize, Vec<Duration>> {
    let mut moments: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    let mut last: BTreeMap<usize, Duration> = BTreeMap::new();
    for record in view.records {
        let (connection, counts) = match &record.event {
            Event::PublishAcknowledged { connection, .. } => (connection, true),
            // A prober that leaves in peace has ended before.
            Event::Closed { connection, how } if !matches!(how, CloseKind::Normal | CloseKind::Unclear) => {
                (connection, false)
            }
            Event::ConnectInvoked { connection, .. }
            | Event::NotConnected { connection }
            | Event::PublishSent { connection, .. } => (connection, false),
            _ => continue,
        };
        let Some(owner) = view.connections.get(connection).filter(|c| c.client.starts_with(PROBERS)) else {
            continue;
        };
        let moments = moments.entry(owner.node).or_default();
        if counts || moments.is_empty() {
            moments.push(record.at);
        }
        last.insert(owner.node, record.at);
    }
    for (node, at) in last {
        moments.entry(node).or_default().push(at);
    }
    moments
}

/// The parts of a gap between two acknowledgements in which the node had to serve.
fn within(view: &View, node: usize, from: Duration, to: Duration, pieces: &[reach::Piece]) -> Vec<Pause> {
    let mut pauses: Vec<Pause> = Vec::new();
    let mut goes_on = false;
    for piece in pieces.iter().filter(|piece| piece.from < to && piece.to > from) {
        if !piece.serving.get(node).copied().unwrap_or(false) {
            goes_on = false;
            continue;
        }
        let (from, to) = (piece.from.max(from), piece.to.min(to));
        match pauses.last_mut().filter(|_| goes_on) {
            Some(pause) => {
                pause.to = to;
                pause.unchanged = pause.unchanged.max(to - from);
            }
            None => pauses.push(Pause { node, from, to, unchanged: to - from, causes: Vec::new() }),
        }
        goes_on = true;
    }
    pauses.retain(|pause| pause.to - pause.from >= WORTH_REPORTING);
    for pause in &mut pauses {
        let lasted = |began: Position, healed: Option<Position>| {
            view.at(began) <= pause.to && healed.is_none_or(|healed| view.at(healed) >= pause.from)
        };
        pause.causes = view.faults.iter().filter(|f| lasted(f.began, f.healed)).map(|f| f.kind).collect();
    }
    pauses
}

/// How long a node took after a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecovery {
    pub fault: u32,
    pub kind: FaultKind,
    pub node: usize,
    pub took: Duration,
}

/// Of each fault and each node: the time from the moment at which the node had to serve (again) until a probe was
/// acknowledged that was sent after that moment. Nothing where none was.
#[must_use]
pub fn node_recoveries(view: &View) -> Vec<NodeRecovery> {
    let mut probes: BTreeMap<usize, Vec<(Position, Position)>> = BTreeMap::new();
    for message in view.messages.values() {
        let (Some((sent, on)), Some(acknowledged)) = (message.sends.first(), message.acknowledged) else {
            continue;
        };
        if let Some(owner) = view.connections.get(on).filter(|owner| owner.client.starts_with(PROBERS)) {
            probes.entry(owner.node).or_default().push((*sent, acknowledged));
        }
    }
    let mut recoveries = Vec::new();
    for fault in &view.faults {
        for (node, probes) in &probes {
            let concerned = fault.takes_majority(view.nodes)
                || (fault.nodes.contains(node) && (fault.kind.stops_nodes() || fault.kind.isolates_nodes()));
            let due = if concerned { fault.ended } else { Some(fault.began) };
            let Some(due) = due else { continue };
            let answered = probes.iter().filter(|(sent, _)| *sent > due).map(|(_, answered)| *answered).min();
            if let Some(answered) = answered {
                let took = view.at(answered).saturating_sub(view.at(due));
                recoveries.push(NodeRecovery { fault: fault.fault, kind: fault.kind, node: *node, took });
            }
        }
    }
    recoveries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::checker::story::StoryConnect::Unanswered;

    fn probe(story: &mut Story, node: usize, sequence: u64) {
        let client = prober(node);
        story.publish(&client, sequence, "probe/0", 1).wait_ms(100).acknowledged(&client, sequence);
    }

    /// Three nodes that were probed for a second.
    fn probed() -> Story {
        let mut story = Story::new(3);
        (0..3).for_each(|node| {
            story.durable(&prober(node), node);
        });
        for round in 0..3 {
            (0..3).for_each(|node| probe(&mut story, node, round * 3 + node as u64));
        }
        story
    }

    fn seconds(pauses: &[Pause]) -> Vec<(usize, u64)> {
        pauses.iter().map(|pause| (pause.node, (pause.to - pause.from).as_secs())).collect()
    }

    #[test]
    fn a_node_that_serves_has_no_pause() {
        assert_eq!(pauses(&probed().view()), vec![]);
        assert_eq!(longest(&probed().view()).len(), 3);
    }

    #[test]
    fn the_time_of_the_fault_itself_is_excused_at_its_node_only() {
        let mut story = probed();
        story.fault(1, FaultKind::Kill, &[0]).wait(3);
        probe(&mut story, 1, 21);
        probe(&mut story, 2, 22);
        story.wait(1).event(Event::FaultEnded { fault: 1 }).wait(4).event(Event::Healed { fault: 1 });
        probe(&mut story, 1, 31);
        probe(&mut story, 2, 32);
        story.wait(2);
        probe(&mut story, 0, 40);
        let view = story.view();
        let found = pauses(&view);
        assert_eq!(seconds(&found), [(0, 2), (1, 3), (1, 5), (2, 3), (2, 5)]);
        assert_eq!(found[1].causes, [FaultKind::Kill]);
        let of_first: Vec<_> = node_recoveries(&view).into_iter().map(|r| (r.node, r.took.as_secs())).collect();
        assert_eq!(of_first, [(0, 6), (1, 3), (2, 3)]);
    }

    #[test]
    fn a_fault_that_begins_or_ends_gives_time_anew() {
        let mut story = probed();
        story.fault(1, FaultKind::PartialCut, &[0, 1]).wait(4).event(Event::FaultEnded { fault: 1 }).wait(3);
        story.event(Event::Healed { fault: 1 });
        probe(&mut story, 2, 22);
        let found = pauses(&story.view());
        assert_eq!(seconds(&found), [(2, 7)]);
        assert_eq!(found[0].unchanged.as_secs(), 4);
    }

    #[test]
    fn nobody_is_counted_while_no_majority_talks() {
        let mut story = probed();
        story.fault(1, FaultKind::Pause, &[0]).fault(2, FaultKind::Pause, &[1]).wait(9);
        probe(&mut story, 2, 22);
        assert_eq!(pauses(&story.view()), vec![]);
    }

    #[test]
    fn a_node_that_never_answers_again_is_found_by_its_probers_attempts() {
        let mut story = probed();
        let client = prober(2);
        story.lost(&client).wait(20).connect(&client, 2, Unanswered, None);
        assert_eq!(seconds(&pauses(&story.view())), [(2, 20)]);
        let mut story = probed();
        story.wait(20).leave(&client);
        assert_eq!(pauses(&story.view()), vec![], "it ended before");
    }
}
