//! Subscriptions of the clean sessions connected to this node.
//! Always true: a session holds each filter once; members of a shared group are in order of subscription.
use super::mailbox::Mailbox;
use mosquorum_cluster::{ids::ConnectionId, subscription_tree::SubscriptionTree};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, Utf8};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// One live subscription, as the router needs it.
#[derive(Clone)]
pub struct LiveSubscription {
    pub mailbox: Arc<Mailbox>,
    pub client_id: Utf8,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub identifier: Option<u32>,
    /// The client speaks a version before MQTT 5: one copy is enough (`allow_duplicate_messages false`).
    pub may_merge: bool,
}

/// Live members of one shared subscription on this node.
pub struct Group {
    pub filter: TopicFilter,
    pub members: Vec<(ConnectionId, LiveSubscription)>,
    /// Position of the next member; shared by all publishers.
    cursor: AtomicUsize,
}

impl Group {
    /// The next member in turn, the first subscriber first.
    pub fn next_member(&self) -> Option<&LiveSubscription> {
        let turn = self.cursor.fetch_add(1, Relaxed);
        self.members.get(turn % self.members.len().max(1)).map(|(_, member)| member)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    Session(ConnectionId),
    Group(Utf8),
}

enum Held {
    One(LiveSubscription),
    Group(Arc<Group>),
}

/// What matches one topic.
#[derive(Default)]
pub struct LiveMatches {
    pub sessions: Vec<(ConnectionId, LiveSubscription)>,
    pub groups: Vec<Arc<Group>>,
}

impl LiveMatches {
    /// One copy for all overlapping subscriptions of a session, with the highest QoS [MQTT-3.3.5-1 of 3.1.1].
    pub fn merge(&mut self) {
        let mut places: HashMap<ConnectionId, usize> = HashMap::new();
        let mut merged: Vec<(ConnectionId, LiveSubscription)> = Vec::with_capacity(self.sessions.len());
        for (connection, live) in self.sessions.drain(..) {
            match places.entry(connection) {
                Entry::Occupied(place) if live.may_merge => {
                    let known = &mut merged[*place.get()].1;
                    known.qos = known.qos.max(live.qos);
                }
                place => {
                    place.insert_entry(merged.len());
                    merged.push((connection, live));
                }
            }
        }
        self.sessions = merged;
    }
}

#[derive(Default)]
pub struct LiveSubscriptions {
    tree: SubscriptionTree<Holder, Held>,
    /// Subscriptions of all sessions, and the shared ones of them.
    count: usize,
    shared: usize,
}

impl LiveSubscriptions {
    /// Adds or replaces; tells whether it existed.
    pub fn insert(&mut self, connection: ConnectionId, subscription: &Subscription, live: LiveSubscription) -> bool {
        let filter = &subscription.filter;
        let existed = match filter.share_name() {
            None => self.tree.insert(filter.matched_part(), Holder::Session(connection), Held::One(live)).is_some(),
            Some(name) => self.insert_member(connection, name, filter, live),
        };
        if !existed {
            self.count += 1;
            self.shared += usize::from(filter.share_name().is_some());
        }
        existed
    }

    fn insert_member(
        &mut self,
        connection: ConnectionId,
        name: &str,
        filter: &TopicFilter,
        live: LiveSubscription,
    ) -> bool {
        let holder = Holder::Group(Utf8::from(name));
        let (mut members, cursor) = match self.tree.remove(filter.matched_part(), &holder) {
            Some(Held::Group(group)) => (group.members.clone(), group.cursor.load(Relaxed) % group.members.len()),
            _ => (Vec::new(), 0),
        };
        let existed = match members.iter_mut().find(|(id, _)| *id == connection) {
            Some((_, member)) => {
                *member = live;
                true
            }
            None => {
                members.push((connection, live));
                false
            }
        };
        let group = Group { filter: filter.clone(), members, cursor: AtomicUsize::new(cursor) };
        self.tree.insert(filter.matched_part(), holder, Held::Group(Arc::new(group)));
        existed
    }

    /// Removes one session's subscription; `false` if there was none.
    pub fn remove(&mut self, connection: ConnectionId, filter: &TopicFilter) -> bool {
        let existed = match filter.share_name() {
            None => self.tree.remove(filter.matched_part(), &Holder::Session(connection)).is_some(),
            Some(name) => self.remove_member(connection, name, filter),
        };
        if existed {
            self.count -= 1;
            self.shared -= usize::from(filter.share_name().is_some());
        }
        existed
    }

    fn remove_member(&mut self, connection: ConnectionId, name: &str, filter: &TopicFilter) -> bool {
        let holder = Holder::Group(Utf8::from(name));
        let Some(Held::Group(group)) = self.tree.remove(filter.matched_part(), &holder) else { return false };
        let position = group.members.iter().position(|(id, _)| *id == connection);
        let mut members = group.members.clone();
        let mut cursor = group.cursor.load(Relaxed) % members.len();
        if let Some(position) = position {
            members.remove(position);
            cursor -= usize::from(cursor > position);
        }
        if !members.is_empty() {
            let group = Group { filter: filter.clone(), members, cursor: AtomicUsize::new(cursor) };
            self.tree.insert(filter.matched_part(), holder, Held::Group(Arc::new(group)));
        }
        position.is_some()
    }

    pub fn matches(&self, topic: &str) -> LiveMatches {
        let mut found = LiveMatches::default();
        self.tree.matches(topic, |holder, held| match (holder, held) {
            (Holder::Session(connection), Held::One(live)) => found.sessions.push((*connection, live.clone())),
            (_, Held::Group(group)) => found.groups.push(group.clone()),
            (Holder::Group(_), Held::One(_)) => {}
        });
        found
    }

    /// The live group of this whole `$share/...` filter.
    pub fn group(&self, filter: &TopicFilter) -> Option<Arc<Group>> {
        let holder = Holder::Group(Utf8::from(filter.share_name()?));
        match self.tree.get(filter.matched_part(), &holder) {
            Some(Held::Group(group)) => Some(group.clone()),
            _ => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Live subscriptions of all sessions, shared ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn shared_count(&self) -> usize {
        self.shared
    }

    /// Every live subscription, by whole filter, for people to read. Copies: not for hot paths.
    pub fn all(&self) -> Vec<(String, Utf8, QoS)> {
        let mut all = Vec::new();
        for (filter, _, held) in self.tree.iter() {
            match held {
                Held::One(live) => all.push((filter, live.client_id.clone(), live.qos)),
                Held::Group(group) => all.extend(
                    group
                        .members
                        .iter()
                        .map(|(_, live)| (group.filter.as_str().to_owned(), live.client_id.clone(), live.qos)),
                ),
            }
        }
        all
    }
}
