//! Promise 13: time is elapsed time. Sessions end, and delayed wills come, neither early nor late: within 2 s and 1 % of
//! what was asked for, whatever wall clocks do.
//! Judged where the whole operation lies clearly on one side. A session ends at the earliest when DISCONNECT was about to
//! leave, or, if a fault lay in its connection's life, when it was last known to be there; at the latest when the
//! connection was closed. A CONNECT without an answer may have renewed it. Where the broker may have seen the end late
//! (no clean DISCONNECT, a fault, an attempt without an answer) being kept longer is legal for a time, and while no
//! majority is there nobody can end anything; being lost early never is.
//! Not here: sessions that outlive every run (`session_kept`), that wills come at all and once (`wills`).
use super::{
    ConnectionView, View, Violation,
    reach::{Piece, disturbed, outage, pieces},
};
use crate::history::{Client, CloseKind, ConnectionNumber, Event, MessageId, WillPlan};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

pub const NAME: &str = "expiry";

/// A time asked for may be missed by this and by one part in [`PART`].
const SLACK: Duration = Duration::from_secs(2);
const PART: u32 = 100;

/// How much later the cluster may notice an end that was not clear: the lease of a dead node, an election, a claim.
const UNCLEAR: Duration = Duration::from_secs(10);

/// A will's delay is exact towards early; this is between our clock and the broker's.
const WILL_EARLY: Duration = Duration::from_millis(200);

/// What a loaded machine and observers that are away for a moment add to a will's way.
const WILL_LATE: Duration = Duration::from_secs(3);

/// Sessions that live so long are `session_kept`'s.
const LASTS_SECONDS: u32 = 3600;

#[must_use]
pub fn check(view: &View) -> Vec<Violation> {
    let mut violations = sessions(view);
    violations.extend(wills(view));
    violations
}

fn sessions(view: &View) -> Vec<Violation> {
    let mut clients: BTreeMap<&Client, Vec<&ConnectionView>> = BTreeMap::new();
    let subscribed: HashSet<ConnectionNumber> = view
        .records
        .iter()
        .filter_map(|record| match record.event {
            Event::Subscribed { connection, .. } => Some(connection),
            _ => None,
        })
        .collect();
    let mut kept: HashSet<usize> = HashSet::new();
    for (number, connection) in &view.connections {
        clients.entry(&connection.client).or_default().push(connection);
        // A session that nothing was acknowledged in is none that anybody can rely on.
        if connection.connected.is_some_and(|(_, present)| present) || subscribed.contains(number) {
            kept.insert(connection.invoked);
        }
    }
    let pieces = pieces(view);
    let mut violations = Vec::new();
    for connections in clients.values() {
        let mut before: Option<usize> = None;
        for (index, connection) in connections.iter().enumerate() {
            if connection.connected.is_none() {
                continue;
            }
            if let Some(previous) =
                before.replace(index).filter(|previous| kept.contains(&connections[*previous].invoked))
            {
                violations.extend(absence(view, &pieces, &connections[previous..=index]));
            }
        }
    }
    violations
}

/// `connections`: one that was, attempts without an answer, and the one that found the session or not.
fn absence(view: &View, pieces: &[Piece], connections: &[&ConnectionView]) -> Option<Violation> {
    let (first, last) = (connections.first()?, connections.last()?);
    let (closed, how) = first.closed?;
    let (connected, present) = last.connected?;
    let expires = |c: &&ConnectionView| c.durable && (1..LASTS_SECONDS).contains(&c.expiry_seconds);
    if !connections.iter().all(expires) || connections[1..].iter().any(|c| c.clean_start) || closed > last.invoked {
        return None;
    }
    let before = &connections[..connections.len() - 1];
    let earliest = before.iter().map(|c| {
        let asked = Duration::from_secs(u64::from(c.expiry_seconds));
        (earliest_end(view, c) + asked - asked / PART).saturating_sub(SLACK)
    });
    let latest = before.iter().map(|c| {
        let asked = Duration::from_secs(u64::from(c.expiry_seconds));
        let end = c.failed.or(c.closed.map(|(at, _)| at)).unwrap_or(c.invoked);
        view.at(end) + asked + asked / PART + SLACK
    });
    let (began, found) = (view.at(last.invoked), view.at(connected));
    let clear = how == CloseKind::Normal
        && connections.len() == 2
        && !disturbed(view, view.at(first.disconnecting.unwrap_or(closed)), found);
    let allowance = if clear { Duration::ZERO } else { UNCLEAR + outage(pieces, view.at(closed), found) };
    let what = if !present && found < earliest.min()? {
        "was lost early"
    } else if present && began > latest.max()? + allowance {
        "was kept too long"
    } else {
        return None;
    };
    Some(violation(format!(
        "the session of {} (expiry {} s, left at {:?}, {how:?}, back at {began:?} to {found:?}) {what}",
        first.client,
        first.expiry_seconds,
        view.at(closed)
    )))
}

/// From when on the broker may have counted.
fn earliest_end(view: &View, connection: &ConnectionView) -> Duration {
    let (Some((connected, _)), Some((closed, how))) = (connection.connected, connection.closed) else {
        return view.at(connection.invoked);
    };
    let seen = connection.disconnecting.unwrap_or(closed);
    if how == CloseKind::Lost || disturbed(view, view.at(connection.invoked), view.at(closed)) {
        view.at(connected)
    } else {
        view.at(seen)
    }
}

fn wills(view: &View) -> Vec<Violation> {
    let mut last_of: HashMap<&Client, ConnectionNumber> = HashMap::new();
    for (number, connection) in &view.connections {
        last_of.insert(&connection.client, *number);
    }
    let mut first_came: HashMap<MessageId, Duration> = HashMap::new();
    for delivery in &view.deliveries {
        first_came.entry(delivery.message).or_insert(view.at(delivery.position));
    }
    let mut violations = Vec::new();
    for (number, connection) in &view.connections {
        let Some(plan) = connection.will.as_ref().filter(|plan| plan.delay_seconds > 0) else {
            continue;
        };
        // Who comes back may end the delay, or the will.
        if last_of.get(&connection.client) != Some(number) {
            continue;
        }
        if let Some(came) = first_came.get(&plan.message) {
            violations.extend(will(view, connection, plan, *came));
        }
    }
    violations
}

fn will(view: &View, connection: &ConnectionView, plan: &WillPlan, came: Duration) -> Option<Violation> {
    let (closed, how) = connection.closed?;
    if !matches!(how, CloseKind::Dropped | CloseKind::Lost) {
        return None;
    }
    // The end of the session ends the delay too.
    let delay = Duration::from_secs(u64::from(plan.delay_seconds.min(connection.expiry_seconds)));
    let early = (earliest_end(view, connection) + delay - delay / PART).saturating_sub(WILL_EARLY);
    let late = view.at(closed) + delay + delay / PART + SLACK + WILL_LATE;
    let healthy = how == CloseKind::Dropped && !disturbed(view, view.at(connection.invoked), late);
    let what = if came < early {
        "early"
    } else if healthy && came > late {
        "late"
    } else {
        return None;
    };
    Some(violation(format!(
        "the will {} of {} (delay {} s, ended at {:?}, {how:?}) came {what}, at {came:?}",
        plan.message,
        connection.client,
        plan.delay_seconds,
        view.at(closed)
    )))
}

fn violation(detail: String) -> Violation {
    Violation { invariant: NAME, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::checker::story::StoryConnect::{Fresh, Resumed, Unanswered};
    use crate::history::FaultKind;

    /// A session of ten seconds that was left, and found again or not after some time.
    fn away(milliseconds: u64, present: bool) -> Story {
        let mut story = Story::new(3);
        story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e").wait_ms(milliseconds);
        story.connect("e", 1, if present { Resumed } else { Fresh }, None);
        story
    }

    fn count(story: &Story) -> usize {
        check(&story.view()).len()
    }

    #[test]
    fn a_session_lives_as_long_as_it_asked_for() {
        assert_eq!(count(&away(7_000, true)), 0);
        assert_eq!(count(&away(7_000, false)), 1);
    }

    #[test]
    fn and_not_longer() {
        assert_eq!(count(&away(12_500, false)), 0);
        assert_eq!(count(&away(12_500, true)), 1);
    }

    #[test]
    fn between_the_two_both_are_right() {
        for milliseconds in [8_500, 10_000, 11_500] {
            assert_eq!((count(&away(milliseconds, true)), count(&away(milliseconds, false))), (0, 0));
        }
    }

    #[test]
    fn an_end_that_the_cluster_may_have_seen_late_gives_it_time_but_never_less() {
        let kill = |present| {
            let mut story = Story::new(3);
            story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e");
            story.fault(1, FaultKind::Kill, &[0]).event(Event::Healed { fault: 1 });
            (story, present)
        };
        for (seconds, present, expected) in [(15, true, 0), (7, false, 1), (24, true, 1), (24, false, 0)] {
            let (mut story, present) = kill(present);
            story.wait(seconds).connect("e", 1, if present { Resumed } else { Fresh }, None);
            assert_eq!(count(&story), expected, "{seconds} {present}");
        }
    }

    #[test]
    fn time_without_a_majority_is_not_held_against_the_cluster() {
        let mut story = Story::new(3);
        story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e");
        story.fault(1, FaultKind::Kill, &[0, 1]).wait(8).event(Event::FaultEnded { fault: 1 });
        story.event(Event::Healed { fault: 1 }).wait(20).connect("e", 1, Resumed, None);
        assert_eq!(count(&story), 0, "22 seconds and the 8 that do not count");
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Clock, &[0, 1, 2]);
        story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e").wait_ms(12_500);
        story.connect("e", 1, Resumed, None);
        assert_eq!(count(&story), 1, "a wall clock is no excuse");
    }

    #[test]
    fn an_attempt_without_an_answer_may_have_renewed_the_session() {
        let mut story = Story::new(3);
        story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e");
        story.wait(8).connect("e", 1, Unanswered, None).wait(8).connect("e", 1, Resumed, None);
        assert_eq!(count(&story), 0);
        let mut story = Story::new(3);
        story.expiring_after(10).durable("e", 0).subscribed("e", "t", 1).leave("e");
        story.wait(2).connect("e", 1, Unanswered, None).wait(2).connect("e", 1, Fresh, None);
        assert_eq!(count(&story), 1);
    }

    #[test]
    fn sessions_without_an_acknowledgement_and_after_a_clean_start_are_not_judged() {
        let mut story = Story::new(3);
        story.expiring_after(10).durable("e", 0).leave("e").connect("e", 1, Fresh, None);
        assert_eq!(count(&story), 0);
        story.subscribed("e", "t", 1).leave("e").clean("e", 0).leave("e").connect("e", 1, Fresh, None);
        assert_eq!(count(&story), 0);
    }

    /// A client with a will of five seconds that dropped its connection; the will comes after some time.
    fn will_after(milliseconds: u64, fault: bool) -> usize {
        let mut story = Story::new(3);
        story.durable("o", 0).subscribed("o", "w", 2).connect("c", 1, Fresh, Story::will(1, 5));
        if fault {
            story.fault(1, FaultKind::Pause, &[1]);
        }
        story.wait(1).close("c", CloseKind::Dropped).wait_ms(milliseconds).delivered("o", 1);
        count(&story)
    }

    #[test]
    fn a_delayed_will_comes_in_its_time() {
        assert_eq!([4_000, 5_000, 9_000, 10_500].map(|after| will_after(after, false)), [1, 0, 0, 1]);
    }

    #[test]
    fn a_fault_may_delay_it_and_move_its_beginning_to_the_connect() {
        assert_eq!([3_000, 4_500, 10_500].map(|after| will_after(after, true)), [1, 0, 0]);
    }

    #[test]
    fn whoever_comes_back_has_another_promise() {
        let mut story = Story::new(3);
        story.durable("o", 0).subscribed("o", "w", 2).connect("c", 1, Fresh, Story::will(1, 5));
        story.close("c", CloseKind::Dropped).clean("c", 1).delivered("o", 1);
        assert_eq!(count(&story), 0);
    }
}
