//! The Raft messages of other nodes, handed to the library.
//! Always true: only messages of this cluster, for this node, from the member that the certificate names get through; the
//! sender is checked before the parts of an entry are collected.
use super::{
    engine::Engine,
    snapshot::SnapshotHandle,
    types::{
        Entry, LogId, SnapshotMeta, TypeConfig, log_id, log_id_from_wire, log_id_to_wire, membership, vote_from_wire,
        vote_to_wire,
    },
};
use crate::entry::{BatchHeader, Content, encode_batch};
use crate::transport::{PeerCertificate, services::raft::raft_server};
use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use mosquorum_proto::peer::raft as wire;
use mosquorum_storage::{log::Payload, snapshot::SnapshotReceiver};
use openraft::{
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest},
    storage::Snapshot,
};
use std::{pin::pin, sync::Arc, time::Duration};
use tonic::{Request, Response, Status, Streaming};

/// Answers for the node once it belongs to a cluster.
#[derive(Clone)]
pub(crate) struct RaftService {
    pub(crate) engine: Arc<ArcSwapOption<Engine>>,
}

/// An entry that announces more was never made by this software.
const ENTRY_BYTES_MAX: u64 = 512 << 20;
/// Whoever opens a stream says at once what it is for.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(5);

impl RaftService {
    #[allow(clippy::result_large_err)] // tonic's own type
    fn engine(&self) -> Result<Arc<Engine>, Status> {
        self.engine.load_full().ok_or_else(|| Status::unavailable("this node does not belong to a cluster yet"))
    }

    #[allow(clippy::result_large_err)]
    fn admit(&self, peer: &Option<PeerCertificate>, envelope: Option<wire::Envelope>) -> Result<Arc<Engine>, Status> {
        let engine = self.engine()?;
        engine.check_envelope(peer.as_ref(), envelope.as_ref())?;
        Ok(engine)
    }
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("the message has no {name}")))
}

pub(crate) fn peer_of<T>(request: &Request<T>) -> Option<PeerCertificate> {
    request.extensions().get::<PeerCertificate>().cloned()
}

fn fatal(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("Raft has stopped: {error}"))
}

fn entry_of(entry: wire::Entry, payload: Payload) -> Result<Entry, Status> {
    let id = required(entry.id, "entry position")?;
    let invalid = |detail: String| Status::invalid_argument(format!("entry {}: {detail}", id.index));
    let payload = match Content::decode(payload).map_err(|e| invalid(e.to_string()))? {
        Content::Blank => openraft::EntryPayload::Blank,
        Content::Batch(payload) => openraft::EntryPayload::Normal(super::types::Proposal(payload)),
        Content::Membership(record) => openraft::EntryPayload::Membership(membership(record).map_err(invalid)?),
    };
    Ok(Entry { log_id: log_id_from_wire(id), payload })
}

/// `payloads` are those of the entries.
fn append_request(
    request: wire::AppendRequest,
    payloads: Vec<Payload>,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let entries = request.entries.into_iter().zip(payloads).map(|(entry, payload)| entry_of(entry, payload));
    let entries = entries.collect::<Result<_, _>>()?;
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(required(request.vote, "vote")?),
        prev_log_id: request.previous.map(log_id_from_wire),
        entries,
        leader_commit: request.commit.map(log_id_from_wire),
    })
}

fn append_reply(result: StreamAppendResult<TypeConfig>) -> wire::AppendReply {
    use wire::append_reply::Outcome;
    let outcome = match result {
        Ok(last) => Outcome::Matched(wire::Matched { last: last.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => Outcome::Conflict(log_id_to_wire(&id)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::Higher(vote_to_wire(&vote)),
    };
    wire::AppendReply { outcome: Some(outcome) }
}

/// Reads what follows a large value and puts it together. `known` says what it may be, from its first part: as long as that
/// is what comes, it is not kept a second time.
pub(crate) async fn collect_parts<F>(
    length: u64,
    frames: &mut Streaming<F>,
    part_of: impl Fn(F) -> Option<Bytes>,
    known: impl FnOnce(&Bytes) -> Option<Payload>,
) -> Result<Payload, Status> {
    if length > ENTRY_BYTES_MAX {
        return Err(Status::invalid_argument(format!("an entry of {length} bytes")));
    }
    let length = length as usize;
    let (mut parts, mut known) = (Parts::default(), Some(known));
    while parts.received < length {
        let frame = required(frames.message().await?, "missing part")?;
        let part = required(part_of(frame), "part where one is due")?;
        if part.is_empty() || parts.received + part.len() > length {
            return Err(Status::invalid_argument("parts of an entry do not add up"));
        }
        if let Some(known) = known.take() {
            parts.known = known(&part).filter(|known| known.len() == length);
        }
        parts.add(&part);
    }
    Ok(parts.finish())
}

/// A large value that comes in parts.
#[derive(Default)]
struct Parts {
    received: usize,
    /// Begins with everything that was received.
    known: Option<Payload>,
    /// What was received, unless it is known. Room is made as it comes.
    whole: BytesMut,
}

impl Parts {
    fn add(&mut self, part: &[u8]) {
        let as_known = self.known.as_ref().is_some_and(|known| known.has_at(self.received, part));
        if !as_known {
            if let Some(known) = self.known.take() {
                self.whole.extend_from_slice(&known.joined()[..self.received]);
            }
            self.whole.extend_from_slice(part);
        }
        self.received += part.len();
    }

    fn finish(self) -> Payload {
        self.known.unwrap_or_else(|| self.whole.freeze().into())
    }
}

/// The entry that begins like this, if this node proposed it: from the commands that it holds until they are applied.
fn own_entry(engine: &Engine, first: &[u8]) -> Option<Payload> {
    let header = BatchHeader::read(first).ok()?;
    let commands = engine.replica.proposed(&header)?;
    Some(encode_batch(header.origin, header.sequence, header.time, header.count, &commands))
}

/// Positions in a request that come from its sender.
fn positions(rpc: &AppendEntriesRequest<TypeConfig>) -> impl Iterator<Item = &LogId> {
    rpc.prev_log_id.iter().chain(&rpc.leader_commit).chain(rpc.entries.iter().map(|entry| &entry.log_id))
}

/// The next request and the payloads of its entries, of which `admit` sees the envelope before more is read.
async fn next_append(
    frames: &mut Streaming<wire::AppendFrame>,
    admit: impl Fn(Option<wire::Envelope>) -> Result<Arc<Engine>, Status>,
) -> Result<Option<(Arc<Engine>, wire::AppendRequest, Vec<Payload>)>, Status> {
    use wire::append_frame::Content;
    let Some(frame) = frames.message().await? else { return Ok(None) };
    let Some(Content::Request(mut request)) = frame.content else {
        return Err(Status::invalid_argument("a part without its request"));
    };
    let engine = admit(request.envelope.take())?;
    let mut payloads = Vec::with_capacity(request.entries.len());
    for entry in &mut request.entries {
        if entry.parts_bytes == 0 {
            payloads.push(std::mem::take(&mut entry.payload).into());
            continue;
        }
        let part_of = |frame: wire::AppendFrame| match frame.content {
            Some(Content::Part(part)) => Some(part),
            _ => None,
        };
        payloads.push(collect_parts(entry.parts_bytes, frames, part_of, |first| own_entry(&engine, first)).await?);
    }
    Ok(Some((engine, request, payloads)))
}

impl RaftService {
    /// Requests of a stream as they come; it ends at the first that is not acceptable.
    fn append_requests(
        self,
        peer: Option<PeerCertificate>,
        frames: Streaming<wire::AppendFrame>,
    ) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send {
        futures_util::stream::unfold((self, peer, frames), |(this, peer, mut frames)| async move {
            let request = next_append(&mut frames, |envelope| this.admit(&peer, envelope)).await;
            let request = request.and_then(|request| {
                request
                    .map(|(engine, request, payloads)| {
                        let rpc = append_request(request, payloads)?;
                        engine.check_jump(&rpc.vote, positions(&rpc))?;
                        Ok::<_, Status>(rpc)
                    })
                    .transpose()
            });
            match request {
                Ok(Some(rpc)) => Some((rpc, (this, peer, frames))),
                Ok(None) => None,
                Err(status) => {
                    tracing::debug!(%status, "append stream ends");
                    None
                }
            }
        })
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let engine = self.engine()?;
        let peer = peer_of(&request);
        let requests = self.clone().append_requests(peer, request.into_inner());
        let contact = engine.clone();
        let replies = engine.raft().stream_append(Box::pin(requests)).map(move |result| match result {
            Ok(result) => {
                if result.is_ok() {
                    contact.note_leader_message();
                }
                Ok(append_reply(result))
            }
            Err(error) => Err(fatal(error)),
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn heartbeat(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendReply>, Status> {
        let peer = peer_of(&request);
        let mut request = request.into_inner();
        let engine = self.admit(&peer, request.envelope.take())?;
        let payloads = request.entries.iter_mut().map(|entry| std::mem::take(&mut entry.payload).into()).collect();
        let rpc = append_request(request, payloads)?;
        engine.check_jump(&rpc.vote, positions(&rpc))?;
        let last = rpc.prev_log_id;
        let response = engine.raft().append_entries(rpc).await.map_err(fatal)?;
        if response.is_success() {
            engine.note_leader_message();
        }
        let result = match response {
            openraft::raft::AppendEntriesResponse::Conflict if last.is_none() => Ok(None),
            other => other.into_stream_result(last, last),
        };
        Ok(Response::new(append_reply(result)))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let peer = peer_of(&request);
        let request = request.into_inner();
        let engine = self.admit(&peer, request.envelope)?;
        let mut rpc = openraft::raft::VoteRequest::new(
            vote_from_wire(required(request.vote, "vote")?),
            request.last.map(log_id_from_wire),
        );
        engine.check_jump(&rpc.vote, &rpc.last_log_id)?;
        rpc.leadership_transfer = request.leadership_transfer;
        let reply = if request.pre_vote { engine.raft().pre_vote(rpc).await } else { engine.raft().vote(rpc).await }
            .map_err(fatal)?;
        Ok(Response::new(wire::VoteReply {
            vote: Some(vote_to_wire(&reply.vote)),
            last: reply.last_log_id.as_ref().map(log_id_to_wire),
            granted: reply.vote_granted,
        }))
    }

    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Result<Response<wire::TransferReply>, Status> {
        let peer = peer_of(&request);
        let request = request.into_inner();
        let engine = self.admit(&peer, request.envelope)?;
        let vote = vote_from_wire(required(request.from_leader, "vote")?);
        let last = request.last.map(log_id_from_wire);
        engine.check_jump(&vote, &last)?;
        let rpc = TransferLeaderRequest::new(vote, request.to_node, last);
        let reply = match engine.raft().handle_transfer_leader(rpc).await.map_err(fatal)? {
            Ok(()) => wire::TransferReply { accepted: true, ..Default::default() },
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                wire::TransferReply { actual_vote: Some(vote_to_wire(&actual)), ..Default::default() }
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                wire::TransferReply { actual_last: actual.as_ref().map(log_id_to_wire), ..Default::default() }
            }
        };
        Ok(Response::new(reply))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotFrame>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let peer = peer_of(&request);
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(START_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("a snapshot without its start"))??;
        let first = required(first, "start")?;
        let Some(wire::snapshot_frame::Content::Start(start)) = first.content else {
            return Err(Status::invalid_argument("a snapshot without its start"));
        };
        let engine = self.admit(&peer, start.envelope)?;
        let vote = vote_from_wire(required(start.vote, "vote")?);
        engine.check_jump(&vote, [])?;
        // One at a time: they share the name of the file that is being received.
        let _receiving = engine.receiving.lock().await;
        let received = receive_snapshot(&engine, frames, start.length, start.crc).await?;
        let reply = engine.raft().install_full_snapshot(vote, received).await.map_err(fatal)?;
        Ok(Response::new(wire::SnapshotReply { vote: Some(vote_to_wire(&reply.vote)) }))
    }
}

async fn receive_snapshot(
    engine: &Engine,
    frames: Streaming<wire::SnapshotFrame>,
    length: u64,
    crc: u32,
) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotHandle>, Status> {
    let (fs, path) = (engine.replica.fs(), engine.replica.incoming_path());
    let internal = |error: &dyn std::fmt::Display| Status::internal(format!("snapshot not received: {error}"));
    let mut receiver = SnapshotReceiver::create(fs.clone(), &path).map_err(|e| internal(&e))?;
    let mut frames = pin!(frames);
    while let Some(frame) = frames.message().await? {
        let Some(wire::snapshot_frame::Content::Chunk(chunk)) = frame.content else {
            return Err(Status::invalid_argument("a second start of a snapshot"));
        };
        let (back, written) = tokio::task::spawn_blocking(move || {
            let written = receiver.write(chunk.offset, &chunk.data);
            (receiver, written)
        })
        .await
        .map_err(|e| internal(&e))?;
        receiver = back;
        written.map_err(|e| internal(&e))?;
    }
    let (meta, _) = tokio::task::spawn_blocking(move || receiver.finish(length, crc))
        .await
        .map_err(|e| internal(&e))?
        .map_err(|e| internal(&e))?;
    let at = crate::entry::MembershipAt::from_bytes(&meta.membership).map_err(|e| internal(&e))?;
    let position = at.log_id().map(log_id);
    let meta = SnapshotMeta {
        last_log_id: meta.last.map(log_id),
        last_membership: super::types::StoredMembership::new(
            position,
            membership(at.record).map_err(|e| internal(&e))?,
        ),
    };
    Ok(Snapshot { meta, snapshot: SnapshotHandle { fs, path } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(known: Option<&Payload>, came: &[u8]) -> Payload {
        let mut parts = Parts { known: known.cloned(), ..Parts::default() };
        came.chunks(1000).for_each(|part| parts.add(part));
        parts.finish()
    }

    #[test]
    fn parts_that_are_known_are_not_kept_twice_and_others_are_taken_as_they_came() {
        let bytes: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        let whole = Bytes::from(bytes.clone());
        let known = Payload::of_pieces([whole.slice(..37), whole.slice(37..39_000), whole.slice(39_000..)]);
        let shares = |payload: &Payload| payload.pieces().iter().any(|piece| piece.as_ptr() == whole[37..].as_ptr());
        assert!(shares(&collected(Some(&known), &bytes)));
        for at in [0, 36, 37, 1500, 39_999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let payload = collected(Some(&known), &other);
            assert!(payload.joined() == other && !shares(&payload), "{at}");
        }
        assert!(collected(None, &bytes).joined() == bytes);
    }
}
