//! Accepts connections of peers and serves the gRPC services on them.
use super::{
    CONNECTION_WINDOW_BYTES, PING_INTERVAL, PING_TIMEOUT, STREAM_WINDOW_BYTES, Transport, connection::Connection,
    gate::Gate, peer_stream::PeerStream, prepare,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server};
use tracing::{debug, warn};

use crate::events::EVENTS;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, transport: Arc<Transport>, routes: Routes) {
    let (accepted, incoming) = mpsc::channel(64);
    let guard = transport.guard.clone();
    let accepting = tokio::spawn(accept(listener, transport, accepted));
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(4096)
        .layer(tower::layer::layer_fn(move |inner| Gate { inner, guard: guard.clone() }))
        .add_routes(routes)
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await;
    accepting.abort();
    if let Err(error) = served {
        warn!(%error, "the cluster listener stopped");
    }
}

async fn accept(
    listener: TcpListener,
    transport: Arc<Transport>,
    accepted: mpsc::Sender<Result<Connection, io::Error>>,
) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(pair) => pair,
            Err(error) => {
                // Out of descriptors, or the peer gave up already: the next accept may work.
                warn!(%error, "cluster connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        prepare(&tcp);
        let tcp = PeerStream::Direct(tcp);
        let Some(tls) = transport.tls.clone() else {
            if accepted.send(Ok(Connection::plain(tcp))).await.is_err() {
                return;
            }
            continue;
        };
        let (accepted, transport) = (accepted.clone(), transport.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp)).await {
                Ok(Ok(stream)) => drop(accepted.send(Ok(Connection::server(stream, &transport))).await),
                // Without the port, so that repeats are seen as such.
                Ok(Err(error)) => transport.refusals.line(|more| {
                    warn!(target: EVENTS, "a connection between nodes is refused: from {}: {error}{more}", peer.ip());
                }),
                Err(_) => debug!(%peer, "TLS handshake not finished in time"),
            }
        });
    }
}
