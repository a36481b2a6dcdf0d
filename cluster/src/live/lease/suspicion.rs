//! The leader's duty to declare silent nodes down: first asks whether the voters would refuse, then makes them refuse,
//! then proposes.
//! Always true: an incarnation is proposed as down only with refusals of a majority of every set of voters, this node's
//! own among them, collected in one term under one set of voters. The first question exists so that nobody is refused
//! by a minority only.
use super::VoterSets;
use crate::ids::{Incarnation, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Before the same question is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(40);
const PROPOSE_AGAIN: Duration = Duration::from_millis(1000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking,
    Refusing,
    Proposed,
}

#[derive(Debug)]
struct Round {
    incarnation: Incarnation,
    phase: Phase,
    yes: BTreeSet<NodeId>,
    last: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask these voters (this node among them); `refuse` as in the message.
    Voters { of: Vec<NodeId>, node: NodeId, incarnation: Incarnation, voters_index: u64, refuse: bool },
    /// Propose `NodeDown` in this term.
    Propose { node: NodeId, incarnation: Incarnation },
}

/// A serving node, as the leader sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// This node itself would refuse it.
    pub(crate) silent: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Suspicions {
    term: u64,
    voters: VoterSets,
    rounds: BTreeMap<NodeId, Round>,
    /// When each serving incarnation was first seen, by a leader or not: one that has just come up had no time to ping.
    first_seen: BTreeMap<(NodeId, Incarnation), Duration>,
}

impl Suspicions {
    /// Called often on every node, with who serves.
    pub(crate) fn see(&mut self, now: Duration, serving: impl Iterator<Item = (NodeId, Incarnation)>) {
        let before = std::mem::take(&mut self.first_seen);
        self.first_seen =
            serving.map(|incarnation| (incarnation, before.get(&incarnation).copied().unwrap_or(now))).collect();
    }

    /// This node does not lead.
    pub(crate) fn stop(&mut self) {
        self.term = 0;
        self.rounds.clear();
    }

    /// Called often while this node leads in `term`, after [`Suspicions::see`]. `quiet`: length + margin.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        quiet: Duration,
        term: u64,
        voters: &VoterSets,
        serving: &[Watched],
    ) -> Vec<Action> {
        if term != self.term || *voters != self.voters {
            self.term = term;
            self.voters = voters.clone();
            self.rounds.clear();
        }
        self.rounds.retain(|node, round| {
            serving.iter().any(|watched| {
                watched.node == *node
                    && watched.incarnation == round.incarnation
                    && (watched.silent || round.phase != Phase::Asking)
            })
        });
        let mut asks = Vec::new();
        for watched in serving {
            let seen = self.first_seen.get(&(watched.node, watched.incarnation));
            if watched.silent && seen.is_some_and(|seen| now >= *seen + quiet) {
                asks.extend(self.pursue(now, *watched));
            }
        }
        asks
    }

    fn pursue(&mut self, now: Duration, watched: Watched) -> Option<Action> {
        let Watched { node, incarnation, .. } = watched;
        let fresh = !self.rounds.contains_key(&node);
        let round = self.rounds.entry(node).or_insert_with(|| Round {
            incarnation,
            phase: Phase::Asking,
            yes: BTreeSet::new(),
            last: now,
        });
        let pause = if round.phase == Phase::Proposed { PROPOSE_AGAIN } else { ASK_AGAIN };
        if !fresh && now < round.last + pause {
            return None;
        }
        round.last = now;
        Some(match round.phase {
            Phase::Proposed => Action::Propose { node, incarnation },
            phase => Self::ask(&self.voters, node, incarnation, phase == Phase::Refusing, &round.yes),
        })
    }

    fn ask(voters: &VoterSets, node: NodeId, incarnation: Incarnation, refuse: bool, yes: &BTreeSet<NodeId>) -> Action {
        let of = voters.all().into_iter().filter(|voter| *voter != node && !yes.contains(voter)).collect();
        Action::Voters { of, node, incarnation, voters_index: voters.index, refuse }
    }

    /// A voter said yes to a question of this term and these voters.
    pub(crate) fn yes(
        &mut self,
        now: Duration,
        me: NodeId,
        term: u64,
        from: NodeId,
        question: super::Question,
        refuse: bool,
    ) -> Option<Action> {
        let round = self.rounds.get_mut(&question.node)?;
        let expected = if refuse { Phase::Refusing } else { Phase::Asking };
        if term != self.term
            || question.voters_index != self.voters.index
            || question.incarnation != round.incarnation
            || round.phase != expected
        {
            return None;
        }
        round.yes.insert(from);
        if !round.yes.contains(&me) || !self.voters.majority(|voter| round.yes.contains(&voter)) {
            return None;
        }
        round.yes.clear();
        round.last = now;
        let (node, incarnation) = (question.node, question.incarnation);
        if refuse {
            round.phase = Phase::Proposed;
            return Some(Action::Propose { node, incarnation });
        }
        round.phase = Phase::Refusing;
        Some(Self::ask(&self.voters, node, incarnation, true, &round.yes))
    }
}
