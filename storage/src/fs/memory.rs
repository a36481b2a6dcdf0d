//! The twin of the disk.

/// What a crash leaves of the unsynced writes and names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    LoseAll,
    /// An arbitrary subset, drawn from the seed, in sectors of 512 bytes: torn writes.
    Subset { seed: u64 },
    /// Everything (kill -9 without power loss).
    KeepAll,
}

/// A file system in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryFs {}
