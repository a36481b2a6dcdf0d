//! The live side of one node: connections' mailboxes, clean sessions' subscriptions, who is connected, counters.
//! Always true: nothing here survives the process, and nothing here is needed to keep what was acknowledged to durable
//! sessions.
mod clients;
pub mod congestion;
pub mod counters;
pub mod dropping;
pub mod loop_ids;
pub mod mailbox;
pub mod outgoing;
pub mod registry;
pub mod rights;
pub mod router;
pub mod subscriptions;
pub mod target_cache;
mod targets;

pub use clients::Clients;
pub use counters::{Counters, add};
pub use dropping::Dropping;
pub use mailbox::{Delivery, Inbox, Mailbox, Order, Wakeups};
pub use outgoing::Outgoing;
pub use registry::Registry;
pub use router::Router;
