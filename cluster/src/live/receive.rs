//! What arrives from one other node, over both lanes.
//! Always true: items of one lane are handled one after the other, in order, each once; nothing of a former incarnation of the
//! sender is handled after its next one, or its end, is known.
use super::{
    PeerLinks, encode,
    link::{Inbox, LANES, LinkError},
    peer_link::{CONTROL, DATA},
};
use crate::ids::{Incarnation, NodeId};
use bytes::{Bytes, BytesMut};
use mosquorum_proto::peer::live::{LinkItem, Part, Publish, link_item::Body};
use parking_lot::Mutex;
use prost::Message as _;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::warn;

/// The largest item that may come in parts: a publish of 256 MB with all its properties.
const PARTS_BYTES_MAX: usize = 260 << 20;

/// One sender.
pub(crate) struct Inbound {
    pub(crate) node: NodeId,
    inbox: Mutex<Inbox>,
    /// Held while items of the lane are handled; taken before `inbox`, both (in order) when an incarnation begins or ends.
    lanes: [Mutex<Parts>; LANES],
    /// The incarnation of the sender that announced all its routes and waits for this node's acknowledgements.
    complete: AtomicU64,
}

/// Pieces of an item that is not complete yet.
#[derive(Default)]
struct Parts {
    pieces: BytesMut,
}

/// The stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the message is not valid: {0}")]
    Invalid(&'static str),
}

impl Inbound {
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, inbox: Mutex::default(), lanes: [Mutex::default(), Mutex::default()], complete: AtomicU64::new(0) }
    }

    /// A stream begins; the number of the last item handled on its lane. `forget` is called when the sender begins anew.
    pub(crate) fn hello(
        &self,
        me: Incarnation,
        incarnation: Incarnation,
        lane: usize,
        forget: impl FnOnce(),
    ) -> Result<u64, ReceiveError> {
        let mut handling = self.lanes.each_ref().map(|lane| lane.lock());
        let accepted = self.inbox.lock().hello(me, incarnation, lane)?;
        if accepted.fresh {
            handling.iter_mut().for_each(|parts| parts.pieces.clear());
            self.complete.store(0, Ordering::Release);
            forget();
        }
        Ok(accepted.received)
    }

    /// The sender's incarnations up to this one are over.
    pub(crate) fn end(&self, incarnation: Incarnation, forget: impl FnOnce()) {
        let _handling = self.lanes.each_ref().map(|lane| lane.lock());
        if self.inbox.lock().end(incarnation) {
            self.complete.store(0, Ordering::Release);
            forget();
        }
    }

    /// This node begins another incarnation. `forget` is called unless a sender has greeted it under that one already.
    pub(crate) fn restart(&self, me: Incarnation, forget: impl FnOnce()) {
        let mut handling = self.lanes.each_ref().map(|lane| lane.lock());
        if self.inbox.lock().restart(me) {
            handling.iter_mut().for_each(|parts| parts.pieces.clear());
            self.complete.store(0, Ordering::Release);
            forget();
        }
    }

    pub(crate) fn is_complete(&self, incarnation: Incarnation) -> bool {
        self.complete.load(Ordering::Acquire) >= incarnation.0
    }

    /// Handles a batch; the number up to which everything is handled.
    pub(crate) fn receive(
        &self,
        peers: &PeerLinks,
        (me, incarnation): (Incarnation, Incarnation),
        lane: usize,
        first: u64,
        items: Vec<LinkItem>,
    ) -> Result<u64, ReceiveError> {
        let mut parts = self.lanes[lane].lock();
        let (known, received) = {
            let mut inbox = self.inbox.lock();
            let known = inbox.receive((me, incarnation), lane, first, items.len())?;
            (known, inbox.received(lane))
        };
        for item in items.into_iter().skip(known) {
            match item.body {
                Some(Body::Part(part)) => {
                    if let Some(body) = parts.add(part)?.and_then(|item| item.body) {
                        self.handle(peers, incarnation, lane, body);
                    }
                }
                Some(body) => self.handle(peers, incarnation, lane, body),
                // Of a later version.
                None => {}
            }
        }
        Ok(received)
    }

    /// Items that make no sense are counted and left out: asking for them again would not better them.
    fn handle(&self, peers: &PeerLinks, incarnation: Incarnation, lane: usize, body: Body) {
        let understood = match body {
            Body::Publish(publish) if lane == DATA => peers.receive_publish(self.node, incarnation, publish),
            Body::RoutesComplete(_) => {
                self.complete.store(incarnation.0, Ordering::Release);
                peers.check_ready();
                Some(())
            }
            Body::Routes(change) => peers.receive_routes(self.node, change),
            Body::Returned(returned) => returned.publish.and_then(|publish| peers.receive_returned(self.node, publish)),
            body if lane == CONTROL => peers.receive_claims(self.node, incarnation, body),
            _ => None,
        };
        if understood.is_none() {
            peers.counters.invalid.fetch_add(1, Ordering::Relaxed);
            warn!(peer = %self.node, "item of a peer not understood");
        }
    }
}

impl Parts {
    fn add(&mut self, part: Part) -> Result<Option<LinkItem>, ReceiveError> {
        if self.pieces.len() + part.data.len() > PARTS_BYTES_MAX {
            return Err(ReceiveError::Invalid("an item is too large"));
        }
        self.pieces.extend_from_slice(&part.data);
        if !part.last {
            return Ok(None);
        }
        let whole: Bytes = std::mem::take(&mut self.pieces).freeze();
        LinkItem::decode(whole).map(Some).map_err(|_| ReceiveError::Invalid("the parts of an item do not fit"))
    }
}

impl PeerLinks {
    fn receive_publish(&self, from: NodeId, incarnation: Incarnation, publish: Publish) -> Option<()> {
        let handed = encode::from_wire(publish)?;
        self.counters.received.fetch_add(1, Ordering::Relaxed);
        if handed.at_apply {
            // The entry is applied (the stream waited for it), and whom it concerns has been served.
            return Some(());
        }
        let unserved = self.live.deliver(handed.message.clone(), handed.ordinary_receivers(), &handed.groups);
        if !unserved.is_empty() {
            let returned = encode::Handed { ordinary: false, groups: unserved, ..handed };
            self.send_back(from, incarnation, &returned);
        }
        Some(())
    }
}
