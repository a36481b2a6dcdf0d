//! What survives a crash: the Raft log, the state's durable form, snapshots and the data directory.
//!
//! Always true: all I/O of ours goes through [`fs::Fs`], so a test can drop whatever was not synced; a failed sync is
//! never retried; nothing is deleted to make a start succeed; outside data (a file, a directory) never panics.
//! Not here: Raft (`cluster`), what the bytes mean (payloads, keys and values are opaque), any async runtime.

pub mod directory;
pub mod fs;
pub mod histogram;
pub mod kv;
pub mod log;
pub mod snapshot;
