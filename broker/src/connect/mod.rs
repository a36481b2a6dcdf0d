//! From an accepted socket to a session in service: CONNECT (`receive`), its checks (`checks`), the claim on the client
//! identifier (`admission`), CONNACK and what follows (`active`).
//! Always true: CONNACK leaves only when no other connection in the cluster can deliver or acknowledge for this client
//! identifier any more, and after the session's record (if it has one) is durable.
mod active;
mod admission;
mod checks;
mod receive;

pub use active::ActiveConnection;

use crate::{
    auth::Source,
    broker::Broker,
    carrier::{CertificateIdentity, Negotiated, Prepared},
    connection::Connection,
    listener::{Listener, Peer},
    live::add,
    logging::lines::{self, Disconnected},
};
use bytes::BytesMut;
use mosquorum_proto::mqtt::{ConnAck, Decoder, QoS, ReasonCode};
use receive::{Received, in_time, receive, send_connack};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A connection that has not sent a whole CONNECT by then is closed, whatever handshakes come first; so is one whose
/// password could not be checked by then, because so many wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a connection comes from and what its handshakes have shown.
struct Origin {
    peer: Peer,
    identity: Option<CertificateIdentity>,
    tls: Option<Negotiated>,
    /// When CONNECT must have come and been looked at.
    until: Instant,
}

/// Serves one connection from its first byte to its last.
pub async fn serve(broker: Arc<Broker>, listener: Arc<Listener>, prepared: Prepared, peer: Peer) {
    if let Some(active) = Box::pin(begin(broker, listener, prepared, peer)).await {
        active.serve().await;
    }
}

/// From the first byte to CONNACK; `None` if it did not come to that. What this needs is large and soon over: callers
/// keep it on the heap, so that a connection in service does not carry room for it.
pub async fn begin(
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    prepared: Prepared,
    peer: Peer,
) -> Option<Box<ActiveConnection>> {
    let counters = broker.counters.clone();
    add(&counters.sockets_opened, 1);
    let active = begin_with(broker, listener, prepared, peer).await;
    if active.is_none() {
        add(&counters.sockets_closed, 1);
    }
    active
}

async fn begin_with(
    broker: Arc<Broker>,
    listener: Arc<Listener>,
    prepared: Prepared,
    peer: Peer,
) -> Option<Box<ActiveConnection>> {
    let Prepared { stream, identity, tls, since } = prepared;
    let limit = broker.settings.load().limits.max_packet_size_bytes;
    let mut connection = Connection {
        stream,
        decoder: Decoder::for_server(limit),
        partial: BytesMut::new(),
        keep_alive: None,
        commit_timeout: broker.settings.load().cluster.commit_timeout,
        broker: broker.clone(),
        listener: listener.clone(),
    };
    let until = since + CONNECT_TIMEOUT;
    let read = tokio::time::timeout_at(until.into(), receive(&mut connection, &peer)).await;
    match read {
        // On the heap: a peer whose CONNECT is not whole needs no room for it.
        Ok(Ok(received)) => {
            return Box::pin(attend(connection, received, Origin { peer, identity, tls, until })).await;
        }
        Ok(Err(why)) => {
            broker.log_end(&peer.address, &peer, &why);
            connection.stream.shut_down().await;
        }
        Err(_) => broker.log_end(&peer.address, &peer, &Disconnected::ExceededTimeout),
    }
    None
}

async fn attend(mut connection: Connection, received: Received, origin: Origin) -> Option<Box<ActiveConnection>> {
    let Origin { peer, identity, tls, until } = origin;
    let Received { connect, turn } = received;
    let (broker, listener) = (connection.broker.clone(), connection.listener.clone());
    let counters = &broker.counters;
    add(&counters.connects_received, 1);
    add(&counters.messages_received, 1);
    let (version, size_max) = (connect.version, checks::packet_size_max(&connect));
    let name = if connect.client_id.is_empty() { peer.address.clone() } else { connect.client_id.to_string() };
    let source = Source::of(&peer.address);
    let identified = checks::identify(&broker, &listener, connect, identity, tls.is_some(), source);
    let admitted = match in_time(&mut connection, version, until, identified).await {
        Ok(client) => {
            drop(turn);
            admission::admit(&mut connection, &client).await.map(|admission| (client, admission))
        }
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((client, admission)) => {
            if let Some(Negotiated { version, cipher }) = tls {
                lines::tls_negotiated(&client.id, version, cipher);
            }
            Some(Box::new(ActiveConnection::new(connection, client, admission, peer)))
        }
        Err(refusal) => {
            add(&counters.clients_refused, 1);
            if let Some(reason) = refusal.answer {
                add(&counters.connacks_sent, 1);
                let mut connack = ConnAck::new(false, reason);
                if reason == ReasonCode::UseAnotherServer {
                    connack.server_reference = broker.drain.reference(&listener.settings());
                }
                connack.maximum_qos = (listener.max_qos() != QoS::ExactlyOnce).then(|| listener.max_qos());
                send_connack(&mut connection.stream, &name, version, &connack, size_max).await;
            }
            broker.log_end(&name, &peer, &refusal.why);
            connection.stream.shut_down().await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ActiveConnection;

    /// A million of them are a million times this. Raise it knowingly.
    #[test]
    fn a_connection_in_service_is_small() {
        assert!(size_of::<ActiveConnection>() <= 1500, "{}", size_of::<ActiveConnection>());
    }
}
