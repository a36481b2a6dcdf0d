//! HTTP/1 for what a broker answers beside MQTT. The protocol is hyper's; what a request gets is said by a function of the
//! caller's (`health`, `http_api`).
//! Always true: one request per connection, bounded in bytes, headers and time; its body is not read; who does not take an
//! answer is let go; nothing that a client sends panics.
//! Not here: how many connections there may be; WebSockets, whose requests are answered in Mosquitto's words
//! (`carrier::websocket`).
mod answer;
mod exchange;

pub(crate) use answer::{Answer, file, text, with};
use exchange::Exchange;
pub(crate) use hyper::{HeaderMap, Method, StatusCode, body::Bytes, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, timeout_at},
};

/// Less room than this hyper does not take for what it reads.
const BUFFER_BYTES_MIN: usize = 8 << 10;
const FIRST_BYTES_MAX: usize = 512;

/// A request without its body.
pub(crate) type Request = hyper::Request<()>;

/// What a client must keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a request line and its headers.
    pub(crate) head_bytes_max: usize,
    pub(crate) headers_max: usize,
    /// Within this they come, from the first look at the connection on.
    pub(crate) head_timeout: Duration,
    /// Within this more of an answer is taken.
    pub(crate) write_timeout: Duration,
}

/// Answers the one request of a connection and closes it. What breaks the protocol or the limits is answered with 400 or
/// 431, silence with nothing. `read`: bytes of the request that are here already.
pub(crate) async fn serve<S, F>(mut stream: S, read: Bytes, limits: Limits, answer: impl Fn(Request) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    let until = Instant::now() + limits.head_timeout;
    let mut read = read;
    if read.is_empty() {
        read = timeout_at(until, first_bytes(&mut stream)).await.unwrap_or_default();
    }
    if !read.is_empty() {
        let stream = Exchange::new(stream, rooted(read), limits.write_timeout);
        let limits = Limits { head_timeout: until.saturating_duration_since(Instant::now()), ..limits };
        // Boxed: who is silent needs no room for it.
        Box::pin(exchange(stream, limits, answer)).await;
    }
}

/// Whatever comes first. Hyper makes 16 KiB of buffers at once, which only those get who say something.
async fn first_bytes(stream: &mut (impl AsyncRead + Unpin)) -> Bytes {
    let mut bytes = Vec::with_capacity(FIRST_BYTES_MAX);
    // An error is an end, too.
    let _ = stream.read_buf(&mut bytes).await;
    bytes.into()
}

/// A target that begins with a dot is a path from the root, as Mosquitto's server takes it (and then finds nothing there);
/// the standard has no such target, so hyper would not let it come to an answer.
fn rooted(read: Bytes) -> Bytes {
    let target = read.iter().position(|byte| *byte == b' ').map(|space| space + 1);
    match target {
        Some(target) if read.get(target) == Some(&b'.') => [&read[..target], b"/", &read[target..]].concat().into(),
        _ => read,
    }
}

async fn exchange<S, F>(stream: Exchange<S>, limits: Limits, answer: impl Fn(Request) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answered = answer(request.map(drop));
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(limits.head_bytes_max.max(BUFFER_BYTES_MIN))
        .max_headers(limits.headers_max)
        .keep_alive(false)
        // Who has nothing more to ask may say so before the answer.
        .half_close(true)
        // As Mosquitto writes names, for scripts that look for them.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // The client knows; there is nobody else to be told.
    drop(served);
}

#[cfg(test)]
mod tests;
