//! The leader's table.
//! Always true: nothing is answered before every node that served when this node became leader has announced or is
//! down; an owner leaves the table only when somebody said that it is gone.
use crate::{
    ids::{Epoch, Incarnation, NodeId},
    state::Owner,
};
use mosquorum_proto::mqtt::Utf8;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};

/// Claims that wait for announcements at most; more are dropped (who asked gives up in time).
const QUEUED_MAX: usize = 1 << 20;
/// Low bits of an epoch count within a term.
const COUNTER_BITS: u32 = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) from: NodeId,
    pub(crate) request: u64,
    pub(crate) client_id: Utf8,
    pub(crate) owner: Owner,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) to: NodeId,
    /// The incarnation that asked; a later one must not get it.
    pub(crate) incarnation: Incarnation,
    pub(crate) request: u64,
    pub(crate) term: u64,
    pub(crate) epoch: Epoch,
    /// Every owner that may still be there.
    pub(crate) previous: Vec<Owner>,
}

#[derive(Debug, Default)]
pub(crate) struct ClaimTable {
    /// `None`: this node does not lead.
    term: Option<u64>,
    counter: u64,
    /// Whose announcements are missing.
    waiting: BTreeMap<NodeId, Incarnation>,
    queued: Vec<Request>,
    owners: HashMap<Utf8, SmallVec<[Owner; 1]>>,
    /// Incarnations known to be over.
    ended: HashMap<NodeId, Incarnation>,
}

impl ClaimTable {
    pub(crate) fn term(&self) -> Option<u64> {
        self.term
    }

    /// This node leads and has applied everything that was committed before: whoever serves now has to announce.
    pub(crate) fn lead(&mut self, term: u64, serving: BTreeMap<NodeId, Incarnation>) -> Vec<Grant> {
        let queued = std::mem::take(&mut self.queued);
        self.stop();
        (self.term, self.queued) = (Some(term), queued);
        self.waiting = serving;
        self.answer_queued()
    }

    /// This node does not lead, and is not about to.
    pub(crate) fn stop(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        *self = Self { ended, ..Self::default() };
    }

    /// Who has still to announce.
    pub(crate) fn waits_for(&self, node: NodeId) -> bool {
        self.waiting.contains_key(&node)
    }

    /// A part of the announcement of a node's incarnation; the `last` one completes it. A later incarnation does not speak for
    /// the one that is waited for, which may have proposed something that is not in the log yet: that one is waited for until
    /// the log knows it as over.
    pub(crate) fn announced(
        &mut self,
        (from, incarnation): (NodeId, Incarnation),
        term: u64,
        clients: impl IntoIterator<Item = (Utf8, Owner)>,
        last: bool,
    ) -> Vec<Grant> {
        if self.term != Some(term) {
            return Vec::new();
        }
        for (client_id, owner) in clients {
            if self.is_ended(owner) {
                continue;
            }
            let owners = self.owners.entry(client_id).or_default();
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        if last && self.waiting.get(&from) == Some(&incarnation) {
            self.waiting.remove(&from);
        }
        self.answer_queued()
    }

    /// These incarnations serve no more.
    pub(crate) fn node_ended(&mut self, node: NodeId, incarnation: Incarnation) -> Vec<Grant> {
        let ended = self.ended.entry(node).or_default();
        *ended = incarnation.max(*ended);
        if self.waiting.get(&node).is_some_and(|waiting| *waiting <= incarnation) {
            self.waiting.remove(&node);
        }
        self.owners.retain(|_, owners| {
            owners.retain(|owner| owner.node != node || owner.incarnation > incarnation);
            !owners.is_empty()
        });
        self.answer_queued()
    }

    /// Answered at once or, while announcements are missing (or this node has not noticed yet that it leads), later.
    pub(crate) fn claim(&mut self, request: Request) -> Option<Grant> {
        if let Some(term) = self.term.filter(|_| self.waiting.is_empty()) {
            return Some(self.grant(term, request));
        }
        if self.queued.len() < QUEUED_MAX {
            self.queued.push(request);
        }
        None
    }

    fn is_ended(&self, owner: Owner) -> bool {
        self.ended.get(&owner.node).is_some_and(|ended| *ended >= owner.incarnation)
    }

    fn answer_queued(&mut self) -> Vec<Grant> {
        let Some(term) = self.term.filter(|_| self.waiting.is_empty()) else { return Vec::new() };
        std::mem::take(&mut self.queued).into_iter().map(|request| self.grant(term, request)).collect()
    }

    fn grant(&mut self, term: u64, request: Request) -> Grant {
        let Request { from, request, client_id, owner } = request;
        self.counter += 1;
        let epoch = Epoch((term << COUNTER_BITS) | self.counter);
        let ended = self.is_ended(owner);
        let owners = self.owners.entry(client_id).or_default();
        let previous = owners.iter().copied().filter(|known| *known != owner).collect();
        if !ended && !owners.contains(&owner) {
            owners.push(owner);
        }
        Grant { to: from, incarnation: owner.incarnation, request, term, epoch, previous }
    }

    /// The owner is gone.
    pub(crate) fn release(&mut self, client_id: &str, owner: Owner) {
        let Some(owners) = self.owners.get_mut(client_id) else { return };
        owners.retain(|known| *known != owner);
        if owners.is_empty() {
            self.owners.remove(client_id);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }
}
