//! The gRPC service that other nodes call.
use super::{PeerLinks, lease::Question, peer_link::DATA, receive::Inbound};
use crate::{
    ids::{Incarnation, NodeId},
    node::walls::Clocks,
    raft::peer_of,
    transport::{PeerCertificate, services::live::peer_server},
};
use futures_util::future::BoxFuture;
use mosquorum_proto::peer::live::{
    Address, LinkBatch, LinkReply, PingReply, PingRequest, SuspectReply, SuspectRequest, link_item::Body,
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Batches handled before an acknowledgement is sent (sooner when none is there).
const BATCHES_PER_REPLY: usize = 4;

pub(crate) struct PeerService {
    pub(crate) peers: Arc<PeerLinks>,
}

impl PeerService {
    #[allow(clippy::result_large_err)] // tonic's own type
    fn admit(&self, peer: Option<&PeerCertificate>, address: Option<Address>) -> Result<NodeId, Status> {
        let address = address.ok_or_else(|| Status::invalid_argument("the message has no address"))?;
        let from = NodeId(address.from);
        self.peers.context.admit(peer, &address.cluster, from, NodeId(address.to))?;
        Ok(from)
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        let peer = peer_of(&request);
        let PingRequest { address, incarnation } = request.into_inner();
        let from = self.admit(peer.as_ref(), address)?;
        let (granted, voters_index) = self.peers.leases.grant(from, Incarnation(incarnation))?;
        let Clocks { time, wall, sure } = self.peers.context.clocks();
        let clocks = Some(mosquorum_proto::peer::live::Clocks { time: time.0, wall: wall.0, sure });
        let applied = self.peers.context.applied_index();
        Ok(Response::new(PingReply { granted, voters_index, clocks, applied }))
    }

    async fn suspect(&self, request: Request<SuspectRequest>) -> Result<Response<SuspectReply>, Status> {
        let peer = peer_of(&request);
        let SuspectRequest { address, node, incarnation, voters_index, refuse } = request.into_inner();
        self.admit(peer.as_ref(), address)?;
        let question = Question { node: NodeId(node), incarnation: Incarnation(incarnation), voters_index };
        let yes = self.peers.leases.answer(question, refuse).await;
        Ok(Response::new(SuspectReply { yes }))
    }

    type LinkStream = Receiving;

    async fn link(&self, request: Request<Streaming<LinkBatch>>) -> Result<Response<Receiving>, Status> {
        let peer = peer_of(&request);
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no greeting"))??;
        let hello = first.and_then(|first| first.hello).ok_or_else(|| Status::invalid_argument("no greeting"))?;
        let from = self.admit(peer.as_ref(), hello.address)?;
        let lane = usize::try_from(hello.lane).unwrap_or(usize::MAX);
        if lane > DATA {
            return Err(Status::invalid_argument("no such lane"));
        }
        let me = self.peers.me().ok_or_else(|| Status::unavailable("this node is between two incarnations"))?;
        let incarnation = Incarnation(hello.incarnation);
        let (inbound, received) = self.peers.greet(me.incarnation, from, incarnation, lane)?;
        let reply = Some(LinkReply { incarnation: me.incarnation.0, received });
        let peers = self.peers.clone();
        Ok(Response::new(Receiving {
            peers,
            inbound,
            incarnation,
            lane,
            me: me.incarnation,
            incoming,
            held: None,
            reply,
        }))
    }
}

/// Handles what comes in and yields acknowledgements.
pub(crate) struct Receiving {
    peers: Arc<PeerLinks>,
    inbound: Arc<Inbound>,
    /// The sender's.
    incarnation: Incarnation,
    lane: usize,
    /// This node's when the stream began.
    me: Incarnation,
    incoming: Streaming<LinkBatch>,
    /// A batch of which something is handled only when a later entry of the log is applied.
    held: Option<(LinkBatch, BoxFuture<'static, ()>)>,
    reply: Option<LinkReply>,
}

impl Receiving {
    /// Resolves when everything is applied that the batch's messages come behind; `None`: it is.
    fn wait_for(&self, batch: &LinkBatch) -> Option<BoxFuture<'static, ()>> {
        let after = batch.items.iter().filter_map(|item| match &item.body {
            Some(Body::Publish(publish)) => Some(publish.after),
            _ => None,
        });
        let after = after.max().filter(|after| *after > 0)?;
        let mut applied = self.peers.context.applied()?;
        if *applied.borrow() >= after {
            return None;
        }
        Some(Box::pin(async move {
            // An error means that the node is shutting down.
            let _ = applied.wait_for(|applied| *applied >= after).await;
        }))
    }

    /// Handles a batch, now or when its time has come; whether it did.
    #[allow(clippy::result_large_err)] // tonic's own type
    fn take(&mut self, batch: LinkBatch, cx: &mut Context<'_>) -> Result<bool, Status> {
        let Some(waits) = self.wait_for(&batch) else { return self.handle(batch).map(|()| true) };
        self.held = Some((batch, waits));
        self.poll_held(cx)
    }

    #[allow(clippy::result_large_err)]
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        let Some((batch, mut waits)) = self.held.take() else { return Ok(true) };
        if waits.as_mut().poll(cx).is_pending() {
            self.held = Some((batch, waits));
            return Ok(false);
        }
        self.handle(batch).map(|()| true)
    }

    #[allow(clippy::result_large_err)]
    fn handle(&mut self, batch: LinkBatch) -> Result<(), Status> {
        if self.peers.me().is_none_or(|me| me.incarnation != self.me) {
            return Err(Status::aborted("this node began another incarnation"));
        }
        let received = self
            .inbound
            .receive(&self.peers, (self.me, self.incarnation), self.lane, batch.first, batch.items)
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        self.reply = Some(LinkReply { incarnation: self.me.0, received });
        Ok(())
    }
}

impl Stream for Receiving {
    type Item = Result<LinkReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        for _ in 0..BATCHES_PER_REPLY {
            if !this.poll_held(cx)? {
                break;
            }
            match Pin::new(&mut this.incoming).poll_next(cx) {
                Poll::Ready(Some(Ok(batch))) => drop(this.take(batch, cx)?),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => break,
                Poll::Pending if this.reply.is_none() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if this.reply.is_none() && this.held.is_some() {
            return Poll::Pending;
        }
        // Without anything to acknowledge the other end has closed.
        Poll::Ready(this.reply.take().map(Ok))
    }
}
