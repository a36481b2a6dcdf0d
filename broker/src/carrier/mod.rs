//! What a listener puts around the socket before MQTT begins: the PROXY header, then TLS, then WebSockets, as it is
//! configured.
//! Always true: a connection that is not ready in time is closed; nothing of it runs on the accept loop; what MQTT then
//! reads and writes is a plain byte stream.
//! Not here: the bridges' outgoing TLS, the links between nodes.
mod prepared;
pub mod proxy;
pub mod tls;
pub mod websocket;

use crate::{
    config::{ListenerProtocol, Settings},
    listener::{Listener, Peer},
    logging::lines::{self, Disconnected},
    stream::Stream,
};
pub use prepared::{Carried, Prepared, TLS_HANDSHAKE};
use std::time::{Duration, Instant};
pub use tls::{Acceptor, CertificateIdentity, Negotiated, TlsAcceptorSlot, TlsFileError, TlsSet};
use websocket::{UpgradeError, UpgradeRules, WebSocket, upgrade};

/// TLS and WebSocket handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the connection ready for MQTT, or for HTTP. `peer` becomes the client that a PROXY header names.
/// # Errors
/// Why it must end. The client was answered as far as its protocol has an answer for that.
pub async fn prepare(
    settings: &Settings,
    listener: &Listener,
    stream: Stream,
    peer: &mut Peer,
) -> Result<Carried, Disconnected> {
    let known = listener.settings();
    if known.protocol == ListenerProtocol::Mqtt && known.proxy.is_none() && listener.tls.is_empty() {
        return Ok(Carried::Ready(Prepared::plain(stream)));
    }
    let since = Instant::now();
    // Boxed: connections without handshakes need not have room for them.
    let handshakes = Box::pin(wrap(settings, listener, stream, peer));
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshakes).await {
        Ok(Ok(Carried::Ready(prepared))) => Ok(Carried::Ready(Prepared { since, ..prepared })),
        Ok(other) => other,
        Err(_) => Err(Disconnected::ExceededTimeout),
    }
}

async fn wrap(
    settings: &Settings,
    listener: &Listener,
    mut stream: Stream,
    peer: &mut Peer,
) -> Result<Carried, Disconnected> {
    let named = match listener.settings().proxy {
        Some(rules) => proxy::receive(&mut stream, rules, peer).await?,
        None => None,
    };
    let mut prepared = match listener.tls.acceptor() {
        Some(acceptor) => acceptor.accept(stream).await.map_err(|error| {
            if error.is_plain {
                lines::plain_on_tls(&peer.address, peer.port);
            }
            error.why
        })?,
        None => Prepared::plain(stream),
    };
    if let Some(name) = named {
        prepared.identity = Some(CertificateIdentity(name));
    }
    let listener = listener.settings();
    if listener.protocol == ListenerProtocol::Websockets {
        let rules = UpgradeRules {
            request_bytes_max: usize::from(settings.packet_buffer_size_bytes),
            origins: &listener.websockets_origins,
            files: listener.http_dir.is_some(),
        };
        let upgraded = upgrade(&mut prepared.stream, rules).await;
        if matches!(upgraded, Err(UpgradeError::Tls)) {
            lines::tls_on_plain(&peer.address, peer.port);
        }
        let upgraded = match upgraded {
            Err(UpgradeError::File(head)) => return Ok(Carried::File { stream: prepared.stream, head }),
            other => other.map_err(describe)?,
        };
        if let Some(client) = upgraded.forwarded_for
            && settings.delivery.connection_messages
        {
            lines::forwarded(&peer.address, peer.port, client);
        }
        prepared.stream = Stream::Other(Box::new(WebSocket::new(prepared.stream)));
    }
    Ok(Carried::Ready(prepared))
}

fn describe(error: UpgradeError) -> Disconnected {
    match error {
        UpgradeError::Closed => Disconnected::ClosedByClient,
        UpgradeError::Origin => Disconnected::BadOrigin,
        error => Disconnected::Io(error.to_string()),
    }
}
