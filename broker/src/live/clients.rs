//! How many clients a listener serves.
use mosquorum_proto::mqtt::ProtocolVersion;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Clients in service at one listener, by version of their protocol.
#[derive(Debug, Default)]
pub struct Clients([AtomicUsize; 3]);

/// Counts one client until it is dropped.
pub struct InService<'a>(&'a AtomicUsize);

const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5.0"];

impl Clients {
    /// How many there are, by version as operators write it.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VERSIONS.into_iter().zip(&self.0).map(|(version, count)| (version, count.load(Relaxed) as u64))
    }

    pub fn enter(&self, version: ProtocolVersion) -> InService<'_> {
        let count = match version {
            ProtocolVersion::V31 => &self.0[0],
            ProtocolVersion::V311 => &self.0[1],
            ProtocolVersion::V5 => &self.0[2],
        };
        count.fetch_add(1, Relaxed);
        InService(count)
    }
}

impl Drop for InService<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
