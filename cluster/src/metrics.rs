//! What this node's part of the cluster counts, for metrics. Read without waiting for anybody.
pub use mosquorum_storage::histogram::{BOUNDS_MICROS, Histogram, HistogramValues};

/// What a node is in its Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// Not in a group yet, or not any more.
    #[default]
    None,
}

impl Role {
    pub const ALL: [Self; 5] = [Self::Leader, Self::Follower, Self::Candidate, Self::Learner, Self::None];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::None => "none",
        }
    }
}

/// Figures of the log and of what is proposed to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConsensusMetrics {
    pub role: Role,
    /// From the sending of a batch of this node's commands to its apply here.
    pub commit: HistogramValues,
    /// Applying of committed entries, per group of entries.
    pub apply: HistogramValues,
    /// fdatasync of the log.
    pub fsync: HistogramValues,
    /// Proposed here and not answered yet.
    pub proposed_bytes: u64,
    pub log_entries: u64,
    pub log_written_bytes: u64,
    /// Bytes of the segment files in use.
    pub log_size_bytes: u64,
    /// Times the log had to wait for its next segment: the disk is slow or full.
    pub log_segment_waits: u64,
}

/// The live links to other nodes.
#[derive(Debug, Clone, Default)]
pub struct PeerMetrics {
    pub links: Vec<LinkMetrics>,
    /// Items received over all links.
    pub received: u64,
    /// Items that could not be understood.
    pub invalid: u64,
    /// Filters of other nodes known here.
    pub remote_filters: u64,
    /// Client identifiers being claimed for connections of this node.
    pub claims_pending: u64,
    /// Client identifiers in the leader's table, if this node leads.
    pub claims_held: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkMetrics {
    pub node: crate::ids::NodeId,
    /// Connected, and everything that the other side has to know was sent.
    pub up: bool,
    /// Live messages that wait for the link or for its confirmation.
    pub queued_bytes: u64,
    pub sent: u64,
    /// QoS 0 messages dropped because the link was full.
    pub dropped: u64,
    /// QoS 1 and 2 messages not taken because the link was full.
    pub refused: u64,
}
