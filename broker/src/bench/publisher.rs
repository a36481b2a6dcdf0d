//! A client that publishes one stream.
//! Always true: never more under way than the window; a stream ends when everything it sent is acknowledged.
use super::{
    client::{Client, Error, Result},
    frames::{Frame, acknowledge},
    lane::{Lane, Schedule},
    meter::Meter,
    options::Options,
    stamp::{Stamp, StreamId},
};
use mosquorum_proto::mqtt::{PacketId, PacketType, QoS};
use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

/// Bytes put together before a write.
const WRITE_BYTES: usize = 128 << 10;
const ROUNDS_MAX: usize = 16;

/// Appends one message.
pub(super) type Writer = Box<dyn FnMut(PacketId, Stamp, &mut Vec<u8>) + Send>;

pub(super) struct Publisher {
    pub client: Client,
    pub write: Writer,
    pub lane: Arc<Lane>,
    pub meter: Arc<Meter>,
    pub stream: StreamId,
    pub qos: QoS,
    pub window: u64,
    /// Deliveries of each message that the window waits for; 0: for acknowledgements alone.
    pub copies: u64,
    pub schedule: Option<Schedule>,
    /// Messages in all; `None`: until the meter says stop.
    pub limit: Option<u64>,
    pub sent: u64,
    pub acknowledged: u64,
}

impl Publisher {
    /// As many messages as the options say, as fast as the window allows.
    pub(super) fn finite(
        client: Client,
        write: Writer,
        meter: &Arc<Meter>,
        stream: StreamId,
        qos: QoS,
        options: &Options,
    ) -> Self {
        Self {
            client,
            write,
            lane: Arc::default(),
            meter: meter.clone(),
            stream,
            qos,
            window: options.window,
            copies: 0,
            schedule: None,
            limit: Some(options.messages),
            sent: 0,
            acknowledged: 0,
        }
    }

    /// How many it has sent, and its connection.
    /// # Errors
    /// When the connection broke or a message was refused.
    pub(super) async fn run(mut self) -> Result<(u64, Client)> {
        self.window = self.window.min(self.client.receive_maximum).max(1);
        poll_fn(|cx| self.poll(cx)).await?;
        Ok((self.sent, self.client))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for _ in 0..ROUNDS_MAX {
            let read = self.read(cx)?;
            if self.client.waiting() < WRITE_BYTES {
                self.fill();
            }
            let flushed = match self.client.poll_flush(cx) {
                Poll::Ready(result) => result.map(|()| true)?,
                Poll::Pending => false,
            };
            if flushed && self.has_ended() {
                return Poll::Ready(Ok(()));
            }
            if !read {
                self.lane.register(cx.waker());
                if self.room() == 0 || !flushed {
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn has_ended(&self) -> bool {
        let no_more = self.meter.stopped.load(Relaxed) || self.limit == Some(self.sent);
        no_more && (self.qos == QoS::AtMostOnce || self.acknowledged == self.sent)
    }

    fn room(&self) -> u64 {
        if self.meter.stopped.load(Relaxed) {
            return 0;
        }
        let unacknowledged = if self.qos == QoS::AtMostOnce { 0 } else { self.sent - self.acknowledged };
        let mut room = self.window.saturating_sub(unacknowledged);
        match self.schedule {
            Some(_) => room = room.min(self.lane.due().saturating_sub(self.sent)),
            None if self.copies > 0 => {
                let undelivered = (self.sent * self.copies).saturating_sub(self.lane.delivered());
                room = room.min(self.window.saturating_sub(undelivered.div_ceil(self.copies)));
            }
            None => {}
        }
        room.min(self.limit.map_or(u64::MAX, |limit| limit - self.sent))
    }

    fn fill(&mut self) {
        let mut count = 0;
        let room = self.room();
        let now = self.meter.clock.now();
        while count < room && self.client.waiting() < WRITE_BYTES {
            let sequence = self.sent + count;
            let due = self.schedule.map_or(now, |schedule| schedule.due(u64::from(self.stream), sequence));
            let stamp = Stamp { stream: self.stream, sequence: sequence as u32, due };
            (self.write)(packet_id(sequence), stamp, &mut self.client.out);
            count += 1;
        }
        if count > 0 {
            self.sent += count;
            self.lane.set_sent(self.sent);
            self.meter.published.fetch_add(count, Relaxed);
        }
    }

    /// Takes what came; `false` if nothing did.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        let (mut done, mut refused, mut ended) = (0, None, false);
        let polled = self.client.poll_read(cx, |frame, out| match frame {
            Frame::Ack(PacketType::PubRec, id, reason) if reason < 0x80 => acknowledge(PacketType::PubRel, id, out),
            Frame::Ack(_, _, reason) => {
                done += 1;
                refused = refused.or((reason >= 0x80).then_some(reason));
            }
            Frame::Other(PacketType::Disconnect) => ended = true,
            _ => {}
        });
        self.acknowledged += done;
        self.meter.acknowledged.fetch_add(done, Relaxed);
        match (polled, refused) {
            (_, Some(reason)) => Err(Error::NotAccepted(reason)),
            (Poll::Ready(Ok(())), None) if ended => Err(Error::Closed),
            (Poll::Ready(result), None) => result.map(|()| true),
            (Poll::Pending, None) => Ok(false),
        }
    }
}

/// Never 0; a window is never longer than the numbers there are.
pub(super) fn packet_id(sequence: u64) -> PacketId {
    (sequence % u64::from(PacketId::MAX)) as PacketId + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_identifiers_go_round_without_0() {
        assert_eq!([0, 1, 65_534, 65_535, 131_069].map(packet_id), [1, 2, 65_535, 1, 65_535]);
    }
}
