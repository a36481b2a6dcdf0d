//! Where messages for a session go: by its subscriptions, to its connection or into its queue.
//! Always true: the routes hold exactly the subscriptions of all sessions; every connection is listed where its node's end
//! finds it; whoever remembers routes is told what changed; a session leaves its connection once.
//! Not here: what a message does when it has found its session (`deliver`).
use super::{
    ConnectCommand, Session, SubscriptionRecord,
    connections::Connections,
    members::Member,
    publish::{Barred, Match, Publishing, Scratch},
    queue::Extra,
    queues::QueueHandler,
    routes::Routes,
    session::Options,
    sessions::{SessionPlace, Sessions},
};
use crate::ids::{Epoch, Incarnation, Millis, NodeId};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::sync::Arc;

/// Changes where messages for sessions go.
pub(super) struct RouteHandler<'a> {
    queues: QueueHandler<'a>,
    connections: &'a mut Connections,
    routes: &'a mut Routes,
}

impl<'a> RouteHandler<'a> {
    #[inline]
    pub(super) fn new(queues: QueueHandler<'a>, connections: &'a mut Connections, routes: &'a mut Routes) -> Self {
        Self { queues, connections, routes }
    }

    #[inline]
    pub(super) fn queues(&mut self) -> &mut QueueHandler<'a> {
        &mut self.queues
    }

    #[inline]
    pub(super) fn sessions(&self) -> &Sessions {
        self.queues.sessions()
    }

    #[inline]
    pub(super) fn session(&self, place: SessionPlace) -> &Session {
        &self.sessions()[place]
    }

    pub(super) fn routes(&self) -> &Routes {
        self.routes
    }

    /// All messages may take another way from now on.
    pub(super) fn note_all_changed(&mut self) {
        self.routes.all_changed();
    }
}

/// Connections.
impl RouteHandler<'_> {
    /// The session, if the connection of `epoch` still has it.
    #[inline]
    pub(super) fn owned(&self, client_id: &Utf8, epoch: Epoch) -> Option<SessionPlace> {
        let place = self.sessions().find(client_id)?;
        self.connections.is_owned(self.session(place), epoch).then_some(place)
    }

    /// A connection has the session from now on.
    pub(super) fn attach(&mut self, place: SessionPlace, command: &ConnectCommand, epoch: Epoch) {
        self.queues.attach(place, command, epoch);
        self.connections.add(&command.owner, epoch, place);
        let session = &self.queues.sessions()[place];
        self.routes.set_presence(session);
        self.routes.changed_of(session);
    }

    /// The session has had no connection since then.
    pub(super) fn leave(&mut self, place: SessionPlace, sent_before: u64, since: Millis) {
        let owner = self.queues.detach(place, sent_before, since);
        let session = &self.queues.sessions()[place];
        if let Some(owner) = owner {
            self.connections.remove(&owner, session.epoch());
        }
        self.routes.changed_of(session);
        self.routes.set_presence(session);
    }

    /// As [`RouteHandler::leave`], now, when all that is queued may have been sent.
    pub(super) fn leave_now(&mut self, place: SessionPlace) {
        let (tail, now) = (self.session(place).queue().tail(), self.queues.now().time);
        self.leave(place, tail, now);
    }

    /// If the session's connection is over with its node, it is without one from now on; whether it was over.
    #[inline]
    pub(super) fn detach_lost(&mut self, place: SessionPlace) -> bool {
        self.connections.any_over() && self.detach_if_over(place)
    }

    fn detach_if_over(&mut self, place: SessionPlace) -> bool {
        let session = self.session(place);
        let Some(since) = session.owner().and_then(|owner| self.connections.lost_since(&owner)) else { return false };
        let (tail, epoch) = (session.queue().tail(), session.epoch());
        self.leave(place, tail, since);
        if self.session(place).is_unsettled() {
            self.connections.note_unsettled(epoch, place);
        }
        true
    }

    /// The node's incarnations up to this one are over.
    pub(super) fn lose(&mut self, node: NodeId, upto: Incarnation) {
        if self.connections.lose(node, upto, self.queues.now().time) {
            self.routes.all_changed();
        }
    }

    /// Whether sessions may have lost their connections with their nodes and do not know yet.
    #[inline]
    pub(super) fn any_lost(&self) -> bool {
        self.connections.any_over()
    }

    /// As [`Connections::next_lost`].
    pub(super) fn next_lost(&mut self) -> Option<SessionPlace> {
        self.connections.next_lost()
    }

    /// As [`Connections::take_unsettled`].
    pub(super) fn take_unsettled(&mut self, place: SessionPlace) -> bool {
        let epoch = self.session(place).epoch();
        self.connections.take_unsettled(epoch, place)
    }
}

/// Subscriptions.
impl RouteHandler<'_> {
    /// The one before, if any, is replaced.
    pub(super) fn put_subscription(&mut self, place: SessionPlace, filter: &TopicFilter, record: SubscriptionRecord) {
        self.queues.put_subscription(place, filter, record);
        self.routes.insert(place, &self.queues.sessions()[place], filter, &record);
    }

    /// Whether there was one.
    pub(super) fn remove_subscription(&mut self, place: SessionPlace, filter: &TopicFilter) -> bool {
        let Some(record) = self.queues.take_subscription(place, filter) else { return false };
        self.routes.remove(place, filter, &record);
        true
    }

    /// Messages that match the filter may take another way.
    pub(super) fn note_changed(&mut self, filter: &TopicFilter) {
        self.routes.changed(filter);
    }

    /// Messages for the session take another way.
    pub(super) fn note_changed_of(&mut self, place: SessionPlace) {
        self.routes.changed_of(&self.queues.sessions()[place]);
    }

    /// Gives back the room of one subscription of the session that was laid aside first; `false` if it has none.
    pub(super) fn clear_one_aside(&mut self) -> bool {
        let Some((place, filter, record)) = self.queues.pop_aside_subscription() else { return false };
        self.routes.remove(place, &filter, &record);
        true
    }
}

/// Who gets a message.
impl RouteHandler<'_> {
    /// Adds everybody who gets the message by an ordinary subscription, and those who have their turn in shared groups.
    pub(super) fn find(&mut self, publishing: &Publishing<'_>, served: &[TopicFilter], into: &mut Scratch) {
        let Publishing { message, barred, .. } = *publishing;
        let topic = message.topic.as_str();
        let (publish, Scratch { matches, chosen, .. }) = (into.next_publish(), into);
        let queues = &mut self.queues;
        let none_ended = !queues.sessions().has_aside();
        self.routes.ordinary(topic, |place, options| {
            let session = &queues.sessions()[place];
            if !none_ended && session.is_ended() {
                return;
            }
            if options.no_local && *session.client_id() == message.publisher_id {
                return;
            }
            if barred.has(session) {
                return;
            }
            if session.limits().merge_overlapping
                && let Some(found) = queues.match_of(place, publish, matches.len())
            {
                return merge(&mut matches[found], options);
            }
            matches.push(Match { session: place, options: *options, extra: None });
        });
        self.routes.choose(topic, served, (barred, self.queues.sessions()), chosen);
    }

    /// The next member of a group that may read the message.
    pub(super) fn choose_of(&mut self, group: &TopicFilter, barred: Barred<'_>) -> Option<(Member, Arc<Extra>)> {
        self.routes.choose_of(group, (barred, self.queues.sessions()))
    }
}

/// Adds another of the session's subscriptions to a delivery [MQTT-3.3.4-2, MQTT-3.3.4-4].
fn merge(found: &mut Match, options: &Options) {
    let before = found.options;
    found.options.qos = before.qos.max(options.qos);
    found.options.retain_as_published |= options.retain_as_published;
    let Some(identifier) = options.identifier else { return };
    match (before.identifier, &mut found.extra) {
        (None, _) => found.options.identifier = Some(identifier),
        (Some(_), Some(extra)) => Arc::make_mut(extra).identifiers.push(identifier.get()),
        (Some(first), extra @ None) => {
            let identifiers = [first.get(), identifier.get()].into_iter().collect();
            *extra = Some(Arc::new(Extra { group: None, identifiers }));
        }
    }
}
