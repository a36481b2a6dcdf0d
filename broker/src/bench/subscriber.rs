//! A client that receives, acknowledges and checks.
use super::{
    client::{Client, Result},
    frames::{Frame, Received, acknowledge},
    lane::Lane,
    meter::Meter,
    order::{GroupOrder, Order},
    stamp::{Stamp, StreamId},
};
use mosquorum_proto::mqtt::PacketType;
use parking_lot::Mutex;
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// What delivers nothing for so long has nothing more.
const STILL: Duration = Duration::from_secs(5);

/// What a subscriber saw; it may lose its connection and go on.
#[derive(Debug)]
pub(super) enum Seen {
    All(Order),
    /// A member of a shared subscription.
    Share(GroupOrder),
}

impl Seen {
    #[must_use]
    pub(super) fn new(shared: bool) -> Self {
        if shared { Self::Share(GroupOrder::default()) } else { Self::All(Order::default()) }
    }

    fn saw(&mut self, stamp: Stamp) {
        match self {
            Self::All(order) => {
                order.saw(stamp.stream, stamp.sequence);
            }
            Self::Share(order) => order.saw(stamp.stream, stamp.sequence),
        }
    }

    /// Different messages of a stream that came; of a shared subscription's member unknown, 0.
    #[must_use]
    pub(super) fn distinct(&self, stream: StreamId) -> u64 {
        match self {
            Self::All(order) => order.distinct(stream),
            Self::Share(_) => 0,
        }
    }

    #[must_use]
    pub(super) fn out_of_order(&self) -> u64 {
        match self {
            Self::All(order) => order.out_of_order,
            Self::Share(order) => order.out_of_order,
        }
    }
}

pub(super) struct Subscriber {
    pub index: usize,
    pub seen: Arc<Mutex<Seen>>,
    /// Of all streams.
    pub lanes: Arc<[Arc<Lane>]>,
    pub meter: Arc<Meter>,
    dues: Vec<u64>,
    /// Deliveries of a stream that were not reported to the lane.
    unreported: Vec<(u32, u64)>,
}

impl Subscriber {
    pub(super) fn new(index: usize, seen: Arc<Mutex<Seen>>, lanes: Arc<[Arc<Lane>]>, meter: Arc<Meter>) -> Self {
        Self { index, seen, lanes, meter, dues: Vec::new(), unreported: Vec::new() }
    }

    /// Until the connection ends, or for ever.
    /// # Errors
    /// How it ended.
    pub(super) async fn run(mut self, mut client: Client) -> Result<()> {
        loop {
            poll_fn(|cx| self.poll(&mut client, cx)).await?;
        }
    }

    /// Until so many different messages of a stream came, or none does any more; when the last came.
    /// # Errors
    /// How the connection ended.
    pub(super) async fn read_all(&mut self, client: &mut Client, stream: StreamId, messages: u64) -> Result<Instant> {
        let mut last = Instant::now();
        while self.seen.lock().distinct(stream) < messages {
            match timeout(STILL, poll_fn(|cx| self.poll(client, cx))).await {
                Ok(read) => read?,
                Err(_) => break,
            }
            last = Instant::now();
        }
        Ok(last)
    }

    /// Ready after each read.
    pub(super) fn poll(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // What did not fit goes out first; the socket says when there is room.
        if let Poll::Ready(Err(error)) = client.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let mut seen = self.seen.lock();
        let (dues, unreported) = (&mut self.dues, &mut self.unreported);
        let polled = client.poll_read(cx, |frame, out| match frame {
            Frame::Publish(received) => {
                answer(&received, out);
                if let Some(stamp) = Stamp::read(received.payload) {
                    seen.saw(stamp);
                    dues.push(stamp.due);
                    match unreported.last_mut() {
                        Some((stream, count)) if *stream == stamp.stream => *count += 1,
                        _ => unreported.push((stamp.stream, 1)),
                    }
                }
            }
            Frame::Ack(PacketType::PubRel, id, _) => acknowledge(PacketType::PubComp, id, out),
            _ => {}
        });
        drop(seen);
        if !self.dues.is_empty() {
            self.meter.record(self.index, self.meter.clock.now(), &mut self.dues);
            self.dues.clear();
        }
        for (stream, count) in self.unreported.drain(..) {
            if let Some(lane) = self.lanes.get(stream as usize) {
                lane.add_delivered(count);
            }
        }
        match (polled, client.poll_flush(cx)) {
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (polled, _) => polled,
        }
    }
}

fn answer(received: &Received<'_>, out: &mut Vec<u8>) {
    match received.qos {
        0 => {}
        1 => acknowledge(PacketType::PubAck, received.packet_id, out),
        _ => acknowledge(PacketType::PubRec, received.packet_id, out),
    }
}
