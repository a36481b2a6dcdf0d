//! The way to one other node: both lanes of the reliable link, and what waits on them.
//! Always true: what is held is for the incarnation `remote` of the other end, from the present incarnation of this one; when either
//! ends, everything held is released and whoever waited is settled (the other end is gone) or forgotten (this one is).
//! The control lane carries nothing before it is synced: then everything that the other end must know is sent first.
use super::{
    encode::{self, Handed},
    link::{LANES, LinkError, Outbox},
    pending::{Pending, Settled},
};
use crate::ids::{Incarnation, NodeId};
use bytes::Bytes;
use mosquorum_proto::{
    mqtt::QoS,
    peer::live::{LinkBatch, LinkItem, Part, link_item},
};
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

pub(crate) const CONTROL: usize = 0;
pub(crate) const DATA: usize = 1;

const BATCH_BYTES: usize = 256 << 10;
const BATCH_ITEMS: usize = 2048;
/// Answers that wait for a link to come up.
const HELD_MAX: usize = 1 << 17;
/// Larger items travel in parts.
const PART_BYTES: usize = 512 << 10;

/// What is waiting to be acknowledged.
struct Frame {
    body: FrameBody,
    pending: Option<Pending>,
}

enum FrameBody {
    Publish(Handed),
    Item(Box<link_item::Body>),
    Part(Bytes, bool),
}

struct Lane {
    outbox: Outbox<Frame>,
    /// Number of the present stream; those of before are over.
    stream: u64,
    /// The other end has answered: items may go.
    opened: bool,
    waker: Option<Waker>,
}

/// What the other end has been sent on the control lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncState {
    Unsynced,
    /// Everything that it must know first.
    Synced,
    /// Also that it is waited for.
    Complete,
}

struct LinkState {
    /// 0: nothing is known of the other end.
    remote: Incarnation,
    /// Incarnations of the other end up to this one are over.
    ended: Incarnation,
    sync: SyncState,
    /// Route changes that the other end gets when it is synced, with the incarnation that has to.
    unsynced: Vec<(Incarnation, Pending)>,
    /// Items that go out once it is synced.
    held: Vec<link_item::Body>,
    lanes: [Lane; LANES],
}

/// Counted since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct LinkCounters {
    pub(crate) sent: AtomicU64,
    /// QoS 0 messages that found the link full.
    pub(crate) dropped: AtomicU64,
    /// QoS 1 and 2 messages that found it overfull: their publishers are not answered.
    pub(crate) refused: AtomicU64,
}

pub(crate) struct PeerLink {
    pub(crate) node: NodeId,
    bytes_max: usize,
    inner: Mutex<LinkState>,
    data_bytes: AtomicUsize,
    pub(crate) counters: LinkCounters,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// The other end is not there: nobody to wait for.
    Gone,
    Dropped,
}

impl PeerLink {
    pub(crate) fn new(node: NodeId, bytes_max: usize) -> Self {
        let lane = || Lane { outbox: Outbox::default(), stream: 0, opened: false, waker: None };
        let inner = LinkState {
            remote: Incarnation(0),
            ended: Incarnation(0),
            sync: SyncState::Unsynced,
            unsynced: Vec::new(),
            held: Vec::new(),
            lanes: [lane(), lane()],
        };
        let (inner, data_bytes) = (Mutex::new(inner), AtomicUsize::new(0));
        Self { node, bytes_max, inner, data_bytes, counters: LinkCounters::default() }
    }

    pub(crate) fn congested(&self) -> bool {
        self.data_bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    /// Both lanes are open, and the other side was sent everything.
    pub(crate) fn is_up(&self) -> bool {
        let inner = self.inner.lock();
        inner.is_synced() && inner.lanes.iter().all(|lane| lane.opened)
    }

    pub(crate) fn data_bytes(&self) -> usize {
        self.data_bytes.load(Ordering::Relaxed)
    }

    /// The other end runs under this incarnation.
    pub(crate) fn observe(&self, incarnation: Incarnation) -> Settled {
        let mut inner = self.inner.lock();
        if incarnation <= inner.remote {
            return Settled::default();
        }
        inner.remote = incarnation;
        self.abandon(&mut inner, Incarnation(incarnation.0 - 1))
    }

    /// The other end's incarnations up to this one are over.
    pub(crate) fn end(&self, incarnation: Incarnation) -> Settled {
        let mut inner = self.inner.lock();
        if incarnation <= inner.ended {
            return Settled::default();
        }
        inner.ended = incarnation;
        if inner.remote > incarnation { Settled::default() } else { self.abandon(&mut inner, incarnation) }
    }

    /// This node begins another incarnation: the publishers that waited are not there any more; routes are announced again.
    pub(crate) fn restart(&self) {
        let mut inner = self.inner.lock();
        let incarnation = inner.remote;
        let waiting = inner.lanes[CONTROL].outbox.reset().into_iter().filter_map(|(frame, _)| frame.pending);
        inner.unsynced.extend(waiting.map(|pending| (incarnation, pending)));
        let forgotten = self.abandon(&mut inner, Incarnation(0));
        drop(inner);
        drop(forgotten);
    }

    /// `over`: incarnations of the other end up to this one are not waited for any more.
    fn abandon(&self, inner: &mut LinkState, over: Incarnation) -> Settled {
        inner.sync = SyncState::Unsynced;
        let (gone, kept) =
            std::mem::take(&mut inner.unsynced).into_iter().partition(|(incarnation, _)| *incarnation <= over);
        inner.unsynced = kept;
        inner.held.clear();
        let gone: Vec<_> = gone;
        let mut settled: Settled = gone.into_iter().map(|(_, pending)| pending).collect();
        for lane in &mut inner.lanes {
            for (Frame { body, pending }, _) in lane.outbox.reset() {
                settled.extend(pending);
                match body {
                    // A message of QoS 2 never goes to another member once one may have it [MQTT-4.8.2-5].
                    FrameBody::Publish(handed)
                        if !handed.groups.is_empty() && handed.message.qos != QoS::ExactlyOnce =>
                    {
                        settled.orphans.push(handed);
                    }
                    _ => {}
                }
            }
            lane.close();
        }
        self.data_bytes.store(0, Ordering::Relaxed);
        settled
    }

    /// Hands a publish over. `pending` is settled when it is acknowledged; if it is not queued it is dropped.
    pub(crate) fn push_publish(&self, handed: Handed, pending: Option<Pending>) -> Pushed {
        let size = encode::size_estimate(&handed.message);
        let qos = handed.message.qos;
        let mut inner = self.inner.lock();
        if inner.remote <= inner.ended {
            return Pushed::Gone;
        }
        let lane = &mut inner.lanes[DATA];
        let held = lane.outbox.bytes();
        if held > self.bytes_max && qos == QoS::AtMostOnce {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return Pushed::Dropped;
        }
        // Who waits for an answer would wait for good: how much that can be is bounded where it is read.
        if held > 2 * self.bytes_max && pending.is_none() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Pushed::Dropped;
        }
        if size <= PART_BYTES {
            lane.outbox.push(Frame { body: FrameBody::Publish(handed), pending }, size);
        } else {
            lane.push_parts(encode::to_wire_apart(&handed), pending);
        }
        self.data_bytes.store(lane.outbox.bytes(), Ordering::Relaxed);
        let waker = lane.waker.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
        Pushed::Queued
    }

    /// Sends a request or a notification on the control lane, if it is synced (whoever syncs it asks anew).
    pub(crate) fn push_control(&self, body: link_item::Body) {
        let mut inner = self.inner.lock();
        if inner.is_synced() {
            inner.push_control(body, None);
        }
    }

    /// Answers on the control lane, once it is synced, what this incarnation of the other end asked.
    pub(crate) fn push_answer(&self, incarnation: Incarnation, body: link_item::Body) {
        let mut inner = self.inner.lock();
        if inner.remote != incarnation {
            return;
        }
        if inner.is_synced() {
            inner.push_control(body, None);
        } else if inner.remote > inner.ended {
            if inner.held.len() < HELD_MAX {
                inner.held.push(body);
            } else {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Announces changed routes. `pending`: the node serves and its acknowledgement is waited for.
    pub(crate) fn push_routes(&self, body: link_item::Body, pending: Option<(Incarnation, Pending)>) -> Settled {
        let mut inner = self.inner.lock();
        match pending {
            // A later incarnation than the one that serves is there: that one is over.
            Some((incarnation, pending)) if inner.remote > incarnation || inner.ended >= incarnation => {
                if inner.is_synced() {
                    inner.push_control(body, None);
                }
                return Settled::from_iter([pending]);
            }
            Some((incarnation, pending)) if inner.is_synced() && inner.remote == incarnation => {
                inner.push_control(body, Some(pending))
            }
            Some(pending) => inner.unsynced.push(pending),
            None if inner.is_synced() => inner.push_control(body, None),
            None => {}
        }
        Settled::default()
    }

    /// Sends everything that the other end must know first, once per incarnation of either end; `false` if it was done before
    /// (or the link is not open). There is at least one item. Route changes that waited are settled when the last of it is acknowledged.
    pub(crate) fn sync(&self, items: impl FnOnce() -> Vec<link_item::Body>) -> bool {
        let mut inner = self.inner.lock();
        if inner.is_synced() || !inner.lanes[CONTROL].opened {
            return false;
        }
        inner.sync = SyncState::Synced;
        items().into_iter().for_each(|body| inner.push_control(body, None));
        let waiting = std::mem::take(&mut inner.unsynced).into_iter().map(|(_, pending)| pending).collect();
        if let Some(last) = inner.lanes[CONTROL].outbox.last_mut() {
            last.pending = Some(Pending::All(waiting));
        }
        std::mem::take(&mut inner.held).into_iter().for_each(|body| inner.push_control(body, None));
        true
    }

    /// Notifies the other end once that it is waited for from here on, if it runs under this incarnation and is synced.
    pub(crate) fn send_complete(&self, incarnation: Incarnation, body: link_item::Body) {
        let mut inner = self.inner.lock();
        if inner.sync == SyncState::Synced && inner.remote == incarnation {
            inner.sync = SyncState::Complete;
            inner.push_control(body, None);
        }
    }

    /// A new stream; the one before on this lane is over.
    pub(crate) fn begin(&self, lane: usize) -> u64 {
        let mut inner = self.inner.lock();
        inner.lanes[lane].close();
        inner.lanes[lane].stream
    }

    /// The other end answered the greeting.
    /// # Errors
    /// The stream is over, or the other end contradicts what is known.
    pub(crate) fn opened(
        &self,
        lane: usize,
        stream: u64,
        incarnation: Incarnation,
        received: u64,
    ) -> Result<Settled, LinkError> {
        let mut inner = self.inner.lock();
        if inner.lanes[lane].stream != stream || incarnation < inner.remote || incarnation <= inner.ended {
            return Err(LinkError::Over(incarnation));
        }
        let mut settled = Settled::default();
        if incarnation > inner.remote {
            inner.remote = incarnation;
            settled = self.abandon(&mut inner, Incarnation(incarnation.0 - 1));
            // This stream goes on, as the first of the new incarnation.
            inner.lanes[lane].stream = stream;
        }
        let this = &mut inner.lanes[lane];
        settled.extend(this.outbox.resume(received)?.filter_map(|(frame, _)| frame.pending));
        this.opened = true;
        self.note_bytes(lane, this);
        this.waker.take().into_iter().for_each(Waker::wake);
        Ok(settled)
    }

    /// The other end has handled everything up to `received`.
    /// # Errors
    /// As for [`PeerLink::opened`].
    pub(crate) fn acknowledge(&self, lane: usize, stream: u64, received: u64) -> Result<Settled, LinkError> {
        let mut inner = self.inner.lock();
        let this = &mut inner.lanes[lane];
        if this.stream != stream {
            return Err(LinkError::Stream(stream));
        }
        let settled = this.outbox.acknowledge(received)?.filter_map(|(frame, _)| frame.pending).collect();
        self.note_bytes(lane, this);
        Ok(settled)
    }

    fn note_bytes(&self, lane: usize, this: &Lane) {
        if lane == DATA {
            self.data_bytes.store(this.outbox.bytes(), Ordering::Relaxed);
        }
    }

    /// The next items for this stream; `None` when it is over.
    pub(crate) fn poll_batch(&self, lane: usize, stream: u64, cx: &mut Context<'_>) -> Poll<Option<LinkBatch>> {
        let mut inner = self.inner.lock();
        let this = &mut inner.lanes[lane];
        if this.stream != stream {
            return Poll::Ready(None);
        }
        if this.opened {
            let mut items = Vec::new();
            let first = this.outbox.next_batch(BATCH_BYTES, BATCH_ITEMS, |frame| items.push(frame.item()));
            if let Some(first) = first {
                self.counters.sent.fetch_add(items.len() as u64, Ordering::Relaxed);
                return Poll::Ready(Some(LinkBatch { hello: None, first, items }));
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl LinkState {
    fn is_synced(&self) -> bool {
        self.sync != SyncState::Unsynced
    }

    fn push_control(&mut self, body: link_item::Body, pending: Option<Pending>) {
        let lane = &mut self.lanes[CONTROL];
        let size = 48 + LinkItem::encoded_len(&LinkItem { body: Some(body.clone()) });
        if size <= PART_BYTES {
            lane.outbox.push(Frame { body: FrameBody::Item(Box::new(body)), pending }, size);
        } else {
            lane.push_parts([LinkItem { body: Some(body) }.encode_to_vec().into()], pending);
        }
        lane.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Lane {
    /// An encoded item, which is large, in pieces of any length.
    fn push_parts(&mut self, encoded: impl IntoIterator<Item = Bytes>, mut pending: Option<Pending>) {
        let cut = |mut piece: Bytes| {
            let next = move || (!piece.is_empty()).then(|| piece.split_to(piece.len().min(PART_BYTES)));
            std::iter::from_fn(next)
        };
        let mut parts = encoded.into_iter().flat_map(cut).peekable();
        while let Some(part) = parts.next() {
            let (last, size) = (parts.peek().is_none(), part.len());
            let pending = pending.take_if(|_| last);
            self.outbox.push(Frame { body: FrameBody::Part(part, last), pending }, size);
        }
    }

    fn close(&mut self) {
        self.stream += 1;
        self.opened = false;
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

impl Frame {
    fn item(&self) -> LinkItem {
        let body = match &self.body {
            FrameBody::Publish(handed) => link_item::Body::Publish(encode::to_wire(handed)),
            FrameBody::Item(body) => (**body).clone(),
            FrameBody::Part(data, last) => link_item::Body::Part(Part { data: data.clone(), last: *last }),
        };
        LinkItem { body: Some(body) }
    }
}
