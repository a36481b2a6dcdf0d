//! Log entries and memberships as bytes: on disk and between nodes.
//! Always true: the first byte is the kind; a batch's header has a fixed size, so the leader stamps the time without
//! touching the commands behind it; bytes that cannot be read are an error, never a panic.
use crate::{
    ids::{Incarnation, Millis, NodeId},
    state::{Command, Origin},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mosquorum_storage::log::{LogId, Payload};
use serde::{Deserialize, Serialize};
use sharing::{decode_sharing, encode_apart};
use std::collections::{BTreeMap, BTreeSet};

mod sharing;

const KIND_BLANK: u8 = 0;
const KIND_BATCH: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;
/// Kind, time, node, incarnation, sequence, number of commands.
const BATCH_HEADER_BYTES: usize = 1 + 8 * 4 + 4;
/// A larger payload of a message is shared by the batch that carries it, not copied. The entry is larger than
/// [`PART_BYTES`] then, so it comes from other nodes in a buffer of its own.
pub(crate) const SHARED_BYTES_MIN: usize = PART_BYTES;
/// A larger payload travels in parts.
pub(crate) const PART_BYTES: usize = 1 << 20;
/// A batch states more commands than any proposer puts into one.
const COMMANDS_MAX: u32 = 1 << 20;

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Blank,
    /// The whole payload; see [`BatchHeader::read`] and [`decode_commands`].
    Batch(Payload),
    Membership(MembershipRecord),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    /// Voters; two sets while a change is under way.
    pub(crate) configs: Vec<BTreeSet<u64>>,
    /// Voters and learners: name and address.
    pub(crate) nodes: BTreeMap<u64, (String, String)>,
}

/// The membership as of a log position; what state and snapshots keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipAt {
    /// Term, node, index of its entry.
    pub(crate) position: Option<(u64, u64, u64)>,
    pub(crate) record: MembershipRecord,
}

impl MembershipAt {
    pub(crate) fn new(position: Option<LogId>, record: MembershipRecord) -> Self {
        Self { position: position.map(|id| (id.term, id.node, id.index)), record }
    }

    pub(crate) fn log_id(&self) -> Option<LogId> {
        self.position.map(|(term, node, index)| LogId { term, node, index })
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        postcard::to_stdvec(self).expect("maps and strings always have a postcard form").into()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, EncodingError> {
        postcard::from_bytes(bytes).map_err(EncodingError::Membership)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodingError {
    #[error("an entry of kind {0}, which this version does not know")]
    UnknownKind(u8),
    #[error("an entry that ends before its header does")]
    Short,
    #[error("a membership that cannot be read: {0}")]
    Membership(postcard::Error),
    #[error("command {number} of a batch cannot be read: {source}")]
    Command { number: u32, source: postcard::Error },
    #[error("a batch that states {0} commands")]
    TooManyCommands(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) origin: Origin,
    pub(crate) sequence: u64,
    pub(crate) time: Millis,
    pub(crate) count: u32,
}

impl BatchHeader {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, EncodingError> {
        let header = payload.get(..BATCH_HEADER_BYTES).ok_or(EncodingError::Short)?;
        if header[0] != KIND_BATCH {
            return Err(EncodingError::UnknownKind(header[0]));
        }
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes of the header"));
        let count = u32::from_le_bytes(header[33..37].try_into().expect("the header's last 4 bytes"));
        Ok(Self {
            time: Millis(word(1)),
            origin: Origin { node: NodeId(word(9)), incarnation: Incarnation(word(17)) },
            sequence: word(25),
            count,
        })
    }
}

/// The payload of a batch whose commands are encoded already, with the leader's time.
pub(crate) fn encode_batch(origin: Origin, sequence: u64, time: Millis, count: u32, commands: &Payload) -> Payload {
    // What is large is not copied behind the header.
    let (with_header, behind) = match commands.pieces().split_first() {
        Some((head, behind)) if head.len() <= SHARED_BYTES_MIN => (&head[..], behind),
        _ => (&[][..], commands.pieces()),
    };
    let mut bytes = BytesMut::with_capacity(BATCH_HEADER_BYTES + with_header.len());
    bytes.put_u8(KIND_BATCH);
    bytes.put_u64_le(time.0);
    bytes.put_u64_le(origin.node.0);
    bytes.put_u64_le(origin.incarnation.0);
    bytes.put_u64_le(sequence);
    bytes.put_u32_le(count);
    bytes.put_slice(with_header);
    if behind.is_empty() {
        return bytes.freeze().into();
    }
    Payload::of_pieces(std::iter::once(bytes.freeze()).chain(behind.iter().cloned()))
}

/// The commands of a batch, `bytes` about. A large message, which is the only command of its batch, shares its payload.
pub(crate) fn encode_commands(commands: &[Command], bytes: usize) -> Payload {
    if let [command @ Command::Publish(publish)] = commands
        && publish.message.payload.len() > SHARED_BYTES_MIN
    {
        return encode_apart(command, &publish.message.payload);
    }
    let into = Vec::with_capacity(bytes);
    let encoded = commands
        .iter()
        .fold(into, |into, command| postcard::to_extend(command, into).expect("every command has a postcard form"));
    Bytes::from(encoded).into()
}

/// The commands behind a batch's header. A large message shares the buffer.
pub(crate) fn decode_commands(payload: &Payload) -> Result<Vec<Command>, EncodingError> {
    let head = payload.head();
    let header = BatchHeader::read(head)?;
    if header.count > COMMANDS_MAX {
        return Err(EncodingError::TooManyCommands(header.count));
    }
    let mut rest = match payload.pieces() {
        [head] => head.slice(BATCH_HEADER_BYTES..),
        [head, commands] if head.len() == BATCH_HEADER_BYTES => commands.clone(),
        _ => payload.joined().slice(BATCH_HEADER_BYTES..),
    };
    let mut commands = Vec::with_capacity(header.count.min(4096) as usize);
    for number in 0..header.count {
        let taken = match rest.len() > SHARED_BYTES_MIN {
            true => decode_sharing(&rest),
            false => postcard::take_from_bytes(&rest).map(|(command, after)| (command, rest.len() - after.len())),
        };
        let (command, len) = taken.map_err(|source| EncodingError::Command { number, source })?;
        commands.push(command);
        rest.advance(len);
    }
    Ok(commands)
}

impl Content {
    pub(crate) fn encode(self) -> Payload {
        match self {
            Content::Blank => Bytes::from_static(&[KIND_BLANK]).into(),
            Content::Batch(payload) => payload,
            Content::Membership(record) => {
                let bytes = vec![KIND_MEMBERSHIP];
                let bytes = postcard::to_extend(&record, bytes).expect("maps and strings always have a postcard form");
                Bytes::from(bytes).into()
            }
        }
    }

    pub(crate) fn decode(payload: Payload) -> Result<Self, EncodingError> {
        match payload.head().first() {
            None => Err(EncodingError::Short),
            Some(&KIND_BLANK) => Ok(Content::Blank),
            Some(&KIND_BATCH) => Ok(Content::Batch(payload)),
            Some(&KIND_MEMBERSHIP) => {
                postcard::from_bytes(&payload.joined()[1..]).map(Content::Membership).map_err(EncodingError::Membership)
            }
            Some(&other) => Err(EncodingError::UnknownKind(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Batch;

    fn decode_batch(payload: &Payload) -> Result<Batch, EncodingError> {
        let BatchHeader { origin, sequence, time, .. } = BatchHeader::read(payload.head())?;
        Ok(Batch { origin, sequence, time, commands: decode_commands(payload)? })
    }

    #[test]
    fn a_batch_survives_encoding() {
        let origin = Origin { node: NodeId(3), incarnation: Incarnation(9) };
        let commands = encode_commands(&[Command::NodeUp { name: "a".into() }, Command::Tick], 0);
        let payload = encode_batch(origin, 7, Millis(1234), 2, &commands);
        let Content::Batch(payload) = Content::decode(payload).unwrap() else { panic!("not a batch") };
        let batch = decode_batch(&payload).unwrap();
        assert_eq!((batch.origin, batch.sequence, batch.time), (origin, 7, Millis(1234)));
        assert!(matches!(&batch.commands[..], [Command::NodeUp { .. }, Command::Tick]));
    }

    #[test]
    fn cut_or_foreign_bytes_are_an_error() {
        let origin = Origin { node: NodeId(3), incarnation: Incarnation(9) };
        let commands = encode_commands(&[Command::NodeUp { name: "name".into() }], 0);
        let payload = encode_batch(origin, 7, Millis(1), 1, &commands).joined();
        for len in 0..payload.len() {
            assert!(decode_batch(&payload.slice(..len).into()).is_err());
        }
        assert!(Content::decode(Bytes::from_static(b"\x09").into()).is_err());
        assert!(Content::decode(Payload::default()).is_err());
    }

    #[test]
    fn a_membership_survives_encoding() {
        let record = MembershipRecord {
            configs: vec![[1, 2].into(), [2, 3].into()],
            nodes: [(1, ("a".into(), "a:1".into())), (2, ("b".into(), "b:1".into()))].into(),
        };
        assert_eq!(
            Content::decode(Content::Membership(record.clone()).encode()).unwrap(),
            Content::Membership(record.clone())
        );
        let at = MembershipAt::new(Some(LogId { term: 1, node: 2, index: 3 }), record);
        assert_eq!(MembershipAt::from_bytes(&at.to_bytes()).unwrap(), at);
    }
}
