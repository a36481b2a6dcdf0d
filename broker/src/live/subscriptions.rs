//! Subscriptions of the clean sessions connected to this node.
//! Always true: a session holds each filter once; members of a shared group are in order of subscription.
use super::mailbox::Mailbox;
use mosquorum_cluster::{
    ids::ConnectionId, recent_changes::RecentChanges, state::Door, subscription_tree::SubscriptionTree,
};
use mosquorum_proto::mqtt::{QoS, Subscription, TopicFilter, Utf8};
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
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
    /// Of members of shared groups: among them one that may read is chosen.
    pub reader: Option<Arc<Reader>>,
}

/// By what a client is judged before a message is given to it rather than to another.
#[derive(Debug)]
pub struct Reader {
    pub door: Door,
    pub username: Option<Utf8>,
}

/// Live members of one shared subscription on this node. Joining, leaving and choosing cost the logarithm of their number.
pub struct Group {
    pub filter: TopicFilter,
    members: RwLock<Members>,
    /// The number of the member after the last one chosen; shared by all publishers.
    cursor: AtomicU64,
}

/// Of a member of one group: larger than those of all that subscribed before.
pub type MemberNumber = u64;

/// In the order of subscription.
#[derive(Default)]
struct Members {
    by_number: BTreeMap<MemberNumber, (ConnectionId, LiveSubscription)>,
    numbers: HashMap<ConnectionId, MemberNumber>,
    next: MemberNumber,
}

impl Group {
    fn new(filter: TopicFilter) -> Self {
        Self { filter, members: RwLock::default(), cursor: AtomicU64::new(0) }
    }

    pub fn len(&self) -> usize {
        self.members.read().by_number.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next member in turn, the first subscriber first; of these alone, if they are given.
    pub fn next_member(&self, among: Option<&[MemberNumber]>) -> Option<LiveSubscription> {
        let members = self.members.read();
        let from = self.cursor.load(Relaxed);
        let next = match among {
            None => members.by_number.range(from..).next().or_else(|| members.by_number.first_key_value()),
            Some(numbers) => {
                let (earlier, later) = numbers.split_at(numbers.partition_point(|number| *number < from));
                // Who left meanwhile is passed over.
                later.iter().chain(earlier).find_map(|number| members.by_number.get_key_value(number))
            }
        };
        let (number, (_, member)) = next?;
        self.cursor.store(number + 1, Relaxed);
        Some(member.clone())
    }

    /// The numbers of the members of whom this is true, ascending.
    pub fn members_that(&self, are: impl Fn(&LiveSubscription) -> bool) -> Box<[MemberNumber]> {
        let members = self.members.read();
        let found = members.by_number.iter().filter(|(_, (_, member))| are(member));
        found.map(|(number, _)| *number).collect()
    }

    /// Adds or replaces a member, which keeps its turn; whether it was one.
    fn join(&self, connection: ConnectionId, live: LiveSubscription) -> bool {
        let mut members = self.members.write();
        if let Some(number) = members.numbers.get(&connection).copied() {
            members.by_number.insert(number, (connection, live));
            return true;
        }
        let number = members.next;
        members.next += 1;
        members.numbers.insert(connection, number);
        members.by_number.insert(number, (connection, live));
        false
    }

    fn leave(&self, connection: ConnectionId) -> bool {
        let mut members = self.members.write();
        let number = members.numbers.remove(&connection);
        number.is_some_and(|number| members.by_number.remove(&number).is_some())
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
    /// Of what is found for a topic.
    pub changes: RecentChanges,
}

impl LiveSubscriptions {
    /// Adds or replaces; returns whether it existed.
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
        if let Some(Held::Group(group)) = self.tree.get(filter.matched_part(), &holder) {
            return group.join(connection, live);
        }
        let group = Group::new(filter.clone());
        group.join(connection, live);
        self.tree.insert(filter.matched_part(), holder, Held::Group(Arc::new(group)));
        false
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
        let Some(Held::Group(group)) = self.tree.get(filter.matched_part(), &holder) else { return false };
        let existed = group.leave(connection);
        if group.is_empty() {
            self.tree.remove(filter.matched_part(), &holder);
        }
        existed
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
                        .read()
                        .by_number
                        .values()
                        .map(|(_, live)| (group.filter.as_str().to_owned(), live.client_id.clone(), live.qos)),
                ),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_cluster::ids::ConnectionId;

    fn member(name: &str) -> LiveSubscription {
        LiveSubscription {
            mailbox: Mailbox::new(0),
            client_id: name.into(),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            identifier: None,
            may_merge: false,
            reader: None,
        }
    }

    fn chosen(group: &Group, count: usize) -> Vec<String> {
        (0..count).map(|_| group.next_member(None).unwrap().client_id.to_string()).collect()
    }

    #[test]
    fn members_take_turns_from_the_first_on_and_who_comes_or_goes_takes_nobodys_turn() {
        let mut all = LiveSubscriptions::default();
        let shared = Subscription::new("$share/g/t".try_into().unwrap(), QoS::AtLeastOnce);
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(!all.insert(ConnectionId(number as u64), &shared, member(name)));
        }
        let group = all.group(&shared.filter).unwrap();
        assert_eq!(chosen(&group, 4), ["a", "b", "c", "a"]);
        assert!(all.remove(ConnectionId(1), &shared.filter));
        assert!(!all.remove(ConnectionId(1), &shared.filter));
        assert!(all.insert(ConnectionId(2), &shared, member("c")), "subscribing again keeps the place");
        assert!(!all.insert(ConnectionId(9), &shared, member("d")));
        assert_eq!(chosen(&group, 4), ["c", "d", "a", "c"]);
        for number in [0, 2, 9] {
            assert!(all.remove(ConnectionId(number), &shared.filter));
        }
        assert!(all.group(&shared.filter).is_none() && group.next_member(None).is_none() && all.is_empty());
    }

    #[test]
    fn turns_are_taken_among_those_who_may() {
        let group = Group::new("$share/g/t".try_into().unwrap());
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            group.join(ConnectionId(number as u64), member(name));
        }
        let may = group.members_that(|member| member.client_id.as_str() != "b");
        let next = |among: &[MemberNumber]| group.next_member(Some(among)).map(|member| member.client_id.to_string());
        let names: Vec<_> = (0..4).map(|_| next(&may).unwrap()).collect();
        assert_eq!(names, ["a", "c", "d", "a"]);
        group.leave(ConnectionId(2));
        assert_eq!(next(&may).as_deref(), Some("d"), "who left is passed over");
        assert_eq!(next(&[]), None);
    }

    /// Work, not time: a group that was copied at each join made 100,000 members take 5 * 10^9 copies.
    #[test]
    fn a_large_group_is_joined_and_left_by_one_after_the_other() {
        let mut all = LiveSubscriptions::default();
        let shared = Subscription::new("$share/g/t".try_into().unwrap(), QoS::AtLeastOnce);
        let one = member("m");
        for number in 0..100_000 {
            all.insert(ConnectionId(number), &shared, one.clone());
        }
        assert_eq!(all.group(&shared.filter).unwrap().len(), 100_000);
        for number in 0..100_000 {
            all.remove(ConnectionId(number), &shared.filter);
        }
        assert!(all.is_empty());
    }
}
