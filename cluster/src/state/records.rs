//! The durable form: what is written for each part of the state, under which key.
//! Always true: a key is a kind byte and identifiers, so that keys of one kind stand together, entries of one queue in
//! their order; a value is a version byte and postcard. A reader refuses versions it does not know.
//! A message is written once, under its number, whoever refers to it.
use super::{
    Admission, Counters, Door, EntryState, LoopId, Message, Owner, QueueLimits, messages::MessageId, nodes::NodeRecord,
    queue::Extra, replay::Replay, session::SubscriptionRecord,
};
use crate::ids::{Epoch, Incarnation, LogIndex, Millis, NodeId};
use bytes::Bytes;
use mosquorum_proto::mqtt::{PacketId, QoS, TopicFilter, TopicName, Utf8, Will};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// Of all values; changes when an older reader could not understand a value.
const VERSION: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Meta,
    Node(NodeId),
    Message(MessageId),
    Session(Utf8),
    Subscription(Utf8, TopicFilter),
    Header(Utf8),
    Inbound(Utf8),
    Entry(Utf8, u64),
    Retained(TopicName),
    Group(TopicFilter),
    LoopId(u32),
    Admission(Utf8),
    /// Its turn among all.
    Replay(u64),
    Lost((NodeId, Incarnation)),
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Meta(MetaRecord),
    Node(NodeRecord),
    Message(Arc<Message>),
    Session(Box<SessionRecord>),
    Subscription(SubscriptionRecord),
    Header(HeaderRecord),
    Inbound(Vec<PacketId>),
    Entry(EntryRecord),
    Retained(MessageId),
    Group(u64),
    /// Its number among all that came.
    LoopId(u64, LoopId),
    Admission(Admission),
    Replay(Replay),
    /// Since when.
    Lost(Millis),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MetaRecord {
    pub(super) applied: LogIndex,
    pub(super) time: Millis,
    pub(super) next_message: u64,
    pub(super) counters: Counters,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) username: Option<Utf8>,
    pub(super) epoch: Epoch,
    pub(super) owner: Option<Owner>,
    pub(super) expiry_seconds: u32,
    pub(super) disconnected_at: Option<Millis>,
    pub(super) will: Option<Box<Will>>,
    pub(super) will_due: Option<Millis>,
    pub(super) expires_at: Option<Millis>,
    pub(super) limits: QueueLimits,
    pub(super) door: Door,
}

/// What changes with a session's queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct HeaderRecord {
    pub(super) next_seq: u64,
    pub(super) dup_before: u64,
    pub(super) sweep_at: Option<Millis>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    /// `None` once released.
    pub(super) message: Option<MessageId>,
    pub(super) state: EntryState,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) identifier: u32,
    pub(super) extra: Option<Arc<Extra>>,
}

/// One record of the durable form, read.
#[derive(Debug)]
pub struct Record(pub(super) Key, pub(super) Value);

impl Record {
    /// # Errors
    /// It is damaged, or a newer version's.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Self, LoadError> {
        let key = Key::decode(key)?;
        let value = Value::decode(&key, value)?;
        Ok(Self(key, value))
    }
}

/// What is wrong with the durable form; each means damage (or a newer version's data).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    #[error("a key of {0} bytes is not one of the state's")]
    Key(usize),
    #[error("value of kind {kind} has version {found}, this program reads {VERSION}")]
    Version { kind: u8, found: u8 },
    #[error("value of kind {kind} cannot be read")]
    Value { kind: u8 },
    #[error("message {0} is referred to but missing")]
    MessageMissing(u64),
    #[error("part of the session of {0:?} is there without the session")]
    SessionMissing(Utf8),
    #[error("there is no record of the whole")]
    MetaMissing,
}

impl Key {
    fn kind(&self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Node(_) => 2,
            Self::Message(_) => 3,
            Self::Session(_) => 4,
            Self::Subscription(..) => 5,
            Self::Header(_) => 6,
            Self::Inbound(_) => 7,
            Self::Entry(..) => 8,
            Self::Retained(_) => 9,
            Self::Group(_) => 10,
            Self::LoopId(_) => 11,
            Self::Admission(_) => 12,
            Self::Replay(_) => 13,
            Self::Lost(_) => 14,
        }
    }

    /// Of a part of a session: whose.
    pub(super) fn client_id(&self) -> Option<&Utf8> {
        match self {
            Self::Subscription(client_id, _) | Self::Header(client_id) | Self::Inbound(client_id) => Some(client_id),
            Self::Entry(client_id, _) => Some(client_id),
            _ => None,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut key = vec![self.kind()];
        match self {
            Self::Meta => {}
            Self::Node(NodeId(number)) | Self::Message(MessageId(number)) | Self::Replay(number) => {
                key.extend(number.to_be_bytes());
            }
            Self::Session(text) | Self::Header(text) | Self::Inbound(text) | Self::Admission(text) => {
                key.extend(text.as_bytes());
            }
            Self::Lost((node, incarnation)) => {
                key.extend(node.0.to_be_bytes());
                key.extend(incarnation.0.to_be_bytes());
            }
            Self::Retained(topic) => key.extend(topic.as_str().as_bytes()),
            Self::Group(filter) => key.extend(filter.as_str().as_bytes()),
            Self::LoopId(slot) => key.extend(slot.to_be_bytes()),
            Self::Subscription(client_id, filter) => {
                push_prefix(&mut key, client_id);
                key.extend(filter.as_str().as_bytes());
            }
            Self::Entry(client_id, seq) => {
                push_prefix(&mut key, client_id);
                key.extend(seq.to_be_bytes());
            }
        }
        key
    }

    pub(super) fn decode(key: &[u8]) -> Result<Self, LoadError> {
        Self::read(key).ok_or(LoadError::Key(key.len()))
    }

    fn read(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let number = || Some(u64::from_be_bytes(rest.try_into().ok()?));
        Some(match kind {
            1 if rest.is_empty() => Self::Meta,
            2 => Self::Node(NodeId(number()?)),
            3 => Self::Message(MessageId(number()?)),
            4 => Self::Session(text(rest)?),
            5 => {
                let (client_id, rest) = split_prefix(rest)?;
                Self::Subscription(client_id, TopicFilter::new(text(rest)?).ok()?)
            }
            6 => Self::Header(text(rest)?),
            7 => Self::Inbound(text(rest)?),
            8 => {
                let (client_id, rest) = split_prefix(rest)?;
                Self::Entry(client_id, u64::from_be_bytes(rest.try_into().ok()?))
            }
            9 => Self::Retained(TopicName::new(text(rest)?).ok()?),
            10 => Self::Group(TopicFilter::new(text(rest)?).ok()?),
            11 => Self::LoopId(u32::from_be_bytes(rest.try_into().ok()?)),
            12 => Self::Admission(text(rest)?),
            13 => Self::Replay(number()?),
            14 => {
                let (node, incarnation) = rest.split_at_checked(8)?;
                let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
                Self::Lost((NodeId(number(node)?), Incarnation(number(incarnation)?)))
            }
            _ => return None,
        })
    }
}

/// Length first, so that no client identifier's keys stand between those of another.
fn push_prefix(key: &mut Vec<u8>, client_id: &Utf8) {
    key.extend((client_id.len() as u16).to_be_bytes());
    key.extend(client_id.as_bytes());
}

fn split_prefix(rest: &[u8]) -> Option<(Utf8, &[u8])> {
    let (length, rest) = rest.split_at_checked(2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (client_id, rest) = rest.split_at_checked(length)?;
    Some((text(client_id)?, rest))
}

fn text(bytes: &[u8]) -> Option<Utf8> {
    Utf8::from_bytes(Bytes::copy_from_slice(bytes))
}

impl Value {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Meta(record) => encode(record),
            Self::Node(record) => encode(record),
            Self::Message(record) => encode(record),
            Self::Session(record) => encode(record),
            Self::Subscription(record) => encode(record),
            Self::Header(record) => encode(record),
            Self::Inbound(record) => encode(record),
            Self::Entry(record) => encode(record),
            Self::Retained(record) => encode(record),
            Self::Group(record) => encode(record),
            Self::LoopId(number, mark) => encode(&(number, mark)),
            Self::Admission(record) => encode(record),
            Self::Replay(record) => encode(record),
            Self::Lost(at) => encode(at),
        }
    }

    /// The value of a key of this kind.
    pub(super) fn decode(key: &Key, value: &[u8]) -> Result<Self, LoadError> {
        let kind = key.kind();
        let (version, value) = value.split_first().ok_or(LoadError::Value { kind })?;
        if *version != VERSION {
            return Err(LoadError::Version { kind, found: *version });
        }
        Ok(match key {
            Key::Meta => Self::Meta(decode(kind, value)?),
            Key::Node(_) => Self::Node(decode(kind, value)?),
            Key::Message(_) => Self::Message(decode(kind, value)?),
            Key::Session(_) => Self::Session(decode(kind, value)?),
            Key::Subscription(..) => Self::Subscription(decode(kind, value)?),
            Key::Header(_) => Self::Header(decode(kind, value)?),
            Key::Inbound(_) => Self::Inbound(decode(kind, value)?),
            Key::Entry(..) => Self::Entry(decode(kind, value)?),
            Key::Retained(_) => Self::Retained(decode(kind, value)?),
            Key::Group(_) => Self::Group(decode(kind, value)?),
            Key::LoopId(_) => {
                let (number, mark) = decode(kind, value)?;
                Self::LoopId(number, mark)
            }
            Key::Admission(_) => Self::Admission(decode(kind, value)?),
            Key::Replay(_) => Self::Replay(decode(kind, value)?),
            Key::Lost(_) => Self::Lost(decode(kind, value)?),
        })
    }
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("records have only types that postcard writes, and memory grows")
}

fn decode<T: DeserializeOwned>(kind: u8, value: &[u8]) -> Result<T, LoadError> {
    postcard::from_bytes(value).map_err(|_| LoadError::Value { kind })
}
