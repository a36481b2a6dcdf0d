//! `health_listener`: HTTP for probes and scrapers. `/livez`: the process works; `/readyz`: clients should be sent here;
//! `/metrics`: everything that is counted.
//! Always true: it answers from a thread of its own, from the start of the process to its end, so that neither load nor
//! a long start looks like death; requests are bounded in bytes, time and number; it changes nothing.
pub mod check;
mod http;
mod readiness;

use crate::{
    broker::Broker,
    metrics::{self, exposition},
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
    sync::{Semaphore, oneshot},
};

/// Connections answered at once; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
/// From accept to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(500);
/// A task of the MQTT threads that has not run for so long never will.
const STUCK: Duration = Duration::from_secs(30);

/// What the answers are made of.
struct Patient {
    broker: OnceLock<Arc<Broker>>,
    started: Instant,
    /// Milliseconds after `started` at which the MQTT threads last ran; 0 before they serve.
    beat: AtomicU64,
}

/// The listener; it ends when this is dropped.
pub struct Health {
    patient: Arc<Patient>,
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
        let patient = Arc::new(Patient { broker: OnceLock::new(), started: Instant::now(), beat: AtomicU64::new(0) });
        let (stop, stopped) = oneshot::channel::<()>();
        let served = patient.clone();
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
        Ok(Self { patient, _stop: stop })
    }

    /// From now on the answers are about this broker.
    pub fn attach(&self, broker: Arc<Broker>) {
        let _ = self.patient.broker.set(broker);
    }

    /// Shows that the calling runtime runs its tasks; to be spawned on the one that serves clients.
    pub fn beat(&self) -> impl Future<Output = ()> + Send + 'static {
        let patient = self.patient.clone();
        async move {
            loop {
                patient.beat.store(patient.started.elapsed().as_millis().max(1) as u64, Relaxed);
                tokio::time::sleep(BEAT).await;
            }
        }
    }
}

async fn serve(patient: Arc<Patient>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let patient = patient.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REQUEST_TIMEOUT, attend(&patient, stream)).await;
                    drop(place);
                });
            }
            // Out of descriptors: those we have go on, the next one waits.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn attend(patient: &Patient, mut stream: tokio::net::TcpStream) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(512);
    let (reply, head) = loop {
        match http::parse(&bytes) {
            Parsed::Request(request) => break (patient.answer(&request), request.head),
            Parsed::Bad(reply) => break (reply, false),
            Parsed::Partial => {}
        }
        let room = REQUEST_BYTES_MAX - bytes.len();
        if (&mut stream).take(room as u64).read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    stream.write_all(&reply.encode(head)).await?;
    stream.shutdown().await
}

impl Patient {
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
        let reading = metrics::read(self.broker.get().map(Arc::as_ref), ready);
        Reply { status: 200, content_type: exposition::CONTENT_TYPE, body: exposition::text(&reading) }
    }

    fn facts(&self) -> Facts {
        facts(self.broker.get().map(Arc::as_ref))
    }
}

/// Whether clients should be sent to this node.
#[must_use]
pub fn is_ready(broker: &Broker) -> bool {
    readiness::reasons(&facts(Some(broker))).is_empty()
}

fn facts(broker: Option<&Broker>) -> Facts {
    let Some(broker) = broker else {
        let no = false;
        return Facts {
            started: no,
            majority: no,
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
        member: status.members.iter().any(|member| member.node == status.node && member.voter),
        leased: broker.peers.may_serve(),
        routes: broker.peers.ready(),
        bridges: broker.bridges.are_prepared(broker),
        draining: broker.drain.is_on(),
        behind: status.behind,
    }
}
