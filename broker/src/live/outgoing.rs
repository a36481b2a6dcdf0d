//! What waits for a client's socket.
//! Always true: bytes leave in the order they were added; a large payload is not copied, so it is in memory once however many
//! clients it goes to, and nobody spends time on it but the socket.
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// Smaller payloads are copied: together with what is before and behind they leave in one write.
pub const SHARED_BYTES_MIN: usize = 64 << 10;
/// What was written goes from the front of the buffer when it is so much.
const WRITTEN_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: BytesMut,
    /// So many of `bytes` are written.
    written: usize,
    /// Most connections never have any.
    large: Option<Box<Large>>,
}

/// Payloads beside the buffer.
#[derive(Debug, Default)]
struct Large {
    /// With their places in `bytes`, in order; what was written of the first is cut off.
    waiting: VecDeque<(usize, Bytes)>,
    bytes: usize,
}

impl Outgoing {
    /// For encoding behind everything that waits.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Adds a payload without copying it.
    pub fn share(&mut self, payload: &Bytes) {
        let large = self.large.get_or_insert_default();
        large.bytes += payload.len();
        large.waiting.push_back((self.bytes.len(), payload.clone()));
    }

    /// Bytes that are not written.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.bytes.len() - self.written + self.large.as_ref().map_or(0, |large| large.bytes)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unsent() == 0
    }

    /// What is to be written next, as far as it lies in one piece; empty when nothing waits.
    #[must_use]
    pub fn next(&self) -> &[u8] {
        match self.large.as_ref().and_then(|large| large.waiting.front()) {
            Some((place, payload)) if *place == self.written => payload,
            Some((place, _)) => &self.bytes[self.written..*place],
            None => &self.bytes[self.written..],
        }
    }

    /// So much of [`Self::next`] was written.
    pub fn wrote(&mut self, bytes: usize) {
        if let Some(large) = &mut self.large
            && let Some((place, payload)) = large.waiting.front_mut()
            && *place == self.written
        {
            payload.advance(bytes);
            large.bytes -= bytes;
            if payload.is_empty() {
                large.waiting.pop_front();
            }
            if large.waiting.is_empty() {
                self.large = None;
            }
        } else {
            self.written += bytes;
        }
    }

    /// Releases what was written, if it is worth it: for when the socket takes no more.
    pub fn compact(&mut self) {
        if self.written > WRITTEN_BYTES_MAX {
            self.bytes.advance(self.written);
            if let Some(large) = &mut self.large {
                large.waiting.iter_mut().for_each(|(place, _)| *place -= self.written);
            }
            self.written = 0;
        }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
        self.large = None;
    }

    /// A position for [`Self::since`].
    #[must_use]
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// A copy of what was added since `position`, for the log. Nothing may have been written meanwhile.
    #[must_use]
    pub fn since(&self, position: usize) -> Vec<u8> {
        let (mut copy, mut at) = (Vec::new(), position);
        let large = self.large.iter().flat_map(|large| &large.waiting);
        for (place, payload) in large.filter(|(place, _)| *place > position) {
            copy.extend_from_slice(&self.bytes[at..*place]);
            copy.extend_from_slice(payload);
            at = *place;
        }
        copy.extend_from_slice(&self.bytes[at..]);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_were_added_however_many_the_socket_takes() {
        for takes in [1, 7, 1000, 50_000, 70_000, usize::MAX] {
            let (mut out, mut expected, mut came, mut added) = (Outgoing::default(), Vec::new(), Vec::new(), 0_u8);
            for round in 0..60 {
                let position = out.end();
                let before = expected.len();
                for size in [3, 0, 1000][..round % 4 % 3 + 1].iter().copied() {
                    added += 1;
                    out.buffer().extend_from_slice(&vec![added; size]);
                    expected.extend(vec![added; size]);
                    if round % 3 == 0 {
                        let payload = Bytes::from(vec![added ^ 0xFF; 20_000 + size]);
                        out.share(&payload);
                        expected.extend_from_slice(&payload);
                    }
                }
                assert!(out.since(position) == expected[before..]);
                for _ in 0..round % 5 {
                    let taken = out.next().len().min(takes);
                    came.extend_from_slice(&out.next()[..taken]);
                    out.wrote(taken);
                }
                out.compact();
                assert_eq!(out.unsent(), expected.len() - came.len());
            }
            while !out.is_empty() {
                let taken = out.next().len().min(takes);
                assert!(taken > 0);
                came.extend_from_slice(&out.next()[..taken]);
                out.wrote(taken);
            }
            assert!(came == expected);
        }
    }

    #[test]
    fn a_large_payload_is_shared_and_released_when_it_is_written() {
        let payload = Bytes::from(vec![1; SHARED_BYTES_MIN]);
        let mut out = Outgoing::default();
        out.buffer().extend_from_slice(b"head");
        out.share(&payload);
        assert_eq!(out.next(), b"head");
        out.wrote(4);
        assert_eq!(out.next().as_ptr(), payload.as_ptr());
        out.wrote(SHARED_BYTES_MIN);
        assert!(out.is_empty() && payload.is_unique());
        out.share(&payload);
        out.clear();
        assert!(out.is_empty() && payload.is_unique());
    }
}
