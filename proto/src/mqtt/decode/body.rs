//! The content of one packet, read field by field.
//! Always true: a field is never longer than what is left, and texts and binary data share the packet's memory.
use super::DecodeError;
use crate::mqtt::{PacketId, PacketType, ProtocolVersion, Utf8};
use bytes::{Buf, Bytes};

/// What is left of a packet, or of its properties.
pub(super) struct Body(Bytes);

impl Body {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }
    /// All that is left.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }
    /// # Errors
    /// [`DecodeError::TrailingBytes`] if anything is left.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.0.try_get_u8().map_err(|_| DecodeError::Truncated)
    }
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.0.try_get_u16().map_err(|_| DecodeError::Truncated)
    }
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.0.try_get_u32().map_err(|_| DecodeError::Truncated)
    }
    /// The next `len` bytes, shared.
    pub(super) fn bytes(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.0.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.0.split_to(len))
    }
    /// Binary Data (section 1.5.6).
    pub(super) fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }
    /// A UTF-8 Encoded String (section 1.5.4).
    pub(super) fn text(&mut self) -> Result<Utf8, DecodeError> {
        let Some(text) = Utf8::from_wire(self.binary()?) else {
            return Err(DecodeError::InvalidText);
        };
        Ok(text)
    }
    /// A Variable Byte Integer in its shortest form [MQTT-1.5.5-1].
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let (value, used) = read_variable_byte_integer(&self.0)
            .map_err(|_| DecodeError::MalformedInteger)?
            .ok_or(DecodeError::Truncated)?;
        if used > 1 && self.0[used - 1] == 0 {
            return Err(DecodeError::MalformedInteger);
        }
        self.0.advance(used);
        Ok(value)
    }
    pub(super) fn packet_id(&mut self, packet_type: PacketType) -> Result<PacketId, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::PacketIdentifierZero(packet_type)),
            id => Ok(id),
        }
    }
    /// The properties, as a body of their own; empty before 5.0.
    pub(super) fn properties(&mut self, version: ProtocolVersion) -> Result<Self, DecodeError> {
        if version != ProtocolVersion::V5 {
            return Ok(Self(Bytes::new()));
        }
        let len = self.variable_byte_integer()?;
        self.bytes(len as usize).map(Self)
    }
}

/// Reads a Variable Byte Integer: 1 to 4 bytes, 7 bits each, least significant first (MQTT 5.0 section 1.5.5).
/// Returns the value (0..=268,435,455) and the bytes used, or `None` if `input` ends too early. Longer forms than
/// needed are accepted: MQTT 3.1.1 allows them in the remaining length, and there are clients that use them.
/// # Errors
/// [`DecodeError::MalformedLength`] when the fourth byte still announces another.
pub(super) fn read_variable_byte_integer(input: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    // Nearly all are of one byte.
    if let [byte @ ..0x80, ..] = input {
        return Ok(Some((u32::from(*byte), 1)));
    }
    let mut value = 0;
    for (index, byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(DecodeError::MalformedLength) }
}
