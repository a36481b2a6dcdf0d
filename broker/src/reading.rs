//! What a socket brought, as packets.
//! Always true: memory is taken for bytes that came, never for announced ones; a packet that is kept holds no more memory than
//! its own, or a piece of [`PIECE_BYTES`].
use crate::planted;
use bytes::{Bytes, BytesMut};
use mosquorum_proto::mqtt::{DecodeError, Decoder, Packet};

/// Packets of one read share memory in pieces of about this size, and a larger one has its own: what is kept of a read (a
/// retained message, one that waits) holds no more than its piece.
const PIECE_BYTES: usize = 4 << 10;
/// A fixed header (MQTT 5.0 section 2.1): one byte and a Variable Byte Integer.
const HEADER_BYTES_MAX: usize = 5;

/// Decodes what came, together with what was left from before; keeps the rest.
/// # Errors
/// [`DecodeError`]; packets before the bad one are in `packets`. The connection must be closed.
pub fn decode(
    mut bytes: &[u8],
    partial: &mut BytesMut,
    decoder: &mut Decoder,
    packets: &mut Vec<Packet>,
) -> Result<(), DecodeError> {
    if !partial.is_empty() {
        complete(&mut bytes, partial, decoder);
        let result = decoder.decode_all(partial, packets);
        if partial.is_empty() {
            *partial = BytesMut::new();
        }
        result?;
    }
    while !bytes.is_empty() && partial.is_empty() {
        let piece = match bytes.len() {
            // As usual: no packet of it need be looked at to know the piece.
            len @ ..=PIECE_BYTES => len,
            len if decoder.packet_size(bytes).is_some_and(|size| size > len) => break,
            _ => piece_len(bytes, decoder),
        };
        let mut shared = Bytes::copy_from_slice(&bytes[..piece]);
        bytes = &bytes[piece..];
        while let Some(packet) = decoder.decode_bytes(&mut shared)? {
            packets.push(packet);
        }
        partial.extend_from_slice(&shared);
    }
    partial.extend_from_slice(bytes);
    Ok(())
}

/// Moves what is missing of the packet that `partial` begins with, and no more.
fn complete(bytes: &mut &[u8], partial: &mut BytesMut, decoder: &Decoder) {
    loop {
        let missing = match decoder.packet_size(partial) {
            Some(size) => size.saturating_sub(partial.len()),
            None if partial.len() < HEADER_BYTES_MAX => 1,
            // It is wrong, which decoding says.
            None => return,
        };
        let moved = missing.min(bytes.len());
        if moved == 0 {
            return;
        }
        // Not more than is there already, so that nobody gets memory for bytes that are only announced.
        if partial.capacity() - partial.len() < moved {
            partial.reserve(moved.max(missing.min(partial.len())));
        }
        partial.extend_from_slice(&bytes[..moved]);
        *bytes = &bytes[moved..];
    }
}

/// How many bytes of a read go into one piece: whole packets up to [`PIECE_BYTES`], a larger one alone, or what is left.
fn piece_len(bytes: &[u8], decoder: &Decoder) -> usize {
    if !planted::copies_what_is_kept() {
        return bytes.len();
    }
    let mut len = 0;
    while len < bytes.len() {
        let size = match decoder.packet_size(&bytes[len..]) {
            Some(size) if size <= bytes.len() - len => size,
            // Not whole, or wrong: with what comes before it, if that is little.
            _ => bytes.len() - len,
        };
        if len > 0 && len + size > PIECE_BYTES {
            break;
        }
        len += size;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_proto::mqtt::{ProtocolVersion, Publish, TopicName, encode};

    /// Numbers that follow from a seed (xorshift).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }
    }

    fn decoder() -> Decoder {
        Decoder { version: Some(ProtocolVersion::V311), ..Decoder::for_server(1 << 20) }
    }

    fn stream(sizes: &[usize]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for (number, size) in sizes.iter().enumerate() {
            let topic = TopicName::try_from("t").unwrap();
            let publish = Publish::new(topic, vec![number as u8; *size]);
            encode(&Packet::Publish(publish), ProtocolVersion::V311, &mut bytes);
        }
        bytes
    }

    fn payloads(packets: &[Packet]) -> Vec<Bytes> {
        let payload = |packet: &Packet| match packet {
            Packet::Publish(publish) => publish.payload.clone(),
            other => panic!("{other:?}"),
        };
        packets.iter().map(payload).collect()
    }

    #[test]
    fn packets_come_whole_and_in_order_however_the_bytes_are_cut() {
        let sizes = [0, 1, 5000, 3, 70_000, 12, 4095, 4096, 4097, 1];
        let whole = stream(&sizes);
        for seed in 1..200 {
            let mut random = Random(seed * 0x9E37_79B9);
            let (mut partial, mut decoder, mut packets) = (BytesMut::new(), decoder(), Vec::new());
            let mut rest = &whole[..];
            while !rest.is_empty() {
                let most = [1, 2, 7, 100, 5000, 65_536][random.below(6)];
                let cut = (1 + random.below(most)).min(rest.len());
                decode(&rest[..cut], &mut partial, &mut decoder, &mut packets).unwrap();
                rest = &rest[cut..];
            }
            assert!(partial.is_empty());
            let came: Vec<_> = payloads(&packets).iter().map(Bytes::len).collect();
            assert_eq!(came, sizes, "seed {seed}");
        }
    }

    #[test]
    fn a_small_message_does_not_hold_the_memory_of_a_large_one_read_with_it() {
        let bytes = stream(&[60_000, 1]);
        let (mut partial, mut packets) = (BytesMut::new(), Vec::new());
        decode(&bytes, &mut partial, &mut decoder(), &mut packets).unwrap();
        let small = payloads(&packets).pop().unwrap();
        packets.clear();
        // Nobody else holds its piece, and it is no larger than its packet.
        let piece = small.try_into_mut().unwrap();
        assert!(piece.capacity() <= PIECE_BYTES, "{}", piece.capacity());
    }

    #[test]
    fn a_wrong_header_behind_half_a_packet_is_an_error_at_once() {
        let mut bytes = stream(&[100]);
        let (mut partial, mut packets, mut decoder) = (BytesMut::new(), Vec::new(), decoder());
        decode(&bytes[..50], &mut partial, &mut decoder, &mut packets).unwrap();
        bytes.extend_from_slice(&[0x00, 0x00]);
        assert!(decode(&bytes[50..], &mut partial, &mut decoder, &mut packets).is_err());
        assert_eq!(packets.len(), 1);
    }
}
