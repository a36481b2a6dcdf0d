//! Proposals and read barriers, wherever the leader is.
//! The way of a command: `proposer` (batches) -> `sender` (to the leader) -> `raft` (log, majority) -> `replica` (apply)
//! -> `hub` (effects, answers).
//! Always true: an answer comes from this node's own apply, so it is never negative and never early.
mod barrier;
mod hub;
mod proposer;
mod sender;
mod service;

pub(crate) use barrier::Barriers;
pub(crate) use hub::{Hub, IncarnationEvent};
pub(crate) use proposer::Proposer;
pub(crate) use sender::Sender;
pub(crate) use service::ProposalService;
