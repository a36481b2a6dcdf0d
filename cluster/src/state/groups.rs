//! Shared subscription groups of durable sessions (MQTT 5.0 section 4.8.2).
//! Always true: members take turns in the order they subscribed, the first subscriber first; members that are connected
//! are preferred (but for those with `shared_offline`), so a message waits in a queue only if nobody of the group is there; a group without members does not
//! exist. The turn is a position in the order of subscription, so it means the same on every node.
//! Not here: live members of clean sessions; the origin weighs them before it proposes a publish.
use super::{
    members::{Member, Members, Presence},
    publish::Barred,
    queue::Extra,
    session::Options,
    sessions::{SessionPlace, Sessions},
};
use crate::subscription_tree::SubscriptionTree;
use mosquorum_proto::mqtt::TopicFilter;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Marks queue entries that came through the group.
    mark: Arc<Extra>,
    members: Members,
    /// The member that had the last turn.
    cursor: u64,
}

impl Group {
    pub(super) fn mark(&self) -> &Arc<Extra> {
        &self.mark
    }

    pub(super) fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The member whose turn it is, of those that may read the message: connected ones first.
    fn next(&self, (barred, sessions): Turn<'_>) -> Option<u64> {
        let after = self.cursor + 1;
        let (members, ready) = (self.members.all(), self.members.ready());
        if !barred.is_nobody() {
            let may = |since: &u64| !barred.has(&sessions[members[since].session]);
            let ready = ready.range(after..).chain(ready.range(..after));
            let all = members.range(after..).chain(members.range(..after));
            return ready.chain(all.map(|(since, _)| since)).copied().find(may);
        }
        if let Some(next) = ready.range(after..).next().or_else(|| ready.first()) {
            return Some(*next);
        }
        members.range(after..).next().or_else(|| members.first_key_value()).map(|(since, _)| *since)
    }
}

type GroupPlace = u32;

/// Who has no turn at a message, and where members are looked up for it.
pub(super) type Turn<'a> = (Barred<'a>, &'a Sessions);

#[derive(Clone, Default)]
pub(super) struct Groups {
    /// By whole filter; a place in `all`.
    by_filter: BTreeMap<TopicFilter, GroupPlace>,
    all: Vec<Option<(TopicFilter, Group)>>,
    free: Vec<GroupPlace>,
    tree: SubscriptionTree<GroupPlace, ()>,
    members: usize,
    /// Groups whose turn must be written again; gone ones included.
    unwritten: BTreeSet<TopicFilter>,
}

impl Groups {
    pub(super) fn insert(
        &mut self,
        filter: &TopicFilter,
        since: u64,
        (session, options): (SessionPlace, Options),
        presence: Presence,
    ) {
        let place = match self.by_filter.get(filter) {
            Some(place) => *place,
            None => self.add(filter),
        };
        let (_, group) = self.all[place as usize].as_mut().expect(IN_USE);
        self.members += usize::from(group.members.insert(since, session, options, presence));
    }

    fn add(&mut self, filter: &TopicFilter) -> GroupPlace {
        let mark = Arc::new(Extra { group: Some(filter.clone()), ..Extra::default() });
        let group = Group { mark, members: Members::default(), cursor: 0 };
        let group = Some((filter.clone(), group));
        let place = match self.free.pop() {
            Some(place) => {
                self.all[place as usize] = group;
                place
            }
            None => {
                self.all.push(group);
                u32::try_from(self.all.len() - 1).expect("fewer than 2^32 groups in memory")
            }
        };
        self.by_filter.insert(filter.clone(), place);
        self.tree.insert(filter.matched_part(), place, ());
        place
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, since: u64) {
        let Some(place) = self.by_filter.get(filter).copied() else { return };
        let (_, group) = self.all[place as usize].as_mut().expect(IN_USE);
        self.members -= usize::from(group.members.remove(since));
        if group.members.all().is_empty() {
            if group.cursor != 0 {
                self.unwritten.insert(filter.clone());
            }
            self.tree.remove(filter.matched_part(), &place);
            self.by_filter.remove(filter);
            self.all[place as usize] = None;
            self.free.push(place);
        }
    }

    pub(super) fn set_presence(&mut self, filter: &TopicFilter, since: u64, presence: Presence) {
        let Some(place) = self.by_filter.get(filter) else { return };
        let (_, group) = self.all[*place as usize].as_mut().expect(IN_USE);
        group.members.set_presence(since, presence);
    }

    /// Chooses the next member of each group that matches, ordered by filter; `served` groups are left out.
    pub(super) fn choose(
        &mut self,
        topic: &str,
        served: &[TopicFilter],
        turn: Turn<'_>,
        chosen: &mut Vec<(Member, Arc<Extra>)>,
    ) {
        if self.members == 0 {
            return;
        }
        let Self { tree, all, unwritten, .. } = self;
        tree.matches(topic, |place, ()| {
            let (filter, group) = all[*place as usize].as_mut().expect(IN_USE);
            if !served.contains(filter) {
                chosen.extend(take_turn(filter, group, turn, unwritten));
            }
        });
        // The tree's order at one filter is that of the groups' creation, which loading does not bring back.
        if chosen.len() > 1 {
            chosen.sort_unstable_by(|(_, a), (_, b)| a.group.cmp(&b.group));
        }
    }

    pub(super) fn choose_of(&mut self, filter: &TopicFilter, turn: Turn<'_>) -> Option<(Member, Arc<Extra>)> {
        let place = self.by_filter.get(filter)?;
        let (_, group) = self.all[*place as usize].as_mut().expect(IN_USE);
        take_turn(filter, group, turn, &mut self.unwritten)
    }

    pub(super) fn set_cursor(&mut self, filter: &TopicFilter, cursor: u64) -> bool {
        let Some(place) = self.by_filter.get(filter) else { return false };
        let (_, group) = self.all[*place as usize].as_mut().expect(IN_USE);
        group.cursor = cursor;
        true
    }

    /// Turns that must be written again; `None`: there is nothing to be written of the group any more.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (TopicFilter, Option<u64>)> {
        let unwritten = std::mem::take(&mut self.unwritten);
        unwritten.into_iter().map(|filter| {
            // It may have been made again, and nobody had a turn yet.
            let cursor = self.get(&filter).map(Group::cursor).filter(|cursor| *cursor != 0);
            (filter, cursor)
        })
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }

    pub(super) fn get(&self, filter: &TopicFilter) -> Option<&Group> {
        self.find(filter).map(|(_, group)| group)
    }

    pub(super) fn find(&self, filter: &TopicFilter) -> Option<(&TopicFilter, &Group)> {
        let place = self.by_filter.get(filter)?;
        self.all[*place as usize].as_ref().map(|(filter, group)| (filter, group))
    }

    pub(super) fn matches<'t>(&'t self, topic: &str, mut f: impl FnMut(&'t TopicFilter, &'t Group)) {
        self.tree.matches(topic, |place, ()| {
            let (filter, group) = self.all[*place as usize].as_ref().expect(IN_USE);
            f(filter, group);
        });
    }

    pub(super) fn has_match(&self, topic: &str) -> bool {
        self.members > 0 && self.tree.has_match(topic)
    }

    /// Memberships in all groups.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Ordered by filter.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&TopicFilter, &Group)> {
        self.by_filter.values().filter_map(|place| self.all[*place as usize].as_ref()).map(|(f, group)| (f, group))
    }
}

const IN_USE: &str = "places are listed in `by_filter` and `tree` exactly while the group exists";

fn take_turn(
    filter: &TopicFilter,
    group: &mut Group,
    turn: Turn<'_>,
    unwritten: &mut BTreeSet<TopicFilter>,
) -> Option<(Member, Arc<Extra>)> {
    let since = group.next(turn)?;
    if group.cursor != since {
        group.cursor = since;
        if !unwritten.contains(filter) {
            unwritten.insert(filter.clone());
        }
    }
    Some((group.members.all()[&since], group.mark.clone()))
}
