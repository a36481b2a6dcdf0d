//! What a session needs of the node around it, by concern. The connection's task implements it
//! ([`crate::session_env`]); tests record.
use super::QueueItem;
use crate::live::{
    Delivery,
    counters::CounterValues,
    router::{Choice, Targets},
};
use bytes::{Bytes, BytesMut};
use mosquorum_cluster::{
    ids::{LogIndex, Millis, NodeId},
    state::{Command, LoopId, Message},
};
use mosquorum_proto::mqtt::{PublishProperties, QoS, Subscription, TopicFilter, TopicName};
use std::sync::Arc;

/// All of it.
pub trait Env: Output + Cluster + Routing + Access + Control + Trace + Journal {}

impl<T: Output + Cluster + Routing + Access + Control + Trace + Journal> Env for T {}

/// Packets on their way to the client, and what this round counts.
pub trait Output {
    /// Encoded packets on their way to the client.
    fn out(&mut self) -> &mut BytesMut;
    /// Adds a large payload to `out` without copying it.
    fn share(&mut self, payload: &Bytes);
    /// So much waits in `out` that only answers should be added.
    fn out_congested(&self) -> bool;
    fn count(&mut self) -> &mut CounterValues;
}

/// The replicated state, and what is proposed to it.
pub trait Cluster {
    /// The cluster's time.
    fn now(&self) -> Millis;
    /// This node.
    fn node(&self) -> NodeId;
    /// Proposes to the replicated state; the answer comes by ticket.
    fn submit(&mut self, command: Command, ticket: u64);
    /// Whether "nobody durable subscribed" needs a read barrier to be believed (other nodes exist).
    fn needs_barrier(&self) -> bool;
    fn barrier(&mut self, ticket: u64);
    /// Tells other nodes which live subscriptions began and ended; answered when all of them know these, and all that
    /// began on this node before.
    fn change_routes(&mut self, added: Vec<TopicFilter>, removed: Vec<TopicFilter>, ticket: u64);
    /// Entries of this client's queue in the replicated state from `seq` on, at most `max`, and fewer when they are large;
    /// whether there are more behind them.
    fn queue(&mut self, from_seq: u64, max: usize, into: &mut Vec<QueueItem>) -> bool;
    /// Retained messages that match, after the topic `cursor`; returns where to go on, `None` at the end.
    fn retained(
        &mut self,
        filter: &TopicFilter,
        cursor: Option<TopicName>,
        max: usize,
        into: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName>;
    /// For a message of this client, if messages are marked.
    fn next_mark(&mut self) -> Option<LoopId>;
    /// What marks of this cluster begin with.
    fn origin(&mut self) -> [u8; 16];
}

/// Live subscriptions, and who gets a message.
pub trait Routing {
    fn targets(&mut self, topic: &TopicName) -> Arc<Targets>;
    /// Who of each shared group gets the message; `logged`: it goes through the log, which serves durable members.
    fn choose(&mut self, targets: &Targets, message: &Message, logged: bool) -> Vec<Choice>;
    /// Delivers to live subscribers here and elsewhere, there not before the entry `after` is applied (0: at once); `true` if
    /// the ticket will be answered (QoS 1 and 2 elsewhere).
    fn deliver(
        &mut self,
        message: &Arc<Message>,
        targets: &Targets,
        choices: Vec<Choice>,
        logged: bool,
        after: LogIndex,
        ticket: Option<u64>,
    ) -> bool;
    /// The entry `applied` has these nodes give the message to members of groups: sees to it that another member gets it if
    /// a node is gone before. `true` if the ticket will be answered.
    fn watch_groups(
        &mut self,
        message: &Arc<Message>,
        groups: Vec<(TopicFilter, NodeId)>,
        applied: LogIndex,
        ticket: Option<u64>,
    ) -> bool;
    fn choose_again(&mut self, message: Arc<Message>, group: &TopicFilter);
    /// Whether it existed, as below. `may_merge`: of overlapping ones, one copy is enough.
    fn subscribe_live(&mut self, subscription: &Subscription, identifier: Option<u32>, may_merge: bool) -> bool;
    fn unsubscribe_live(&mut self, filter: &TopicFilter) -> bool;
    /// Live messages that came for this client since its packets were begun with: its own ones above all.
    fn arrived(&mut self) -> Vec<Delivery> {
        Vec::new()
    }
}

/// What the client may do.
pub trait Access {
    fn may_read(&mut self, topic: &TopicName) -> bool;
    fn may_write(&mut self, topic: &TopicName) -> bool;
    /// check_retain_source: whether who published it still may.
    fn source_may_write(&mut self, message: &Message) -> bool;
    fn may_subscribe(&mut self, filter: &TopicFilter) -> bool;
    fn may_unsubscribe(&mut self, filter: &TopicFilter) -> bool;
    /// The broker holds more memory than it may: nothing is taken in.
    fn memory_exceeded(&self) -> bool {
        false
    }
}

/// Requests to the broker itself.
pub trait Control {
    /// A request to the broker itself; topic and text of the answer.
    fn control(&mut self, topic: &TopicName, payload: &[u8]) -> Option<(TopicName, String)>;
}

/// Steps of a message whose sender samples its trace.
pub trait Trace {
    /// May put another trace context into the properties.
    fn trace_published(&mut self, properties: &mut PublishProperties, topic: &TopicName, qos: QoS) {
        let _ = (properties, topic, qos);
    }
    fn trace_committed(&mut self, message: &Message, since: Millis) {
        let _ = (message, since);
    }
    fn trace_delivered(&mut self, message: &Message) {
        let _ = message;
    }
}

/// Lines for the log.
pub trait Journal {
    /// Subscriptions that were made or ended: for the log.
    fn note_subscribed(&mut self, filter: &TopicFilter, qos: QoS) {
        let _ = (filter, qos);
    }
    fn note_unsubscribed(&mut self, filter: &TopicFilter) {
        let _ = filter;
    }
    /// The client has no right to something, or it is too large. The one place where that is counted and logged; `topic`: name
    /// or filter.
    fn denied(&mut self, what: Denied, topic: &str);
}

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    Publish,
    /// A PUBLISH larger than `message_size_limit`.
    LargePublish,
    Subscribe,
    Unsubscribe,
    /// A message to this client.
    Delivery,
    /// A retained message whose publisher may not write it any more.
    RetainedSource,
    Will,
}
