//! Where encoded fields go: into a buffer, or only into a count.
//! Always true: both sinks see the same calls, so a counted length is the written length.
use bytes::{BufMut, BytesMut};

pub(super) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn slice(&mut self, bytes: &[u8]);

    /// A UTF-8 Encoded String or Binary Data; what is beyond 65,535 bytes cannot be expressed and is cut.
    fn sized(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len);
        self.slice(&bytes[..usize::from(len)]);
    }
    /// A Variable Byte Integer (section 1.5.5).
    fn variable_byte_integer(&mut self, mut value: u32) {
        while value > 0x7F {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }
}

/// Counts bytes.
pub(super) struct Count(pub(super) usize);

impl Sink for Count {
    fn u8(&mut self, _: u8) {
        self.0 += 1;
    }
    fn u16(&mut self, _: u16) {
        self.0 += 2;
    }
    fn u32(&mut self, _: u32) {
        self.0 += 4;
    }
    fn slice(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
    fn variable_byte_integer(&mut self, value: u32) {
        self.0 += variable_byte_integer_len(value);
    }
}

impl Sink for BytesMut {
    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }
    fn u16(&mut self, value: u16) {
        self.put_u16(value);
    }
    fn u32(&mut self, value: u32) {
        self.put_u32(value);
    }
    fn slice(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Bytes of a Variable Byte Integer.
pub(super) fn variable_byte_integer_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
