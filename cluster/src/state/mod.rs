//! The replicated state: durable sessions with their subscriptions and queues, retained messages, wills, serving nodes.
//! Always true: equal logs give equal states; nothing here reads a clock, a file or a random number, or waits. Whatever
//! is derived (places in tables, trees, deadlines) follows from what is written, so a state that was loaded goes on
//! exactly like the one that wrote it. Hashes serve lookups only, never an order.
//! Bounds: each queue by its limits, a session's inbound identifiers by their number (65,535), commands of a batch by
//! [`BATCH_COMMANDS_MAX`], long work of one entry by [`STEP_WORK`], marks by [`SEEN_MAX`], names by [`NAMES_MAX`]. The number of sessions, of filters and of retained topics
//! is bounded by whoever makes the commands.
//! Not here: who may do what (checked before a command is made), live connections, clean sessions.
mod acknowledge;
mod admissions;
mod apply;
mod changes;
mod command;
mod connect;
mod counters;
mod expiry;
mod groups;
mod load;
mod loop_ids;
mod lost;
mod members;
mod message;
mod messages;
mod nodes;
mod paging;
mod publish;
mod queue;
mod read;
mod records;
mod remains;
mod replay;
mod retained;
mod rules;
mod serving;
mod session;
mod steps;
mod subscribe;
#[cfg(test)]
mod tests;
mod walk;
mod wills;

pub use admissions::{Admission, NAMES_MAX, Word};
pub use apply::{Applied, BATCH_COMMANDS_MAX};
pub use changes::Changes;
pub use command::*;
pub use counters::{Counters, Totals};
pub use loop_ids::{LoopId, SEEN_MAX};
pub use members::GroupStanding;
pub use message::Message;
pub use messages::MessageId;
pub use nodes::{NodeRecord, Standing};
pub use paging::{Body, Evicted};
pub use queue::{Entry, EntryState, Queue};
pub use read::{DurableMatch, SubscriptionOptions};
pub use records::{LoadError, Record};
pub use rules::{Door, NodeRules};
pub use session::{NEVER, Session, SubscriptionRecord};
pub use steps::STEP_WORK;
pub use walk::{SessionWalk, SubscriptionWalk, WALK_VISITS};

use crate::{
    ids::{Epoch, Incarnation, LogIndex, Millis, NodeId},
    recent_changes::RecentChanges,
    retained_tree::RetainedTree,
    subscription_tree::SubscriptionTree,
};
use mosquorum_proto::mqtt::TopicName;
use session::SessionPlace;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

/// The state itself; see the module's description.
#[derive(Default)]
pub struct State {
    applied: LogIndex,
    time: Millis,
    nodes: nodes::Nodes,
    lost: lost::Lost,
    sessions: session::Sessions,
    retained: RetainedTree<retained::Retained>,
    replays: replay::Replays,
    messages: messages::MessageStore,
    counters: Counters,
    seen: loop_ids::Seen,
    admissions: admissions::Admissions,

    // Derived from the above.
    /// Ordinary subscriptions.
    tree: SubscriptionTree<SessionPlace, session::Options>,
    groups: groups::Groups,
    deadlines: BTreeSet<(Millis, expiry::Deadline)>,
    connected: usize,
    /// Sessions that have ended and still take room.
    remains: VecDeque<SessionPlace>,
    /// Sessions that have a connection, by where it is and in the order in which they were made.
    owned: BTreeMap<(NodeId, Incarnation, Epoch), SessionPlace>,
    /// Of what routes to durable sessions: their subscriptions, and where they are connected.
    route_changes: RecentChanges,

    // Notes for the next cut.
    sessions_unwritten: Vec<SessionPlace>,
    ended: Vec<changes::Gone>,
    retained_unwritten: BTreeSet<TopicName>,

    // Settings and buffers of this node.
    in_memory: bool,
    effects_for: Option<NodeId>,
    /// Of the entry that is being applied.
    origin: NodeId,
    steps: steps::Steps,
    publishes: u64,
    matches: Vec<publish::Match>,
    chosen: Vec<(members::Member, Arc<queue::Extra>)>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("applied", &self.applied).field("totals", &self.totals()).finish_non_exhaustive()
    }
}
