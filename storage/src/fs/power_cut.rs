//! The disk, with a power cut at kill -9.

/// Wraps the real file system and keeps unsynced bytes in process memory.
#[derive(Clone, Debug, Default)]
pub struct PowerCutFs {}
