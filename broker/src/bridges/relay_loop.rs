//! Moves packets between the two sides until one of them ends, or the bridge is stopped.
//! Always true: neither side's slowness keeps the other from being read, within bounded buffers.
use super::{local::LocalWire, status::Status, wire::Wire};
use crate::{stream::Stream, telemetry::hooks};
use bytes::{Buf, BytesMut};
use mosquorum_bridge::{Relay, RelayEnd, StartType};
use mosquorum_proto::mqtt::{Packet, ProtocolVersion, encode};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// While so much waits for one side, the other is not read.
const BUFFER_BYTES: usize = 256 * 1024;
/// The same, where one side waits for the other.
const LAST_BUFFER_BYTES: usize = 64 * BUFFER_BYTES;
const READ_BYTES: usize = 64 * 1024;
/// A bridge that is stopped waits so long for the acknowledgements of what it has sent: fewer repetitions later.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// What a remote that has closed its side is owed is still sent for so long; one that stops normally reads it.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) enum Ended<T> {
    /// One of the sides; the text is for the operator.
    Lost(String),
    Stopped,
    /// Nothing to do for a lazy bridge.
    Idle,
    Interrupted(T),
}

/// Runs until the end. `stop` interrupts it; `other` does so too and its value is handed back.
pub(super) async fn relay_packets<T>(
    relay: &mut Relay,
    local: LocalWire,
    remote: Wire<Stream>,
    (start_type, status, ping_local): (StartType, &Status, Option<Duration>),
    stop: impl Future<Output = ()>,
    other: impl Future<Output = T>,
    started: Instant,
) -> Ended<T> {
    let version = remote.version;
    let (mut remote_in, mut remote_out) = tokio::io::split(remote.stream);
    let (mut local_in, mut local_out) = tokio::io::split(local.stream);
    let (mut from_remote, mut from_local) = (remote.partial, local.partial);
    let (mut remote_decoder, mut local_decoder) = (remote.decoder, local.decoder);
    let (mut to_remote, mut to_local) = (BytesMut::new(), BytesMut::new());
    let (mut unflushed, mut first) = (false, true);
    let mut packets = Vec::new();
    let mut next_status = Instant::now();
    let (mut busy_at, mut pinged_at, mut counted) = (Instant::now(), Instant::now(), relay.counts);
    let mut stopping: Option<Instant> = None;
    // The remote says nothing more: since when, and why.
    let mut closing: Option<(Instant, String)> = None;
    let name = relay.name().to_owned();
    tokio::pin!(stop, other);
    loop {
        if std::mem::take(&mut first) {
            if let Err(error) = remote_decoder.decode_all(&mut from_remote, &mut packets) {
                return Ended::Lost(format!("the remote sent a malformed packet: {error}"));
            }
            if let Err(end) = packets.drain(..).try_for_each(|packet| relay.on_remote(packet)) {
                return Ended::Lost(end.to_string());
            }
            if let Err(error) = local_decoder.decode_all(&mut from_local, &mut packets) {
                return Ended::Lost(error.to_string());
            }
            if let Err(end) = packets.drain(..).try_for_each(|packet| relay.on_local(packet)) {
                return Ended::Lost(end.to_string());
            }
        }
        let due = match relay.on_time(started.elapsed()) {
            Ok(due) => started + due,
            Err(end) => return Ended::Lost(end.to_string()),
        };
        if ping_local.is_some_and(|interval| pinged_at.elapsed() >= interval) {
            relay.to_local.push(Packet::PingReq);
            pinged_at = Instant::now();
        }
        if to_remote.len() < BUFFER_BYTES {
            relay.pump_out();
        }
        for mut packet in relay.to_remote.drain(..) {
            if let Packet::Publish(publish) = &mut packet {
                hooks::bridged(publish, &name);
            }
            encode(&packet, version, &mut to_remote);
        }
        relay.to_local.drain(..).for_each(|packet| encode(&packet, ProtocolVersion::V5, &mut to_local));
        if !relay.is_idle() || counted != relay.counts {
            (busy_at, counted) = (Instant::now(), relay.counts);
        }
        if next_status <= Instant::now() {
            status.counted(relay.counts);
            next_status = Instant::now() + STATUS_INTERVAL;
        }
        if let StartType::Lazy { idle_timeout, .. } = start_type
            && busy_at.elapsed() >= idle_timeout
        {
            return Ended::Idle;
        }
        if let Some(since) = stopping
            && ((relay.is_finished() && to_remote.is_empty() && to_local.is_empty()) || since.elapsed() >= LAST_WORDS)
        {
            return Ended::Stopped;
        }
        if let Some((since, why)) = &closing
            && ((!relay.owes_remote() && to_remote.is_empty() && !unflushed) || since.elapsed() >= LAST_ANSWERS)
        {
            return Ended::Lost(why.clone());
        }
        let last = stopping.map(|since| since + LAST_WORDS);
        let last = last.into_iter().chain(closing.as_ref().map(|(since, _)| *since + LAST_ANSWERS)).min();
        let wake = due.min(next_status).min(last.unwrap_or(due));
        let reads_local = relay.wants_local() && to_remote.len() < BUFFER_BYTES;
        // While the local side is not read, it may not read either: what it waits for is behind what the remote sends.
        let room = if reads_local { BUFFER_BYTES } else { LAST_BUFFER_BYTES };
        let reads_remote = to_local.len() < room && closing.is_none();
        if !reads_remote {
            // Who is not listened to is not silent.
            relay.read_remote(started.elapsed());
        }
        from_remote.reserve(READ_BYTES);
        from_local.reserve(READ_BYTES);
        tokio::select! {
            read = remote_in.read_buf(&mut from_remote), if reads_remote => {
                match read {
                    Ok(0) => {
                        closing = Some((Instant::now(), "the remote closed the connection".to_owned()));
                        relay.finish();
                        continue;
                    }
                    Ok(_) => relay.read_remote(started.elapsed()),
                    Err(error) => return Ended::Lost(format!("the connection to the remote broke: {error}")),
                }
                let decoded = remote_decoder.decode_all(&mut from_remote, &mut packets);
                match packets.drain(..).try_for_each(|packet| relay.on_remote(packet)) {
                    Ok(()) => {}
                    Err(end @ RelayEnd::RemoteDisconnected(_)) => {
                        closing = Some((Instant::now(), end.to_string()));
                        relay.finish();
                        continue;
                    }
                    Err(end) => return Ended::Lost(end.to_string()),
                }
                if let Err(error) = decoded {
                    return Ended::Lost(format!("the remote sent a malformed packet: {error}"));
                }
            }
            read = local_in.read_buf(&mut from_local), if reads_local => {
                match read {
                    Ok(0) | Err(_) => return Ended::Lost("the local session was closed".to_owned()),
                    Ok(_) => {}
                }
                let decoded = local_decoder.decode_all(&mut from_local, &mut packets);
                let handled = packets.drain(..).try_for_each(|packet| relay.on_local(packet));
                if let Err(end) = handled {
                    return Ended::Lost(end.to_string());
                }
                if let Err(error) = decoded {
                    return Ended::Lost(error.to_string());
                }
            }
            wrote = write_or_flush(&mut remote_out, &to_remote), if unflushed || !to_remote.is_empty() => match wrote {
                Ok(0) => unflushed = false,
                Ok(n) => {
                    to_remote.advance(n);
                    unflushed = true;
                    relay.wrote_remote(started.elapsed());
                }
                Err(error) => return Ended::Lost(format!("the connection to the remote broke: {error}")),
            },
            wrote = local_out.write(&to_local), if !to_local.is_empty() => match wrote {
                Ok(n) if n > 0 => to_local.advance(n),
                _ => return Ended::Lost("the local session was closed".to_owned()),
            },
            () = tokio::time::sleep_until(wake.into()) => {}
            () = &mut stop, if stopping.is_none() => {
                relay.finish();
                stopping = Some(Instant::now());
            }
            value = &mut other => return Ended::Interrupted(value),
        }
        for notice in std::mem::take(&mut relay.notices) {
            crate::warning!("Bridge {}: {notice}.", relay.name());
        }
    }
}

/// Bytes written; 0 when there was nothing to write and everything is flushed.
async fn write_or_flush(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return out.flush().await.map(|()| 0);
    }
    match out.write(bytes).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        n => Ok(n),
    }
}
