//! Who serves which client identifier, for clients of which nothing is replicated; without I/O.
//!
//! The leader keeps a table in memory ([`ClaimTable`]): for each identifier every owner that may still be there. Who
//! claims gets a fresh epoch and that list, has each of them fenced by its node (or learns that the node is down), then
//! owns the identifier and reports to the leader who is gone ([`Claimer`]). A new leader first learns from every serving node
//! whom it serves or is about to serve.
//!
//! **Always true: two connections never own one identifier at a time.** Why: an owner is in the table of the leader it
//! got its answer from, so whoever claims later under that leader has it fenced, and a node that fences a claim which is
//! still waiting ends that claim. A node that has announced to (or knows of) a leader of a later term takes no answer
//! of an earlier one any more; what it took before is in its announcement. A node that came up later than the new
//! leader's first entry knows the new term from the log.
//!
//! Not here: sessions in the replicated state, whose epochs come from the log.
mod claimer;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use claimer::{Action, Claimer};
pub(crate) use table::{ClaimTable, Grant, Request};
