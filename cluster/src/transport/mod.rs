//! Connections between nodes: one gRPC server, and per peer a few TCP connections by purpose, so that bulk data never
//! delays a heartbeat.
//! Always true: without `cluster_insecure` both ends show a certificate of the cluster's own CA; who somebody claims to
//! be is checked against the names in it ([`PeerIdentity::speaks_for`]).
//! Not here: what is said over the connections (`raft`, `consensus`, `membership`, `live`).
mod connection;
mod server;
mod tls;

pub(crate) use connection::PeerIdentity;
pub(crate) use server::serve;
pub use tls::{PemPaths, TlsError};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{collections::HashMap, io, sync::Arc, time::Duration};
use tonic::transport::{Channel, Endpoint, Uri};

/// Largest message accepted or sent; frames of ours stay below 4 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const PING_INTERVAL: Duration = Duration::from_millis(500);
const PING_TIMEOUT: Duration = Duration::from_millis(1500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

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
}

/// The ways to other nodes; shared by everything in this crate that talks to a peer.
pub struct Transport {
    tls: Option<tls::Tls>,
    channels: Mutex<HashMap<(String, Purpose), Channel>>,
}

impl Transport {
    /// `None`: no encryption and no identity (`cluster_insecure true`).
    /// # Errors
    /// [`TlsError`] names the file that cannot be used.
    pub fn new(pem: Option<PemPaths>) -> Result<Arc<Self>, TlsError> {
        let tls = pem.map(tls::Tls::load).transpose()?;
        Ok(Arc::new(Self { tls, channels: Mutex::new(HashMap::new()) }))
    }

    /// A channel to the node at `address` (`host:port`), connected when first used and again when it broke. Must be
    /// called on a tokio runtime.
    pub fn channel(&self, address: &str, purpose: Purpose) -> Channel {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.to_owned(), purpose)) {
            return channel.clone();
        }
        let channel = self.connect_lazily(address);
        channels.insert((address.to_owned(), purpose), channel.clone());
        channel
    }

    /// Lets go of the connections to an address that no member has any more.
    pub fn forget(&self, address: &str) {
        self.channels.lock().retain(|(known, _), _| known != address);
    }

    /// Reads the certificates again; connections made from now on use them.
    /// # Errors
    /// [`TlsError`]; the ones in use stay then.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), tls::Tls::reload)
    }

    fn connect_lazily(&self, address: &str) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://address-that-cannot-be-parsed.invalid:1"))
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let tls = self.tls.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            async move {
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = uri.port_u16().unwrap_or_default();
                let tcp = tokio::net::TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                let connection = match tls {
                    None => connection::Connection::plain(tcp),
                    Some(tls) => connection::Connection::client(tls.connect(&host, tcp).await?),
                };
                Ok::<_, io::Error>(TokioIo::new(connection))
            }
        }))
    }
}

/// The host part of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
