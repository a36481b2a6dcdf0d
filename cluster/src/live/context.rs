//! What the live side needs of consensus: a view of the cluster, and a few ways to act on it.
use super::lease::VoterSets;
use crate::{
    ids::{Incarnation, NodeId},
    node::walls::Clocks,
    state::Origin,
    transport::{PeerCertificate, Purpose},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

/// The cluster as one node knows it. All of it belongs together: `incarnations` is the state at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterView {
    /// Node 0: belongs to no cluster yet. Incarnation 0: between two incarnations.
    pub(crate) me: Origin,
    /// Voters or not.
    pub(crate) members: Vec<NodeId>,
    pub(crate) voters: VoterSets,
    pub(crate) incarnations: BTreeMap<NodeId, NodeIncarnations>,
    /// The latest term seen in votes or entries.
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
    /// This node leads in this term and has applied everything committed before it.
    pub(crate) leading: Option<u64>,
}

/// What the state knows of a node's incarnations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeIncarnations {
    /// All incarnations up to this one are over.
    pub(crate) ended: Incarnation,
    /// The one that serves, if one does.
    pub(crate) serving: Option<Incarnation>,
}

impl Default for ClusterView {
    fn default() -> Self {
        Self {
            me: Origin { node: NodeId(0), incarnation: Incarnation(0) },
            members: Vec::new(),
            voters: VoterSets::default(),
            incarnations: BTreeMap::new(),
            term: 0,
            leader: None,
            leading: None,
        }
    }
}

impl ClusterView {
    /// Every serving node but this one, with its incarnation.
    pub(crate) fn others_serving(&self) -> impl Iterator<Item = (NodeId, Incarnation)> {
        let others = self.incarnations.iter().filter(|(node, _)| **node != self.me.node);
        others.filter_map(|(node, known)| known.serving.map(|incarnation| (*node, incarnation)))
    }

    /// Whether the log knows the incarnation as over: nothing that it proposed is applied from there on.
    pub(crate) fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.incarnations.get(&node).is_some_and(|known| known.ended >= incarnation)
    }

    /// Whether the state knows this incarnation of this node as serving.
    pub(crate) fn is_up(&self) -> bool {
        self.incarnations.get(&self.me.node).is_some_and(|known| known.serving == Some(self.me.incarnation))
    }
}

/// Implemented by consensus, and by a stand-in for tests.
pub(crate) trait ClusterContext: Send + Sync + 'static {
    fn view(&self) -> watch::Receiver<Arc<ClusterView>>;

    /// Proposes `NodeDown` as leader of this term, or not at all.
    fn propose_down(&self, term: u64, node: NodeId, incarnation: Incarnation);

    /// This node's incarnation serves no more, its connections are closed: begin another one.
    fn incarnation_over(&self, incarnation: Incarnation);

    /// `None`: no such member.
    fn channel(&self, node: NodeId, purpose: Purpose) -> Option<Channel>;

    /// What this node's clocks say.
    fn clocks(&self) -> Clocks {
        Clocks::default()
    }

    /// What another node's clocks said, after a round trip of this length.
    fn observe_clocks(&self, from: NodeId, said: Clocks, round_trip: Duration) {
        let _ = (from, said, round_trip);
    }

    /// The index of the last entry applied here, once there is a log.
    fn applied(&self) -> Option<watch::Receiver<u64>> {
        None
    }

    /// As [`ClusterContext::applied`] is now; 0 without a log.
    fn applied_index(&self) -> u64 {
        self.applied().map_or(0, |applied| *applied.borrow())
    }

    /// Which cluster messages are for.
    fn cluster(&self) -> Vec<u8>;

    /// Whether a message of this cluster from one node to another comes from whom it says and is for this one.
    /// # Errors
    /// What to answer.
    #[allow(clippy::result_large_err)] // tonic's own type
    fn admit(&self, peer: Option<&PeerCertificate>, cluster: &[u8], from: NodeId, to: NodeId) -> Result<(), Status>;
}
