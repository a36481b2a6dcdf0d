//! What the two ends allow.
use crate::BridgeSettings;
use mosquorum_proto::mqtt::{ConnAck, ProtocolVersion, QoS, ReasonCode};

/// What is tried with the next CONNECT; a refusal lowers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub version: ProtocolVersion,
    pub try_private: bool,
    pub max_qos: QoS,
    pub retain_available: bool,
    /// Largest packet in bytes that the local broker takes.
    pub local_max_packet_size: u32,
    pub local_retain_available: bool,
}

impl Limits {
    #[must_use]
    pub fn new(settings: &BridgeSettings) -> Self {
        Self {
            version: settings.version,
            try_private: settings.try_private,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            local_max_packet_size: u32::MAX,
            local_retain_available: true,
        }
    }

    /// The remote refused: another attempt with less may succeed. Returns what was given up, if anything.
    pub fn lower(&mut self, reason: ReasonCode) -> Option<&'static str> {
        let v5 = self.version == ProtocolVersion::V5;
        match reason {
            ReasonCode::UnsupportedProtocolVersion if v5 => {
                self.version = ProtocolVersion::V311;
                Some("MQTT 5.0")
            }
            ReasonCode::UnsupportedProtocolVersion if self.try_private => {
                self.try_private = false;
                Some("the bridge flag")
            }
            ReasonCode::RetainNotSupported if self.retain_available => {
                self.retain_available = false;
                Some("retained messages")
            }
            ReasonCode::QosNotSupported if self.max_qos > QoS::AtMostOnce => {
                self.max_qos = match self.max_qos {
                    QoS::ExactlyOnce => QoS::AtLeastOnce,
                    _ => QoS::AtMostOnce,
                };
                Some("a QoS")
            }
            _ => None,
        }
    }
}

/// What a remote that cannot say so is taken to allow: Mosquitto's `max_inflight_messages`. Its version 2.0 closes
/// connections that have more on their way, whatever protocol they speak.
const RECEIVE_MAXIMUM_V3: u16 = 20;

/// What the remote said in its CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub version: ProtocolVersion,
    pub session_present: bool,
    pub receive_maximum: u16,
    /// Bytes; `u32::MAX`: any.
    pub max_packet_size: u32,
    pub max_qos: QoS,
    pub retain_available: bool,
    pub keep_alive_seconds: u16,
    /// Aliases that may be set up towards it.
    pub topic_alias_maximum: u16,
}

impl Remote {
    #[must_use]
    pub fn new(connack: &ConnAck, settings: &BridgeSettings, tried: &Limits) -> Self {
        let own = if settings.max_packet_size == 0 { u32::MAX } else { settings.max_packet_size };
        Self {
            version: tried.version,
            // MQTT 3.1 has no such flag.
            session_present: connack.session_present && tried.version != ProtocolVersion::V31,
            receive_maximum: match tried.version {
                ProtocolVersion::V5 => connack.receive_maximum.unwrap_or(u16::MAX),
                _ => RECEIVE_MAXIMUM_V3,
            },
            max_packet_size: connack.maximum_packet_size.unwrap_or(u32::MAX).min(own),
            max_qos: connack.maximum_qos.unwrap_or(QoS::ExactlyOnce).min(tried.max_qos),
            retain_available: connack.retain_available.unwrap_or(true) && tried.retain_available,
            keep_alive_seconds: connack.server_keep_alive.unwrap_or(settings.keep_alive_seconds),
            topic_alias_maximum: connack.topic_alias_maximum.unwrap_or(0).min(settings.max_topic_alias),
        }
    }
}
