//! Raft: the only module that knows the Raft library (openraft).
//! Always true: the library's types and errors do not leave this module; on disk and between nodes everything has our
//! own form (`encoding`, `protos/raft.proto`), so that another version of the library changes this folder only.
//! Not here: what a batch means (`state`), when one is proposed (`consensus`), who may join (`membership`).
pub(crate) mod encoding;
mod engine;
mod log;
mod machine;
mod network;
mod service;
mod snapshot;
mod types;
mod voters;

pub(crate) use engine::{Engine, EngineError, EngineStart, Leadership, NotLeader, View};
pub(crate) use network::{PART_BYTES, Speaker, cut};
pub(crate) use service::{RaftService, collect_parts, peer_of};
pub(crate) use types::vote_after_snapshot;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod testing;
