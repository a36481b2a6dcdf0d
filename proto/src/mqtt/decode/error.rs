//! Why bytes are not an MQTT packet, and what the peer is told.
use crate::mqtt::{PacketType, ProtocolVersion, ReasonCode, TopicError};

/// A part of CONNECT; what is wrong in some of them is answered, in others the connection closes without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectPart {
    Flags,
    KeepAlive,
    Properties,
    ClientIdentifier,
    WillProperties,
    Will,
    UserName,
    Password,
    End,
}

/// What is wrong with the bytes; always the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("remaining length is longer than 4 bytes [MQTT-1.5.5-1]")]
    MalformedLength,
    #[error("packet of {size} bytes, {max} allowed [MQTT-3.1.2-24]")]
    TooLarge { size: usize, max: usize },
    #[error("packet type 0 is forbidden")]
    ReservedType,
    #[error("first packet is {0:?}, not CONNECT [MQTT-3.1.0-1]")]
    NotConnect(PacketType),
    #[error("in {part:?} of CONNECT: {fault}")]
    InConnect {
        version: ProtocolVersion,
        part: ConnectPart,
        fault: Box<DecodeError>,
    },
    #[error(transparent)]
    Topic(#[from] TopicError),
}
impl DecodeError {
    /// The reason code for it.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        ReasonCode::MalformedPacket
    }
    /// What a server answers when this came instead of a good CONNECT: CONNACK in that version with that reason.
    /// `None`: close without a word.
    #[must_use]
    pub fn connack(&self) -> Option<(ProtocolVersion, ReasonCode)> {
        None
    }
    /// The reason of the DISCONNECT that goes to a connected 5.0 peer before closing. `None`: close without a word.
    #[must_use]
    pub fn disconnect(&self) -> Option<ReasonCode> {
        None
    }
}
