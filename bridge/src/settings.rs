//! What a `connection` block says, as values; nothing about sockets.
use crate::{RestartTimeout, Topic, Topics};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS, TopicName, Utf8};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartType {
    Automatic,
    /// Begins when enough is queued, ends when idle.
    Lazy {
        threshold: usize,
        idle_timeout: Duration,
    },
    Once,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadType {
    /// Changed settings hold from the next reconnection on.
    Lazy,
    Immediate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSettings {
    pub name: String,
    pub topics: Topics,
    pub version: ProtocolVersion,
    pub remote_client_id: Utf8,
    pub remote_username: Option<Utf8>,
    pub local_client_id: Utf8,
    pub local_username: Option<Utf8>,
    pub clean_session: bool,
    pub local_clean_session: bool,
    /// Where the state is announced, if at all.
    pub notification_topic: Option<TopicName>,
    pub notifications_local_only: bool,
    pub keep_alive_seconds: u16,
    pub try_private: bool,
    /// Messages carry what makes them recognisable wherever they come by (MQTT 5.0 only).
    pub loop_mark: bool,
    pub attempt_unsubscribe: bool,
    pub outgoing_retain: bool,
    /// 0: no limit of our own.
    pub max_packet_size: u32,
    /// Aliases in each direction, as far as the remote allows them.
    pub max_topic_alias: u16,
    /// `None`: as many as a session may have in flight.
    pub receive_maximum: Option<u16>,
    pub session_expiry_seconds: u32,
    pub start_type: StartType,
    pub restart_timeout: RestartTimeout,
    pub reload_type: ReloadType,
    pub round_robin: bool,
}

impl BridgeSettings {
    /// Whether messages of a line are queued here while the remote is away.
    #[must_use]
    pub fn queues(&self, line: &Topic) -> bool {
        !self.local_clean_session && line.qos != QoS::AtMostOnce
    }

    /// Whether changes of a line's retained messages while the remote is away are found by comparison. What begins with `$`
    /// is not among the retained messages that all nodes have: it is sent anew each time.
    #[must_use]
    pub fn compares(&self, line: &Topic) -> bool {
        !self.queues(line) && !line.local.as_str().starts_with('$')
    }

    /// As [`Self::compares`], for the line that decides about a message that goes out.
    #[must_use]
    pub fn compares_topic(&self, name: &TopicName) -> bool {
        self.topics.line_out(name).is_some_and(|line| self.compares(line))
    }

    /// Whether the remote was asked to keep the session.
    #[must_use]
    pub fn asks_for_session(&self, version: ProtocolVersion) -> bool {
        // MQTT 3.1 does not say whether it did.
        let kept = match version {
            ProtocolVersion::V5 => self.session_expiry_seconds > 0,
            version => version != ProtocolVersion::V31,
        };
        kept && !self.clean_session
    }

    /// Whether SUBSCRIBE or UNSUBSCRIBE is sent to the remote at each connection.
    #[must_use]
    pub fn asks_remote(&self) -> bool {
        self.topics.lines().iter().any(|topic| topic.direction.is_in() || self.attempt_unsubscribe)
    }
}
