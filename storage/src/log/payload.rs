//! An entry's content in memory.
//! Always true: pieces are never empty, and how the content is cut into them means nothing: payloads with the same bytes are
//! equal.

use std::sync::Arc;

use bytes::Bytes;

/// The content of an entry: one buffer, or several in a row, so that a large part of it can be shared with whoever made it.
#[derive(Clone, Debug, Default)]
pub struct Payload(Pieces);

#[derive(Clone, Debug)]
enum Pieces {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Default for Pieces {
    fn default() -> Self {
        Pieces::One(Bytes::new())
    }
}

impl Payload {
    /// The content of these buffers in a row.
    pub fn of_pieces(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        let (Some(first), second) = (pieces.next(), pieces.next()) else { return Payload::default() };
        match second {
            None => Payload(Pieces::One(first)),
            Some(second) => Payload(Pieces::Many([first, second].into_iter().chain(pieces).collect())),
        }
    }

    /// The buffers in a row; one, which may be empty, or several that are not.
    pub fn pieces(&self) -> &[Bytes] {
        match &self.0 {
            Pieces::One(bytes) => std::slice::from_ref(bytes),
            Pieces::Many(pieces) => pieces,
        }
    }

    /// The first buffer.
    pub fn head(&self) -> &Bytes {
        &self.pieces()[0]
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.head().is_empty()
    }

    /// The content in one buffer; copies only if there are several.
    pub fn joined(&self) -> Bytes {
        match &self.0 {
            Pieces::One(bytes) => bytes.clone(),
            Pieces::Many(pieces) => pieces.concat().into(),
        }
    }

    /// Whether the content has these bytes from `at` on.
    pub fn has_at(&self, mut at: usize, mut bytes: &[u8]) -> bool {
        for piece in self.pieces() {
            let Some(here) = piece.get(at..).filter(|here| !here.is_empty()) else {
                at -= piece.len();
                continue;
            };
            let compared = here.len().min(bytes.len());
            if here[..compared] != bytes[..compared] {
                return false;
            }
            (at, bytes) = (0, &bytes[compared..]);
        }
        bytes.is_empty()
    }

    /// The content in parts of at most `max` bytes that share the buffers.
    pub fn parts(&self, max: usize) -> impl Iterator<Item = Bytes> {
        self.pieces().iter().flat_map(move |piece| {
            (0..piece.len()).step_by(max).map(move |at| piece.slice(at..piece.len().min(at + max)))
        })
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload(Pieces::One(bytes))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Pieces::One(here), Pieces::One(there)) => here == there,
            _ => self.len() == other.len() && self.joined() == other.joined(),
        }
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_the_same_however_it_is_cut() {
        let bytes = Bytes::from_static(b"head and a body");
        let cut = |at: &[usize]| {
            let (mut rest, mut pieces) = (bytes.clone(), Vec::new());
            at.iter().for_each(|at| pieces.push(rest.split_to(*at)));
            pieces.push(rest);
            Payload::of_pieces(pieces)
        };
        for payload in [cut(&[]), cut(&[0, 4]), cut(&[4, 0, 6]), cut(&[15])] {
            assert_eq!((&payload, payload.len()), (&Payload::from(bytes.clone()), bytes.len()));
            assert_eq!(payload.joined(), bytes);
            for at in 0..bytes.len() {
                for to in at..=bytes.len() {
                    assert!(payload.has_at(at, &bytes[at..to]));
                    assert!(!payload.has_at(at, &[&bytes[at..to], b"!"].concat()));
                }
            }
            for max in 1..20 {
                let parts: Vec<Bytes> = payload.parts(max).collect();
                assert!(parts.iter().all(|part| (1..=max).contains(&part.len())), "{parts:?}");
                assert_eq!(parts.concat(), bytes);
            }
        }
        assert_ne!(cut(&[4]), Payload::from(Bytes::from_static(b"head and a bodY")));
        assert!(Payload::of_pieces([Bytes::new(), Bytes::new()]).is_empty());
        assert_eq!(Payload::default().pieces(), [Bytes::new()]);
    }
}
