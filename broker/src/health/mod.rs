//! `health_listener`: HTTP for probes and scrapers. `/livez`: the process works; `/readyz`: clients should be sent here;
//! `/metrics`: everything that is counted.
//! Always true: it answers from a thread of its own, from the start of the process to its end, so that neither load nor
//! a long start looks like death; requests are bounded in bytes, time and number, and who asks nothing makes room for who
//! does; it changes nothing.
pub mod check;
mod readiness;
mod visitors;

use crate::{
    bridges,
    broker::Broker,
    http::{self, Answer, Bytes, Limits, Method, Request, StatusCode, header},
    metrics::{self, exposition, table},
};
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
use tokio::{net::TcpStream, sync::oneshot};
use visitors::{Heard, Visitors};

/// From accept to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits {
    head_bytes_max: 8 << 10,
    headers_max: 64,
    head_timeout: Duration::from_secs(1),
    write_timeout: REQUEST_TIMEOUT,
};
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
                let task = tokio::spawn(async move { attend(&probed, stream, &heard).await });
                visitors.enter(task.abort_handle(), known);
                // Whoever has asked already is answered before the next one may take its place: in the first turn of the
                // runtime its bytes are noticed, in the second one they are read.
                for _turn in 0..2 {
                    tokio::task::yield_now().await;
                }
            }
            // Out of descriptors: those we have go on, the next one waits.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn attend(probed: &Probed, stream: TcpStream, heard: &Heard) {
    let answered = http::serve(stream, Bytes::new(), LIMITS, async |request| {
        heard.store(true, Relaxed);
        probed.answer(&request)
    });
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, answered).await;
}

/// For whoever asks now, and nobody later.
fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    http::with(http::text(status, kind, text), header::CACHE_CONTROL, "no-store")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text)
}

impl Probed {
    fn new() -> Self {
        let (beat, pushed_out) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { broker: OnceLock::new(), started: Instant::now(), beat, pushed_out }
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            return http::with(refused, header::ALLOW, "GET, HEAD");
        }
        match request.uri().path() {
            "/livez" => self.livez(),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            _ => plain(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics\n"),
        }
    }

    fn livez(&self) -> Answer {
        let beat = Duration::from_millis(self.beat.load(Relaxed));
        let silent = self.started.elapsed().saturating_sub(beat);
        if !beat.is_zero() && silent > STUCK {
            let text = format!("clients have not been served for {} s\n", silent.as_secs());
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        plain(StatusCode::OK, "alive\n")
    }

    fn readyz(&self) -> Answer {
        let reasons = readiness::reasons(&self.facts());
        if reasons.is_empty() {
            return plain(StatusCode::OK, "ready\n");
        }
        plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }

    fn metrics(&self) -> Answer {
        let ready = readiness::reasons(&self.facts()).is_empty();
        let mut reading = metrics::read(self.broker.get().map(Arc::as_ref), ready);
        reading.family(&table::HEALTH_CONNECTIONS_DROPPED_TOTAL).whole(self.pushed_out.load(Relaxed));
        answer(StatusCode::OK, exposition::CONTENT_TYPE, exposition::text(&reading))
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    async fn who_does_not_end_a_request_within_a_second_is_closed() {
        let (address, _) = listening().await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let (since, silent) = (Instant::now(), TcpStream::connect(address).await.unwrap());
        assert_eq!((answer(silent).await, answer(slow).await), (String::new(), String::new()));
        assert!(since.elapsed() < REQUEST_TIMEOUT, "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn get_and_head_of_three_paths_are_answered_and_nothing_else() {
        let (address, _) = listening().await;
        let ask = async |line: &str| {
            let mut asking = TcpStream::connect(address).await.unwrap();
            asking.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            answer(asking).await
        };
        let alive = ask("GET /livez").await;
        assert!(alive.starts_with("HTTP/1.1 200 OK\r\n") && alive.ends_with("\r\n\r\nalive\n"), "{alive}");
        assert!(alive.contains("\r\nCache-Control: no-store\r\n"), "{alive}");
        let unready = ask("HEAD /readyz?verbose").await;
        assert!(unready.starts_with("HTTP/1.1 503 ") && unready.ends_with("\r\n\r\n"), "{unready}");
        assert!(ask("GET /metrics").await.contains("\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(ask("GET /").await.starts_with("HTTP/1.1 404 "));
        let refused = ask("POST /livez").await;
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"), "{refused}");
    }
}
