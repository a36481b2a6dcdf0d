//! The messages between nodes, as generated from `protos/`. The services that carry them are in `cluster`.
//! Always true: payloads are `Bytes` that share the buffer they were received in.

/// Raft, proposals, read barriers and membership: `protos/raft.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod raft {
    include!(concat!(env!("OUT_DIR"), "/mosquorum.raft.v1.rs"));
}

/// Leases, routes, claims and forwarded messages: `protos/peer.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub)] // generated
pub mod live {
    include!(concat!(env!("OUT_DIR"), "/mosquorum.peer.v1.rs"));
}
