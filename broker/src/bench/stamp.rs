//! What each payload begins with: which stream it belongs to, its place there, and when it was due.
use std::time::Instant;

/// A publisher's messages on one topic.
pub(super) type StreamId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub stream: StreamId,
    /// From 0, without gaps.
    pub sequence: u32,
    /// Nanoseconds on the [`Clock`].
    pub due: u64,
}

impl Stamp {
    #[must_use]
    pub(super) fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.stream.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..].copy_from_slice(&self.due.to_le_bytes());
        bytes
    }

    /// `None` if somebody else's message is too short to be ours.
    #[must_use]
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (stream, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (due, _) = rest.split_first_chunk()?;
        Some(Self {
            stream: u32::from_le_bytes(*stream),
            sequence: u32::from_le_bytes(*sequence),
            due: u64::from_le_bytes(*due),
        })
    }
}

/// Nanoseconds since the run began; the same for publishers and subscribers, since they are one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    #[must_use]
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
    #[must_use]
    pub(super) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { stream: 7, sequence: u32::MAX, due: 1 << 50 };
        let mut payload = stamp.bytes().to_vec();
        payload.extend([0; 48]);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
    }
}
