//! Bytes to packets.
use super::{Packet, ProtocolVersion};
use bytes::{Bytes, BytesMut};
mod error;
pub use error::{ConnectPart, DecodeError};

/// Who sent the bytes; decides which packets may appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
    /// Both directions are accepted (tests, traces).
    Any,
}

/// Splits packets off a receive buffer. Holds no bytes itself.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// `None` until a CONNECT was decoded, which sets it; nothing else is accepted before.
    pub version: Option<ProtocolVersion>,
    /// Largest packet in bytes, fixed header included.
    pub max_packet_size: u32,
    pub sender: Sender,
}

impl Decoder {
    /// For a server: what clients send, beginning with CONNECT.
    #[must_use]
    pub fn for_server(max_packet_size: u32) -> Self {
        Self {
            version: None,
            max_packet_size,
            sender: Sender::Client,
        }
    }
    /// For a client that sent CONNECT with this version.
    #[must_use]
    pub fn for_client(version: ProtocolVersion, max_packet_size: u32) -> Self {
        Self {
            version: Some(version),
            max_packet_size,
            sender: Sender::Server,
        }
    }
    /// The next packet, or `None` if `input` does not hold a whole one yet.
    /// # Errors
    /// [`DecodeError`]; the connection must be closed.
    pub fn decode(&mut self, _input: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        todo!()
    }
    /// As [`Self::decode`], from bytes that are shared already.
    /// # Errors
    /// [`DecodeError`]; the connection must be closed.
    pub fn decode_bytes(&mut self, _input: &mut Bytes) -> Result<Option<Packet>, DecodeError> {
        todo!()
    }
    /// Appends every whole packet in `input` to `packets`: the fastest way when a read brought many.
    /// # Errors
    /// [`DecodeError`]; packets before the bad one are in `packets`. The connection must be closed.
    pub fn decode_all(
        &mut self,
        _input: &mut BytesMut,
        _packets: &mut Vec<Packet>,
    ) -> Result<(), DecodeError> {
        todo!()
    }
}

/// Splits the next packet off `input`, whoever sent it. `version` is `None` before CONNECT.
/// # Errors
/// [`DecodeError`]; the connection must be closed.
pub fn decode(
    input: &mut BytesMut,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
) -> Result<Option<Packet>, DecodeError> {
    Decoder {
        version,
        max_packet_size,
        sender: Sender::Any,
    }
    .decode(input)
}

/// As [`decode`], from bytes that are shared already.
/// # Errors
/// [`DecodeError`]; the connection must be closed.
pub fn decode_bytes(
    input: &mut Bytes,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
) -> Result<Option<Packet>, DecodeError> {
    Decoder {
        version,
        max_packet_size,
        sender: Sender::Any,
    }
    .decode_bytes(input)
}
