//! Bytes to packets, for both ends of a connection.
//! Always true: what is decoded follows the rules of its version, so nobody checks again; topics, texts and payloads
//! share the memory of the receive buffer; memory is allocated for bytes that are there, never for announced ones, and
//! at most 16 times as much (an empty User Property is 5 bytes on the wire and 64 in memory).
//! Not here: rules about several packets (second CONNECT, topic alias above the maximum, receive maximum): `session`.
use super::{Packet, PacketType, ProtocolVersion};
use body::{Body, read_variable_byte_integer};
use bytes::{Buf, Bytes, BytesMut};

mod ack;
mod body;
mod connect;
mod error;
mod properties;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;

pub use error::{ConnectPart, DecodeError};

/// Who sent the bytes; decides which packets and properties may appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
    /// Both directions are accepted (tests, traces).
    Any,
}

/// Largest CONNECT, SUBSCRIBE, UNSUBSCRIBE or AUTH of a client in bytes after the fixed header, as in Mosquitto;
/// before 5.0 it holds for CONNECT only.
const REQUEST_SIZE_MAX: usize = 100_000;
/// Largest acknowledgement or DISCONNECT of a client in bytes after the fixed header, as in Mosquitto.
const SIMPLE_SIZE_MAX: usize = 10_000;

/// Splits packets off a receive buffer. Holds no bytes itself.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// `None` until a CONNECT was decoded, which sets it; nothing else is accepted before.
    pub version: Option<ProtocolVersion>,
    /// Largest packet in bytes, fixed header included.
    pub max_packet_size: u32,
    pub sender: Sender,
}

/// The fixed header (section 2.1), in order for this decoder.
struct Header {
    first: u8,
    packet_type: PacketType,
    /// Bytes of the header itself.
    len: usize,
    /// Bytes of the whole packet.
    size: usize,
}

impl Decoder {
    /// For a server: what one client sends, beginning with CONNECT.
    #[must_use]
    pub fn for_server(max_packet_size: u32) -> Self {
        Self { version: None, max_packet_size, sender: Sender::Client }
    }
    /// For a client that sent CONNECT with this version.
    #[must_use]
    pub fn for_client(version: ProtocolVersion, max_packet_size: u32) -> Self {
        Self { version: Some(version), max_packet_size, sender: Sender::Server }
    }

    /// The next packet, or `None` if `input` does not hold a whole one yet.
    /// # Errors
    /// [`DecodeError`]; the connection must be closed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        match self.header(input)? {
            Some(header) if header.size <= input.len() => {
                let frame = input.split_to(header.size).freeze();
                self.packet(&header, frame).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// As [`Self::decode`], from bytes that are shared already.
    /// # Errors
    /// [`DecodeError`]; the connection must be closed.
    pub fn decode_bytes(&mut self, input: &mut Bytes) -> Result<Option<Packet>, DecodeError> {
        match self.header(input)? {
            Some(header) if header.size <= input.len() => {
                let frame = input.split_to(header.size);
                self.packet(&header, frame).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Bytes of the whole packet that `input` begins with, if its header is there and correct.
    #[must_use]
    pub fn packet_size(&self, input: &[u8]) -> Option<usize> {
        self.header(input).ok().flatten().map(|header| header.size)
    }

    /// Appends every whole packet in `input` to `packets`: the fastest way when a read brought many.
    /// # Errors
    /// [`DecodeError`]; packets before the bad one are in `packets`. The connection must be closed.
    pub fn decode_all(&mut self, input: &mut BytesMut, packets: &mut Vec<Packet>) -> Result<(), DecodeError> {
        let mut whole = 0;
        while let Some(size) = frame_size(&input[whole..]) {
            whole += size;
        }
        if whole > 0 {
            let mut frames = input.split_to(whole).freeze();
            while let Some(packet) = self.decode_bytes(&mut frames)? {
                packets.push(packet);
            }
        }
        // What is left is not a whole packet, but its header may be wrong already.
        self.header(input).map(|_| ())
    }

    /// Reads and checks the fixed header, or what there is of it.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, DecodeError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let packet_type = PacketType::try_from(first >> 4).map_err(|_| DecodeError::ReservedPacketType)?;
        if self.version.is_none() && packet_type != PacketType::Connect {
            return Err(DecodeError::NotConnect(packet_type));
        }
        let Some((remaining, used)) = read_variable_byte_integer(rest)? else {
            return Ok(None);
        };
        let header = Header { first, packet_type, len: 1 + used, size: 1 + used + remaining as usize };
        self.check_size(&header)?;
        if packet_type != PacketType::Publish {
            self.check_flags(&header)?;
            self.check_direction(packet_type)?;
        }
        Ok(Some(header))
    }

    fn check_size(&self, header: &Header) -> Result<(), DecodeError> {
        use PacketType::*;
        let max = self.max_packet_size as usize;
        if header.size > max {
            return Err(DecodeError::PacketTooLarge { size: header.size, max });
        }
        if header.packet_type == Publish {
            return Ok(());
        }
        let remaining = header.size - header.len;
        let is_v5 = self.version == Some(ProtocolVersion::V5);
        let max = match header.packet_type {
            PingReq | PingResp if remaining > 0 => {
                return Err(DecodeError::LengthNotZero(header.packet_type));
            }
            _ if self.sender != Sender::Client => return Ok(()),
            Connect => REQUEST_SIZE_MAX,
            Auth | Subscribe | Unsubscribe if is_v5 => REQUEST_SIZE_MAX,
            PubAck | PubRec | PubRel | PubComp | Disconnect if is_v5 => SIMPLE_SIZE_MAX,
            _ => return Ok(()),
        };
        if remaining > max {
            return Err(DecodeError::PacketTooLarge { size: remaining, max });
        }
        Ok(())
    }

    fn check_flags(&self, header: &Header) -> Result<(), DecodeError> {
        use PacketType::*;
        let expected = match header.packet_type {
            // Mosquitto accepts any flags in these before 3.1.1; CONNECT carries its version itself.
            Connect => return Ok(()),
            PubRel if self.version == Some(ProtocolVersion::V31) => return Ok(()),
            PubRel | Subscribe | Unsubscribe => 0b0010,
            _ => 0,
        };
        let flags = header.first & 0x0F;
        if flags == expected {
            return Ok(());
        }
        Err(DecodeError::ReservedFlags { packet_type: header.packet_type, flags })
    }

    fn check_direction(&self, packet_type: PacketType) -> Result<(), DecodeError> {
        use PacketType::*;
        let is_v5 = self.version == Some(ProtocolVersion::V5);
        let expected = match packet_type {
            Connect | Subscribe | Unsubscribe | PingReq => self.sender != Sender::Server,
            ConnAck | SubAck | UnsubAck | PingResp => self.sender != Sender::Client,
            Publish | PubAck | PubRec | PubRel | PubComp => true,
            Disconnect => is_v5 || self.sender != Sender::Server,
            Auth => is_v5,
        };
        if expected { Ok(()) } else { Err(DecodeError::UnexpectedPacket(packet_type)) }
    }

    /// `frame` is one whole packet, its header included.
    fn packet(&mut self, header: &Header, mut frame: Bytes) -> Result<Packet, DecodeError> {
        frame.advance(header.len);
        let body = Body::new(frame);
        let packet_type = header.packet_type;
        // Without a version only CONNECT comes here, and that brings its own.
        let version = self.version.unwrap_or(ProtocolVersion::V5);
        Ok(match packet_type {
            PacketType::Publish => Packet::Publish(publish::publish(header.first, body, version, self.sender)?),
            PacketType::PubAck => Packet::PubAck(ack::ack(packet_type, body, version, self.sender)?),
            PacketType::PubRec => Packet::PubRec(ack::ack(packet_type, body, version, self.sender)?),
            PacketType::PubRel => Packet::PubRel(ack::ack(packet_type, body, version, self.sender)?),
            PacketType::PubComp => Packet::PubComp(ack::ack(packet_type, body, version, self.sender)?),
            PacketType::Subscribe => Packet::Subscribe(subscribe::subscribe(body, version)?),
            PacketType::SubAck => Packet::SubAck(subscribe::suback(packet_type, body, version)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(subscribe::unsubscribe(body, version)?),
            PacketType::UnsubAck => Packet::UnsubAck(subscribe::suback(packet_type, body, version)?),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(ack::disconnect(body, version)?),
            PacketType::Auth => Packet::Auth(Box::new(ack::auth(body, version)?)),
            PacketType::ConnAck => Packet::ConnAck(Box::new(connect::connack(body, version)?)),
            PacketType::Connect => {
                let connect = connect::connect(header.first, body)?;
                self.version.get_or_insert(connect.version);
                Packet::Connect(Box::new(connect))
            }
        })
    }
}

/// Bytes of the packet that begins `input`, if it is there as a whole.
fn frame_size(input: &[u8]) -> Option<usize> {
    let (remaining, used) = read_variable_byte_integer(input.get(1..)?).ok()??;
    let size = 1 + used + remaining as usize;
    (size <= input.len()).then_some(size)
}

/// Splits the next packet off `input`, whoever sent it; `None` if it is not there as a whole. `version` is `None`
/// before CONNECT. `max_packet_size` is in bytes, fixed header included.
/// # Errors
/// [`DecodeError`]; the connection must be closed.
pub fn decode(
    input: &mut BytesMut,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
) -> Result<Option<Packet>, DecodeError> {
    Decoder { version, max_packet_size, sender: Sender::Any }.decode(input)
}

/// As [`decode`], from bytes that are shared already.
/// # Errors
/// [`DecodeError`]; the connection must be closed.
pub fn decode_bytes(
    input: &mut Bytes,
    version: Option<ProtocolVersion>,
    max_packet_size: u32,
) -> Result<Option<Packet>, DecodeError> {
    Decoder { version, max_packet_size, sender: Sender::Any }.decode_bytes(input)
}
