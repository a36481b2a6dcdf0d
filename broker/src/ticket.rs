//! What an answer of the cluster is for: the two low bits say which kind, above them is the number of the pipeline's item
//! or of the request.
pub(crate) const BARRIER: u64 = 0;
pub(crate) const COMMIT: u64 = 1;
pub(crate) const FORWARD: u64 = 2;
pub(crate) const REQUEST: u64 = 3;

pub(crate) fn new(number: u64, kind: u64) -> u64 {
    number << 2 | kind
}

/// Whether it is for a message of the client that takes effect elsewhere: in the log, or on other nodes.
pub(crate) fn is_of_message(ticket: u64) -> bool {
    matches!(ticket & 3, COMMIT | FORWARD)
}
