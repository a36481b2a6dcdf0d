//! Costs: a node that has nothing to do takes nearly no processor time and writes nearly no log lines, whoever is missing;
//! memory and descriptors stay within bounds; no connection is forgotten while others are answered.
//! Always true: processor time is judged by the least busy stretch of an idle time, so one burst of housekeeping, or a
//! machine that others use, fails nobody; a loop without a pause has no such stretch.
use super::{View, Violation, reach};
use crate::{
    costs::Costs,
    history::{Event, Record},
};
use std::{collections::BTreeMap, time::Duration};

pub const NAME: &str = "costs";

/// The share of a core that an idle node takes at most: the promise; what the run's clients, who stay and are asked whether
/// they still are answered, and the kernel's ticks of 10 ms make of it; and what a build without optimisation gets on top.
pub const PROCESSOR_IDLE_MAX: f64 = 0.05;
const PROCESSOR_CLIENTS_ALLOWANCE: f64 = 0.03;
const PROCESSOR_DEBUG_ALLOWANCE: f64 = 0.25;
/// Log lines of an idle node: per minute and peer, and for whatever has changed just before.
pub const LINES_PER_MINUTE: f64 = 5.0;
const LINES_OF_A_CHANGE: u64 = 20;
/// Log lines of a node over a run: for its start and end, for each connection (its coming and going, its subscriptions), for
/// each fault.
const LINES_OF_A_RUN: u64 = 300;
const LINES_OF_A_CONNECTION: u64 = 12;
const LINES_OF_A_FAULT: u64 = 300;
/// Memory: of a node itself with what waits in it, for each message and connection of the run, and for what a burst brings
/// at once, which the allocator keeps for a while.
const MEMORY_KIB_MAX: u64 = 192 << 10;
const MEMORY_KIB_OF_A_MESSAGE: u64 = 1;
const MEMORY_KIB_OF_A_CONNECTION: u64 = 8;
const MEMORY_KIB_OF_A_BURST: u64 = 144 << 10;
/// Descriptors: files, peers and listeners of a node, and all clients that a run has at a time.
const DESCRIPTORS_MAX: u64 = 400;
/// A stretch is as long at least: a hundredth of it can be measured.
const STRETCH: Duration = Duration::from_millis(900);
/// What an unanswered connection is forgiven, beside the pause that a fault of its time may have made.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a node took while nothing was asked of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Idle {
    pub node: usize,
    pub absent: usize,
    pub time: Duration,
    /// Shares of a core: in its least busy stretch, and over all.
    pub least: f64,
    pub mean: f64,
    pub log_lines: u64,
}

/// The most that any node came to in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Worst {
    pub idle_percent: f64,
    pub idle_lines: u64,
    pub log_lines: u64,
    pub memory_mib: u64,
    pub descriptors: u64,
}

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut violations = idle_ones(view);
    violations.extend(bounds(view));
    violations.extend(view.records.iter().filter_map(|record| {
        let Event::Unanswered { node, asked, waited } = &record.event else { return None };
        let excused = reach::disturbed(view, record.at.saturating_sub(*waited), record.at);
        let text = format!("{asked} had no answer from node {node} for {waited:?} at {:?}, another one had", record.at);
        (!excused && *waited >= ANSWER_MAX).then(|| violation(text))
    }));
    violations
}

/// What an idle node may take in its least busy stretch, as the broker was built.
#[must_use]
pub fn processor_idle_max() -> f64 {
    let release = std::env::var("MOSQUORUM_PROFILE").as_deref() == Ok("release");
    PROCESSOR_IDLE_MAX + PROCESSOR_CLIENTS_ALLOWANCE + if release { 0.0 } else { PROCESSOR_DEBUG_ALLOWANCE }
}

fn idle_ones(view: &View) -> Vec<Violation> {
    let peers = view.nodes.saturating_sub(1) as f64;
    let (share, mut violations) = (processor_idle_max(), Vec::new());
    for idle in idle(view) {
        let of = format!(
            "node {} in {:.1} s without load, {} members absent",
            idle.node,
            idle.time.as_secs_f64(),
            idle.absent
        );
        if idle.least > share {
            let percent = |share: f64| (share * 100.0).round();
            violations.push(violation(format!(
                "{of}: {} % of a core in its least busy second, {} % of all; at most {} %",
                percent(idle.least),
                percent(idle.mean),
                percent(share)
            )));
        }
        let lines = LINES_OF_A_CHANGE + (LINES_PER_MINUTE * peers * idle.time.as_secs_f64() / 60.0).ceil() as u64;
        if idle.log_lines > lines {
            violations.push(violation(format!("{of}: {} log lines; at most {lines}", idle.log_lines)));
        }
    }
    violations
}

/// Every idle time of every node that ran all through it, if it was long enough for a stretch.
#[must_use]
pub fn idle(view: &View) -> Vec<Idle> {
    let (mut found, mut began) = (Vec::new(), None);
    for (position, record) in view.records.iter().enumerate() {
        match &record.event {
            Event::IdleBegan { absent } => began = Some((position, absent)),
            Event::IdleEnded => {
                let Some((from, absent)) = began.take() else { continue };
                for node in (0..view.nodes).filter(|node| !absent.contains(node)) {
                    let looks = looks(view, node, from, position);
                    found.extend(judged(node, absent.len(), &looks));
                }
            }
            _ => {}
        }
    }
    found
}

fn looks(view: &View, wanted: usize, from: usize, to: usize) -> Vec<(Duration, Costs)> {
    let looks = view.records[from..to].iter().filter_map(|record| match record.event {
        Event::NodeCosts { node, costs } if node == wanted => Some((record.at, costs)),
        _ => None,
    });
    looks.collect()
}

fn judged(node: usize, absent: usize, looks: &[(Duration, Costs)]) -> Option<Idle> {
    let ((first_at, first), (last_at, last)) = (looks.first()?, looks.last()?);
    let share = |from: &(Duration, Costs), to: &(Duration, Costs)| {
        let busy = to.1.processor.saturating_sub(from.1.processor);
        busy.as_secs_f64() / (to.0 - from.0).as_secs_f64()
    };
    let of_one_process = looks.iter().all(|(_, costs)| costs.process == first.process);
    let mut least: Option<f64> = None;
    for (index, from) in looks.iter().enumerate() {
        if let Some(to) = looks[index..].iter().find(|to| to.0 - from.0 >= STRETCH) {
            least = Some(least.map_or(share(from, to), |least| least.min(share(from, to))));
        }
    }
    let least = least.filter(|_| of_one_process)?;
    Some(Idle {
        node,
        absent,
        time: *last_at - *first_at,
        least,
        mean: share(&(*first_at, *first), &(*last_at, *last)),
        log_lines: last.log_lines - first.log_lines,
    })
}

/// The most of each node, over all its processes, in these records.
fn most(records: &[Record]) -> BTreeMap<usize, Costs> {
    let mut most: BTreeMap<usize, Costs> = BTreeMap::new();
    for record in records {
        if let Event::NodeCosts { node, costs } = record.event {
            let entry = most.entry(node).or_default();
            entry.memory_kib = entry.memory_kib.max(costs.memory_kib);
            entry.descriptors = entry.descriptors.max(costs.descriptors);
            entry.log_lines = entry.log_lines.max(costs.log_lines);
        }
    }
    most
}

fn bounds(view: &View) -> Vec<Violation> {
    let (connections, messages) = (view.connections.len() as u64, view.messages.len() as u64);
    let lines = LINES_OF_A_RUN + LINES_OF_A_CONNECTION * connections + LINES_OF_A_FAULT * view.faults.len() as u64;
    let memory = MEMORY_KIB_MAX + MEMORY_KIB_OF_A_MESSAGE * messages + MEMORY_KIB_OF_A_CONNECTION * connections;
    let mut violations = Vec::new();
    let mut bound = |node: usize, what: &str, found: u64, at_most: u64| {
        if found > at_most {
            violations.push(violation(format!("node {node}: {found} {what}; at most {at_most}")));
        }
    };
    let burst = view.records.iter().position(|record| matches!(record.event, Event::Burst));
    let (before, after) = view.records.split_at(burst.unwrap_or(view.records.len()));
    for (records, memory) in [(before, memory), (after, memory + MEMORY_KIB_OF_A_BURST)] {
        most(records).iter().for_each(|(node, most)| bound(*node, "KiB of memory", most.memory_kib, memory));
    }
    for (node, most) in most(view.records) {
        bound(node, "log lines", most.log_lines, lines);
        bound(node, "descriptors", most.descriptors, DESCRIPTORS_MAX);
    }
    violations
}

/// The figures of a run that tables show.
#[must_use]
pub fn worst(view: &View) -> Worst {
    let mut worst = Worst::default();
    for idle in idle(view) {
        worst.idle_percent = worst.idle_percent.max((idle.least * 1000.0).round() / 10.0);
        worst.idle_lines = worst.idle_lines.max(idle.log_lines);
    }
    for most in most(view.records).values() {
        worst.log_lines = worst.log_lines.max(most.log_lines);
        worst.memory_mib = worst.memory_mib.max(most.memory_kib / 1024);
        worst.descriptors = worst.descriptors.max(most.descriptors);
    }
    worst
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checker::story::Story, history::FaultKind};

    /// Looks every half second at a node that is busy for so many milliseconds in each of them.
    fn idle_story(busy_ms: &[u64], lines_each: u64) -> Story {
        let mut story = Story::new(3);
        let mut costs = Costs { process: 7, log_lines: 100, ..Costs::default() };
        story.event(Event::IdleBegan { absent: vec![2] }).event(Event::NodeCosts { node: 0, costs });
        for busy in busy_ms {
            costs.processor += Duration::from_millis(*busy);
            costs.log_lines += lines_each;
            story.wait_ms(490).event(Event::NodeCosts { node: 0, costs });
        }
        story.event(Event::IdleEnded);
        story
    }

    fn details(story: &Story) -> Vec<String> {
        check(&story.view()).into_iter().map(|violation| violation.detail).collect()
    }

    #[test]
    fn a_node_that_is_busy_all_the_time_is_found_and_a_burst_is_not() {
        let found = details(&idle_story(&[300, 280, 320, 300, 310, 300], 0));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("node 0 in 3.0 s without load, 1 members absent: 58 % of a core"), "{found:?}");
        assert_eq!(details(&idle_story(&[500, 500, 20, 20, 400, 400], 0)), Vec::<String>::new());
    }

    #[test]
    fn a_flood_of_lines_is_found_and_a_change_is_not() {
        assert_eq!(details(&idle_story(&[0; 6], 3)), Vec::<String>::new());
        let found = details(&idle_story(&[0; 6], 4));
        assert_eq!(found, ["node 0 in 3.0 s without load, 1 members absent: 24 log lines; at most 21"]);
    }

    #[test]
    fn a_node_that_was_started_meanwhile_is_not_judged() {
        let mut story = Story::new(1);
        story.event(Event::IdleBegan { absent: Vec::new() });
        for process in 1..7 {
            let costs = Costs { process, processor: Duration::from_secs(u64::from(process)), ..Costs::default() };
            story.wait(1).event(Event::NodeCosts { node: 0, costs });
        }
        story.event(Event::IdleEnded);
        assert_eq!(idle(&story.view()), vec![]);
    }

    #[test]
    fn memory_descriptors_and_lines_are_bounded_over_a_run() {
        let mut story = Story::new(2);
        let costs = Costs { memory_kib: 400 << 10, descriptors: 500, log_lines: 400, ..Costs::default() };
        story.event(Event::NodeCosts { node: 1, costs });
        assert_eq!(
            details(&story),
            [
                "node 1: 409600 KiB of memory; at most 196608",
                "node 1: 400 log lines; at most 300",
                "node 1: 500 descriptors; at most 400"
            ]
        );
        // Who comes and goes is logged.
        (0..10).for_each(|client| {
            story.clean(&format!("c{client}"), 0);
        });
        assert!(!details(&story)[1].contains("log lines"));
    }

    #[test]
    fn a_burst_may_take_memory_from_then_on() {
        let look = || Event::NodeCosts { node: 0, costs: Costs { memory_kib: 250 << 10, ..Costs::default() } };
        let mut story = Story::new(1);
        story.event(Event::Burst).event(look());
        assert_eq!(details(&story), Vec::<String>::new());
        let mut story = Story::new(1);
        story.event(look()).event(Event::Burst);
        assert_eq!(details(&story), ["node 0: 256000 KiB of memory; at most 196608"]);
    }

    #[test]
    fn a_connection_that_is_forgotten_is_found_unless_a_fault_may_have_held_it_up() {
        let unanswered = || Event::Unanswered { node: 1, asked: "PINGREQ", waited: Duration::from_secs(6) };
        let mut story = Story::new(3);
        story.wait(10).event(unanswered());
        assert_eq!(details(&story).len(), 1);
        let mut story = Story::new(3);
        story.wait(10).fault(1, FaultKind::Pause, &[1]).event(Event::FaultEnded { fault: 1 });
        story.wait(1).event(Event::Healed { fault: 1 }).wait(2).event(unanswered());
        assert_eq!(details(&story), Vec::<String>::new());
        story.wait(6).event(unanswered());
        assert_eq!(details(&story).len(), 1);
    }
}
