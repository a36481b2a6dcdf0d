//! Who gets the messages of one topic, and of each shared group that matches it.
//! Always true: these are found once per topic and remembered ([`super::target_cache`]), so they hold nothing of one message.
//! Not here: finding them, and choosing among a group's members ([`super::router`]).
use super::{
    mailbox::Mailbox,
    subscriptions::{Group, LiveMatches, MemberNumber},
};
use mosquorum_cluster::{
    RemoteRoutes,
    ids::{Epoch, NodeId},
    state::{DeliveryOptions, DurableMatch, GroupStanding},
};
use mosquorum_proto::mqtt::{QoS, TopicFilter, Utf8};
use smallvec::SmallVec;
use std::{collections::HashMap, sync::Arc};

/// Everybody who gets messages of one topic, until a filter changes that matches it ([`super::Router::changed_since`]).
pub struct Targets {
    pub live: LiveMatches,
    pub remote: RemoteRoutes,
    /// A durable session (or group with durable members) matches: QoS 1 and 2 go through the log.
    pub durable: bool,
    /// Durable sessions that match and may not read the topic (ascending): they are left out of all else here. Beyond
    /// [`super::rights::UNREADABLE_MAX`] they are taken for readers: their queues fill, and their connections judge.
    pub unreadable: Arc<[Epoch]>,
    /// QoS 0 goes through the log too: somebody who is away keeps it, or gets it with a higher QoS.
    pub queues_qos0: bool,
    /// Durable sessions connected to this node, for QoS 0.
    pub durable_here: Vec<(Arc<Mailbox>, DurableTarget)>,
    /// Nodes where other durable sessions are connected, for QoS 0.
    pub durable_nodes: SmallVec<[NodeId; 4]>,
    pub groups: Vec<SharedTarget>,
    /// Where each group is, once there are more than a few.
    pub(crate) places: HashMap<TopicFilter, usize>,
}

/// Among so few groups one is found by looking at all.
const FEW_GROUPS: usize = 8;

#[derive(Clone)]
pub struct DurableTarget {
    pub(super) client_id: Utf8,
    pub(super) no_local: bool,
    retain_as_published: bool,
    identifiers: SmallVec<[u32; 2]>,
}

/// One shared group's candidates of all kinds.
pub struct SharedTarget {
    pub filter: TopicFilter,
    pub live: Option<Arc<Group>>,
    /// Those of `live` that may read the topic. `None`: all.
    pub readers: Option<Box<[MemberNumber]>>,
    pub remote: Vec<(NodeId, u32)>,
    /// Durable members that are connected to this node, how many are to others (both for QoS 0), how many there are, and how
    /// many of them take their turn now.
    pub durable_here: DurableMembers,
    pub durable_nodes: SmallVec<[(NodeId, u32); 4]>,
    pub durable: u32,
    pub durable_ready: u32,
}

/// Durable members of a group that are connected to this node.
pub enum DurableMembers {
    /// So many: the state knows whose turn it is.
    Counted(u32),
    /// Those that may read the topic.
    Judged(Vec<(Arc<Mailbox>, DurableTarget)>),
}

impl DurableTarget {
    pub(super) fn of(found: &DurableMatch<'_>) -> Self {
        Self {
            client_id: found.session.client_id().clone(),
            no_local: found.subscription.no_local,
            retain_as_published: found.subscription.retain_as_published,
            identifiers: found.subscription.identifier.into_iter().collect(),
        }
    }

    pub(super) fn options(&self, retain: bool) -> DeliveryOptions {
        DeliveryOptions {
            qos: QoS::AtMostOnce,
            retain: self.retain_as_published && retain,
            identifiers: self.identifiers.clone(),
        }
    }
}

impl DurableMembers {
    pub(super) const NONE: Self = Self::Counted(0);

    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Counted(members) => *members,
            Self::Judged(members) => members.len() as u32,
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Counted(_) => 0,
            Self::Judged(members) => size_of_val(&members[..]),
        }
    }

    pub(super) fn judged(&mut self, mailbox: Arc<Mailbox>, target: DurableTarget) {
        match self {
            Self::Judged(members) => members.push((mailbox, target)),
            Self::Counted(_) => *self = Self::Judged(vec![(mailbox, target)]),
        }
    }
}

impl SharedTarget {
    pub(crate) fn nobody(filter: TopicFilter) -> Self {
        Self {
            filter,
            live: None,
            readers: None,
            remote: Vec::new(),
            durable_here: DurableMembers::NONE,
            durable_nodes: SmallVec::new(),
            durable: 0,
            durable_ready: 0,
        }
    }

    /// Live ones that may read the topic.
    pub(super) fn members_here(&self) -> usize {
        match &self.readers {
            Some(readers) => readers.len(),
            None => self.live.as_ref().map_or(0, |live| live.len()),
        }
    }

    /// Whether other nodes know of members here, be it that none may read the topic.
    pub(super) fn has_members_here(&self) -> bool {
        self.durable_here.len() > 0 || self.live.as_ref().is_some_and(|live| !live.is_empty())
    }

    pub(super) fn elsewhere(&self) -> impl Iterator<Item = &(NodeId, u32)> {
        self.remote.iter().chain(&self.durable_nodes)
    }

    pub(super) fn forget_elsewhere(&mut self) {
        self.remote.clear();
        self.durable_nodes.clear();
    }

    pub(super) fn forget_durable(&mut self) {
        (self.durable, self.durable_ready) = (0, 0);
        self.durable_here = DurableMembers::NONE;
        self.durable_nodes.clear();
    }

    pub(super) fn add_durable_elsewhere(&mut self, node: NodeId) {
        match self.durable_nodes.iter_mut().find(|(known, _)| *known == node) {
            Some((_, members)) => *members += 1,
            None => self.durable_nodes.push((node, 1)),
        }
    }
}

impl Targets {
    pub(crate) fn nobody() -> Self {
        Self {
            durable: false,
            unreadable: Arc::default(),
            queues_qos0: false,
            durable_here: Vec::new(),
            durable_nodes: SmallVec::new(),
            groups: Vec::new(),
            places: HashMap::new(),
            live: LiveMatches::default(),
            remote: RemoteRoutes::default(),
        }
    }

    /// Bytes of its lists, roughly.
    pub(crate) fn memory(&self) -> usize {
        let of_group = |group: &SharedTarget| {
            size_of::<SharedTarget>()
                + group.readers.as_ref().map_or(0, |readers| size_of_val(&**readers))
                + group.durable_here.memory()
        };
        size_of_val(&self.live.sessions[..])
            + size_of_val(&self.live.groups[..])
            + size_of_val(&self.durable_here[..])
            + self.groups.iter().map(of_group).sum::<usize>()
    }

    fn place_of(&mut self, filter: &TopicFilter) -> Option<usize> {
        if self.groups.len() <= FEW_GROUPS {
            return self.groups.iter().position(|group| group.filter == *filter);
        }
        for (place, group) in self.groups.iter().enumerate().skip(self.places.len()) {
            self.places.insert(group.filter.clone(), place);
        }
        self.places.get(filter).copied()
    }

    pub(super) fn shared(&mut self, filter: &TopicFilter) -> &mut SharedTarget {
        let position = self.place_of(filter).unwrap_or_else(|| {
            self.groups.push(SharedTarget::nobody(filter.clone()));
            self.groups.len() - 1
        });
        &mut self.groups[position]
    }

    /// A group with durable members, all of whom may read the topic.
    pub(super) fn add_group(&mut self, filter: &TopicFilter, group: GroupStanding, here: NodeId) {
        self.durable = true;
        self.queues_qos0 |= group.queues_qos0;
        let shared = self.shared(filter);
        (shared.durable, shared.durable_ready) = (group.members as u32, group.ready as u32);
        for (node, members) in group.connected {
            match node == here {
                true => shared.durable_here = DurableMembers::Counted(members as u32),
                false => shared.durable_nodes.push((node, members as u32)),
            }
        }
    }

    /// Whether nobody needs to be waited for: QoS 1 and 2 are done once they are in local mailboxes.
    pub fn is_local(&self) -> bool {
        !self.durable && self.remote.nodes.is_empty() && self.groups.iter().all(|group| group.remote.is_empty())
    }
}
