//! What this node grants to others, and whom it refuses.
//! Always true: a refused incarnation, and every earlier one of that node, is never granted again; a refusal is at least
//! length + margin after the last grant by this node's clock.
use super::LeaseTimes;
use crate::ids::{Incarnation, NodeId};
use std::{collections::HashMap, time::Duration};

/// What a leader asks: may this incarnation be declared down, as far as you are concerned?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// The set of voters under which the leader counts.
    pub(crate) voters_index: u64,
}

#[derive(Debug)]
struct Granted {
    incarnation: Incarnation,
    last: Duration,
}

#[derive(Debug)]
pub(crate) struct Grantor {
    me: NodeId,
    my_incarnation: Incarnation,
    times: LeaseTimes,
    started: Duration,
    granted: HashMap<NodeId, Granted>,
    /// The latest refused incarnation of each node.
    refused: HashMap<NodeId, Incarnation>,
    voters_index: u64,
    voters_since: Duration,
}

impl Grantor {
    /// `refused` is what earlier incarnations of this node refused.
    pub(crate) fn new(
        now: Duration,
        me: NodeId,
        my_incarnation: Incarnation,
        times: LeaseTimes,
        refused: HashMap<NodeId, Incarnation>,
    ) -> Self {
        let granted = HashMap::new();
        Self { me, my_incarnation, times, started: now, granted, refused, voters_index: 0, voters_since: now }
    }

    pub(crate) fn set_incarnation(&mut self, incarnation: Incarnation) {
        self.my_incarnation = incarnation;
    }

    /// The newest set of voters in this node's log.
    pub(crate) fn set_voters(&mut self, now: Duration, index: u64) {
        if index != self.voters_index {
            self.voters_index = index;
            self.voters_since = now;
        }
    }

    pub(crate) fn voters_index(&self) -> u64 {
        self.voters_index
    }

    /// This incarnation and all before it are over, as the log says or as they said themselves.
    pub(crate) fn ended(&mut self, node: NodeId, incarnation: Incarnation) {
        let refused = self.refused.entry(node).or_default();
        *refused = incarnation.max(*refused);
    }

    /// Whether a ping is granted.
    pub(crate) fn ping(&mut self, now: Duration, node: NodeId, incarnation: Incarnation) -> bool {
        if self.refused.get(&node).is_some_and(|refused| *refused >= incarnation) {
            return false;
        }
        let granted = self.granted.entry(node).or_insert(Granted { incarnation, last: now });
        if granted.incarnation > incarnation {
            return false;
        }
        *granted = Granted { incarnation, last: now };
        true
    }

    /// Whether [`Grantor::refuse`] would say yes at this instant; promises nothing.
    pub(crate) fn would_refuse(&self, now: Duration, question: Question) -> bool {
        let Question { node, incarnation, voters_index } = question;
        if node == self.me {
            return incarnation < self.my_incarnation;
        }
        let quiet = self.times.quiet();
        if voters_index != self.voters_index || now < self.voters_since + quiet {
            return false;
        }
        if self.refused.get(&node).is_some_and(|refused| *refused >= incarnation) {
            return true;
        }
        if now < self.started + quiet {
            return false;
        }
        match self.granted.get(&node) {
            // A later incarnation pings only after this one is over.
            Some(granted) if granted.incarnation > incarnation => true,
            Some(granted) if granted.incarnation == incarnation => now >= granted.last + quiet,
            _ => true,
        }
    }

    /// Refuses the incarnation from now on if that is allowed. The answer may be sent only when the refusal is on disk.
    pub(crate) fn refuse(&mut self, now: Duration, question: Question) -> bool {
        let yes = self.would_refuse(now, question);
        if yes {
            self.ended(question.node, question.incarnation);
        }
        yes
    }

    /// All refusals, for the disk.
    pub(crate) fn refusals(&self) -> Vec<(NodeId, Incarnation)> {
        let mut all: Vec<_> = self.refused.iter().map(|(node, incarnation)| (*node, *incarnation)).collect();
        all.sort_unstable();
        all
    }
}
