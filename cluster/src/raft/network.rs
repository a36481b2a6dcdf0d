//! The Raft library's messages to one peer, over gRPC.
//! Always true: every request names cluster, sender and receiver; heartbeats and votes have a connection of their own;
//! an entry above [`PART_BYTES`] travels in parts; a snapshot is read piece by piece as the receiver takes it.
use super::{
    log::encode,
    snapshot::SnapshotHandle,
    types::{Member, TypeConfig, Vote, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire},
};
use crate::entry::PART_BYTES;
use crate::transport::{MESSAGE_BYTES_MAX, Purpose, Transport, services::raft::raft_client::RaftClient};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use mosquorum_proto::peer::raft as wire;
use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    type_config::alias::SnapshotOf,
};
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

/// Requests of one append stream on their way at the same time.
const APPENDS_IN_FLIGHT: usize = 16;
/// An append stream on which an answer is due and none comes for so long is given up. A peer that is gone is noticed
/// earlier, by the pings of its connection; a large entry may take its time.
const APPEND_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A snapshot transfer on which nothing moves for so long is given up.
const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything was sent, and the receiver verifies and installs it.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Which cluster and node speaks.
#[derive(Debug, Clone)]
pub(crate) struct PeerIdentity {
    pub(crate) cluster: [u8; 16],
    pub(crate) node: u64,
}

impl PeerIdentity {
    pub(crate) fn envelope(&self, to: u64) -> wire::Envelope {
        wire::Envelope { cluster: Bytes::copy_from_slice(&self.cluster), from: self.node, to }
    }
}

/// Where the members are, at any time.
pub(crate) type Addresses = Arc<ArcSwap<BTreeMap<u64, String>>>;

#[derive(Clone)]
pub(crate) struct NetworkFactory {
    pub(crate) transport: Arc<Transport>,
    pub(crate) identity: PeerIdentity,
    pub(crate) addresses: Addresses,
}

/// The library keeps it as long as the target is a member; that may move meanwhile, so each call looks where it is.
pub(crate) struct Network {
    factory: NetworkFactory,
    target: u64,
    /// Where it was when this was made.
    address: String,
    bulk: Purpose,
    /// A heartbeat is one request and its answer: no stream is opened for it.
    heartbeats_only: bool,
}

impl NetworkFactory {
    fn network(&self, target: u64, node: &Member, bulk: Purpose, heartbeats_only: bool) -> Network {
        Network { factory: self.clone(), target, address: node.address.clone(), bulk, heartbeats_only }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Purpose::Append, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Purpose::Control, true)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Purpose::Snapshot, false)
    }
}

type RpcError = RPCError<TypeConfig>;

fn rpc_error(status: &Status) -> RpcError {
    match status.code() {
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => RPCError::Network(NetworkError::new(status)),
        _ => RPCError::Unreachable(Unreachable::new(status)),
    }
}

fn malformed(what: &str) -> RpcError {
    RPCError::Network(NetworkError::from_string(format!("the answer has no {what}")))
}

/// Waits for an answer at most as long as the library does.
async fn within<T>(
    option: &RPCOption,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, RpcError> {
    match tokio::time::timeout(option.hard_ttl(), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(rpc_error(&status)),
        Err(_) => Err(RPCError::Network(NetworkError::from_string("no answer in time"))),
    }
}

fn append_result(reply: wire::AppendReply) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    use wire::append_reply::Outcome;
    match reply.outcome.ok_or_else(|| malformed("outcome"))? {
        Outcome::Matched(matched) => Ok(Ok(matched.last.map(log_id_from_wire))),
        Outcome::Conflict(id) => Ok(Err(StreamAppendError::Conflict(log_id_from_wire(id)))),
        Outcome::Higher(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from_wire(vote)))),
    }
}

/// A request as frames: the request itself, then the parts of entries too large for it.
fn append_frames(
    identity: &PeerIdentity,
    target: u64,
    request: AppendEntriesRequest<TypeConfig>,
) -> Vec<wire::AppendFrame> {
    use wire::append_frame::Content;
    let mut parts = Vec::new();
    let entries = request
        .entries
        .iter()
        .map(|entry| {
            let payload = encode(entry);
            let id = Some(log_id_to_wire(&entry.log_id));
            if payload.len() <= PART_BYTES {
                return wire::Entry { id, payload: payload.joined(), parts_bytes: 0 };
            }
            let parts_bytes = payload.len() as u64;
            parts
                .extend(payload.parts(PART_BYTES).map(|part| wire::AppendFrame { content: Some(Content::Part(part)) }));
            wire::Entry { id, payload: Bytes::new(), parts_bytes }
        })
        .collect();
    let first = wire::AppendRequest {
        envelope: Some(identity.envelope(target)),
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries,
    };
    let mut frames = vec![wire::AppendFrame { content: Some(Content::Request(first)) }];
    frames.append(&mut parts);
    frames
}

impl Network {
    fn client(&self, purpose: Purpose) -> RaftClient<Channel> {
        let addresses = self.factory.addresses.load();
        let address = addresses.get(&self.target).unwrap_or(&self.address);
        RaftClient::new(self.factory.transport.channel(address, purpose))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn identity(&self) -> &PeerIdentity {
        &self.factory.identity
    }

    async fn heartbeat(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        let frame = append_frames(self.identity(), self.target, request).swap_remove(0);
        let Some(wire::append_frame::Content::Request(request)) = frame.content else {
            return Err(malformed("request"));
        };
        append_result(within(option, self.client(Purpose::Control).heartbeat(request)).await?)
    }

    /// Opens the stream for a first request and moves requests onto it until they end or the stream breaks. The library
    /// pauses after a failure before it gives the next request, so nothing is opened before that.
    async fn open_append_stream<S>(
        &mut self,
        mut requests: S,
    ) -> Result<BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        #[cfg(feature = "test-faults")]
        if crate::faults::planted("reconnect-spin") {
            return self.append_stream(requests).await;
        }
        let Some(first) = requests.next().await else { return Ok(futures_util::stream::empty().boxed()) };
        self.append_stream(futures_util::stream::once(std::future::ready(first)).chain(requests)).await
    }

    async fn append_stream<S>(
        &mut self,
        mut requests: S,
    ) -> Result<BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let (frames, outgoing) = mpsc::channel(APPENDS_IN_FLIGHT);
        let in_flight = Arc::new(tokio::sync::Semaphore::new(APPENDS_IN_FLIGHT));
        let (identity, target, slots) = (self.identity().clone(), self.target, in_flight.clone());
        // Ends with the requests, or when the stream is gone and `frames` takes nothing any more.
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    request = requests.next() => request,
                    () = frames.closed() => return,
                };
                let Some(request) = request else { return };
                let Ok(slot) = slots.acquire().await else { return };
                slot.forget();
                for frame in append_frames(&identity, target, request) {
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut client = self.client(self.bulk);
        let opened = tokio::time::timeout(APPEND_ANSWER_TIMEOUT, client.append(ReceiverStream::new(outgoing))).await;
        let replies = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(rpc_error(&status)),
            Err(_) => return Err(RPCError::Network(NetworkError::from_string("append stream not opened in time"))),
        };
        Ok(append_results(replies, in_flight).boxed())
    }
}

/// Answers as the library wants them; the stream ends with the first that is not a match.
fn append_results(
    replies: tonic::Streaming<wire::AppendReply>,
    slots: Arc<tokio::sync::Semaphore>,
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RpcError>> + Send {
    futures_util::stream::unfold(Some((replies, slots)), |state| async move {
        let (mut replies, slots) = state?;
        loop {
            let reply = match tokio::time::timeout(APPEND_ANSWER_TIMEOUT, replies.message()).await {
                // Nothing to answer: the leader has nothing to send, heartbeats watch over the connection.
                Err(_) if slots.available_permits() == APPENDS_IN_FLIGHT => continue,
                Err(_) => {
                    let error = NetworkError::from_string("no answer to appended entries in time");
                    return Some((Err(RPCError::Network(error)), None));
                }
                Ok(Err(status)) => return Some((Err(rpc_error(&status)), None)),
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(reply))) => reply,
            };
            slots.add_permits(1);
            return match append_result(reply) {
                Ok(Ok(matched)) => Some((Ok(Ok(matched)), Some((replies, slots)))),
                last => Some((last, None)),
            };
        }
    })
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        self.heartbeat(request, &option).await.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut requests: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            if !self.heartbeats_only {
                return self.open_append_stream(requests).await;
            }
            let Some(request) = requests.next().await else { return Ok(futures_util::stream::empty().boxed()) };
            let result = self.heartbeat(request, &option).await;
            Ok(futures_util::stream::iter([result]).boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_for_vote(request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = wire::TransferRequest {
            envelope: Some(self.identity().envelope(self.target)),
            from_leader: Some(vote_to_wire(request.from_leader())),
            to_node: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_wire),
        };
        let reply = within(&option, self.client(Purpose::Control).transfer(message)).await?;
        if reply.accepted {
            return Ok(Ok(()));
        }
        Ok(Err(match reply.actual_vote {
            Some(actual) => {
                TransferLeaderError::VoteChanged { expected: *request.from_leader(), actual: vote_from_wire(actual) }
            }
            None => TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: reply.actual_last.map(log_id_from_wire),
            },
        }))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new([50, 100, 200].into_iter().chain(std::iter::repeat(300)).map(Duration::from_millis)))
    }
}

impl Network {
    async fn ask_for_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = wire::VoteRequest {
            envelope: Some(self.identity().envelope(self.target)),
            vote: Some(vote_to_wire(&request.vote)),
            last: request.last_log_id.as_ref().map(log_id_to_wire),
            leadership_transfer: request.leadership_transfer,
            pre_vote,
        };
        let reply = within(option, self.client(Purpose::Control).vote(message)).await?;
        let vote = vote_from_wire(reply.vote.ok_or_else(|| malformed("vote"))?);
        Ok(VoteResponse::new(vote, reply.last.map(log_id_from_wire), reply.granted))
    }

    async fn send_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotHandle>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let unreadable = |e: std::io::Error| StreamingError::Network(NetworkError::new(&e));
        let file = tokio::task::spawn_blocking(move || snapshot.snapshot.open())
            .await
            .map_err(|e| StreamingError::Network(NetworkError::new(&e)))?
            .map_err(unreadable)?;
        let start = wire::SnapshotStart {
            envelope: Some(self.identity().envelope(self.target)),
            vote: Some(vote_to_wire(&vote)),
            length: file.length,
            crc: file.crc,
        };
        let (frames, outgoing) = mpsc::channel(4);
        let (moved, mut movement) = tokio::sync::watch::channel(());
        let reading = tokio::spawn(async move {
            use wire::snapshot_frame::Content;
            let first = wire::SnapshotFrame { content: Some(Content::Start(start)) };
            frames.send(first).await.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            let mut offset = 0;
            while offset < file.length {
                let data = file.read_piece(offset, PART_BYTES).await?;
                let chunk = wire::SnapshotChunk { offset, data };
                offset += chunk.data.len() as u64;
                let frame = wire::SnapshotFrame { content: Some(Content::Chunk(chunk)) };
                frames.send(frame).await.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
                moved.send_replace(());
            }
            Ok::<(), std::io::Error>(())
        });
        let mut client = self.client(self.bulk);
        let mut call = std::pin::pin!(client.snapshot(ReceiverStream::new(outgoing)));
        let reply = loop {
            tokio::select! {
                reply = &mut call => break reply,
                Ok(()) = movement.changed() => {}
                () = tokio::time::sleep(SNAPSHOT_INSTALL_TIMEOUT), if reading.is_finished() => {
                    return Err(NetworkError::from_string("the snapshot is not installed in time").into());
                }
                () = tokio::time::sleep(SNAPSHOT_STALL_TIMEOUT), if !reading.is_finished() => {
                    reading.abort();
                    return Err(NetworkError::from_string("the snapshot transfer stands still").into());
                }
            }
        };
        reading.abort();
        let reply = reply.map_err(|status| StreamingError::from(rpc_error(&status)))?.into_inner();
        let vote = reply.vote.ok_or_else(|| StreamingError::from(malformed("vote")))?;
        Ok(SnapshotResponse::new(vote_from_wire(vote)))
    }
}
