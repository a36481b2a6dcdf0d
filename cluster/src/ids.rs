//! The numbers that nodes use for each other, each a type of its own so that they cannot be swapped.
use serde::{Deserialize, Serialize};
use std::fmt;

/// A node of the cluster: the index of the log entry that admitted it (1 for the node that formed the cluster).
/// Never used again after the node left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One incarnation of a node's process: a counter kept on its disk, larger at each start. When a node's lease was refused it
/// takes the next one as well, so that everything granted to the one before is void.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Incarnations under one start of the process: as many leases as it may lose.
const INCARNATION_BITS: u32 = 20;

impl Incarnation {
    pub(crate) fn new(boots: u64, incarnation: u64) -> Self {
        Self((boots << INCARNATION_BITS) | incarnation)
    }

    /// The start of the process that it belongs to.
    pub(crate) fn boots(self) -> u64 {
        self.0 >> INCARNATION_BITS
    }
}

/// Index of an entry in the Raft log; the first is 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

/// One ownership of a client identifier: larger for every later one in the cluster. For sessions in the replicated
/// state it is made of the log index and the command's place in the entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// A connection on one node, unique as long as its process runs; makes wake-ups cheap to address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// Milliseconds since 1970 by the leader's clock, as written in the log; never goes back from entry to entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}
