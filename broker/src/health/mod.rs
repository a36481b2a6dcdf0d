//! `health_listener`: HTTP for probes and scrapers. `/livez`: the process works; `/readyz`: clients should be sent here;
//! `/metrics`: everything that is counted.
//! Always true: it answers from a thread of its own, from the start of the process to its end, so that neither load nor
//! a long start looks like death; requests are bounded in bytes, time and number, and who asks nothing makes room for who
//! does; it changes nothing.
pub mod check;
mod http;
mod readiness;
mod visitors;

use crate::{
    bridges,
    broker::Broker,
    metrics::{self, exposition, table},
};
use http::{Parsed, REQUEST_BYTES_MAX, Reply, Request};
use readiness::Facts;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};
use visitors::{Heard, Visitors};

/// From accept to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to the end of the request line.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);
const BEAT: Duration = Duration::from_millis(500);
/// A task of the MQTT threads that has not run for so long never will.
const STUCK: Duration = Duration::from_secs(30);

/// What the answers are made of.
struct Probed {
    broker: OnceLock<Arc<Broker>>,
    started: Instant,
    /// Milliseconds after `started` at which the MQTT threads last ran; 0 before they serve.
    beat: AtomicU64,
    /// Connections that had to make room for others.
    pushed_out: AtomicU64,
}

/// The listener; it ends when this is dropped.
pub struct Health {
    probed: Arc<Probed>,
    _stop: oneshot::Sender<()>,
}

impl Health {
    /// Listens and answers from now on.
    /// # Errors
    /// When the address cannot be listened on; the text names it.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("health_listener {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let probed = Arc::new(Probed::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = probed.clone();
        std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = serve(served, listener) => {
                        if let Err(error) = result {
                            crate::error!("Error: health_listener {address}: {error}");
                        }
                    }
                }
            });
        })?;
        Ok(Self { probed, _stop: stop })
    }

    /// From now on the answers are about this broker.
    pub fn attach(&self, broker: Arc<Broker>) {
        let _ = self.probed.broker.set(broker);
    }

    /// Shows that the calling runtime runs its tasks; to be spawned on the one that serves clients.
    pub fn beat(&self) -> impl Future<Output = ()> + Send + 'static {
        let probed = self.probed.clone();
        async move {
            loop {
                probed.beat.store(probed.started.elapsed().as_millis().max(1) as u64, Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }
}

async fn serve(probed: Arc<Probed>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut visitors = Visitors::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if visitors.make_room() {
                    probed.pushed_out.fetch_add(1, Relaxed);
                }
                let (probed, heard) = (probed.clone(), Heard::default());
                let known = heard.clone();
                let task = tokio::spawn(async move {
                    let _ = tokio::time::timeout(REQUEST_TIMEOUT, attend(&probed, stream, &heard)).await;
                });
                visitors.enter(task.abort_handle(), known);
                // Whoever has asked already is answered before the next one may take its place.
                tokio::task::yield_now().await;
            }
            // Out of descriptors: those we have go on, the next one waits.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn attend(probed: &Probed, mut stream: TcpStream, heard: &Heard) -> io::Result<()> {
    let line_until = tokio::time::Instant::now() + LINE_TIMEOUT;
    let mut bytes = already_sent(&stream);
    let (reply, head) = loop {
        match http::parse(&bytes) {
            Parsed::Request(request) => break (probed.answer(&request), request.head),
            Parsed::Bad(reply) => break (reply, false),
            Parsed::Partial => {}
        }
        let room = REQUEST_BYTES_MAX - bytes.len();
        let has_line = bytes.contains(&b'\n');
        let mut limited = (&mut stream).take(room as u64);
        let read = limited.read_buf(&mut bytes);
        let read = if has_line { read.await? } else { tokio::time::timeout_at(line_until, read).await?? };
        if read == 0 {
            return Ok(());
        }
    };
    heard.store(true, Relaxed);
    stream.write_all(&reply.encode(head)).await?;
    stream.shutdown().await
}

/// What has come with the connection, without waiting for the runtime to notice. An error shows again at the next read.
fn already_sent(stream: &TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let read = rustix::net::recv(stream, bytes.as_mut_slice(), rustix::net::RecvFlags::DONTWAIT);
    bytes.truncate(read.map_or(0, |(_, read)| read));
    bytes
}

impl Probed {
    fn new() -> Self {
        let (beat, pushed_out) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { broker: OnceLock::new(), started: Instant::now(), beat, pushed_out }
    }

    fn answer(&self, request: &Request) -> Reply {
        match request.path.as_str() {
            "/livez" => self.livez(),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            _ => Reply::text(404, "/livez, /readyz or /metrics\n"),
        }
    }

    fn livez(&self) -> Reply {
        let beat = Duration::from_millis(self.beat.load(Relaxed));
        let silent = self.started.elapsed().saturating_sub(beat);
        if !beat.is_zero() && silent > STUCK {
            return Reply::text(503, format!("clients have not been served for {} s\n", silent.as_secs()));
        }
        Reply::text(200, "alive\n")
    }

    fn readyz(&self) -> Reply {
        let reasons = readiness::reasons(&self.facts());
        if reasons.is_empty() { Reply::text(200, "ready\n") } else { Reply::text(503, reasons.join("\n") + "\n") }
    }

    fn metrics(&self) -> Reply {
        let ready = readiness::reasons(&self.facts()).is_empty();
        let mut reading = metrics::read(self.broker.get().map(Arc::as_ref), ready);
        reading.family(&table::HEALTH_CONNECTIONS_DROPPED_TOTAL).whole(self.pushed_out.load(Relaxed));
        Reply { status: 200, content_type: exposition::CONTENT_TYPE, body: exposition::text(&reading) }
    }

    fn facts(&self) -> Facts {
        facts(self.broker.get().map(Arc::as_ref))
    }
}

/// Whether clients should be sent to this node.
#[must_use]
pub fn is_ready(broker: &Broker) -> bool {
    why_not_ready(Some(broker)).is_empty()
}

/// Every reason not to send clients to this node; `None` is one that has not loaded its state yet.
#[must_use]
pub fn why_not_ready(broker: Option<&Broker>) -> Vec<String> {
    readiness::reasons(&facts(broker))
}

fn facts(broker: Option<&Broker>) -> Facts {
    let Some(broker) = broker else {
        let no = false;
        return Facts {
            started: no,
            majority: no,
            kept_out: None,
            member: no,
            leased: no,
            routes: no,
            bridges: no,
            draining: no,
            behind: 0,
        };
    };
    let status = broker.consensus.status();
    Facts {
        started: true,
        majority: broker.consensus.available(),
        kept_out: status.kept_out,
        member: status.members.iter().any(|member| member.node == status.node && member.voter),
        leased: broker.peers.may_serve(),
        routes: broker.peers.ready(),
        bridges: bridges::are_prepared(broker),
        draining: broker.drain.is_on(),
        behind: status.behind,
    }
}

#[cfg(test)]
mod tests {
    use super::{visitors::VISITORS_MAX, *};

    const TIMEOUT: Duration = Duration::from_secs(30);

    async fn listening() -> (SocketAddr, Arc<Probed>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, probed) = (listener.local_addr().unwrap(), Arc::new(Probed::new()));
        tokio::spawn(serve(probed.clone(), listener));
        (address, probed)
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        tokio::time::timeout(TIMEOUT, stream.read_to_string(&mut answer)).await.expect("in time").unwrap();
        answer
    }

    #[tokio::test]
    async fn silent_connections_make_room_for_one_that_asks() {
        let (address, probed) = listening().await;
        let mut silent = Vec::new();
        for _ in 0..VISITORS_MAX + 20 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /livez HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(answer(asking).await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!(probed.pushed_out.load(Relaxed), 21);
        for gone in silent.drain(..21) {
            assert_eq!(answer(gone).await, "");
        }
    }

    #[tokio::test]
    async fn who_sends_no_request_line_is_closed_before_who_sends_no_end() {
        let (address, _) = listening().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        assert_eq!(answer(TcpStream::connect(address).await.unwrap()).await, "");
        slow.write_all(b"\r\n").await.unwrap();
        assert!(answer(slow).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}
