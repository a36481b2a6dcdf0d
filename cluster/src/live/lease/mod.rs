//! Majority-based leases: who may serve, and when somebody else may be declared down.
//!
//! A node pings every member; a reply grants. Its lease lasts [`LeaseTimes::length`] from the **sending** of the
//! majority-th most recent granted ping, itself counted. The leader that misses a node asks every voter whether it would
//! refuse that incarnation; a voter says yes only when its own last grant to it is older than length + margin, and from
//! then on refuses it for ever (on disk before it says so). With yes from a majority the leader proposes `NodeDown`.
//!
//! **Always true: while an incarnation's lease is valid, no `NodeDown` of it is decided.** Why: a majority G granted and
//! a majority W refused, so some Q is in both, and Q is not the node itself (it never refuses its own current incarnation).
//! Q's refusal is for ever, so its grant came before; the ping was sent before it was granted, at s, and the lease
//! ends at s + length by the node's clock. Q refused at least length + margin after the grant by its own clock. Clocks
//! need not agree, only run at the same rate to within margin / length (7 %), and count suspended time
//! ([`crate::machine_clock`]).
//!
//! When the set of voters changes, majorities of two sets must meet as well:
//! - A grant names the newest set that its voter has in its log; the holder ignores it until it knows that set too. A
//!   voter refuses only under the newest set it has, when it has had it for length + margin. So a holder that lags
//!   behind a change counts no grant made after a majority of its old set learnt of the new one.
//! - A holder needs a majority in every set from its last applied one to the newest in its log ([`VoterSets::sets`]), so
//!   one that is ahead of a `NodeDown` in its log has not stopped to ask the voters that decided it.
//! - The proposal must not linger over later changes: it enters the log in the term in which the answers were
//!   collected, or not at all.
//!
//! A process that was restarted has forgotten its grants, so it refuses nobody for the first length + margin; its
//! refusals are on disk ([`RefusalStore`]). Not here: sending anything, and clocks.
mod grantor;
mod holder;
mod lag;
mod refusals;
mod suspicion;
#[cfg(test)]
mod tests;

pub(crate) use grantor::{Grantor, Question};
pub(crate) use holder::{LeaseHolder, Standing};
pub(crate) use lag::{LAG_MAX, Lag};
pub use refusals::{RefusalFile, RefusalStore, RefusalsInMemory};
pub(crate) use suspicion::{Action, Suspicions, Watched};

use crate::ids::NodeId;
use std::time::Duration;

/// Lengths that all nodes must agree on.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// From the sending of a ping to the end of what it grants.
    pub length: Duration,
    /// What clocks may drift apart during one length, with room to spare.
    pub margin: Duration,
    /// Between two pings.
    pub interval: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            length: Duration::from_millis(1500),
            margin: Duration::from_millis(100),
            interval: Duration::from_millis(150),
        }
    }
}

impl LeaseTimes {
    /// How long a voter must not have granted before it may refuse.
    pub(crate) fn quiet(&self) -> Duration {
        self.length + self.margin
    }
}

/// Who votes, as one node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VoterSets {
    /// Log index of the newest membership entry in this node's log.
    pub index: u64,
    /// A majority is needed in each: the sets of the newest membership in the log (two during a joint change) and, while
    /// that is not applied, those of the last applied one.
    pub sets: Vec<Vec<NodeId>>,
}

impl VoterSets {
    /// Whether `has` holds for a majority of every set.
    pub(crate) fn majority(&self, has: impl Fn(NodeId) -> bool) -> bool {
        !self.sets.is_empty()
            && self.sets.iter().all(|set| 2 * set.iter().filter(|node| has(**node)).count() > set.len())
    }

    /// Everybody who votes in any set, each once.
    pub(crate) fn all(&self) -> Vec<NodeId> {
        let mut all: Vec<_> = self.sets.iter().flatten().copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn only(&self, node: NodeId) -> bool {
        !self.sets.is_empty() && self.sets.iter().all(|set| set.as_slice() == [node])
    }
}
