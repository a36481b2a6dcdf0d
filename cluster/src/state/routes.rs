//! Where publishes find durable subscriptions, and of which filters the answer changed.
//! Always true: the tree holds exactly the ordinary subscriptions of all sessions, the groups exactly the shared ones;
//! those of a session that was laid aside stay in the tree until they are cleared.
//! Not here: who notes a change (whoever changes what routes a message: subscriptions, connections, nodes).
use super::{
    Session, SubscriptionRecord,
    groups::{Group, Groups, Turn},
    members::{Member, Presence},
    queue::Extra,
    session::Options,
    sessions::SessionPlace,
};
use crate::{recent_changes::RecentChanges, subscription_tree::SubscriptionTree};
use mosquorum_proto::mqtt::TopicFilter;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Routes {
    /// Ordinary subscriptions.
    tree: SubscriptionTree<SessionPlace, Options>,
    groups: Groups,
    /// Of what routes to durable sessions: their subscriptions, and where they are connected.
    changes: RecentChanges,
}

impl Routes {
    /// Puts a session's subscription where publishes find it.
    pub(super) fn insert(
        &mut self,
        place: SessionPlace,
        session: &Session,
        filter: &TopicFilter,
        record: &SubscriptionRecord,
    ) {
        if filter.share_name().is_some() {
            self.groups.insert(filter, record.since, (place, record.options()), Presence::of(session));
        } else {
            self.tree.insert(filter.as_str(), place, record.options());
        }
    }

    pub(super) fn remove(&mut self, place: SessionPlace, filter: &TopicFilter, record: &SubscriptionRecord) {
        if filter.share_name().is_some() {
            self.groups.remove(filter, record.since);
        } else {
            self.tree.remove(filter.as_str(), &place);
        }
    }

    /// What the session is to its shared groups has changed.
    pub(super) fn set_presence(&mut self, session: &Session) {
        if session.shared() > 0 {
            let presence = Presence::of(session);
            for (filter, record) in session.subscriptions().iter().filter(|(filter, _)| filter.share_name().is_some()) {
                self.groups.set_presence(filter, record.since, presence);
            }
        }
    }

    /// Ordinary subscriptions that match, those of sessions that were laid aside included.
    #[inline]
    pub(super) fn ordinary<'t>(&'t self, topic: &str, mut f: impl FnMut(SessionPlace, &'t Options)) {
        self.tree.matches(topic, |place, options| f(*place, options));
    }

    pub(super) fn has_match(&self, topic: &str) -> bool {
        self.tree.has_match(topic) || self.groups.has_match(topic)
    }

    /// Ordinary ones, and memberships in groups.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tree.len(), self.groups.members())
    }

    #[cfg(test)]
    pub(super) fn options(&self, filter: &TopicFilter, place: SessionPlace) -> Option<&Options> {
        self.tree.get(filter.as_str(), &place)
    }
}

/// Shared groups.
impl Routes {
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(super) fn group(&self, filter: &TopicFilter) -> Option<&Group> {
        self.groups.get(filter)
    }

    /// As [`Groups::choose`].
    #[inline]
    pub(super) fn choose(
        &mut self,
        topic: &str,
        served: &[TopicFilter],
        turn: Turn<'_>,
        chosen: &mut Vec<(Member, Arc<Extra>)>,
    ) {
        self.groups.choose(topic, served, turn, chosen);
    }

    /// As [`Groups::choose_of`].
    pub(super) fn choose_of(&mut self, filter: &TopicFilter, turn: Turn<'_>) -> Option<(Member, Arc<Extra>)> {
        self.groups.choose_of(filter, turn)
    }

    pub(super) fn set_cursor(&mut self, filter: &TopicFilter, cursor: u64) {
        self.groups.set_cursor(filter, cursor);
    }

    /// As [`Groups::take_unwritten`].
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (TopicFilter, Option<u64>)> {
        self.groups.take_unwritten()
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.groups.forget_unwritten();
    }
}

/// What changed.
impl Routes {
    pub(super) fn changes(&self) -> &RecentChanges {
        &self.changes
    }

    pub(super) fn succeed(&mut self, former: &Self) {
        self.changes.succeed(&former.changes);
    }

    pub(super) fn changed(&mut self, filter: &TopicFilter) {
        self.changes.changed(filter);
    }

    /// Messages for the session take another way.
    pub(super) fn changed_of(&mut self, session: &Session) {
        self.changes.changed_each(session.subscriptions().keys());
    }

    pub(super) fn all_changed(&mut self) {
        self.changes.all_changed();
    }
}
