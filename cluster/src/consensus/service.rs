//! The leader's side of proposals and read barriers of other nodes.
use crate::{
    entry::encode_batch,
    ids::{Incarnation, NodeId},
    raft::{Engine, NotLeader, START_TIMEOUT, collect_parts, peer_of},
    replica::clock::ClusterClock,
    state::Origin,
    transport::services::raft::proposals_server,
};
use arc_swap::ArcSwapOption;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use mosquorum_proto::peer::raft as wire;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone)]
pub(crate) struct ProposalService {
    pub(crate) engine: Arc<ArcSwapOption<Engine>>,
    pub(crate) clock: Arc<ClusterClock>,
}

/// Batches of one stream that are in the log and not applied; the origin sends no more than a few.
const PENDING_MAX: usize = 64;

impl ProposalService {
    #[allow(clippy::result_large_err)] // tonic's own type
    fn engine(&self) -> Result<Arc<Engine>, Status> {
        self.engine.load_full().ok_or_else(|| Status::unavailable("this node does not belong to a cluster yet"))
    }

    /// Takes proposals into the log in the order of the stream until one fails.
    async fn take(
        self,
        engine: Arc<Engine>,
        origin: Origin,
        mut frames: Streaming<wire::ProposeFrame>,
    ) -> Result<NotLeader, Status> {
        use wire::propose_frame::Content;
        let mut pending: FuturesUnordered<BoxFuture<'static, Result<(), NotLeader>>> = FuturesUnordered::new();
        loop {
            let frame = tokio::select! {
                frame = frames.message(), if pending.len() < PENDING_MAX => frame?,
                Some(applied) = pending.next() => match applied {
                    Ok(()) => continue,
                    Err(refused) => return Ok(refused),
                },
            };
            let Some(frame) = frame else { return Ok(NotLeader::default()) };
            let Some(Content::Proposal(mut proposal)) = frame.content else {
                return Err(Status::invalid_argument("a frame that is not a proposal"));
            };
            let mut commands = std::mem::take(&mut proposal.commands).into();
            if proposal.parts_bytes > 0 {
                let part_of = |frame: wire::ProposeFrame| match frame.content {
                    Some(Content::Part(part)) => Some(part),
                    _ => None,
                };
                commands = collect_parts(proposal.parts_bytes, &mut frames, part_of, |_| None).await?;
            }
            if !engine.is_leader() {
                return Ok(NotLeader { leader: engine.leadership().borrow().leader });
            }
            let time = self.clock.stamp();
            let payload = encode_batch(origin, proposal.sequence, time, proposal.count, &commands);
            match engine.propose(payload).await {
                Ok(applied) => pending.push(applied.boxed()),
                Err(refused) => return Ok(refused),
            }
        }
    }
}

#[tonic::async_trait]
impl proposals_server::Proposals for ProposalService {
    type ProposeStream = ReceiverStream<Result<wire::ProposeRefused, Status>>;

    async fn propose(
        &self,
        request: Request<Streaming<wire::ProposeFrame>>,
    ) -> Result<Response<Self::ProposeStream>, Status> {
        let peer = peer_of(&request);
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(START_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("proposals without their start"))??;
        let first = first.and_then(|frame| frame.content);
        let Some(wire::propose_frame::Content::Start(start)) = first else {
            return Err(Status::invalid_argument("proposals without their start"));
        };
        let engine = self.engine()?;
        engine.check_envelope(peer.as_ref(), start.envelope.as_ref())?;
        let node = start.envelope.map_or(0, |envelope| envelope.from);
        let origin = Origin { node: NodeId(node), incarnation: Incarnation(start.incarnation) };
        let (refuse, refusals) = mpsc::channel(1);
        let this = self.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = this.take(engine, origin, frames) => end,
                () = refuse.closed() => return,
            };
            let end = end.map(|refused| wire::ProposeRefused {
                leader: refused.leader.unwrap_or(0),
                reason: "not the leader".into(),
            });
            let _ = refuse.send(end).await;
        });
        Ok(Response::new(ReceiverStream::new(refusals)))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        let peer = peer_of(&request);
        let engine = self.engine()?;
        engine.check_envelope(peer.as_ref(), request.into_inner().envelope.as_ref())?;
        match engine.read_index().await {
            Ok(index) => Ok(Response::new(wire::ReadIndexReply { index })),
            Err(NotLeader { .. }) => Err(Status::failed_precondition("not the leader")),
        }
    }
}
