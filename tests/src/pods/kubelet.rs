//! One pod as a kubelet runs it: start, probes, restarts, and the stop with preStop, SIGTERM and its grace period.
//! Always true: the first container is the main one; others run in its namespaces and see its mounts. A pod has a network
//! and an address of its own, which no other pod of the run ever had.
use super::{
    container::{Container, Running},
    manifests::{number, words},
};
use crate::http;
use rustix::process::Signal;
use serde_json::Value;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep};

/// How a pod is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Deleted: preStop, SIGTERM, and SIGKILL when its time is over.
    Gracefully,
    /// Its machine is gone.
    Now,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    #[default]
    Running,
    Terminating,
    Over,
}

/// What others see of a pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    pub(super) ready_since: Option<Instant>,
    pub(super) phase: Phase,
    pub(super) restarts: u64,
    /// What went wrong, for whoever reads a failed run.
    pub(super) events: Vec<String>,
}

/// Counts over all pods of a run.
#[derive(Debug, Default)]
pub struct Tally {
    pub pods: AtomicU64,
    pub restarts: AtomicU64,
    /// preStop commands that failed; a kubelet goes on all the same.
    pub pre_stop_failures: AtomicU64,
    /// Pods that had to be killed at the end of their grace period.
    pub killed: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) revision: String,
    pub(super) address: Ipv4Addr,
    pub(super) network: usize,
    status: Arc<Mutex<Status>>,
    running: Arc<tokio::sync::Mutex<Option<Running>>>,
    stop: watch::Sender<Stop>,
}

impl Pod {
    pub(super) fn start(plan: PodPlan, revision: String, address: Ipv4Addr, network: usize) -> Self {
        let (stop, watch) = watch::channel(Stop::No);
        let (status, running) = (plan.status.clone(), plan.running.clone());
        plan.tally.pods.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(plan.run(watch));
        Self { revision, address, network, status, running, stop }
    }

    pub(super) fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        let status = self.status();
        status.ready_since.is_some() && status.phase == Phase::Running
    }

    /// Ready for at least so long.
    pub(super) fn is_available(&self, for_at_least: Duration) -> bool {
        self.is_ready() && self.status().ready_since.is_some_and(|since| since.elapsed() >= for_at_least)
    }

    pub(super) fn stop(&self, how: Stop) {
        let _ = self.stop.send(how);
        self.change(|status| status.phase = status.phase.max(Phase::Terminating));
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// To reach into it without holding it.
    pub(super) fn handle(&self) -> Handle {
        Handle(self.running.clone())
    }
}

#[derive(Debug, Clone)]
pub(super) struct Handle(Arc<tokio::sync::Mutex<Option<Running>>>);

impl Handle {
    /// `kubectl exec`: what it printed, or why it failed.
    pub(super) async fn exec(&self, words: &[String], timeout: Duration) -> Result<String, String> {
        exec(&self.0, words, timeout).await
    }

    pub(super) async fn log(&self) -> String {
        self.0.lock().await.as_ref().map_or(String::new(), Running::log)
    }
}

async fn exec(
    running: &tokio::sync::Mutex<Option<Running>>,
    words: &[String],
    timeout: Duration,
) -> Result<String, String> {
    let mut command = match running.lock().await.as_mut() {
        Some(running) => running.exec(words).map_err(|error| error.to_string())?,
        None => return Err("the container does not run".into()),
    };
    let output =
        tokio::time::timeout(timeout, command.output()).await.map_err(|_| format!("it takes more than {timeout:?}"))?;
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{}: {text}", output.status)) }
}

/// What a pod is made of.
#[derive(Debug)]
pub(super) struct PodPlan {
    pub(super) main: Container,
    /// Commands of further containers.
    pub(super) sidecars: Vec<Vec<String>>,
    /// The main container as its manifest says.
    pub(super) manifest: Value,
    pub(super) address: Ipv4Addr,
    pub(super) grace: Duration,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) running: Arc<tokio::sync::Mutex<Option<Running>>>,
    pub(super) tally: Arc<Tally>,
}

/// Why a container is not looked after any more.
enum Over {
    Ended(String),
    Asked(Stop),
}

impl PodPlan {
    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn run(self, mut stop: watch::Receiver<Stop>) {
        loop {
            match self.main.clone().start() {
                Ok(running) => *self.running.lock().await = Some(running),
                Err(error) => self.change(|status| status.events.push(format!("not started: {error}"))),
            }
            let over = tokio::select! {
                why = self.attend() => Over::Ended(why),
                how = asked(&mut stop) => Over::Asked(how),
            };
            self.change(|status| status.ready_since = None);
            match over {
                Over::Asked(how) => {
                    self.end(how).await;
                    break;
                }
                Over::Ended(why) => {
                    self.kill().await;
                    self.tally.restarts.fetch_add(1, Ordering::Relaxed);
                    self.change(|status| {
                        status.restarts += 1;
                        status.events.push(why);
                    });
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        self.change(|status| status.phase = Phase::Over);
    }

    async fn kill(&self) {
        if let Some(mut running) = self.running.lock().await.take() {
            running.kill();
        }
    }

    async fn end(&self, how: Stop) {
        self.change(|status| status.phase = status.phase.max(Phase::Terminating));
        let deadline = Instant::now() + self.grace;
        if how == Stop::Gracefully {
            let pre_stop = words(&self.manifest["lifecycle"]["preStop"]["exec"]["command"]);
            if !pre_stop.is_empty()
                && let Err(why) = exec(&self.running, &pre_stop, self.grace).await
            {
                self.tally.pre_stop_failures.fetch_add(1, Ordering::Relaxed);
                eprintln!("{}: preStop failed: {why}", self.main.host_name);
            }
            if let Some(running) = self.running.lock().await.as_mut() {
                running.signal(Signal::TERM);
            }
            while self.ended().await.is_none() && Instant::now() < deadline {
                sleep(Duration::from_millis(20)).await;
            }
            if self.ended().await.is_none() {
                self.tally.killed.fetch_add(1, Ordering::Relaxed);
                eprintln!("{}: killed after its grace period of {:?}", self.main.host_name, self.grace);
            }
        }
        self.kill().await;
    }

    async fn ended(&self) -> Option<crate::cluster::Ended> {
        self.running.lock().await.as_mut().and_then(Running::ended)
    }

    /// Probes until something is wrong; then why.
    async fn attend(&self) -> String {
        if let Err(why) = self.probe_until("startupProbe", true).await {
            return why;
        }
        // They are started by now in a real pod too; here they need the mounts of the main one.
        let mut sidecars = Vec::new();
        for command in &self.sidecars {
            if let Some(running) = self.running.lock().await.as_mut()
                && let Ok(mut command) = running.exec(command)
            {
                sidecars.extend(command.stdout(std::process::Stdio::null()).spawn());
            }
        }
        tokio::select! {
            why = self.probe_until("livenessProbe", false) => why.err().unwrap_or_default(),
            why = self.stay_ready() => why,
            why = self.until_ended() => why,
        }
    }

    async fn until_ended(&self) -> String {
        loop {
            if let Some(ended) = self.ended().await {
                return format!("the container ended: {ended:?}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Probes until it succeeds (`wanted`), or fails too often in a row.
    async fn probe_until(&self, name: &str, wanted: bool) -> Result<(), String> {
        let probe = &self.manifest[name];
        let mut failures = 0;
        loop {
            if let Some(ended) = self.ended().await {
                return Err(format!("the container ended: {ended:?}"));
            }
            if self.probe(probe).await {
                failures = 0;
                if wanted {
                    return Ok(());
                }
            } else {
                failures += 1;
                if failures >= number(probe, "/failureThreshold", 3) {
                    return Err(format!("{name} failed {failures} times in a row"));
                }
            }
            sleep(Duration::from_secs(number(probe, "/periodSeconds", 10))).await;
        }
    }

    async fn stay_ready(&self) -> String {
        let probe = &self.manifest["readinessProbe"];
        let mut failures = 0;
        loop {
            if self.probe(probe).await {
                failures = 0;
                self.change(|status| {
                    status.ready_since.get_or_insert_with(Instant::now);
                });
            } else {
                failures += 1;
                if failures >= number(probe, "/failureThreshold", 3) {
                    self.change(|status| status.ready_since = None);
                }
            }
            sleep(Duration::from_secs(number(probe, "/periodSeconds", 10))).await;
        }
    }

    async fn probe(&self, probe: &Value) -> bool {
        let timeout = Duration::from_secs(number(probe, "/timeoutSeconds", 1));
        let port = self.port(&probe["httpGet"]["port"]);
        let path = probe["httpGet"]["path"].as_str().unwrap_or("/");
        let answer = tokio::time::timeout(timeout, http::get(SocketAddr::new(self.address.into(), port), path)).await;
        matches!(answer, Ok(Ok((200..=399, _))))
    }

    /// A port by number or name.
    fn port(&self, port: &Value) -> u16 {
        let named = || {
            let ports = self.manifest["ports"].as_array()?;
            ports.iter().find(|known| known["name"] == *port)?["containerPort"].as_u64()
        };
        port.as_u64().or_else(named).and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
    }
}

async fn asked(stop: &mut watch::Receiver<Stop>) -> Stop {
    match stop.wait_for(|how| *how != Stop::No).await {
        Ok(how) => *how,
        // Nobody holds the pod any more.
        Err(_) => Stop::Now,
    }
}
