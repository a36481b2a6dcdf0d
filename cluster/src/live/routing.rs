//! Routes and forwarded messages in operation.
//! Always true: what this node announces of its routes over a link comes in the order of the changes; a change is known when
//! every node that serves has acknowledged it, those that begin to serve get it before they do.
use super::{
    PeerLinks,
    encode::{self, Handed, filters_from_wire, filters_to_wire},
    peer_link::{PeerLink, Pushed},
    pending::{Pending, Settled, Waiter},
    routes::LocalRoutes,
};
use crate::{
    facade::{Answer, Completion, Forward, OrdinaryReceivers},
    ids::{Incarnation, LogIndex, NodeId},
    state::Message,
};
use mosquorum_proto::{
    mqtt::{QoS, TopicFilter},
    peer::live::{Publish, Returned, RouteChange, RoutesComplete, link_item::Body},
};
use smallvec::SmallVec;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// Filters in one item: so long lookups may have to wait when one arrives.
const FILTERS_PER_ITEM: usize = 1000;

/// This node's routes, and who has to acknowledge changes of them.
#[derive(Default)]
pub(super) struct AnnouncedRoutes {
    pub(super) routes: LocalRoutes,
    pub(super) serving: BTreeMap<NodeId, Incarnation>,
}

impl PeerLinks {
    pub(super) fn announce_routes(
        &self,
        mut added: Vec<TopicFilter>,
        mut removed: Vec<TopicFilter>,
        reply: Arc<dyn Completion>,
        ticket: u64,
    ) {
        let mut announced = self.announced.lock();
        let AnnouncedRoutes { routes, serving } = &mut *announced;
        // Nobody waits for the end of a subscription, so one that changes nothing is nobody else's business.
        let only_ends = added.is_empty() && !removed.is_empty();
        routes.change(&mut added, &mut removed);
        let links = self.links.load();
        let waits = serving.keys().filter(|node| links.contains_key(node)).count();
        let waiter = Waiter { reply, ticket, answer: Answer::RoutesKnown };
        if only_ends && removed.is_empty() {
            drop(announced);
            waiter.share(0);
            return;
        }
        let body = change(&added, &removed);
        let mut settled = Settled::default();
        if waits == 0 {
            links.values().for_each(|link| settled.merge(link.push_routes(body.clone(), None)));
            drop(announced);
            settled.settle();
            waiter.share(0);
            return;
        }
        let pending = waiter.share(waits);
        for (node, link) in links.iter() {
            // An empty change is sent as well to those that are waited for: one before may be on its way.
            let waited_for = serving.get(node).copied().zip(pending.clone());
            settled.merge(link.push_routes(body.clone(), waited_for));
        }
        drop(announced);
        settled.settle();
    }

    /// The control lane of a link is open: the first time in its incarnation, everything is announced.
    pub(super) fn sync(&self, link: &PeerLink) {
        let announced = self.announced.lock();
        let synced = link.sync(|| {
            let all: Vec<&TopicFilter> = announced.routes.all().collect();
            let mut items: Vec<_> = all
                .chunks(FILTERS_PER_ITEM)
                .map(|some| Body::Routes(RouteChange { added: filters_to_wire(some.iter().copied()), removed: vec![] }))
                .collect();
            if items.is_empty() {
                items.push(change(&[], &[]));
            }
            items
        });
        if let Some(incarnation) = announced.serving.get(&link.node) {
            link.send_complete(*incarnation, Body::RoutesComplete(RoutesComplete {}));
        }
        drop(announced);
        if synced {
            self.resend_claims(link.node);
        }
    }

    pub(super) fn receive_routes(&self, from: NodeId, change: RouteChange) -> Option<()> {
        let (added, removed) = (filters_from_wire(change.added)?, filters_from_wire(change.removed)?);
        if added.is_empty() && removed.is_empty() {
            return Some(());
        }
        let mut table = self.remote.write();
        let mut changes = self.route_changes.lock();
        added.iter().chain(&removed).for_each(|filter| changes.changed(filter));
        added.into_iter().for_each(|filter| table.add(from, filter));
        removed.iter().for_each(|filter| table.remove(from, filter));
        self.routes_version.store(changes.version(), Ordering::Release);
        Some(())
    }

    /// What a node announced is void.
    pub(super) fn forget_routes(&self, node: NodeId) {
        let mut table = self.remote.write();
        if table.forget(node) {
            let mut changes = self.route_changes.lock();
            changes.all_changed();
            self.routes_version.store(changes.version(), Ordering::Release);
        }
    }

    pub(super) fn forward_message(&self, forward: Forward, reply: Option<(Arc<dyn Completion>, u64)>) {
        let Forward { message, nodes, groups, logged, after, at_apply, incarnation } = forward;
        if incarnation.is_some() && self.me().map(|me| me.incarnation) != incarnation {
            return;
        }
        let mut targets: SmallVec<[Target; 4]> =
            nodes.into_iter().map(|node| Target { node, ordinary: true, groups: Vec::new() }).collect();
        for (filter, node) in groups {
            match targets.iter_mut().find(|target| target.node == node) {
                Some(target) => target.groups.push(filter),
                None => targets.push(Target { node, ordinary: false, groups: vec![filter] }),
            }
        }
        let reply = reply.filter(|_| message.qos != QoS::AtMostOnce);
        let waiter = reply.map(|(reply, ticket)| Waiter { reply, ticket, answer: Answer::Forwarded });
        let pending = waiter.and_then(|waiter| waiter.share(targets.len()));
        let links = self.links.load();
        for Target { node, ordinary, groups } in targets {
            let handed =
                Handed { message: message.clone(), ordinary, logged, groups, after, at_apply, tried: Vec::new() };
            let again = handed.groups.clone();
            let pushed = match links.get(&node) {
                Some(link) => link.push_publish(handed, pending.clone()),
                None => Pushed::Gone,
            };
            if pushed == Pushed::Gone {
                self.choose_again(&message, again, vec![node]);
                pending.clone().into_iter().for_each(Pending::settle);
            }
        }
    }

    /// A member of these groups was not to be found here: whoever sent the message chooses again.
    pub(super) fn send_back(&self, to: NodeId, incarnation: Incarnation, handed: &Handed) {
        self.answer(to, incarnation, Body::Returned(Returned { publish: Some(encode::to_wire(handed)) }));
    }

    /// The node had no member of the groups any more: another one, or this one, or nobody.
    pub(super) fn receive_returned(&self, from: NodeId, publish: Publish) -> Option<()> {
        let Handed { message, groups, mut tried, .. } = encode::from_wire(publish)?;
        tried.push(from);
        self.choose_again(&message, groups, tried);
        Some(())
    }

    /// Gives answers that were due while a lock was held; what was on its way to a node that is gone and any member of
    /// a group may get, goes to another one first.
    pub(super) fn settle(&self, mut settled: Settled) {
        for Handed { message, groups, mut tried, .. } in std::mem::take(&mut settled.orphans) {
            tried.extend(self.gone());
            self.choose_again(&message, groups, tried);
        }
        settled.settle();
    }

    /// Members that do not serve.
    fn gone(&self) -> Vec<NodeId> {
        let Some(view) = self.view.load_full() else { return Vec::new() };
        let serves = |node: &NodeId| view.incarnations.get(node).is_some_and(|known| known.serving.is_some());
        view.members.iter().copied().filter(|node| !serves(node)).collect()
    }

    fn choose_again(&self, message: &Arc<Message>, groups: Vec<TopicFilter>, tried: Vec<NodeId>) {
        for group in groups {
            let others = self.remote.read().group_members(&group);
            let links = self.links.load();
            let next = others.iter().filter(|node| !tried.contains(node)).find_map(|node| links.get(node));
            let (groups, tried) = (vec![group.clone()], tried.clone());
            let handed = Handed {
                message: message.clone(),
                ordinary: false,
                logged: false,
                groups,
                after: LogIndex(0),
                at_apply: false,
                tried,
            };
            let pushed = next.map(|link| link.push_publish(handed, None));
            if pushed != Some(Pushed::Queued) {
                self.serve_group_here(message, group);
            }
        }
    }

    fn serve_group_here(&self, message: &Arc<Message>, group: TopicFilter) {
        for unserved in self.live.deliver(message.clone(), OrdinaryReceivers::Nobody, &[group]) {
            self.live.group_unserved(message.clone(), unserved);
        }
    }
}

struct Target {
    node: NodeId,
    ordinary: bool,
    groups: Vec<TopicFilter>,
}

impl PeerLinks {
    /// Sends another node a request or a notification that is sent again when the link to it begins anew.
    pub(super) fn send(&self, node: NodeId, body: Body) {
        if let Some(link) = self.links.load().get(&node) {
            link.push_control(body);
        }
    }

    /// Answers what this incarnation of another node asked; if it is over, nobody.
    pub(super) fn answer(&self, node: NodeId, incarnation: Incarnation, body: Body) {
        if let Some(link) = self.links.load().get(&node) {
            link.push_answer(incarnation, body);
        }
    }
}

pub(super) type Links = BTreeMap<NodeId, Arc<PeerLink>>;

fn change(added: &[TopicFilter], removed: &[TopicFilter]) -> Body {
    Body::Routes(RouteChange { added: filters_to_wire(added), removed: filters_to_wire(removed) })
}
