//! Carries the proposer's batches to the leader: into this node's own log, or over a stream.
use super::proposer::{Cursor, Next, OutgoingBatch, Proposer};
use crate::{
    entry::{PART_BYTES, encode_batch},
    raft::{Engine, Leadership, NotLeader, PeerIdentity},
    replica::clock::ClusterClock,
    transport::{MESSAGE_BYTES_MAX, Purpose, Transport, services::raft::proposals_client::ProposalsClient},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use mosquorum_proto::peer::raft as wire;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// A batch that is not answered for so long is sent again, with all behind it.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// Large batches get so much more time.
const SLOW_BYTES_PER_SECOND: u64 = 8 << 20;
/// After a refusal, before the next try: the leader's own lease or an election takes about as long.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(25);
/// Frames of the stream to the leader that wait for the connection.
const FRAMES_WAITING: usize = 16;

pub(crate) struct Sender {
    pub(crate) proposer: Arc<Proposer>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) clock: Arc<ClusterClock>,
}

/// Where batches go at the moment.
enum Link {
    None,
    /// Into the own log; the futures say which of them failed.
    Own(FuturesUnordered<BoxFuture<'static, Result<(), NotLeader>>>),
    Remote {
        frames: mpsc::Sender<wire::ProposeFrame>,
        ended: mpsc::Receiver<()>,
    },
}

impl Sender {
    /// Runs until the group stops.
    pub(crate) async fn run(self) {
        let mut leadership = self.engine.leadership();
        let mut link = Link::None;
        let mut cursor = self.proposer.start_cursor();
        let mut progress = Progress::default();
        loop {
            let leader = *leadership.borrow_and_update();
            if matches!(link, Link::None) {
                link = self.connect(leader);
                cursor = self.proposer.start_cursor();
            }
            let linger = match self.send_ready(&mut link, &mut cursor).await {
                Ok(linger) => linger,
                Err(()) => {
                    link = Link::None;
                    sleep(PAUSE_AFTER_REFUSAL).await;
                    continue;
                }
            };
            let resend_at = progress.observe(self.proposer.unanswered());
            let broken = tokio::select! {
                () = self.proposer.wake.notified() => self.proposer.must_resend(),
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    true
                }
                () = link.broken() => {
                    sleep(PAUSE_AFTER_REFUSAL).await;
                    true
                }
                () = sleep(linger.unwrap_or(RESEND_AFTER)), if linger.is_some() => false,
                () = sleep_until(resend_at.unwrap_or_else(Instant::now)), if resend_at.is_some() => {
                    debug!("no answer to a batch in time, sending again");
                    progress = Progress::default();
                    true
                }
            };
            if broken {
                link = Link::None;
            }
        }
    }

    /// Sends what can be sent; how long to wait for a batch that is forming.
    async fn send_ready(&self, link: &mut Link, cursor: &mut Cursor) -> Result<Option<Duration>, ()> {
        if matches!(link, Link::None) {
            return Ok(None);
        }
        loop {
            match self.proposer.next(*cursor) {
                Next::Restart => return Err(()),
                Next::Nothing => return Ok(None),
                Next::Linger(wait) => return Ok(Some(wait)),
                Next::Send(batch) => {
                    cursor.advance(&batch);
                    self.send(link, batch).await?;
                }
            }
        }
    }

    async fn send(&self, link: &mut Link, batch: OutgoingBatch) -> Result<(), ()> {
        match link {
            Link::None => Err(()),
            Link::Own(pending) => {
                let time = self.clock.stamp();
                let payload = encode_batch(batch.origin, batch.sequence, time, batch.count, &batch.commands);
                let applied = self.engine.propose(payload).await.map_err(drop)?;
                pending.push(applied.boxed());
                #[cfg(feature = "test-faults")]
                if crate::faults::planted("leader-only") {
                    self.proposer.answer_before_commit(batch.sequence);
                }
                Ok(())
            }
            Link::Remote { frames, .. } => {
                for frame in proposal_frames(batch) {
                    let sent = timeout(RESEND_AFTER, frames.send(frame)).await;
                    sent.map_err(drop)?.map_err(drop)?;
                }
                Ok(())
            }
        }
    }

    fn connect(&self, leadership: Leadership) -> Link {
        if leadership.is_self {
            return Link::Own(FuturesUnordered::new());
        }
        let Some(leader) = leadership.leader else { return Link::None };
        let Some(origin) = self.proposer.origin() else { return Link::None };
        let view = self.engine.view();
        let Some(member) = view.member(leader) else { return Link::None };
        let client = ProposalsClient::new(self.transport.channel(&member.address, Purpose::Data))
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        let (end, ended) = mpsc::channel(1);
        let start = proposal_start(&self.engine.identity, leader, origin.incarnation.0);
        // The channel has room for its first frame.
        let _ = frames.try_send(start);
        tokio::spawn(watch_stream(client, outgoing, end));
        Link::Remote { frames, ended }
    }
}

/// Ends, dropping `end`, when the leader takes no more of this stream.
async fn watch_stream(
    mut client: ProposalsClient<tonic::transport::Channel>,
    outgoing: mpsc::Receiver<wire::ProposeFrame>,
    end: mpsc::Sender<()>,
) {
    let mut refusals = tokio::select! {
        opened = client.propose(ReceiverStream::new(outgoing)) => match opened {
            Ok(response) => response.into_inner(),
            Err(status) => return debug!(%status, "proposals not taken"),
        },
        () = end.closed() => return,
    };
    tokio::select! {
        refused = refusals.message() => debug!(?refused, "the leader takes no more proposals"),
        () = end.closed() => {}
    }
}

impl Link {
    /// Resolves when nothing more can be sent this way.
    async fn broken(&mut self) {
        match self {
            Link::None => std::future::pending().await,
            Link::Remote { ended, .. } => drop(ended.recv().await),
            Link::Own(pending) => loop {
                match pending.next().await {
                    Some(Err(NotLeader { .. })) => return,
                    Some(Ok(())) => {}
                    None => std::future::pending().await,
                }
            },
        }
    }
}

/// Notices when nothing gets answered.
#[derive(Default)]
struct Progress {
    first: Option<u64>,
    since: Option<Instant>,
}

impl Progress {
    /// When to send again, given the first batch that is not answered now and the bytes on their way.
    fn observe(&mut self, unanswered: Option<(u64, usize)>) -> Option<Instant> {
        let first = unanswered.map(|(first, _)| first);
        if first != self.first || self.since.is_none() {
            self.first = first;
            self.since = Some(Instant::now());
        }
        let (_, bytes) = unanswered?;
        let timeout = RESEND_AFTER + Duration::from_micros(bytes as u64 * 1_000_000 / SLOW_BYTES_PER_SECOND);
        self.since.map(|since| since + timeout)
    }
}

fn proposal_start(identity: &PeerIdentity, leader: u64, incarnation: u64) -> wire::ProposeFrame {
    let start = wire::ProposeStart { envelope: Some(identity.envelope(leader)), incarnation };
    wire::ProposeFrame { content: Some(wire::propose_frame::Content::Start(start)) }
}

fn proposal_frames(batch: OutgoingBatch) -> Vec<wire::ProposeFrame> {
    use wire::propose_frame::Content;
    let large = batch.commands.len() > PART_BYTES;
    let mut proposal = wire::Proposal { sequence: batch.sequence, count: batch.count, ..Default::default() };
    let mut frames = Vec::with_capacity(1);
    if large {
        proposal.parts_bytes = batch.commands.len() as u64;
        frames.push(wire::ProposeFrame { content: Some(Content::Proposal(proposal)) });
        let parts = batch.commands.parts(PART_BYTES);
        frames.extend(parts.map(|part| wire::ProposeFrame { content: Some(Content::Part(part)) }));
    } else {
        proposal.commands = batch.commands.joined();
        frames.push(wire::ProposeFrame { content: Some(Content::Proposal(proposal)) });
    }
    frames
}
