//! CONNECT, from an unauthenticated peer.
//! Always true: until a CONNECT is whole and its sender is known, a connection holds at most [`SMALL_BYTES`] of it; what is
//! larger takes turns once so much has come, and all of those together hold at most [`LARGE_BYTES_MAX`]; nothing is done
//! for a client that is known to be gone.
use super::checks::{Refusal, encoded};
use crate::{
    carrier::TLS_HANDSHAKE,
    connection::{Connection, describe_reason},
    listener::Peer,
    live::add,
    logging::{
        lines::{self, Disconnected},
        packets,
    },
    stream::Stream,
};
use bytes::BufMut;
use mosquorum_proto::mqtt::{ConnAck, Connect, Packet, ProtocolVersion};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, SemaphorePermit},
};

/// Room for the first bytes, which say how long the packet is. Most CONNECTs need no more.
const FIRST_BYTES: usize = 128;
/// Bytes of a CONNECT that any connection may send at any time.
const SMALL_BYTES: usize = 6 << 10;
/// Bytes of larger ones that come in at the same time; others wait, and so does what they send.
const LARGE_BYTES_MAX: usize = 4 << 20;
static LARGE: Semaphore = Semaphore::const_new(LARGE_BYTES_MAX);

/// A whole CONNECT. Its bytes count as long as `turn` is kept.
pub(super) struct Received {
    pub(super) connect: Connect,
    pub(super) turn: Option<SemaphorePermit<'static>>,
}

pub(super) async fn receive(connection: &mut Connection, peer: &Peer) -> Result<Received, Disconnected> {
    let mut turn = None;
    loop {
        if connection.partial.first() == Some(&TLS_HANDSHAKE) {
            lines::tls_on_plain(&peer.address, peer.port);
            return Err(Disconnected::ProtocolError);
        }
        match connection.decoder.decode(&mut connection.partial) {
            Ok(Some(Packet::Connect(connect))) => return Ok(Received { connect: *connect, turn }),
            Ok(Some(_)) => return Err(Disconnected::ProtocolError),
            Ok(None) => {}
            Err(error) => {
                if let Some((version, reason)) = error.connack() {
                    let connack = ConnAck::new(false, reason);
                    send_connack(&mut connection.stream, &peer.address, version, &connack, usize::MAX).await;
                }
                return Err(describe_reason(error.reason_code()));
            }
        }
        let have = connection.partial.len();
        let missing = match connection.decoder.packet_size(&connection.partial) {
            Some(size) => {
                if size > SMALL_BYTES && turn.is_none() && have >= SMALL_BYTES {
                    let bytes = u32::try_from(size.min(LARGE_BYTES_MAX)).unwrap_or(u32::MAX);
                    turn = LARGE.acquire_many(bytes).await.ok();
                }
                // Who only says that much will come takes no turn.
                if turn.is_some() { size - have } else { size.min(SMALL_BYTES) - have }
            }
            None => FIRST_BYTES,
        };
        connection.partial.reserve(missing);
        // No further than the packet: what follows is read by the connection in service.
        match connection.stream.read_buf(&mut (&mut connection.partial).limit(missing)).await {
            Ok(0) => return Err(Disconnected::ClosedByClient),
            Ok(n) => add(&connection.broker.counters.bytes_received, n as u64),
            Err(error) => return Err(Disconnected::Io(error.to_string())),
        }
    }
}

/// What comes of `work` on a client's CONNECT, unless the client hangs up or its time is over before.
pub(super) async fn in_time<T>(
    connection: &mut Connection,
    version: ProtocolVersion,
    until: Instant,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        done = work => done,
        why = hung_up(connection) => Err(Refusal::silent(why)),
        () = tokio::time::sleep_until(until.into()) => Err(Refusal::busy(version, Disconnected::ExceededTimeout)),
    }
}

/// Comes back when the client is gone and has left nothing behind its CONNECT. What it sends meanwhile is kept, up to
/// [`FIRST_BYTES`]: a client may publish and hang up without waiting for CONNACK.
pub(super) async fn hung_up(connection: &mut Connection) -> Disconnected {
    loop {
        let have = connection.partial.len();
        if have >= FIRST_BYTES {
            return std::future::pending().await;
        }
        let missing = FIRST_BYTES - have;
        connection.partial.reserve(missing);
        match connection.stream.read_buf(&mut (&mut connection.partial).limit(missing)).await {
            Ok(read) if read > 0 => add(&connection.broker.counters.bytes_received, read as u64),
            _ if have > 0 => return std::future::pending().await,
            Ok(_) => return Disconnected::ClosedByClient,
            Err(error) => return Disconnected::Io(error.to_string()),
        }
    }
}

/// As [`hung_up`], at this instant. The kernel is asked, since the runtime may not have seen yet what the socket knows.
pub(super) async fn is_gone(connection: &mut Connection) -> Option<Disconnected> {
    if connection.partial.is_empty() && connection.stream.has_ended() {
        return Some(Disconnected::ClosedByClient);
    }
    tokio::select! {
        biased;
        why = hung_up(connection) => Some(why),
        () = std::future::ready(()) => None,
    }
}

/// Sends it, unless it is larger than what the client takes [MQTT-3.1.2-24].
pub(super) async fn send_connack(
    stream: &mut Stream,
    name: &str,
    version: ProtocolVersion,
    connack: &ConnAck,
    size_max: usize,
) {
    let out = encoded(connack, version);
    if packets::are_wanted() {
        packets::sending(name, version, &out);
    }
    if out.len() > size_max {
        return;
    }
    let write = async {
        let _ = stream.write_all(&out).await;
        let _ = stream.flush().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), write).await;
}
