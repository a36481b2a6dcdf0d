//! The reliable link from one node to another, without I/O: numbered items, cumulative acknowledgements, repetition of
//! what is not acknowledged after a broken connection (go-back-N).
//! Always true: while both ends keep the incarnations they had, every item is handled exactly once and in order;
//! with a later incarnation of either end both start again at 1 and nothing of before is handled any more.
//! Not here: what items mean, sockets, retry times.
mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

#[cfg(test)]
use inbox::Accepted;
pub(crate) use inbox::{Inbox, LANES, LinkError};
pub(crate) use outbox::Outbox;
