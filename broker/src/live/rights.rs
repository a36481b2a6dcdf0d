//! Who is left out when receivers are found, because it may not read the topic.
//! Always true: without an ACL file nobody is looked at; only those are left out of whom it is sure on every node that can
//! serve them; whoever is not left out is judged again by its connection when a message is sent.
use super::subscriptions::{LiveSubscription, Reader};
use crate::auth::Readers;
use mosquorum_cluster::{
    ids::{Epoch, NodeId},
    state::{DurableMatch, State},
};
use mosquorum_proto::mqtt::Utf8;
use std::sync::Arc;

/// Sessions that one command names at most, 5 or 6 bytes each.
pub const UNREADABLE_MAX: usize = 4096;

/// Whether a live member may read the topic, as far as the rules of its node say.
pub(super) fn may_read(readers: &Readers, member: &LiveSubscription, topic: &str) -> bool {
    let may = |reader: &Reader| readers.may_read(reader.door, &member.client_id, reader.username.as_deref(), topic);
    member.reader.as_deref().is_none_or(may)
}

/// Durable sessions that match a topic and may not read it.
pub(super) struct Unreadable<'a> {
    readers: &'a Readers,
    here: NodeId,
    topic: &'a str,
    found: Vec<Epoch>,
}

impl<'a> Unreadable<'a> {
    pub(super) fn new(readers: &'a Readers, here: NodeId, topic: &'a str) -> Self {
        Self { readers, here, topic, found: Vec::new() }
    }

    /// Whether this one is to be left out. At the bound nobody more is.
    pub(super) fn takes(&mut self, state: &State, found: &DurableMatch<'_>) -> bool {
        if self.readers.is_open() || !self.is_barred(state, found) {
            return false;
        }
        let epoch = found.session.epoch();
        let known = self.found.last() == Some(&epoch);
        if !known && self.found.len() < UNREADABLE_MAX {
            self.found.push(epoch);
            return true;
        }
        known
    }

    /// Of a session that is connected elsewhere, or nowhere, the rules here are believed only while all nodes have the same:
    /// it may read what any of them lets it read.
    fn is_barred(&self, state: &State, found: &DurableMatch<'_>) -> bool {
        let (readers, session) = (self.readers, found.session);
        let door = session.door();
        if readers.may_read(door, session.client_id(), session.username().map(Utf8::as_str), self.topic) {
            return false;
        }
        let is_here = found.owner.is_some_and(|owner| owner.node == self.here);
        let agree = |fingerprint| state.rules_agree(self.here, door, fingerprint);
        is_here || readers.fingerprint(door).is_some_and(agree)
    }

    /// Ascending, each once.
    pub(super) fn into_epochs(mut self) -> Arc<[Epoch]> {
        self.found.sort_unstable();
        self.found.dedup();
        self.found.into()
    }
}
