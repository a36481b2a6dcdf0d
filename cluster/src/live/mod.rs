//! The live side between nodes: leases, reliable links, routes, claims.
//! Always true: the cores ([`lease`], [`link`], [`routes`], [`claims`]) have no I/O and no clock; the shells around them
//! wait for nothing while they hold a lock.
//! Not here: what is agreed on (`state`, `raft`), who may become leader, connections of clients (`broker`).
mod claims;
mod clock;
pub mod lease;
mod link;
mod routes;
#[cfg(test)]
mod testing;
