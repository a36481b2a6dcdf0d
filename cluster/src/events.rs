//! What happens to the cluster, for its operator.
/// Target of the lines that log it.
pub(crate) const EVENTS: &str = "cluster_events";
