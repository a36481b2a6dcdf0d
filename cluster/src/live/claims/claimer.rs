//! A node's own claims on their way: asked of the leader, then waiting for former owners to be gone. Also fences that
//! the replicated state asks for.
//! Always true: a claim is won only by an answer of the latest term this node knows of, and when every former owner
//! named in it is gone; one that somebody else has fenced meanwhile is lost.
use crate::{
    facade::OnlyUser,
    ids::{ConnectionId, Epoch, Incarnation, NodeId},
    state::Owner,
};
use mosquorum_proto::mqtt::Utf8;
use std::collections::HashMap;

/// What to do next. `W` waits for a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action<W> {
    /// Ask the leader (which may be this node).
    Ask { leader: NodeId, request: u64, client_id: Utf8, owner: Owner },
    /// Have the owner's node (which may be this one) end the connection.
    Fence { request: u64, client_id: Utf8, owner: Owner, only: Option<OnlyUser> },
    /// Report to the leader that the owner is gone.
    Release { leader: NodeId, client_id: Utf8, owner: Owner },
    /// The claim is won under this epoch, or (`None`) lost; for a fence, it is done.
    Resolve { waiter: W, epoch: Option<Epoch> },
    /// The claim is refused: a former owner is another user's.
    Refuse { waiter: W },
}

#[derive(Debug)]
struct Claiming<W> {
    client_id: Utf8,
    owner: Owner,
    only: Option<OnlyUser>,
    waiter: W,
    /// `None`: asked, not answered.
    granted: Option<Granted>,
}

#[derive(Debug)]
struct Granted {
    epoch: Epoch,
    previous: Vec<Owner>,
    /// How many of them may still be there.
    missing: usize,
}

#[derive(Debug)]
struct Fencing<W> {
    client_id: Utf8,
    owner: Owner,
    only: Option<OnlyUser>,
    purpose: Purpose<W>,
}

#[derive(Debug)]
enum Purpose<W> {
    Claim(u64),
    /// Asked for from outside, under this epoch.
    Session(W, Epoch),
}

#[derive(Debug)]
pub(crate) struct Claimer<W> {
    /// Numbers of requests; they say nothing to another process, so answers are sent to the incarnation that asked only.
    next: u64,
    /// The latest term known, from the log, a leader or an announcement.
    term: u64,
    leader: Option<NodeId>,
    claims: HashMap<u64, Claiming<W>>,
    by_connection: HashMap<ConnectionId, u64>,
    fences: HashMap<u64, Fencing<W>>,
    /// Won, and not released yet.
    owned: HashMap<ConnectionId, (Utf8, Owner)>,
    ended: HashMap<NodeId, Incarnation>,
}

impl<W> Claimer<W> {
    pub(crate) fn new() -> Self {
        Self {
            next: 0,
            term: 0,
            leader: None,
            claims: HashMap::new(),
            by_connection: HashMap::new(),
            fences: HashMap::new(),
            owned: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.claims.len() + self.fences.len()
    }

    /// Takes the identifier for a connection of this node; the number is for [`Claimer::abandon`].
    pub(crate) fn claim(
        &mut self,
        client_id: Utf8,
        owner: Owner,
        only: Option<OnlyUser>,
        waiter: W,
    ) -> (u64, Option<Action<W>>) {
        self.next += 1;
        let request = self.next;
        let ask = self.leader.map(|leader| Action::Ask { leader, request, client_id: client_id.clone(), owner });
        self.by_connection.insert(owner.connection, request);
        self.claims.insert(request, Claiming { client_id, owner, only, waiter, granted: None });
        (request, ask)
    }

    /// Ends another node's connection that owned a session of the replicated state.
    pub(crate) fn fence(&mut self, client_id: Utf8, owner: Owner, epoch: Epoch, waiter: W) -> (u64, Action<W>) {
        self.next += 1;
        let request = self.next;
        if self.is_ended(owner) {
            return (request, Action::Resolve { waiter, epoch: Some(epoch) });
        }
        let purpose = Purpose::Session(waiter, epoch);
        self.fences.insert(request, Fencing { client_id: client_id.clone(), owner, only: None, purpose });
        (request, Action::Fence { request, client_id, owner, only: None })
    }

    /// Nobody waits for this claim or fence any more.
    pub(crate) fn abandon(&mut self, request: u64) -> Option<Action<W>> {
        if self.fences.remove(&request).is_some() {
            return None;
        }
        let claiming = self.remove(request)?;
        self.leader.map(|leader| Action::Release { leader, client_id: claiming.client_id, owner: claiming.owner })
    }

    fn remove(&mut self, request: u64) -> Option<Claiming<W>> {
        let claiming = self.claims.remove(&request)?;
        if self.by_connection.get(&claiming.owner.connection) == Some(&request) {
            self.by_connection.remove(&claiming.owner.connection);
        }
        if claiming.granted.is_some() {
            self.fences.retain(|_, fence| !matches!(fence.purpose, Purpose::Claim(claim) if claim == request));
        }
        Some(claiming)
    }

    /// Who leads, as far as this node knows. Claims that have no answer are asked again.
    pub(crate) fn set_leader(&mut self, term: u64, leader: Option<NodeId>) -> Vec<Action<W>> {
        if term < self.term || (term == self.term && (leader.is_none() || leader == self.leader)) {
            return Vec::new();
        }
        (self.term, self.leader) = (term, leader);
        leader.map_or_else(Vec::new, |leader| self.asks(leader))
    }

    fn asks(&self, leader: NodeId) -> Vec<Action<W>> {
        let mut open: Vec<_> = self.claims.iter().filter(|(_, claiming)| claiming.granted.is_none()).collect();
        open.sort_unstable_by_key(|(request, _)| **request);
        open.into_iter()
            .map(|(request, claiming)| {
                let (client_id, owner) = (claiming.client_id.clone(), claiming.owner);
                Action::Ask { leader, request: *request, client_id, owner }
            })
            .collect()
    }

    /// The link to a node starts anew: whatever was sent before may be lost.
    pub(crate) fn relink(&self, node: NodeId) -> Vec<Action<W>> {
        let mut again = if self.leader == Some(node) { self.asks(node) } else { Vec::new() };
        again.extend(self.fences.iter().filter(|(_, fence)| fence.owner.node == node).map(|(request, fence)| {
            let (client_id, only) = (fence.client_id.clone(), fence.only.clone());
            Action::Fence { request: *request, client_id, owner: fence.owner, only }
        }));
        again
    }

    /// The leader of `term` answered.
    pub(crate) fn granted(&mut self, request: u64, term: u64, epoch: Epoch, previous: Vec<Owner>) -> Vec<Action<W>> {
        if term < self.term {
            return Vec::new();
        }
        let previous_alive: Vec<_> = previous.iter().copied().filter(|owner| !self.is_ended(*owner)).collect();
        let Some(claiming) = self.claims.get_mut(&request).filter(|claiming| claiming.granted.is_none()) else {
            return Vec::new();
        };
        claiming.granted = Some(Granted { epoch, previous, missing: previous_alive.len() });
        let (client_id, only) = (claiming.client_id.clone(), claiming.only.clone());
        if previous_alive.is_empty() {
            return self.win(request);
        }
        previous_alive
            .into_iter()
            .map(|owner| {
                self.next += 1;
                let (client_id, only) = (client_id.clone(), only.clone());
                let purpose = Purpose::Claim(request);
                let fencing = Fencing { client_id: client_id.clone(), owner, only: only.clone(), purpose };
                self.fences.insert(self.next, fencing);
                Action::Fence { request: self.next, client_id, owner, only }
            })
            .collect()
    }

    /// A fence is done: that connection is gone.
    pub(crate) fn fence_done(&mut self, fence: u64) -> Vec<Action<W>> {
        match self.fences.remove(&fence).map(|fence| fence.purpose) {
            None => Vec::new(),
            Some(Purpose::Session(waiter, epoch)) => vec![Action::Resolve { waiter, epoch: Some(epoch) }],
            Some(Purpose::Claim(request)) => {
                let granted = self.claims.get_mut(&request).and_then(|claiming| claiming.granted.as_mut());
                let Some(granted) = granted else { return Vec::new() };
                granted.missing -= 1;
                if granted.missing == 0 { self.win(request) } else { Vec::new() }
            }
        }
    }

    /// A fence is refused: that connection is another user's, and stays.
    pub(crate) fn fence_refused(&mut self, fence: u64) -> Vec<Action<W>> {
        let Some(Fencing { purpose: Purpose::Claim(request), .. }) = self.fences.remove(&fence) else {
            return Vec::new();
        };
        let Some(Claiming { client_id, owner, waiter, .. }) = self.remove(request) else { return Vec::new() };
        let release = self.leader.map(|leader| Action::Release { leader, client_id, owner });
        release.into_iter().chain([Action::Refuse { waiter }]).collect()
    }

    fn win(&mut self, request: u64) -> Vec<Action<W>> {
        let Some(Claiming { client_id, owner, waiter, granted: Some(granted), .. }) = self.remove(request) else {
            return Vec::new();
        };
        self.owned.insert(owner.connection, (client_id.clone(), owner));
        let mut todo = vec![Action::Resolve { waiter, epoch: Some(granted.epoch) }];
        if let Some(leader) = self.leader {
            let gone = |owner| Action::Release { leader, client_id: client_id.clone(), owner };
            todo.extend(granted.previous.into_iter().map(gone));
        }
        todo
    }

    /// The connection is gone: that is reported to the leader, if there is one.
    pub(crate) fn release(&mut self, client_id: Utf8, owner: Owner) -> Option<Action<W>> {
        self.owned.remove(&owner.connection);
        self.leader.map(|leader| Action::Release { leader, client_id, owner })
    }

    /// Whoever took over from this connection saw it end.
    pub(crate) fn closed(&mut self, owner: Owner) {
        self.owned.remove(&owner.connection);
    }

    /// Somebody else takes over from this owner: if its claim is still on the way, it is lost.
    pub(crate) fn fenced(&mut self, owner: Owner) -> Option<Action<W>> {
        let request = *self.by_connection.get(&owner.connection)?;
        if self.claims.get(&request)?.owner != owner {
            return None;
        }
        Some(Action::Resolve { waiter: self.remove(request)?.waiter, epoch: None })
    }

    /// These incarnations serve no more: their connections are gone.
    pub(crate) fn node_ended(&mut self, node: NodeId, incarnation: Incarnation) -> Vec<Action<W>> {
        let ended = self.ended.entry(node).or_default();
        *ended = incarnation.max(*ended);
        let over = |fence: &&u64| {
            self.fences[*fence].owner.node == node && self.fences[*fence].owner.incarnation <= incarnation
        };
        let mut done: Vec<_> = self.fences.keys().filter(over).copied().collect();
        done.sort_unstable();
        done.into_iter().flat_map(|fence| self.fence_done(fence)).collect()
    }

    fn is_ended(&self, owner: Owner) -> bool {
        self.ended.get(&owner.node).is_some_and(|ended| *ended >= owner.incarnation)
    }

    /// A new leader asks who is served here: the connections that won, and those that were answered and wait. No answer
    /// of an earlier term counts from here on.
    pub(crate) fn announce(&mut self, term: u64, leader: NodeId) -> (Vec<(Utf8, Owner)>, Vec<Action<W>>) {
        let asks = self.set_leader(term, Some(leader));
        let granted = self.claims.values().filter(|claiming| claiming.granted.is_some());
        let waiting = granted.map(|claiming| (claiming.client_id.clone(), claiming.owner));
        (self.owned.values().cloned().chain(waiting).collect(), asks)
    }

    /// This node begins a new incarnation: nobody waits any more.
    pub(crate) fn begin_incarnation(&mut self) -> Vec<Action<W>> {
        self.by_connection.clear();
        self.owned.clear();
        let claims = std::mem::take(&mut self.claims).into_values().map(|claiming| claiming.waiter);
        let fences = std::mem::take(&mut self.fences).into_values().filter_map(|fence| match fence.purpose {
            Purpose::Session(waiter, _) => Some(waiter),
            Purpose::Claim(_) => None,
        });
        claims.chain(fences).map(|waiter| Action::Resolve { waiter, epoch: None }).collect()
    }
}
