//! The packets of MQTT 3.1, 3.1.1 and 5.0 as values. Fields that exist only in 5.0 are empty in earlier versions.
use super::{PropertyOrder, ReasonCode, TopicFilter, TopicName, Utf8};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A Packet Identifier; never 0 in a packet that carries one [MQTT-2.2.1-3].
pub type PacketId = u16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ProtocolVersion {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum QoS {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

pub type UserProperties = Vec<(Utf8, Utf8)>;

#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    SubAck(SubAck),
    Unsubscribe(Unsubscribe),
    UnsubAck(SubAck),
    PingReq,
    PingResp,
    Disconnect(Disconnect),
    Auth(Box<Auth>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub version: ProtocolVersion,
    /// Mosquitto's bridge flag: the high bit of the protocol level (3.1 and 3.1.1 only).
    pub bridge: bool,
    pub clean_start: bool,
    pub keep_alive_seconds: u16,
    pub client_id: Utf8,
    pub user_name: Option<Utf8>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// Absent means 0 in 5.0; 0xFFFF_FFFF never expires.
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub user_properties: UserProperties,
    pub authentication_method: Option<Utf8>,
    pub authentication_data: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Will {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub delay_interval_seconds: u32,
    pub properties: Option<Box<PublishProperties>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck {
    pub session_present: bool,
    /// Encoded as an MQTT 3.1.1 return code towards 3.1 and 3.1.1 clients.
    pub reason: ReasonCode,
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_identifier: Option<Utf8>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<Utf8>,
    pub user_properties: UserProperties,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<Utf8>,
    pub server_reference: Option<Utf8>,
    pub authentication_method: Option<Utf8>,
    pub authentication_data: Option<Bytes>,
}

/// What travels with an application message (MQTT 5.0 section 3.3.2.3). `topic_alias` and `subscription_identifiers`
/// concern one connection only and are never stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PublishProperties {
    pub payload_format_indicator: Option<bool>,
    pub message_expiry_interval: Option<u32>,
    pub topic_alias: Option<u16>,
    pub response_topic: Option<Utf8>,
    pub correlation_data: Option<Bytes>,
    pub subscription_identifiers: Vec<u32>,
    pub content_type: Option<Utf8>,
    pub user_properties: UserProperties,
    pub order: PropertyOrder,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// `None` only in 5.0, when a topic alias stands for it.
    pub topic: Option<TopicName>,
    /// 0 exactly when QoS is 0.
    pub packet_id: PacketId,
    /// `None` when there is no property.
    pub properties: Option<Box<PublishProperties>>,
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    pub packet_id: PacketId,
    pub reason: ReasonCode,
    pub reason_string: Option<Utf8>,
    pub user_properties: UserProperties,
}

/// One Topic Filter with its Subscription Options (MQTT 5.0 section 3.8.3.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    pub filter: TopicFilter,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum RetainHandling {
    #[default]
    SendAtSubscribe = 0,
    SendIfNew = 1,
    DoNotSend = 2,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub packet_id: PacketId,
    pub subscription_identifier: Option<u32>,
    pub user_properties: UserProperties,
    /// At least one [MQTT-3.8.3-2].
    pub subscriptions: Vec<Subscription>,
}

/// SUBACK, and UNSUBACK (whose reasons are empty before 5.0).
#[derive(Debug, Clone, PartialEq)]
pub struct SubAck {
    pub packet_id: PacketId,
    pub reason_string: Option<Utf8>,
    pub user_properties: UserProperties,
    pub reasons: Vec<ReasonCode>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe {
    pub packet_id: PacketId,
    pub user_properties: UserProperties,
    pub filters: Vec<TopicFilter>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Disconnect {
    pub reason: ReasonCode,
    pub session_expiry_interval: Option<u32>,
    pub reason_string: Option<Utf8>,
    pub user_properties: UserProperties,
    pub server_reference: Option<Utf8>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    pub reason: ReasonCode,
    pub authentication_method: Option<Utf8>,
    pub authentication_data: Option<Bytes>,
    pub reason_string: Option<Utf8>,
    pub user_properties: UserProperties,
}
