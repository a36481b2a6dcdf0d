//! WebSocket frames (RFC 6455 section 5) as a server sees them, without I/O.
//! Always true: payload is unmasked where it lies, so reading needs no memory beyond one frame header and one control
//! frame (125 bytes); after a violation nothing further is taken in.
//! Not here: what a message is. Binary frames carry a byte stream [MQTT-6.0.0-3], [MQTT-6.0.0-4]; where they begin and
//! end says nothing.

/// The most that one frame may announce: as long as the longest MQTT packet.
pub(super) const FRAME_BYTES_MAX: u64 = 268_435_455;
const CONTROL_BYTES_MAX: u64 = 125;
/// Two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What a client did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a text frame [MQTT-6.0.0-1]")]
    Text,
    #[error("a frame without a mask")]
    Unmasked,
    #[error("reserved bits in a frame")]
    ReservedBits,
    #[error("an unknown opcode {0:#x}")]
    Opcode(u8),
    #[error("a fragmented or long control frame")]
    Control,
    #[error("a continuation of nothing, or a new message inside another")]
    Sequence,
    #[error("a frame of {0} bytes")]
    TooLong(u64),
    #[error("a malformed close frame")]
    Close,
}

impl FrameError {
    /// Status code of the Close frame (RFC 6455 section 7.4.1).
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLong(_) => 1009,
            _ => 1002,
        }
    }
}

/// What the connection must do about control frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Demands {
    /// Payload of the latest Ping; earlier ones need no answer of their own (section 5.5.3).
    pub pong: Option<Vec<u8>>,
    /// The client closes, with this status code if it gave one.
    pub close: Option<Option<u16>>,
    pub violation: Option<FrameError>,
}

/// Takes frames apart.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    control: Vec<u8>,
    /// A fragmented message goes on.
    message_open: bool,
    /// Closed, or violated: whatever comes is ignored.
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    opcode: u8,
    left: u64,
    /// Turned, so that its first byte belongs to the next byte of payload.
    mask: [u8; 4],
}

impl FrameReader {
    /// Moves the payload of data frames in `raw` to its front, unmasked, and returns how much that is.
    pub(super) fn decode(&mut self, raw: &mut [u8], demands: &mut Demands) -> usize {
        let (mut read, mut kept) = (0, 0);
        while read < raw.len() && !self.ended {
            let Some(frame) = &mut self.frame else {
                match self.read_head(&raw[read..]) {
                    Ok(taken) => read += taken,
                    Err(violation) => {
                        demands.violation = Some(violation);
                        self.ended = true;
                    }
                }
                self.finish_if_empty(demands);
                continue;
            };
            let taken = usize::try_from(frame.left).unwrap_or(usize::MAX).min(raw.len() - read);
            if frame.opcode & CLOSE == 0 {
                raw.copy_within(read..read + taken, kept);
                unmask(&mut raw[kept..kept + taken], &mut frame.mask);
                kept += taken;
            } else {
                let from = self.control.len();
                self.control.extend_from_slice(&raw[read..read + taken]);
                unmask(&mut self.control[from..], &mut frame.mask);
            }
            frame.left -= taken as u64;
            read += taken;
            self.finish_if_empty(demands);
        }
        kept
    }

    /// Collects a header; the frame begins when it is whole.
    fn read_head(&mut self, raw: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        while taken < raw.len() {
            let wanted = head_bytes(&self.head[..self.head_bytes]);
            let part = (wanted - self.head_bytes).min(raw.len() - taken);
            self.head[self.head_bytes..self.head_bytes + part].copy_from_slice(&raw[taken..taken + part]);
            self.head_bytes += part;
            taken += part;
            if self.head_bytes >= 2 && self.head_bytes == head_bytes(&self.head[..self.head_bytes]) {
                self.begin_frame()?;
                break;
            }
        }
        Ok(taken)
    }

    fn begin_frame(&mut self) -> Result<(), FrameError> {
        let head = &self.head[..self.head_bytes];
        let (first, second) = (head[0], head[1]);
        let (is_final, opcode) = (first & FIN != 0, first & 0x0F);
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits);
        }
        if second & MASKED == 0 {
            return Err(FrameError::Unmasked);
        }
        let (length, mask) = head[2..].split_at(head.len() - 6);
        let left = match length {
            [] => u64::from(second & !MASKED),
            bytes => bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        match opcode {
            CONTINUATION if !self.message_open => return Err(FrameError::Sequence),
            BINARY if self.message_open => return Err(FrameError::Sequence),
            CONTINUATION | BINARY => self.message_open = !is_final,
            TEXT => return Err(FrameError::Text),
            CLOSE | PING | PONG if !is_final || left > CONTROL_BYTES_MAX => return Err(FrameError::Control),
            CLOSE | PING | PONG => {}
            unknown => return Err(FrameError::Opcode(unknown)),
        }
        if left > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(left));
        }
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        self.frame = Some(Frame { opcode, left, mask });
        self.head_bytes = 0;
        Ok(())
    }

    fn finish_if_empty(&mut self, demands: &mut Demands) {
        let Some(Frame { opcode, left: 0, .. }) = self.frame else { return };
        self.frame = None;
        if opcode & CLOSE == 0 {
            return;
        }
        let payload = std::mem::take(&mut self.control);
        match (opcode, payload.as_slice()) {
            (PING, _) => demands.pong = Some(payload),
            (CLOSE, [_]) => {
                demands.violation = Some(FrameError::Close);
                self.ended = true;
            }
            (CLOSE, payload) => {
                demands.close = Some(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
                self.ended = true;
            }
            _ => {}
        }
    }
}

/// Length of the header that begins with `head`; 2 until its second byte is known.
fn head_bytes(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & MASKED == 0 { 0 } else { 4 }
}

fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ wide).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(bytes.len() % 4);
}

/// Header of a frame to a client: never masked, at most ten bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; 10],
    begin: u8,
    end: u8,
}

impl Head {
    pub(super) fn binary(length: usize) -> Self {
        Self::new(BINARY, length as u64)
    }

    fn new(opcode: u8, length: u64) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = FIN | opcode;
        let end = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ ..=125), _) => {
                bytes[1] = length;
                2
            }
            (_, Ok(length)) => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&length.to_be_bytes());
                10
            }
        };
        Self { bytes, begin: 0, end }
    }

    /// What of it is not written yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[usize::from(self.begin)..usize::from(self.end)]
    }

    /// Notes `written` bytes, which may go beyond the header, and returns how many were the header's.
    pub(super) fn advance(&mut self, written: usize) -> usize {
        let own = written.min(self.rest().len());
        self.begin += u8::try_from(own).expect("at most ten bytes, from the line above");
        own
    }
}

pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    control(PONG, payload)
}

pub(super) fn close(code: u16) -> Vec<u8> {
    control(CLOSE, &code.to_be_bytes())
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Head::new(opcode, payload.len() as u64).rest().to_vec();
    frame.extend_from_slice(payload);
    frame
}
