//! Why bytes are not an MQTT packet, and what the peer is answered.
//! Always true: every variant is the peer's fault. Where the standard leaves the reason code or the answer open, they
//! are Mosquitto's, because users compare the two.
use crate::mqtt::{PacketType, ProtocolVersion, ReasonCode, TopicError};

/// A part of CONNECT. A fault in some parts is answered, in others the connection closes without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectPart {
    Flags,
    KeepAlive,
    Properties,
    ClientIdentifier,
    Will,
    UserName,
    Password,
    /// After the last field.
    End,
}

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("remaining length has more than 4 bytes [MQTT-1.5.5-1]")]
    MalformedLength,
    #[error("packet of {size} bytes, at most {max} allowed")]
    PacketTooLarge { size: usize, max: usize },
    #[error("packet type 0 is forbidden")]
    ReservedPacketType,
    #[error("{packet_type} has flags {flags:#06b} [MQTT-2.1.3-1]")]
    ReservedFlags { packet_type: PacketType, flags: u8 },
    #[error("first packet is {0}, not CONNECT [MQTT-3.1.0-1]")]
    NotConnect(PacketType),
    #[error("{0} is never sent in this direction or version")]
    UnexpectedPacket(PacketType),
    #[error("{0} has no content, but its length is not 0")]
    LengthNotZero(PacketType),
    #[error("a field ends after the packet")]
    Truncated,
    #[error("the packet goes on after its last field")]
    TrailingBytes,
    #[error("text is not UTF-8, or has a control or non-character [MQTT-1.5.4-1, MQTT-1.5.4-2]")]
    InvalidText,
    #[error("variable byte integer is longer than needed or than 4 bytes [MQTT-1.5.5-1]")]
    MalformedInteger,

    #[error("protocol name is neither MQTT nor MQIsdp [MQTT-3.1.2-1]")]
    ProtocolName,
    #[error("protocol level {level} is not supported [MQTT-3.1.2-2]")]
    UnsupportedProtocolLevel { level: u8 },
    #[error("{part:?} of CONNECT {version}: {fault}")]
    InConnect { version: ProtocolVersion, part: ConnectPart, fault: Box<DecodeError> },
    #[error("reserved bit of the connect flags is set [MQTT-3.1.2-3]")]
    ReservedConnectFlag,
    #[error("will QoS or will retain without a will [MQTT-3.1.2-11, MQTT-3.1.2-13]")]
    WillFlagsWithoutWill,
    #[error("password without user name [MQTT-3.1.2-22]")]
    PasswordWithoutUserName,
    #[error("authentication data without authentication method")]
    AuthenticationDataWithoutMethod,
    #[error("authentication method is missing")]
    MissingAuthenticationMethod,

    #[error("QoS is 3 [MQTT-3.3.1-4, MQTT-3.8.3-4]")]
    InvalidQos,
    #[error("DUP is set at QoS 0 [MQTT-3.3.1-2]")]
    DupAtQos0,
    #[error("{0} with packet identifier 0 [MQTT-2.2.1-3]")]
    PacketIdentifierZero(PacketType),
    #[error("neither topic name nor topic alias")]
    MissingTopic,
    #[error(transparent)]
    Topic(#[from] TopicError),
    #[error("{0} without a topic filter [MQTT-3.8.3-2, MQTT-3.10.3-2]")]
    NoTopicFilter(PacketType),
    #[error("reserved subscription options {0:#010b} [MQTT-3.8.3-5]")]
    SubscriptionOptions(u8),
    #[error("no local on a shared subscription [MQTT-3.8.3-4]")]
    SharedNoLocal,

    #[error("property {0:#04x} does not exist")]
    UnknownProperty(u32),
    #[error("property {property:#04x} is not allowed in {packet_type}")]
    PropertyNotAllowed { property: u8, packet_type: PacketType },
    #[error("property {0:#04x} appears twice")]
    DuplicateProperty(u8),
    #[error("property {property:#04x} in {packet_type} has a value it must not have")]
    PropertyValue { property: u8, packet_type: PacketType },
    #[error("{packet_type} with reason code {value:#04x}")]
    InvalidReason { packet_type: PacketType, value: u8 },
    #[error("acknowledge flags {0:#04x} [MQTT-3.2.2-1]")]
    AcknowledgeFlags(u8),
}

impl DecodeError {
    /// The reason code that the standard, or where it is open Mosquitto, has for this.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        use PacketType::{Auth, ConnAck, Subscribe, Unsubscribe};
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ProtocolName | Self::UnsupportedProtocolLevel { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::InConnect { part: ConnectPart::ClientIdentifier, fault, .. } if **fault == Self::InvalidText => {
                ReasonCode::ClientIdentifierNotValid
            }
            Self::InConnect { fault, .. } => fault.reason_code(),
            Self::PropertyValue { property: super::properties::TOPIC_ALIAS, .. } => ReasonCode::TopicAliasInvalid,
            // Who sends these without an exchange of that kind is wrong before the flags are.
            Self::ReservedFlags { packet_type: Auth | ConnAck, .. } => ReasonCode::ProtocolError,
            // Mosquitto calls these malformed in the packets about subscriptions only.
            Self::PacketIdentifierZero(Subscribe | Unsubscribe)
            | Self::PropertyNotAllowed { packet_type: Subscribe | Unsubscribe, .. } => ReasonCode::MalformedPacket,
            Self::ReservedPacketType
            | Self::NotConnect(_)
            | Self::UnexpectedPacket(_)
            | Self::PasswordWithoutUserName
            | Self::AuthenticationDataWithoutMethod
            | Self::MissingAuthenticationMethod
            | Self::PacketIdentifierZero(_)
            | Self::Topic(TopicError::MalformedShare)
            | Self::SharedNoLocal
            | Self::PropertyNotAllowed { .. }
            | Self::DuplicateProperty(_)
            | Self::PropertyValue { .. }
            | Self::InvalidReason { .. } => ReasonCode::ProtocolError,
            _ => ReasonCode::MalformedPacket,
        }
    }

    /// What a server answers when this came instead of a good CONNECT: a CONNACK in that version with that reason.
    /// `None`: close without a word.
    #[must_use]
    pub fn connack(&self) -> Option<(ProtocolVersion, ReasonCode)> {
        match self {
            // A known level beside the wrong name gets return code 1, an unknown level the answer of 5.0.
            Self::UnsupportedProtocolLevel { level } if matches!(level & 0x7F, 3..=5) => {
                Some((ProtocolVersion::V311, self.reason_code()))
            }
            Self::UnsupportedProtocolLevel { .. } => Some((ProtocolVersion::V5, self.reason_code())),
            Self::InConnect { version: ProtocolVersion::V5, part, fault } => match part {
                // A will topic that cannot be one is not answered, an empty one is.
                ConnectPart::Will if fault.is_about_text() => None,
                ConnectPart::Properties | ConnectPart::Will | ConnectPart::End => {
                    Some((ProtocolVersion::V5, self.reason_code()))
                }
                ConnectPart::ClientIdentifier if **fault == Self::InvalidText => {
                    Some((ProtocolVersion::V5, self.reason_code()))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn is_about_text(&self) -> bool {
        match self {
            Self::InvalidText => true,
            Self::Topic(fault) => *fault != TopicError::Empty,
            _ => false,
        }
    }

    /// The reason of the DISCONNECT that a connected 5.0 peer gets before the connection closes. `None`: close without
    /// a word. Before 5.0, and before CONNECT was accepted, there is never a DISCONNECT.
    #[must_use]
    pub fn disconnect(&self) -> Option<ReasonCode> {
        match self {
            Self::MalformedLength
            | Self::LengthNotZero(_)
            | Self::NotConnect(_)
            | Self::ProtocolName
            | Self::UnsupportedProtocolLevel { .. }
            | Self::InConnect { .. }
            | Self::InvalidReason { packet_type: PacketType::Disconnect, .. } => None,
            _ => Some(self.reason_code()),
        }
    }
}
