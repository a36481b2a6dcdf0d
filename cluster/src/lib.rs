//! What nodes agree on: the replicated state, Raft around it, and the links between nodes.
//! Always true: only `raft` knows the Raft library; `state` has no I/O, no clock, no randomness and no locks.
mod admin_error;
mod alone;
mod consensus;
mod entry;
mod events;
mod facade;
#[cfg(feature = "test-faults")]
pub mod faults;
pub mod fnv;
pub mod ids;
pub mod live;
mod machine_clock;
mod membership;
pub mod memory;
pub mod metrics;
mod node;
mod raft;
pub mod recent_changes;
pub mod recover;
mod replica;
pub mod retained_tree;
pub mod state;
pub mod subscription_tree;
pub mod transport;

pub use admin_error::AdminError;
pub use alone::Alone;
pub use facade::*;
pub use node::{AddServices, Fatal, Persistence, RaftConsensus, RaftSettings, StartError};
