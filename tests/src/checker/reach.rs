//! Which nodes have a majority when, as far as the faults of a run decide it: the basis for what is owed and excused.
//! Always true: errs on the side of the broker: a node of which it says that it can serve reaches a node that reaches a
//! majority, itself included.
use super::{FaultView, Position, View};
use crate::history::FaultKind;
use std::time::Duration;

/// A time in which no fault begins, ends or is healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub from: Duration,
    pub to: Duration,
    /// Of each node, whether nothing excuses it from serving.
    pub serving: Vec<bool>,
    /// Some node reaches a majority.
    pub majority: bool,
}

/// The whole run in pieces.
#[must_use]
pub fn pieces(view: &View) -> Vec<Piece> {
    let Some(end) = view.records.len().checked_sub(1) else {
        return Vec::new();
    };
    let mut borders: Vec<Position> =
        view.faults.iter().flat_map(|fault| [Some(fault.began), fault.ended, fault.healed]).flatten().collect();
    borders.extend([0, end]);
    borders.sort_unstable();
    borders.dedup();
    borders.windows(2).map(|border| piece(view, border[0], border[1])).collect()
}

/// Whether any fault lies between the two moments that could keep the brokers from what they have to do. A wall clock that
/// jumps is none: nothing may depend on it.
#[must_use]
pub fn disturbed(view: &View, from: Duration, to: Duration) -> bool {
    view.faults.iter().filter(|fault| fault.kind != FaultKind::Clock).any(|fault| {
        let over = fault.healed.is_some_and(|healed| view.at(healed) < from);
        !over && view.at(fault.began) <= to
    })
}

/// How long between the two moments no node had a majority, or they were only starting again.
#[must_use]
pub fn outage(pieces: &[Piece], from: Duration, to: Duration) -> Duration {
    let without = |piece: &Piece| {
        let none = !piece.majority || !piece.serving.iter().any(|serving| *serving);
        if none { piece.to.min(to).saturating_sub(piece.from.max(from)) } else { Duration::ZERO }
    };
    pieces.iter().map(without).sum()
}

fn piece(view: &View, from: Position, to: Position) -> Piece {
    let lasts =
        |fault: &FaultView, until: Option<Position>| fault.began <= from && until.unwrap_or(view.records.len()) > from;
    let concerns = |fault: &FaultView, node: usize| {
        (fault.kind.stops_nodes() || fault.kind.isolates_nodes()) && fault.nodes.contains(&node)
    };
    // One that comes back with an empty folder is nobody to the others until it has joined.
    let back = |fault: &FaultView| {
        if matches!(fault.kind, FaultKind::Wipe | FaultKind::Remove) { fault.healed } else { fault.ended }
    };
    let nodes = 0..view.nodes;
    let absent: Vec<bool> =
        nodes.clone().map(|node| view.faults.iter().any(|f| concerns(f, node) && lasts(f, back(f)))).collect();
    let excused = |node| view.faults.iter().any(|f| concerns(f, node) && lasts(f, f.healed));
    let cut = |one: usize, other: usize| {
        view.faults.iter().any(|f| {
            f.kind == FaultKind::PartialCut && f.nodes.contains(&one) && f.nodes.contains(&other) && lasts(f, f.ended)
        })
    };
    let reaches = |one: usize, other: usize| !absent[one] && !absent[other] && (one == other || !cut(one, other));
    let has_majority = |node: usize| nodes.clone().filter(|other| reaches(node, *other)).count() * 2 > view.nodes;
    let served = |node: usize| nodes.clone().any(|other| reaches(node, other) && has_majority(other));
    Piece {
        from: view.at(from),
        to: view.at(to),
        serving: nodes.clone().map(|node| !excused(node) && served(node)).collect(),
        majority: nodes.clone().any(has_majority),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::story::Story;
    use crate::history::Event;

    fn last(story: &mut Story) -> Piece {
        story.wait(1).event(Event::Drained);
        pieces(&story.view()).pop().expect("a piece")
    }

    #[test]
    fn the_others_serve_while_one_is_away() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Kill, &[1]);
        assert_eq!(last(&mut story).serving, [true, false, true]);
        story.event(Event::FaultEnded { fault: 1 });
        assert_eq!(last(&mut story).serving, [true, false, true], "it is still starting");
        story.event(Event::Healed { fault: 1 });
        assert_eq!(last(&mut story).serving, [true; 3]);
    }

    #[test]
    fn nobody_serves_without_a_majority() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Pause, &[0]).fault(2, FaultKind::Kill, &[1]);
        let piece = last(&mut story);
        assert_eq!((piece.serving, piece.majority), (vec![false; 3], false));
        story.event(Event::FaultEnded { fault: 1 });
        let piece = last(&mut story);
        assert_eq!((piece.serving, piece.majority), (vec![false, false, true], true));
    }

    #[test]
    fn a_cut_link_excuses_nobody_but_two_of_them_do() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::PartialCut, &[0, 1]);
        assert_eq!(last(&mut story).serving, [true; 3], "both reach node 2");
        story.fault(2, FaultKind::PartialCut, &[0, 2]);
        assert_eq!(last(&mut story).serving, [false, true, true]);
    }

    #[test]
    fn a_wiped_node_is_nobody_until_it_has_joined() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Wipe, &[0]).event(Event::FaultEnded { fault: 1 }).fault(2, FaultKind::Kill, &[1]);
        assert!(!last(&mut story).majority);
    }

    #[test]
    fn loss_and_clocks_excuse_nobody_and_a_clock_disturbs_nothing() {
        let mut story = Story::new(3);
        story.fault(1, FaultKind::Clock, &[0, 1, 2]);
        assert_eq!(last(&mut story).serving, [true; 3]);
        let ever = (Duration::ZERO, Duration::MAX);
        assert!(!disturbed(&story.view(), ever.0, ever.1));
        story.fault(2, FaultKind::Loss, &[0]);
        assert_eq!(last(&mut story).serving, [true; 3]);
        assert!(disturbed(&story.view(), ever.0, ever.1));
    }

    #[test]
    fn an_outage_lasts_until_somebody_serves() {
        let mut story = Story::new(1);
        story.wait(1).fault(1, FaultKind::Kill, &[0]).wait(2).event(Event::FaultEnded { fault: 1 }).wait(3);
        story.event(Event::Healed { fault: 1 }).wait(1).event(Event::Drained);
        let outage = outage(&pieces(&story.view()), Duration::ZERO, Duration::from_secs(100));
        assert!((Duration::from_secs(5)..Duration::from_millis(5100)).contains(&outage), "{outage:?}");
    }
}
