//! Follows the view of the cluster: links come and go with members, what was waited for from a node that is down is
//! settled, a new incarnation of this node starts from nothing.
//! Always true: links exist for every member before anybody is waited for; a node that serves is notified that it is waited
//! for after everything that it has to know.
use super::{
    PeerLinks,
    context::ClusterView,
    peer_link::{CONTROL, DATA, PeerLink},
    pending::Settled,
    receive::{Inbound, ReceiveError},
    routing::Links,
    stream,
};
use crate::ids::{Incarnation, NodeId};
use mosquorum_proto::peer::live::{RoutesComplete, link_item::Body};
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use tonic::Status;
use tracing::{debug, info};

pub(super) async fn run(peers: Weak<PeerLinks>, mut view: watch::Receiver<Arc<ClusterView>>) {
    loop {
        let now = view.borrow_and_update().clone();
        match peers.upgrade() {
            Some(peers) => peers.follow(&now),
            None => return,
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

impl PeerLinks {
    pub(super) fn follow(self: &Arc<Self>, view: &Arc<ClusterView>) {
        let before = self.view.swap(Some(view.clone()));
        let reborn = before.as_ref().is_none_or(|before| before.me != view.me);
        if reborn {
            self.begin_incarnation(view);
        }
        self.leases.follow(view);
        let mut settled = self.follow_members(view);
        for (node, known) in &view.incarnations {
            self.node_ended(*node, known.ended, &mut settled);
        }
        let removed = before.iter().flat_map(|before| before.incarnations.iter());
        for (node, known) in removed.filter(|(node, _)| !view.incarnations.contains_key(node)) {
            self.node_ended(*node, known.serving.unwrap_or(known.ended), &mut settled);
        }
        self.follow_serving(view, &mut settled);
        self.settle(settled);
        self.follow_leader(view, before.and_then(|before| before.leading), reborn);
        self.check_ready();
    }

    /// Nothing of an earlier incarnation goes on, but for the routes announced to others: that starts again.
    fn begin_incarnation(&self, view: &ClusterView) {
        debug!(incarnation = view.me.incarnation.0, "live side begins an incarnation");
        // Routes are the broker's: it takes back those of the connections that it closes.
        self.links.load().values().for_each(|link| link.restart());
        let inbound: Vec<_> = self.inbound.lock().values().cloned().collect();
        for inbound in inbound {
            inbound.restart(view.me.incarnation, || self.forget_routes(inbound.node));
        }
        let lost = self.claimer.lock().begin_incarnation();
        self.perform(lost);
        self.table.lock().stop();
    }

    fn follow_members(self: &Arc<Self>, view: &ClusterView) -> Settled {
        let known = self.links.load_full();
        let wanted = || view.members.iter().filter(|node| **node != view.me.node);
        let mut settled = Settled::default();
        if known.len() == wanted().count() && wanted().all(|node| known.contains_key(node)) {
            return settled;
        }
        let mut links = Links::clone(&known);
        links.retain(|node, link| {
            let stays = view.members.contains(node);
            if !stays {
                settled.merge(link.end(Incarnation(u64::MAX)));
            }
            stays
        });
        for node in wanted() {
            links.entry(*node).or_insert_with(|| {
                let link = Arc::new(PeerLink::new(*node, self.settings.link_bytes_max));
                for lane in [CONTROL, DATA] {
                    self.settings.handle.spawn(stream::run(self.this.clone(), Arc::downgrade(&link), lane));
                }
                link
            });
        }
        self.links.store(Arc::new(links));
        settled
    }

    fn node_ended(&self, node: NodeId, incarnation: Incarnation, settled: &mut Settled) {
        if let Some(link) = self.links.load().get(&node) {
            settled.merge(link.end(incarnation));
        }
        let inbound = self.inbound.lock().get(&node).cloned();
        if let Some(inbound) = inbound {
            inbound.end(incarnation, || self.forget_routes(node));
        }
        let todo = self.claimer.lock().node_ended(node, incarnation);
        self.perform(todo);
        let grants = self.table.lock().node_ended(node, incarnation);
        self.answer_claims(grants);
    }

    fn follow_serving(&self, view: &ClusterView, settled: &mut Settled) {
        let mut announced = self.announced.lock();
        announced.serving = view.others_serving().collect();
        let links = self.links.load();
        for (node, incarnation) in &announced.serving {
            if let Some(link) = links.get(node) {
                settled.merge(link.observe(*incarnation));
                link.send_complete(*incarnation, Body::RoutesComplete(RoutesComplete {}));
            }
        }
    }

    fn follow_leader(&self, view: &ClusterView, led: Option<u64>, reborn: bool) {
        let todo = self.claimer.lock().set_leader(view.term, view.leader);
        self.perform(todo);
        match view.leading {
            Some(term) if reborn || led != Some(term) => self.lead_claims(term, view.others_serving().collect()),
            Some(_) => {}
            // About to lead, it keeps what is asked of it until then.
            None if view.leader != Some(view.me.node) => self.table.lock().stop(),
            None => {}
        }
    }

    /// Once per incarnation: whether every serving node has announced its routes and waits for this node's acknowledgements.
    pub(super) fn check_ready(&self) {
        let Some(view) = self.view.load_full() else { return };
        if self.leases.is_ready() || view.me.incarnation == Incarnation(0) || !view.is_up() {
            return;
        }
        let inbound = self.inbound.lock();
        let complete = |(node, incarnation)| inbound.get(&node).is_some_and(|inbound| inbound.is_complete(incarnation));
        let ready = view.others_serving().all(complete);
        drop(inbound);
        if ready {
            info!(incarnation = view.me.incarnation.0, "routes of every serving node are known");
            self.leases.set_ready(view.me.incarnation);
        }
    }

    /// A stream of another node begins.
    #[allow(clippy::result_large_err)] // tonic's own type
    pub(super) fn greet(
        &self,
        me: Incarnation,
        from: NodeId,
        incarnation: Incarnation,
        lane: usize,
    ) -> Result<(Arc<Inbound>, u64), Status> {
        let inbound = self.inbound.lock().entry(from).or_insert_with(|| Arc::new(Inbound::new(from))).clone();
        let over = self.view.load().as_ref().and_then(|view| view.incarnations.get(&from).map(|known| known.ended));
        if let Some(over) = over {
            inbound.end(over, || self.forget_routes(from));
        }
        let received = inbound
            .hello(me, incarnation, lane, || self.forget_routes(from))
            .map_err(|error: ReceiveError| Status::failed_precondition(error.to_string()))?;
        if let Some(link) = self.links.load().get(&from) {
            self.settle(link.observe(incarnation));
        }
        Ok((inbound, received))
    }
}
