//! The lease of one incarnation of this node.
//! Always true: it is valid from its first majority on without a gap, and once it has run out it is never valid again
//! (the node comes back as a later incarnation).
use super::{LeaseTimes, VoterSets};
use crate::ids::NodeId;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// What may be done under the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No majority has granted yet.
    Starting,
    Valid {
        until: Duration,
    },
    Lapsed,
}

#[derive(Debug)]
pub(crate) struct LeaseHolder {
    me: NodeId,
    times: LeaseTimes,
    voters: VoterSets,
    /// Sending time of the latest ping that each voter granted.
    granted: HashMap<NodeId, Duration>,
    refused_by: BTreeSet<NodeId>,
    standing: Standing,
}

impl LeaseHolder {
    pub(crate) fn new(me: NodeId, times: LeaseTimes) -> Self {
        Self {
            me,
            times,
            voters: VoterSets::default(),
            granted: HashMap::new(),
            refused_by: BTreeSet::new(),
            standing: Standing::Starting,
        }
    }

    /// Expires the lease if it is time; the end of its validity, zero if there is none.
    pub(crate) fn standing(&mut self, now: Duration) -> Standing {
        if let Standing::Valid { until } = self.standing
            && now >= until
        {
            self.standing = Standing::Lapsed;
        }
        self.standing
    }

    pub(crate) fn set_voters(&mut self, now: Duration, voters: VoterSets) {
        if voters == self.voters {
            return;
        }
        if self.voters.only(self.me)
            && let Standing::Valid { until } = &mut self.standing
        {
            // What a single voter granted itself is worth one more length, in which the others' grants arrive.
            *until = (*until).min(now + self.times.length);
        }
        self.voters = voters;
        self.evaluate(now);
    }

    /// A voter granted the ping sent at `sent`.
    pub(crate) fn granted(&mut self, now: Duration, by: NodeId, sent: Duration, voters_index: u64) {
        if voters_index > self.voters.index {
            return;
        }
        let latest = self.granted.entry(by).or_default();
        *latest = sent.max(*latest);
        self.evaluate(now);
    }

    /// A voter refuses this incarnation, now and for ever.
    pub(crate) fn refused(&mut self, by: NodeId) {
        self.refused_by.insert(by);
    }

    /// Somebody refuses: the lease may still be valid, but it hangs on fewer voters than it should.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused_by.iter().any(|node| self.voters.sets.iter().flatten().any(|voter| voter == node))
    }

    fn evaluate(&mut self, now: Duration) {
        if self.standing(now) == Standing::Lapsed {
            return;
        }
        let Some(end) = self.voters.sets.iter().map(|set| self.end_by(now, set)).min().flatten() else { return };
        match &mut self.standing {
            Standing::Valid { until } => *until = end.max(*until),
            standing if end > now => *standing = Standing::Valid { until: end },
            _ => {}
        }
    }

    /// Until when a majority of this set has granted.
    fn end_by(&self, now: Duration, set: &[NodeId]) -> Option<Duration> {
        if set == [self.me] {
            return Some(Duration::MAX);
        }
        let mut sent: Vec<_> = set
            .iter()
            .filter_map(|node| if *node == self.me { Some(now) } else { self.granted.get(node).copied() })
            .collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(set.len() / 2).map(|nth| *nth + self.times.length)
    }
}
