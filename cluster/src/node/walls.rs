//! The wall clocks of the nodes, as they were reported.
use crate::ids::{Millis, NodeId};
use std::{collections::BTreeMap, time::Duration};

/// Walls that are so far apart agree.
const AGREE_MILLIS: u64 = 60_000;
/// What a node said longer ago does not count.
const FRESH: Duration = Duration::from_secs(5);

/// What a node says of its clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clocks {
    pub(crate) time: Millis,
    pub(crate) wall: Millis,
    /// The time goes on from an earlier one without a gap.
    pub(crate) sure: bool,
}

/// The walls of the voters, each as what is to be added to this machine's monotonic clock, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Walls {
    reported: BTreeMap<NodeId, (i64, Duration)>,
}

/// What the walls of a majority come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Median {
    /// As for [`Walls`].
    offset: i64,
    /// A majority is within [`AGREE_MILLIS`] of it.
    pub(super) agreed: bool,
}

impl Walls {
    /// `now` is the machine's clock.
    pub(crate) fn observe(&mut self, now: Duration, node: NodeId, wall: Millis) {
        self.reported.insert(node, (offset(now, wall), now));
    }

    /// How long a node has reported nothing; `None`: it never did.
    pub(crate) fn silent(&self, now: Duration, node: NodeId) -> Option<Duration> {
        self.reported.get(&node).map(|(_, at)| now.saturating_sub(*at))
    }

    /// `None`: fewer than a majority is known.
    pub(super) fn median(&self, now: Duration, voters: &[NodeId]) -> Option<Median> {
        let fresh = |node: &NodeId| self.reported.get(node).filter(|(_, at)| now.saturating_sub(*at) < FRESH);
        let mut offsets: Vec<i64> = voters.iter().filter_map(fresh).map(|(offset, _)| *offset).collect();
        if offsets.len() * 2 <= voters.len() {
            return None;
        }
        offsets.sort_unstable();
        let offset = offsets[(offsets.len() - 1) / 2];
        let near = offsets.iter().filter(|other| other.abs_diff(offset) <= AGREE_MILLIS).count();
        Some(Median { offset, agreed: near * 2 > voters.len() })
    }
}

fn offset(now: Duration, wall: Millis) -> i64 {
    i64::try_from(wall.0).unwrap_or(i64::MAX).saturating_sub(now.as_millis() as i64)
}

impl Median {
    pub(super) fn time(self, now: Duration) -> Millis {
        Millis(u64::try_from(self.offset.saturating_add(now.as_millis() as i64)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);
    const WALL: u64 = 1_800_000_000_000;
    const DAY: u64 = 86_400_000;

    fn walls(said: &[u64]) -> (Walls, Vec<NodeId>) {
        let mut walls = Walls::default();
        for (node, wall) in said.iter().enumerate() {
            walls.observe(NOW, NodeId(node as u64 + 1), Millis(*wall));
        }
        (walls, (1..=3).map(NodeId).collect())
    }

    #[test]
    fn one_wall_that_jumped_moves_nothing() {
        for jumped in [WALL - 30 * DAY, WALL + 3_600_000, WALL + 30 * DAY] {
            let (walls, voters) = walls(&[jumped, WALL, WALL + 40]);
            let median = walls.median(NOW, &voters).unwrap();
            assert!(median.agreed && median.time(NOW).0.abs_diff(WALL) <= 40);
        }
    }

    #[test]
    fn walls_that_differ_agree_on_nothing_and_a_minority_says_nothing() {
        let (differ, voters) = walls(&[WALL, WALL + DAY, WALL + 2 * DAY]);
        assert!(!differ.median(NOW, &voters).unwrap().agreed);
        let (one, voters) = walls(&[WALL]);
        assert_eq!(one.median(NOW, &voters), None);
        let (two, voters) = walls(&[WALL, WALL]);
        assert_eq!(two.median(NOW + FRESH, &voters), None, "what was said too long ago does not count");
    }
}
