//! Connections between nodes: one gRPC server, and per peer a few TCP connections by purpose, so that bulk data never
//! delays a heartbeat.
//! Always true: without `cluster_insecure` both ends show a certificate of the cluster's own CA, for both ends' use; who
//! somebody claims to be is checked against the names in it ([`PeerCertificate::is_valid_for`]); who is no member reaches the
//! membership service only (`gate`), before anything is read; whoever refuses a certificate is left alone for a while.
//! Not here: what is said over the connections (`raft`, `consensus`, `membership`, `live`).
mod certificates;
mod connection;
mod detour;
mod gate;
mod limited;
mod peer_certificate;
mod peer_stream;
mod server;
mod tls;
mod troubles;

pub(crate) use detour::{AdmitTunnel, Neighbours, RelayService};
pub(crate) use limited::Limited;
pub(crate) use peer_certificate::{PeerCertificate, host_of};
pub(crate) use server::serve;
pub use tls::{PemPaths, TlsError};
pub(crate) use troubles::CallError;

use connection::Connection;
use detour::Detours;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use peer_stream::PeerStream;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

/// Largest message accepted or sent; frames of ours stay below 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const PING_INTERVAL: Duration = Duration::from_millis(500);
const PING_TIMEOUT: Duration = Duration::from_millis(1500);
/// For a connection, whatever way it takes.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// A peer whose machine does not confirm bytes for so long is not reached this way any more. It says nothing of the process
/// there, which may be stopped.
const UNCONFIRMED_MAX: Duration = Duration::from_millis(1500);

/// The generated services; their messages are in `mosquorum_proto::peer`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, dead_code)] // generated
pub mod services {
    pub mod raft {
        tonic::include_proto!("mosquorum.raft.v1");
    }
    pub mod live {
        tonic::include_proto!("mosquorum.peer.v1");
    }
}

/// What a connection is for. Each has a TCP connection of its own to every peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Heartbeats, votes, read indexes, membership: small and urgent.
    Control,
    /// Log entries to followers.
    Append,
    /// Proposals to the leader, live messages.
    Data,
    Snapshot,
    /// Bytes for a third node that the peer reaches and we do not.
    Relay,
}

/// The ways to other nodes; shared by everything in this crate that talks to a peer.
pub struct Transport {
    this: Weak<Transport>,
    tls: Option<tls::Tls>,
    channels: Mutex<HashMap<(String, Purpose), Channel>>,
    detours: Detours,
    guard: Arc<gate::Guard>,
    troubles: troubles::Troubles,
    /// Lines about connections that were refused.
    refusals: Limited,
}

impl Transport {
    /// `None`: no encryption and no identity (`cluster_insecure true`).
    /// # Errors
    /// [`TlsError`] names the file that cannot be used.
    pub fn new(pem: Option<PemPaths>) -> Result<Arc<Self>, TlsError> {
        let tls = pem.map(tls::Tls::load).transpose()?;
        let (channels, detours) = (Mutex::new(HashMap::new()), Detours::default());
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            tls,
            channels,
            detours,
            guard: Arc::default(),
            troubles: troubles::Troubles::default(),
            refusals: Limited::default(),
        }))
    }

    /// A channel to the node at `address` (`host:port`), connected when first used and again when it broke. Must be
    /// called on a tokio runtime.
    pub fn channel(&self, address: &str, purpose: Purpose) -> Channel {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), purpose)) {
            return channel.clone();
        }
        let channel = self.connect_lazily(address, purpose);
        channels.insert((address.to_owned(), purpose), channel.clone());
        channel
    }

    /// Says who is a member: nobody else may call anything but the membership service.
    pub(crate) fn set_guard(&self, knows: impl Fn(&PeerCertificate) -> Result<(), Status> + Send + Sync + 'static) {
        self.guard.set(Box::new(knows));
    }

    /// What went wrong on the way to this address a moment ago.
    pub(crate) fn trouble(&self, address: &str) -> Option<CallError> {
        self.troubles.recent(address, Instant::now())
    }

    fn refused(&self, address: &str, why: &str) {
        self.troubles.refused(address, why.to_owned(), Instant::now());
    }

    fn lists_version(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.revocations.version())
    }

    fn is_revoked(&self, certificate: &rustls::pki_types::CertificateDer<'_>) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.revocations.lists(certificate))
    }

    /// Releases the connections to an address that no member has any more.
    pub fn forget(&self, address: &str) {
        self.channels.lock().retain(|(known, _), _| known != address);
    }

    /// Reads the certificates again; connections made from now on use them.
    /// # Errors
    /// [`TlsError`]; the ones in use stay then.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), tls::Tls::reload)
    }

    fn connect_lazily(&self, address: &str, purpose: Purpose) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://address-that-cannot-be-parsed.invalid:1"))
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let (this, address) = (self.this.clone(), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (this, address) = (this.clone(), address.clone());
            async move {
                let this = this.upgrade().ok_or_else(|| io::Error::other("the node is shutting down"))?;
                Ok::<_, io::Error>(TokioIo::new(this.open(&address, purpose).await?))
            }
        }))
    }

    async fn open(&self, address: &str, purpose: Purpose) -> io::Result<Connection> {
        if let Some(why) = self.troubles.pause(address, Instant::now()) {
            return Err(io::Error::other(why));
        }
        let road = match purpose {
            // A detour has no detours.
            Purpose::Relay => connect(address).await.map(PeerStream::Direct),
            _ => self.road_to(address).await,
        };
        let road = road.inspect_err(|error| self.troubles.unreached(address, error.to_string(), Instant::now()))?;
        match &self.tls {
            None => Ok(Connection::plain(road)),
            Some(tls) => match tls.connect(host_of(address), road).await {
                Ok(stream) => Ok(Connection::client(stream, self, address)),
                Err(error) => {
                    self.refused(address, &format!("its certificate is not accepted ({error})"));
                    Err(error)
                }
            },
        }
    }
}

/// Straight to the node at `address`.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or_default();
    let tcp = TcpStream::connect((host_of(address), port)).await?;
    prepare(&tcp);
    Ok(tcp)
}

/// What every connection between nodes has. Without these it works, only less well.
fn prepare(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(tcp, UNCONFIRMED_MAX.as_millis() as u32);
}
