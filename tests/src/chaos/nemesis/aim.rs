//! Which nodes a fault hits, and which two faults go together.
//! Always true: of two faults at once, at most one empties a disk, and no process or clock is touched by both; so both
//! are taken back as if each were alone, and then a majority is there that can talk.
use super::Nemesis;
use crate::random::Random;

/// A fault and its nodes, in the order in which it names them (of a one-way cut: from, to).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) nemesis: Nemesis,
    pub(super) nodes: Vec<usize>,
}

/// The nodes of a cluster, as faults see them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Roles {
    pub(super) all: usize,
    /// Any node if nobody is known to lead.
    pub(super) leader: usize,
}

impl Roles {
    /// A random follower, and another one (of two nodes: the leader).
    fn followers(self, random: &mut Random) -> (usize, usize) {
        if self.all == 1 {
            return (self.leader, self.leader);
        }
        let one = 1 + random.below(self.all as u64 - 1) as usize;
        let other = match one + 1 + random.below((self.all as u64).saturating_sub(2)) as usize {
            other if other >= self.all => other - self.all + 1,
            other => other,
        };
        ((self.leader + one) % self.all, (self.leader + other) % self.all)
    }
}

pub(super) fn aim(nemesis: Nemesis, roles: Roles, random: &mut Random) -> Aim {
    let leader = roles.leader;
    let (follower, other) = roles.followers(random);
    let nodes = match nemesis {
        Nemesis::KillLeader | Nemesis::PauseLeader | Nemesis::PartitionLeader | Nemesis::ClockJumpLeader => {
            vec![leader]
        }
        Nemesis::KillFollower
        | Nemesis::PauseFollower
        | Nemesis::ClockJumpFollower
        | Nemesis::WipeFollower
        | Nemesis::RemoveAdd => vec![follower],
        Nemesis::KillMajority | Nemesis::CutPairLeader | Nemesis::CutOneWayFromLeader | Nemesis::FlappingPair => {
            vec![leader, follower]
        }
        Nemesis::CutOneWayToLeader => vec![follower, leader],
        Nemesis::CutPairFollowers | Nemesis::CutOneWayFollowers => vec![follower, other],
        Nemesis::PacketLoss | Nemesis::ClockSkew => vec![random.below(roles.all as u64) as usize],
        Nemesis::KillAll => (0..roles.all).collect(),
        Nemesis::TwoAtOnce => Vec::new(),
    };
    Aim { nemesis, nodes }
}

/// Two different faults that go together.
pub(super) fn pair(roles: Roles, random: &mut Random) -> [Aim; 2] {
    loop {
        let [first, second] = [0; 2].map(|_| aim(*random.choose(&Nemesis::ALL), roles, random));
        if together(&first, &second) {
            return [first, second];
        }
    }
}

fn together(first: &Aim, second: &Aim) -> bool {
    let (one, other) = (first.nemesis, second.nemesis);
    let apart = first.nodes.iter().all(|node| !second.nodes.contains(node));
    let same = one == other || [one, other].contains(&Nemesis::TwoAtOnce);
    let both = |is: fn(Nemesis) -> bool| is(one) && is(other);
    !same && !both(Nemesis::empties_disks) && (apart || !(both(Nemesis::stops_processes) || both(Nemesis::sets_clocks)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn faults_hit_whom_they_name() {
        let mut random = Random::new(1);
        let mut others = HashSet::new();
        for round in 0..300 {
            let roles = Roles { all: 3, leader: round % 3 };
            for nemesis in Nemesis::ALL.into_iter().filter(|nemesis| *nemesis != Nemesis::TwoAtOnce) {
                let nodes = aim(nemesis, roles, &mut random).nodes;
                assert!(nodes.iter().all(|node| *node < 3) && !nodes.is_empty(), "{nemesis}");
                assert_eq!(nodes.iter().collect::<HashSet<_>>().len(), nodes.len(), "{nemesis}");
                if nemesis.name().contains("follower") || nemesis == Nemesis::RemoveAdd {
                    assert!(!nodes.contains(&roles.leader), "{nemesis}");
                    others.insert((roles.leader, nodes[0]));
                }
            }
        }
        assert_eq!(others.len(), 6, "each follower is hit");
        for nodes in 1..3 {
            let roles = Roles { all: nodes, leader: 0 };
            for nemesis in Nemesis::ALL.into_iter().filter(|nemesis| nemesis.nodes_min() <= nodes) {
                assert!(aim(nemesis, roles, &mut random).nodes.iter().all(|node| *node < nodes));
            }
        }
    }

    #[test]
    fn pairs_do_not_meet_and_every_kind_is_in_one() {
        let mut random = Random::new(1);
        let mut kinds = HashSet::new();
        for _ in 0..2000 {
            let [one, other] = pair(Roles { all: 3, leader: 1 }, &mut random);
            assert_ne!(one.nemesis, other.nemesis);
            assert!(!(one.nemesis.empties_disks() && other.nemesis.empties_disks()));
            if one.nemesis.stops_processes() && other.nemesis.stops_processes() {
                assert!(one.nodes.iter().all(|node| !other.nodes.contains(node)), "{one:?} {other:?}");
            }
            kinds.extend([one.nemesis.name(), other.nemesis.name()]);
        }
        assert_eq!(kinds.len(), Nemesis::ALL.len() - 1);
    }
}
