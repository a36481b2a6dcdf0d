//! Claims in operation: what the cores ([`super::claims`]) want done is done here, on this node or over links.
//! Always true: no lock is held while the broker or a link is called.
use super::{
    PeerLinks,
    claims::{Action, Grant, Request},
    encode::{client_id_from_wire, owner_from_wire, owner_to_wire},
};
use crate::{
    facade::{BoxFuture, Claim, FenceReason, NotClaimed, OnlyUser, Unavailable},
    ids::{Epoch, Incarnation, NodeId},
    state::Owner,
};
use mosquorum_proto::{
    mqtt::Utf8,
    peer::live::{
        AnnounceRequest, Announced, Announcement, ClaimAnswer, ClaimRelease, ClaimRequest, FenceDone, FenceRequest,
        OnlyUser as WireOnlyUser, link_item::Body,
    },
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Weak},
};
use tokio::sync::oneshot;

/// Clients in one announcement.
const ANNOUNCED_PER_ITEM: usize = 2000;

pub(super) type Resolve = oneshot::Sender<Result<Epoch, NotClaimed>>;

/// Gives up when it is dropped before the answer came.
struct Asked {
    peers: Arc<PeerLinks>,
    request: u64,
    /// Of a claim.
    claimed: Option<(Utf8, Owner)>,
    answer: oneshot::Receiver<Result<Epoch, NotClaimed>>,
    answered: bool,
}

impl Asked {
    async fn wait(mut self) -> Result<Epoch, NotClaimed> {
        let answer = tokio::time::timeout(self.peers.settings.claim_timeout, &mut self.answer).await;
        self.answered = answer.is_ok();
        match answer {
            Ok(Ok(answer)) => answer,
            _ => Err(Unavailable.into()),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            let todo = self.peers.claimer.lock().abandon(self.request);
            self.peers.perform(todo.into_iter().collect());
            if let Some((client_id, owner)) = self.claimed.take() {
                // It may have been won in this very moment.
                self.peers.release_identifier(&client_id, owner);
            }
        }
    }
}

impl PeerLinks {
    pub(super) fn claim_identifier(
        self: &Arc<Self>,
        client_id: Utf8,
        owner: Owner,
        only: Option<OnlyUser>,
    ) -> BoxFuture<'static, Result<Claim, NotClaimed>> {
        let (resolve, answer) = oneshot::channel();
        let (request, todo) = self.claimer.lock().claim(client_id.clone(), owner, only, resolve);
        let claimed = Some((client_id, owner));
        let asked = Asked { peers: self.clone(), request, claimed, answer, answered: false };
        self.perform(todo.into_iter().collect());
        Box::pin(async move { asked.wait().await.map(|epoch| Claim { epoch }) })
    }

    pub(super) fn fence_owner(
        self: &Arc<Self>,
        client_id: Utf8,
        previous: Owner,
        epoch: Epoch,
    ) -> BoxFuture<'static, Result<(), Unavailable>> {
        let (resolve, answer) = oneshot::channel();
        let (request, todo) = self.claimer.lock().fence(client_id, previous, epoch, resolve);
        let asked = Asked { peers: self.clone(), request, claimed: None, answer, answered: false };
        self.perform(vec![todo]);
        Box::pin(async move { asked.wait().await.map(drop).map_err(|_| Unavailable) })
    }

    pub(super) fn release_identifier(&self, client_id: &Utf8, owner: Owner) {
        let todo = self.claimer.lock().release(client_id.clone(), owner);
        self.perform(todo.into_iter().collect());
    }

    /// Does what the claimer wants done, and what follows from it.
    pub(super) fn perform(&self, mut todo: Vec<Action<Resolve>>) {
        let me = self.node();
        while !todo.is_empty() {
            let mut next = Vec::new();
            for each in todo {
                match each {
                    Action::Ask { leader, request, client_id, owner } if leader == me => {
                        let grant = self.table.lock().claim(Request { from: me, request, client_id, owner });
                        next.extend(grant.into_iter().flat_map(|grant| self.granted_here(grant)));
                    }
                    Action::Ask { leader, request, client_id, owner } => {
                        let (client_id, owner) = (client_id.as_bytes().clone(), Some(owner_to_wire(owner)));
                        self.send(leader, Body::Claim(ClaimRequest { request, client_id, owner }));
                    }
                    Action::Release { leader, client_id, owner } if leader == me => {
                        self.table.lock().release(&client_id, owner);
                    }
                    Action::Release { leader, client_id, owner } => {
                        let (client_id, owner) = (client_id.as_bytes().clone(), Some(owner_to_wire(owner)));
                        self.send(leader, Body::ClaimRelease(ClaimRelease { client_id, owner }));
                    }
                    Action::Fence { request, client_id, owner, only } if owner.node == me => {
                        self.fence_here((me, Incarnation(0)), request, client_id, owner, only);
                    }
                    Action::Fence { request, client_id, owner, only } => {
                        let (node, owner) = (owner.node, Some(owner_to_wire(owner)));
                        let client_id = client_id.as_bytes().clone();
                        let only = only.map(|user| WireOnlyUser { name: user.0.map(|name| name.as_bytes().clone()) });
                        self.send(node, Body::Fence(FenceRequest { request, client_id, owner, only }));
                    }
                    // Nobody waits any more only if the asker gave up, and then it has released.
                    Action::Resolve { waiter, epoch } => {
                        let _ = waiter.send(epoch.ok_or(NotClaimed::Unavailable(Unavailable)));
                    }
                    Action::Refuse { waiter } => {
                        let _ = waiter.send(Err(NotClaimed::OtherUser));
                    }
                }
            }
            todo = next;
        }
    }

    fn granted_here(&self, grant: Grant) -> Vec<Action<Resolve>> {
        self.claimer.lock().granted(grant.request, grant.term, grant.epoch, grant.previous)
    }

    /// The leader's answers go where they were asked for.
    pub(super) fn answer_claims(&self, grants: Vec<Grant>) {
        let me = self.node();
        for grant in grants {
            if grant.to == me {
                let todo = self.granted_here(grant);
                self.perform(todo);
                continue;
            }
            let Grant { to, incarnation, request, term, epoch, previous } = grant;
            let previous = previous.into_iter().map(owner_to_wire).collect();
            self.answer(to, incarnation, Body::ClaimAnswer(ClaimAnswer { request, term, epoch: epoch.0, previous }));
        }
    }

    /// Ends a connection of this node (or its claim, if it is not there yet), then notifies that incarnation of `to`. One of another
    /// user than it is to be stays.
    fn fence_here(
        &self,
        (to, incarnation): (NodeId, Incarnation),
        request: u64,
        client_id: Utf8,
        owner: Owner,
        only: Option<OnlyUser>,
    ) {
        if only.is_some_and(|only| !self.live.is_users(&client_id, owner.connection, &only)) {
            if to != self.node() {
                return self.answer(to, incarnation, Body::FenceDone(FenceDone { request, refused: true }));
            }
            let todo = self.claimer.lock().fence_refused(request);
            return self.perform(todo);
        }
        let lost = self.claimer.lock().fenced(owner);
        self.perform(lost.into_iter().collect());
        // What an incarnation proposed before it ended may still be on its way to the leader.
        let me = self.me();
        let has_ended = me.is_none_or(|me| owner.incarnation < me.incarnation);
        // Numbers of connections begin anew with the process.
        let of_this_process = me.is_none_or(|me| owner.incarnation.boots() == me.incarnation.boots());
        let closed = of_this_process.then(|| self.live.fence(client_id, owner.connection, FenceReason::TakenOver));
        let mut view = self.context.view();
        let peers: Weak<Self> = self.this.clone();
        let done = async move {
            if let Some(closed) = closed {
                closed.await;
            }
            if has_ended && view.wait_for(|view| view.is_over(owner.node, owner.incarnation)).await.is_err() {
                return;
            }
            let Some(peers) = peers.upgrade() else { return };
            peers.claimer.lock().closed(owner);
            if to == peers.node() {
                let todo = peers.claimer.lock().fence_done(request);
                peers.perform(todo);
            } else {
                peers.answer(to, incarnation, Body::FenceDone(FenceDone { request, refused: false }));
            }
        };
        self.settings.handle.spawn(done);
    }

    /// An item about claims from another node.
    pub(super) fn receive_claims(&self, from: NodeId, incarnation: Incarnation, body: Body) -> Option<()> {
        match body {
            Body::Claim(claim) => {
                let (client_id, owner) = (client_id_from_wire(&claim.client_id)?, owner_from_wire(claim.owner?));
                let grant = self.table.lock().claim(Request { from, request: claim.request, client_id, owner });
                self.answer_claims(grant.into_iter().collect());
            }
            Body::ClaimAnswer(answer) => {
                let previous = answer.previous.into_iter().map(owner_from_wire).collect();
                let epoch = Epoch(answer.epoch);
                let todo = self.claimer.lock().granted(answer.request, answer.term, epoch, previous);
                self.perform(todo);
            }
            Body::ClaimRelease(release) => {
                let client_id = client_id_from_wire(&release.client_id)?;
                self.table.lock().release(&client_id, owner_from_wire(release.owner?));
            }
            Body::Fence(fence) => {
                let client_id = client_id_from_wire(&fence.client_id)?;
                let only = match fence.only {
                    None => None,
                    Some(WireOnlyUser { name: None }) => Some(OnlyUser(None)),
                    Some(WireOnlyUser { name: Some(name) }) => Some(OnlyUser(Some(client_id_from_wire(&name)?))),
                };
                let owner = owner_from_wire(fence.owner?);
                self.fence_here((from, incarnation), fence.request, client_id, owner, only);
            }
            Body::FenceDone(done) => {
                let todo = match done.refused {
                    true => self.claimer.lock().fence_refused(done.request),
                    false => self.claimer.lock().fence_done(done.request),
                };
                self.perform(todo);
            }
            Body::Announce(AnnounceRequest { term }) => {
                let clients = self.announcement(term, from);
                let (mut parts, mut rest) = (Vec::new(), clients);
                while rest.len() > ANNOUNCED_PER_ITEM {
                    let tail = rest.split_off(ANNOUNCED_PER_ITEM);
                    parts.push(std::mem::replace(&mut rest, tail));
                }
                for clients in parts {
                    self.answer(from, incarnation, announcement(term, clients, false));
                }
                self.answer(from, incarnation, announcement(term, rest, true));
            }
            Body::Announcement(Announcement { term, clients, last }) => {
                let clients = clients
                    .into_iter()
                    .map(|each| Some((client_id_from_wire(&each.client_id)?, owner_from_wire(each.owner?))));
                let clients: Vec<_> = clients.collect::<Option<_>>()?;
                let grants = self.table.lock().announced((from, incarnation), term, clients, last);
                self.answer_claims(grants);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whom this node serves, or is about to; from here on answers of leaders before `term` do not count.
    fn announcement(&self, term: u64, leader: NodeId) -> Vec<(Utf8, Owner)> {
        let (mut clients, todo) = self.claimer.lock().announce(term, leader);
        let known: HashSet<_> = clients.iter().map(|(_, owner)| owner.connection).collect();
        clients.extend(self.live.clean_clients().into_iter().filter(|(_, owner)| !known.contains(&owner.connection)));
        self.perform(todo);
        clients
    }

    /// This node leads in `term` and knows everything committed before: collects what it must know to answer.
    pub(super) fn lead_claims(&self, term: u64, serving: Vec<(NodeId, Incarnation)>) {
        let me = self.node();
        let others: Vec<_> = serving.iter().map(|(node, _)| *node).filter(|node| *node != me).collect();
        let mut waiting: BTreeMap<_, _> = serving.into_iter().collect();
        if let Some(origin) = self.me() {
            waiting.insert(me, origin.incarnation);
        }
        let grants = self.table.lock().lead(term, waiting);
        self.answer_claims(grants);
        let own = self.announcement(term, me);
        let incarnation = self.me().map_or(Incarnation(0), |me| me.incarnation);
        let grants = self.table.lock().announced((me, incarnation), term, own, true);
        self.answer_claims(grants);
        for node in others {
            self.send(node, Body::Announce(AnnounceRequest { term }));
        }
    }

    /// The link to a node begins anew: what was sent before may be lost.
    pub(super) fn resend_claims(&self, node: NodeId) {
        let todo = self.claimer.lock().relink(node);
        self.perform(todo);
        let term = {
            let table = self.table.lock();
            table.term().filter(|_| table.waits_for(node))
        };
        if let Some(term) = term {
            self.send(node, Body::Announce(AnnounceRequest { term }));
        }
    }
}

fn announcement(term: u64, clients: Vec<(Utf8, Owner)>, last: bool) -> Body {
    let announced = clients.into_iter().map(|(client_id, owner)| Announced {
        client_id: client_id.as_bytes().clone(),
        owner: Some(owner_to_wire(owner)),
    });
    Body::Announcement(Announcement { term, clients: announced.collect(), last })
}
