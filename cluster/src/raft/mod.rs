//! Raft: the only module that knows the Raft library (openraft).
//! Always true: the library's types and errors do not leave this module; on disk and between nodes everything has our
//! own form (`entry`, `protos/raft.proto`), so that another version of the library changes this folder only.
//! Not here: what a batch means (`state`), when one is proposed (`consensus`), who may join (`membership`).
mod engine;
mod log;
mod machine;
mod network;
mod senders;
mod service;
mod snapshot;
mod types;
mod voters;

pub(crate) use engine::{Engine, EngineStart, Leadership, MemberView, NotLeader, View};
pub(crate) use network::PeerIdentity;
pub(crate) use service::{RaftService, START_TIMEOUT, collect_parts, peer_of};
pub(crate) use types::vote_after_snapshot;

/// Does something that may take long (a read of the disk, many entries at once) on a thread of the runtime, whose other tasks
/// go on elsewhere meanwhile: heartbeats are among them.
fn out_of_the_way<R>(work: impl FnOnce() -> R) -> R {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod testing;
