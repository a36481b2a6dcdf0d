//! Short ways to make packets and to convert their small values. Not here: anything about bytes.
use super::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode,
    RetainHandling, SubAck, Subscribe, Subscription, TopicFilter, TopicName, Unsubscribe, UserProperties, Utf8,
};
use bytes::Bytes;
use std::fmt;

/// The types of packets (MQTT 5.0 section 2.1.2); the value is the high half of a packet's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}
impl TryFrom<u8> for PacketType {
    type Error = u8;
    /// From 1..=15; 0 is reserved.
    fn try_from(value: u8) -> Result<Self, u8> {
        use PacketType::*;
        const ALL: [PacketType; 15] = [
            Connect,
            ConnAck,
            Publish,
            PubAck,
            PubRec,
            PubRel,
            PubComp,
            Subscribe,
            SubAck,
            Unsubscribe,
            UnsubAck,
            PingReq,
            PingResp,
            Disconnect,
            Auth,
        ];
        ALL.get(usize::from(value).wrapping_sub(1)).copied().ok_or(value)
    }
}
impl fmt::Display for PacketType {
    /// The name as the standard writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

impl Packet {
    #[must_use]
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

impl ProtocolVersion {
    /// The protocol level byte of CONNECT, without the bridge bit.
    #[must_use]
    pub fn level(self) -> u8 {
        self as u8
    }
    /// The protocol name in CONNECT.
    #[must_use]
    pub fn name(self) -> &'static str {
        if self == Self::V31 { "MQIsdp" } else { "MQTT" }
    }
    #[must_use]
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}
impl TryFrom<u8> for ProtocolVersion {
    type Error = u8;
    /// From the protocol level 3, 4 or 5.
    fn try_from(level: u8) -> Result<Self, u8> {
        match level {
            3 => Ok(Self::V31),
            4 => Ok(Self::V311),
            5 => Ok(Self::V5),
            other => Err(other),
        }
    }
}
impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

impl TryFrom<u8> for QoS {
    type Error = u8;
    /// From 0, 1 or 2.
    fn try_from(value: u8) -> Result<Self, u8> {
        match value {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            other => Err(other),
        }
    }
}
impl From<QoS> for u8 {
    fn from(qos: QoS) -> Self {
        qos as Self
    }
}
impl TryFrom<u8> for RetainHandling {
    type Error = u8;
    /// From 0, 1 or 2.
    fn try_from(value: u8) -> Result<Self, u8> {
        match value {
            0 => Ok(Self::SendAtSubscribe),
            1 => Ok(Self::SendIfNew),
            2 => Ok(Self::DoNotSend),
            other => Err(other),
        }
    }
}

impl Connect {
    /// A client's CONNECT: clean start, keep alive 60 s, nothing else.
    #[must_use]
    pub fn new(version: ProtocolVersion, client_id: impl Into<Utf8>) -> Self {
        Self {
            version,
            bridge: false,
            clean_start: true,
            keep_alive_seconds: 60,
            client_id: client_id.into(),
            user_name: None,
            password: None,
            will: None,
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: None,
            request_response_information: None,
            request_problem_information: None,
            user_properties: UserProperties::new(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}
impl Default for ConnAck {
    /// Success, no session, no properties.
    fn default() -> Self {
        Self::new(false, ReasonCode::Success)
    }
}
impl ConnAck {
    /// Without properties.
    #[must_use]
    pub fn new(session_present: bool, reason: ReasonCode) -> Self {
        Self {
            session_present,
            reason,
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: None,
            maximum_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_maximum: None,
            reason_string: None,
            user_properties: UserProperties::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}
impl Publish {
    /// QoS 0, not retained, without properties.
    #[must_use]
    pub fn new(topic: TopicName, payload: impl Into<Bytes>) -> Self {
        Self {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(topic),
            packet_id: 0,
            properties: None,
            payload: payload.into(),
        }
    }
}
impl Ack {
    /// Success.
    #[must_use]
    pub fn new(packet_id: PacketId) -> Self {
        Self::with_reason(packet_id, ReasonCode::Success)
    }
    /// Without properties; before 5.0 the reason is not sent.
    #[must_use]
    pub fn with_reason(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::new() }
    }
}
impl Subscription {
    /// As MQTT 3.1.1 knows it: only a filter and a QoS.
    #[must_use]
    pub fn new(filter: TopicFilter, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        }
    }
}
impl Subscribe {
    /// Without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, subscriptions: Vec<Subscription>) -> Self {
        Self { packet_id, subscription_identifier: None, user_properties: UserProperties::new(), subscriptions }
    }
}
impl Unsubscribe {
    /// Without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: Vec<TopicFilter>) -> Self {
        Self { packet_id, user_properties: UserProperties::new(), filters }
    }
}
impl SubAck {
    /// Without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, reasons: Vec<ReasonCode>) -> Self {
        Self { packet_id, reason_string: None, user_properties: UserProperties::new(), reasons }
    }
}
impl Disconnect {
    /// Without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_interval: None,
            reason_string: None,
            user_properties: UserProperties::new(),
            server_reference: None,
        }
    }
}
impl Auth {
    /// With a method and data.
    #[must_use]
    pub fn new(reason: ReasonCode, method: Utf8, data: Option<Bytes>) -> Self {
        Self {
            reason,
            authentication_method: Some(method),
            authentication_data: data,
            reason_string: None,
            user_properties: UserProperties::new(),
        }
    }
}
