//! The replicated state: durable sessions with their subscriptions and queues, retained messages, wills, serving nodes.
//! Always true: equal logs give equal states; nothing here reads a clock, a file or a random number, or waits. Whatever
//! is derived (places in tables, trees, deadlines) follows from what is written, so a state that was loaded goes on
//! exactly like the one that wrote it. Hashes serve lookups only, never an order.
//! Bounds: each queue by its limits, a session's inbound identifiers by their number (65,535), commands of a batch by
//! [`BATCH_COMMANDS_MAX`], long work of one entry by [`STEP_WORK`], marks by [`SEEN_MAX`], names by [`NAMES_MAX`]. The number of sessions, of filters and of retained topics
//! is bounded by whoever makes the commands.
//! Not here: who may do what (checked before a command is made), live connections, clean sessions.
//!
//! What may touch what: [`State`] owns parts (sessions, routes, retained messages ...) whose fields are private to their
//! files. A command is applied by handlers; each borrows the parts of its concern and reaches the others by the handler
//! inside it. From the inside out: queues, routing, delivery, publishing (beside it replays and subscriptions), sessions,
//! nodes. Only what concerns the state as a whole (`whole`: applying an entry, cuts, loading, reading) sees all parts.
mod admissions;
mod command;
mod connect;
mod connections;
mod counters;
mod deadlines;
mod deliver;
mod effects;
mod expiry;
mod gone;
mod groups;
mod lives;
mod loop_ids;
mod lost;
mod members;
mod message;
mod messages;
mod nodes;
mod publish;
mod queue;
mod queues;
mod records;
mod remains;
mod replay;
mod retained;
mod routes;
mod routing;
mod rules;
mod serving;
mod session;
mod sessions;
mod steps;
mod subscribe;
mod whole;
mod wills;

pub use admissions::{Admission, NAMES_MAX, Word};
pub use command::*;
pub use counters::{Counters, Totals};
pub use loop_ids::{LoopId, SEEN_MAX};
pub use members::GroupStanding;
pub use message::Message;
pub use messages::MessageId;
pub use nodes::{NodeRecord, Standing};
pub use queue::{Entry, EntryState, Queue};
pub use records::{LoadError, Record};
pub use rules::{Door, NodeRules};
pub use session::{NEVER, Session, SubscriptionRecord};
pub use steps::STEP_WORK;
pub use whole::{
    Applied, BATCH_COMMANDS_MAX, Body, Changes, DurableMatch, Evicted, SessionWalk, State, SubscriptionOptions,
    SubscriptionWalk, WALK_VISITS,
};

use crate::ids::{LogIndex, Millis};

/// Of the entry that is being applied, or was last.
#[derive(Debug, Clone, Copy, Default)]
struct Moment {
    index: LogIndex,
    time: Millis,
}
