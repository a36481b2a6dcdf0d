//! Ways round a broken link: two nodes that do not reach each other speak through a third one that reaches both.
//! Always true: a member carries bytes for members to members only, and sees nothing of what they say (TLS is between the
//! ends); a detour is not part of another one; the straight way is tried first, and again once it has worked for a while.
//! Not here: who is a member, and what is said.
use super::{Purpose, Transport, connect, peer_stream::PeerStream, services::raft as services};
use crate::events::EVENTS;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use mosquorum_proto::peer::raft::{Envelope, TunnelFrame, TunnelStart, tunnel_frame::Content};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

/// So long the straight way is tried alone.
const HEAD_START: Duration = Duration::from_millis(250);
/// For the node in the middle to reach the other end.
const REACH_TIMEOUT: Duration = Duration::from_millis(700);
/// Nobody is asked again so soon for a way that nobody had.
const NO_WAY_PAUSE: Duration = Duration::from_millis(1000);
/// A straight way that was lost is not trusted before.
const DETOUR_MIN: Duration = Duration::from_secs(8);
/// It is looked at so often, and must have worked so often in a row.
const LOOK_EVERY: Duration = Duration::from_millis(1000);
const LOOKS: u32 = 3;
/// Bytes of one tunnel that wait at either end.
const WAITING_BYTES: usize = 256 << 10;
const FRAME_BYTES: usize = 32 << 10;
const FRAMES_WAITING: usize = 8;
/// Tunnels that a node carries at most: every pair of a large cluster, for every purpose.
const TUNNELS_MAX: usize = 256;

/// Who could carry for this node.
pub(crate) struct Neighbours {
    /// Number and address of every member but this one.
    pub(crate) members: Vec<(u64, String)>,
    pub(crate) cluster: Bytes,
    pub(crate) me: u64,
}

impl Neighbours {
    fn envelope(&self, to: u64) -> Envelope {
        Envelope { cluster: self.cluster.clone(), from: self.me, to }
    }
}

type Ask = Box<dyn Fn() -> Option<Neighbours> + Send + Sync>;

/// Which addresses are reached through neighbours.
#[derive(Default)]
pub(super) struct Detours {
    neighbours: OnceLock<Ask>,
    known: Mutex<HashMap<String, Detour>>,
}

struct Detour {
    /// Dropped when the straight way is taken again: the tunnels end.
    end: Option<watch::Sender<()>>,
    no_way_at: Option<Instant>,
}

impl Transport {
    /// Who can be asked for a detour. Without it there are none.
    pub(crate) fn set_neighbours(&self, ask: impl Fn() -> Option<Neighbours> + Send + Sync + 'static) {
        // Set once, when the node belongs to its cluster.
        let _ = self.detours.neighbours.set(Box::new(ask));
    }

    /// The way to a peer: straight if that works, else through a neighbour.
    pub(super) async fn road_to(&self, address: &str) -> io::Result<PeerStream> {
        if self.detours.is_on(address)
            && let Some(tunnel) = self.tunnel(address).await
        {
            return Ok(PeerStream::Tunnel(tunnel));
        }
        let mut straight = pin!(connect(address));
        match timeout(HEAD_START, &mut straight).await {
            Ok(Ok(tcp)) => return Ok(PeerStream::Direct(tcp)),
            Ok(Err(error)) if !is_no_way(&error) => return Err(error),
            Ok(Err(error)) => return self.tunnel(address).await.map(PeerStream::Tunnel).ok_or(error),
            Err(_) => {}
        }
        let tunnel = pin!(self.tunnel(address));
        match futures_util::future::select(straight, tunnel).await {
            futures_util::future::Either::Left((Ok(tcp), _)) => Ok(PeerStream::Direct(tcp)),
            futures_util::future::Either::Left((Err(error), tunnel)) => {
                tunnel.await.map(PeerStream::Tunnel).ok_or(error)
            }
            futures_util::future::Either::Right((Some(tunnel), _)) => Ok(PeerStream::Tunnel(tunnel)),
            futures_util::future::Either::Right((None, straight)) => straight.await.map(PeerStream::Direct),
        }
    }

    /// A tunnel to the node at `address`, through whoever has one first.
    async fn tunnel(&self, address: &str) -> Option<DuplexStream> {
        #[cfg(feature = "test-faults")]
        if crate::faults::planted("no-relay") {
            return None;
        }
        let neighbours = self.detours.neighbours.get()?()?;
        // Only members are carried for: others cannot be distinguished from non-members.
        neighbours.members.iter().find(|(_, known)| known == address)?;
        if self.detours.is_hopeless(address) {
            return None;
        }
        let asked: FuturesUnordered<_> = neighbours
            .members
            .iter()
            .filter(|(_, known)| known != address)
            .map(|(node, neighbour)| self.ask(neighbour, neighbours.envelope(*node), address))
            .collect();
        let mut answers = asked.filter_map(std::future::ready);
        let Some((through, frames, incoming)) = answers.next().await else {
            self.detours.note_hopeless(address);
            return None;
        };
        let (end, began) = self.detours.begin(address);
        if began {
            info!(target: EVENTS, peer = address, through, "a node is not reached straight any more, it is reached through another");
            tokio::spawn(look_again(self.this.clone(), address.to_owned()));
        }
        let (ours, theirs) = duplex(WAITING_BYTES);
        tokio::spawn(carry(theirs, frames, incoming, Some(end)));
        Some(ours)
    }

    async fn ask(
        &self,
        neighbour: &str,
        envelope: Envelope,
        address: &str,
    ) -> Option<(String, mpsc::Sender<TunnelFrame>, Streaming<TunnelFrame>)> {
        let mut client = services::relay_client::RelayClient::new(self.channel(neighbour, Purpose::Relay));
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        let start = TunnelStart { envelope: Some(envelope), address: address.to_owned() };
        frames.try_send(TunnelFrame { content: Some(Content::Start(start)) }).ok()?;
        match timeout(2 * REACH_TIMEOUT, client.tunnel(ReceiverStream::new(outgoing))).await {
            Ok(Ok(response)) => Some((neighbour.to_owned(), frames, response.into_inner())),
            Ok(Err(status)) => {
                debug!(neighbour, peer = address, reason = status.message(), "no detour");
                None
            }
            Err(_) => None,
        }
    }
}

/// Whether somebody else may have a way. A machine that refuses is reached.
fn is_no_way(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | TimedOut)
}

impl Detours {
    fn is_on(&self, address: &str) -> bool {
        self.known.lock().get(address).is_some_and(|detour| detour.end.is_some())
    }

    fn is_hopeless(&self, address: &str) -> bool {
        let known = self.known.lock();
        known.get(address).and_then(|detour| detour.no_way_at).is_some_and(|at| at.elapsed() < NO_WAY_PAUSE)
    }

    fn entry<R>(&self, address: &str, change: impl FnOnce(&mut Detour) -> R) -> R {
        let mut known = self.known.lock();
        change(known.entry(address.to_owned()).or_insert(Detour { end: None, no_way_at: None }))
    }

    fn note_hopeless(&self, address: &str) {
        self.entry(address, |detour| detour.no_way_at = Some(Instant::now()));
    }

    /// Resolves when the tunnels to this address end; whether this is the first.
    fn begin(&self, address: &str) -> (watch::Receiver<()>, bool) {
        self.entry(address, |detour| {
            detour.no_way_at = None;
            match &detour.end {
                Some(end) => (end.subscribe(), false),
                None => {
                    let (end, ended) = watch::channel(());
                    detour.end = Some(end);
                    (ended, true)
                }
            }
        })
    }

    fn finish(&self, address: &str) {
        self.known.lock().remove(address);
    }
}

/// Ends the detour when the straight way has worked a few times in a row.
async fn look_again(transport: Weak<Transport>, address: String) {
    sleep(DETOUR_MIN).await;
    let mut worked = 0;
    while worked < LOOKS {
        sleep(LOOK_EVERY).await;
        worked = match timeout(LOOK_EVERY / 2, connect(&address)).await {
            Ok(Ok(_)) => worked + 1,
            // The machine is reached; whoever connects will see that nobody is there.
            Ok(Err(error)) if !is_no_way(&error) => worked + 1,
            _ => 0,
        };
        if transport.strong_count() == 0 {
            return;
        }
    }
    if let Some(transport) = transport.upgrade() {
        info!(target: EVENTS, peer = address, "a node is reached straight again");
        transport.detours.finish(&address);
    }
}

/// Moves bytes between a stream and frames until either end closes, or `end` says so.
async fn carry<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    stream: S,
    frames: mpsc::Sender<TunnelFrame>,
    mut incoming: Streaming<TunnelFrame>,
    mut end: Option<watch::Receiver<()>>,
) {
    let (mut reading, mut writing) = tokio::io::split(stream);
    let out = async {
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            let read = reading.read(&mut buffer).await.unwrap_or(0);
            let data = Bytes::copy_from_slice(&buffer[..read]);
            if read == 0 || frames.send(TunnelFrame { content: Some(Content::Data(data)) }).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Ok(Some(TunnelFrame { content: Some(Content::Data(data)) })) = incoming.message().await {
            if writing.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    let ended = async {
        match &mut end {
            // An error: its sender is gone, which is what is waited for.
            Some(end) => drop(end.changed().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = out => {}
        () = back => {}
        () = ended => {}
    }
}

/// Checks an envelope, and that the address is a member's.
pub(crate) type AdmitTunnel =
    Arc<dyn Fn(Option<&super::PeerCertificate>, Option<&Envelope>, &str) -> Result<(), Status> + Send + Sync>;

/// Carries bytes of other members.
#[derive(Clone)]
pub(crate) struct RelayService {
    admit: AdmitTunnel,
    carried: Arc<AtomicUsize>,
}

impl RelayService {
    pub(crate) fn new(admit: AdmitTunnel) -> Self {
        Self { admit, carried: Arc::default() }
    }
}

/// One tunnel that is counted while it lasts.
struct Carried(Arc<AtomicUsize>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl services::relay_server::Relay for RelayService {
    type TunnelStream =
        tokio_stream::adapters::Map<ReceiverStream<TunnelFrame>, fn(TunnelFrame) -> Result<TunnelFrame, Status>>;

    async fn tunnel(&self, request: Request<Streaming<TunnelFrame>>) -> Result<Response<Self::TunnelStream>, Status> {
        let peer = request.extensions().get::<super::PeerCertificate>().cloned();
        let mut incoming = request.into_inner();
        let first = timeout(REACH_TIMEOUT, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("a tunnel without its start"))??;
        let Some(Content::Start(start)) = first.and_then(|frame| frame.content) else {
            return Err(Status::invalid_argument("a tunnel without its start"));
        };
        (self.admit)(peer.as_ref(), start.envelope.as_ref(), &start.address)?;
        self.carried.fetch_add(1, Ordering::Relaxed);
        let carried = Carried(self.carried.clone());
        if carried.0.load(Ordering::Relaxed) > TUNNELS_MAX {
            return Err(Status::resource_exhausted("this node carries as much as it may"));
        }
        let reached = timeout(REACH_TIMEOUT, connect(&start.address)).await;
        let tcp = reached
            .map_err(|_| Status::unavailable("not reached from here either"))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING);
        tokio::spawn(async move {
            carry(tcp, frames, incoming, None).await;
            drop(carried);
        });
        let outgoing: Self::TunnelStream = tokio_stream::StreamExt::map(ReceiverStream::new(outgoing), Ok);
        Ok(Response::new(outgoing))
    }
}
