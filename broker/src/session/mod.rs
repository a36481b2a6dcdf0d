//! One connected client's session as a state machine without I/O: packets, deliveries and answers in, packets and
//! requests out through [`Env`].
//! Always true: an acknowledgement is written only after what it promises is done (committed and applied where durable
//! state is concerned, placed at every living node where live subscribers are); acknowledgements leave in the order of
//! the packets they answer; a client's packets take effect in their order: a message sees the subscriptions that were made
//! before it and none that is made or ended behind it, whatever waits for the log or for other nodes; nothing is read from
//! the client while too much of it waits.
//! Who may touch what: `dispatch` owns the parts and lends them, for one input, to a handler: [`inbound`] (what the client
//! publishes), [`subscriptions`], [`outgoing`] (what goes to the client). The fields of a part are private to its file, and
//! no handler has the session, so one concern reaches another only by the calls that it offers.
//! Not here: CONNECT (`connect`), sockets and timers (`connection`), who else is connected (`live`).
mod aliases;
mod dispatch;
pub mod env;
mod filters;
mod inbound;
mod mount_point;
mod outbox;
mod outgoing;
mod requests;
mod subscriptions;
#[cfg(test)]
mod tests;

use mosquorum_cluster::{ids::Epoch, state::QueueLimits};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS, ReasonCode, Utf8};

pub use dispatch::Session;
pub use env::{Denied, Env};
pub(crate) use inbound::is_expiry;
pub use mount_point::MountPoint;
pub use outbox::QueueItem;

/// Fixed when the connection was accepted.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    pub client_id: Utf8,
    pub username: Option<Utf8>,
    pub version: ProtocolVersion,
    pub kind: ClientKind,
    pub marks: Marks,
    /// The session has a record in the replicated state under this epoch.
    pub epoch: Option<Epoch>,
    /// Subscriptions and queue are in the replicated state.
    pub durable: bool,
    pub session_expiry_seconds: u32,
    /// What a DISCONNECT may ask for (persistent_client_expiration).
    pub session_expiry_max: u32,
    pub request_problem_information: bool,
    /// Largest packet the client takes (MQTT 5.0 section 3.1.2.11.4).
    pub client_maximum_packet_size: u32,
    /// In flight towards the client: the smaller of its Receive Maximum and max_inflight_messages.
    pub send_window: u16,
    pub send_window_bytes: u64,
    /// Unacknowledged QoS 1 and 2 packets the client may have towards us (announced in CONNACK), 0 = no limit.
    pub receive_maximum: u16,
    pub topic_alias_maximum_in: u16,
    pub topic_alias_maximum_out: u16,
    pub max_qos: QoS,
    pub retain_available: bool,
    /// Put before the client's topics.
    pub mount_point: MountPoint,
    /// Payload bytes, 0 = no limit (message_size_limit).
    pub message_size_limit: u32,
    pub limits: QueueLimits,
}

impl SessionOptions {
    fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    Ordinary,
    /// By Mosquitto's protocol bit: its own messages do not come back, retain is as published.
    Bridge,
}

/// Whether messages to and from the client carry marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    Ignored,
    /// It is a bridge that understands them: it gets and gives them.
    Exchanged,
}

/// What the replicated state hears when the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: the session belongs to another connection by now.
    Superseded,
    WithWill,
    /// The will is taken back, or may not be published.
    WithoutWill,
}

/// Why the session ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer broke a rule that spans several packets.
    #[error("{1}")]
    Peer(ReasonCode, &'static str),
    /// The session belongs to another connection by now.
    #[error("session taken over")]
    Superseded,
    /// The client sent DISCONNECT; `true`: the will is published all the same (any reason but 0x00, section 3.14.2.1).
    #[error("disconnected")]
    Disconnected { with_will: bool },
}

/// An acknowledgement of the client that does not fit the QoS or the state of what it answers.
const WRONG_ACKNOWLEDGEMENT: SessionError =
    SessionError::Peer(ReasonCode::ProtocolError, "acknowledgement of another kind than expected [MQTT-4.3]");
