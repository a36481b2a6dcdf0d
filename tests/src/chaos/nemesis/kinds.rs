//! The ways to break a cluster, and what each of them needs.
use std::{fmt, str::FromStr};

/// A way to break a cluster. With the power-cut build every kill is a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nemesis {
    KillLeader,
    KillFollower,
    /// Two of three: no majority is left.
    KillMajority,
    KillAll,
    PauseLeader,
    PauseFollower,
    PartitionLeader,
    /// The leader and one follower, both ways; both reach the other follower.
    CutPairLeader,
    /// Two followers, both ways; both reach the leader.
    CutPairFollowers,
    /// One follower does not get what the leader sends.
    CutOneWayFromLeader,
    /// The leader does not get what one follower sends.
    CutOneWayToLeader,
    CutOneWayFollowers,
    /// The leader and one follower, cut and healed again and again.
    FlappingPair,
    /// A part of all packets between one node and the others.
    PacketLoss,
    /// By up to an hour or up to 30 days, to and fro; held for some seconds or kept.
    ClockJumpLeader,
    ClockJumpFollower,
    /// Too fast or too slow from now on.
    ClockSkew,
    /// kill -9 and an empty folder.
    WipeFollower,
    /// Out of the group alive, and back with an empty folder.
    RemoveAdd,
    /// Two of the others, overlapping in time.
    TwoAtOnce,
}

impl Nemesis {
    pub const ALL: [Self; 20] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillMajority,
        Self::KillAll,
        Self::PauseLeader,
        Self::PauseFollower,
        Self::PartitionLeader,
        Self::CutPairLeader,
        Self::CutPairFollowers,
        Self::CutOneWayFromLeader,
        Self::CutOneWayToLeader,
        Self::CutOneWayFollowers,
        Self::FlappingPair,
        Self::PacketLoss,
        Self::ClockJumpLeader,
        Self::ClockJumpFollower,
        Self::ClockSkew,
        Self::WipeFollower,
        Self::RemoveAdd,
        Self::TwoAtOnce,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::KillFollower => "kill-follower",
            Self::KillMajority => "kill-majority",
            Self::KillAll => "kill-all",
            Self::PauseLeader => "pause-leader",
            Self::PauseFollower => "pause-follower",
            Self::PartitionLeader => "partition-leader",
            Self::CutPairLeader => "cut-pair-leader",
            Self::CutPairFollowers => "cut-pair-followers",
            Self::CutOneWayFromLeader => "cut-one-way-from-leader",
            Self::CutOneWayToLeader => "cut-one-way-to-leader",
            Self::CutOneWayFollowers => "cut-one-way-followers",
            Self::FlappingPair => "flapping-pair",
            Self::PacketLoss => "packet-loss",
            Self::ClockJumpLeader => "clock-jump-leader",
            Self::ClockJumpFollower => "clock-jump-follower",
            Self::ClockSkew => "clock-skew",
            Self::WipeFollower => "wipe-follower",
            Self::RemoveAdd => "remove-add",
            Self::TwoAtOnce => "two-at-once",
        }
    }

    /// Whether nodes need namespaces, since links are cut.
    #[must_use]
    pub fn needs_namespaces(self) -> bool {
        self.breaks_links() || self == Self::TwoAtOnce
    }

    /// Whether nodes need clock files and the build that reads them.
    #[must_use]
    pub fn needs_clocks(self) -> bool {
        self.sets_clocks() || self == Self::TwoAtOnce
    }

    /// The smallest cluster that it makes sense for.
    #[must_use]
    pub fn nodes_min(self) -> usize {
        match self {
            Self::CutPairFollowers
            | Self::CutOneWayFollowers
            | Self::WipeFollower
            | Self::RemoveAdd
            | Self::TwoAtOnce => 3,
            Self::KillMajority => 2,
            nemesis if nemesis.breaks_links() => 2,
            _ => 1,
        }
    }

    pub(super) fn breaks_links(self) -> bool {
        matches!(
            self,
            Self::PartitionLeader
                | Self::CutPairLeader
                | Self::CutPairFollowers
                | Self::CutOneWayFromLeader
                | Self::CutOneWayToLeader
                | Self::CutOneWayFollowers
                | Self::FlappingPair
                | Self::PacketLoss
        )
    }

    pub(super) fn sets_clocks(self) -> bool {
        matches!(self, Self::ClockJumpLeader | Self::ClockJumpFollower | Self::ClockSkew)
    }

    /// Whether a node comes back as a new one: what it had on disk is lost.
    pub(super) fn empties_disks(self) -> bool {
        matches!(self, Self::WipeFollower | Self::RemoveAdd)
    }

    /// Whether processes are stopped or ended.
    pub(super) fn stops_processes(self) -> bool {
        !self.breaks_links() && !self.sets_clocks() && self != Self::TwoAtOnce
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Nemesis {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|nemesis| nemesis.name() == text).ok_or_else(|| format!("unknown nemesis {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for nemesis in Nemesis::ALL {
            assert_eq!(nemesis.to_string().parse(), Ok(nemesis));
        }
        assert!("kill".parse::<Nemesis>().is_err());
    }

    #[test]
    fn every_fault_is_of_one_sort() {
        for nemesis in Nemesis::ALL.into_iter().filter(|nemesis| *nemesis != Nemesis::TwoAtOnce) {
            let sorts = [nemesis.breaks_links(), nemesis.sets_clocks(), nemesis.stops_processes()];
            assert_eq!(sorts.into_iter().filter(|sort| *sort).count(), 1, "{nemesis}");
        }
    }
}
