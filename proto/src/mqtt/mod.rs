//! MQTT 3.1, 3.1.1 and 5.0: packets, properties, topics, reason codes, encode and decode.
mod packet;
mod reason;
mod text;
mod topic;

pub use packet::*;
pub use reason::ReasonCode;
pub use text::Utf8;
pub use topic::{TopicError, TopicFilter, TopicName};
