//! MQTT inside WebSocket frames.
//! Always true: payload goes straight between the socket and the buffers of the connection, whatever the frames'
//! lengths; one write of the connection is one binary frame; what is owed in control frames is at most one Pong and
//! one Close, and they go between data frames.
//!
//! Frames are handled here and not by a library because libraries hand out whole messages: that costs a read buffer and
//! the longest message per connection, where a broker with many idle clients wants neither.
mod frames;
mod upgrade;

pub use upgrade::{UpgradeError, UpgradeRules, Upgraded, upgrade};

use frames::{Demands, FrameReader, Head};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A longer write becomes several frames: clients have limits, too.
const WRITE_BYTES_MAX: usize = 1 << 20;
const NORMAL_CLOSURE: u16 = 1000;

/// A connection after its upgrade, as a byte stream.
pub struct WebSocket<S> {
    inner: S,
    reader: FrameReader,
    /// What is left of the header of the frame that is being written.
    head: Head,
    /// Payload that the current frame still needs.
    frame_left: usize,
    /// A control frame on its way, and how much of it is written.
    control: Vec<u8>,
    control_written: usize,
    pong: Option<Vec<u8>>,
    close: Close,
    read_end: Option<ReadEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Open,
    /// To be sent with this code.
    Owed(u16),
    /// Nothing may follow it.
    Sent,
}

#[derive(Debug, Clone, Copy)]
enum ReadEnd {
    Closed,
    Violated(frames::FrameError),
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `inner` stands behind the answer to the upgrade.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            reader: FrameReader::default(),
            head: Head::default(),
            frame_left: 0,
            control: Vec::new(),
            control_written: 0,
            pong: None,
            close: Close::Open,
            read_end: None,
        }
    }

    fn heed(&mut self, demands: Demands) {
        if let Some(payload) = demands.pong {
            self.pong = Some(payload);
        }
        if let Some(code) = demands.close {
            self.read_end = Some(ReadEnd::Closed);
            self.owe_close(code.unwrap_or(NORMAL_CLOSURE));
        }
        if let Some(violation) = demands.violation {
            self.read_end = Some(ReadEnd::Violated(violation));
            self.owe_close(violation.close_code());
        }
    }

    fn owe_close(&mut self, code: u16) {
        if self.close == Close::Open {
            self.close = Close::Owed(code);
        }
    }

    /// Writes control frames that are due; ready at once when there are none or a data frame is not finished.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frame_left > 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.control_written < self.control.len() {
                let rest = &self.control[self.control_written..];
                match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.control_written += written,
                }
                continue;
            }
            (self.control, self.control_written) = (Vec::new(), 0);
            if self.close == Close::Sent {
                return Poll::Ready(Ok(()));
            } else if let Some(payload) = self.pong.take() {
                self.control = frames::pong(&payload);
            } else if let Close::Owed(code) = self.close {
                self.control = frames::close(code);
                self.close = Close::Sent;
            } else {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Answers what was read as far as the socket takes it; the rest goes with the next read, write or flush.
    fn answer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let owes = self.pong.is_some() || !self.control.is_empty() || matches!(self.close, Close::Owed(_));
        if owes && self.poll_control(cx)?.is_ready() {
            let _ = Pin::new(&mut self.inner).poll_flush(cx)?;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.answer(cx)?;
        loop {
            match this.read_end {
                Some(ReadEnd::Closed) => return Poll::Ready(Ok(())),
                Some(ReadEnd::Violated(violation)) => {
                    let text = format!("WebSocket protocol error: {violation}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                None => {}
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            let raw = &mut buffer.filled_mut()[before..];
            if raw.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut demands = Demands::default();
            let payload = this.reader.decode(raw, &mut demands);
            buffer.set_filled(before + payload);
            this.heed(demands);
            this.answer(cx)?;
            if payload > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    /// `Pending` or a short write leaves a frame begun: what is written next is the rest of the same bytes.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.frame_left == 0 {
            ready!(this.poll_control(cx))?;
            if this.close != Close::Open {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            this.frame_left = bytes.len().min(WRITE_BYTES_MAX);
            this.head = Head::binary(this.frame_left);
        }
        let payload = &bytes[..bytes.len().min(this.frame_left)];
        loop {
            let inner = Pin::new(&mut this.inner);
            let written = match this.head.rest() {
                [] => ready!(inner.poll_write(cx, payload))?,
                head => ready!(inner.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(payload)]))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let written = written - this.head.advance(written);
            if written > 0 {
                this.frame_left -= written;
                return Poll::Ready(Ok(written));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_control(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    /// Says Close, unless that was said or a frame is cut off, and ends the stream.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.owe_close(NORMAL_CLOSURE);
        ready!(this.poll_control(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
