//! Which node has live subscribers for which filters, without I/O: this node's own filters ([`LocalRoutes`]) and what the
//! others announced ([`RemoteTable`]).
//! Always true: what a node announced is forgotten when it begins a new incarnation or is declared down; a shared group counts its
//! members per node.
//! Not here: who the subscribers are (`broker`), durable subscriptions (`state`).
mod local;
mod remote;

pub(crate) use local::LocalRoutes;
pub(crate) use remote::RemoteTable;
