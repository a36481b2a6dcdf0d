//! MQTT 3.1, 3.1.1 and 5.0: packets, properties, topics, reason codes, encode and decode.
mod construct;
mod decode;
mod encode;
mod packet;
mod property_order;
mod reason;
mod text;
mod topic;

pub use construct::PacketType;
pub use decode::{ConnectPart, DecodeError, Decoder, Sender, decode, decode_bytes};
pub use encode::{PACKET_SIZE_MAX, PublishParts, encode, encoded_len};
pub use packet::*;
pub use property_order::PropertyOrder;
pub use reason::ReasonCode;
pub use text::Utf8;
pub use topic::{TOPIC_LEVELS_MAX, TopicError, TopicFilter, TopicName, levels_match};
