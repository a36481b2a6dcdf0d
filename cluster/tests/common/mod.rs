//! Nodes in one process, on loopback, with directories of their own.
#![allow(clippy::unwrap_used)] // what fails ends the test
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use mosquorum_cluster::{
    Answer, BoxFuture, Completion, Consensus, FenceReason, LiveSide, OrdinaryReceivers, RaftConsensus, RaftSettings,
    StartError, Submission,
    ids::{ConnectionId, Incarnation},
    state::{Command, Effect, Message, Owner},
    transport::PemPaths,
};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mosquorum-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A live side without clients.
#[derive(Default)]
pub struct Quiet {
    pub lost: Mutex<Vec<Incarnation>>,
}

impl LiveSide for Quiet {
    fn on_effects(&self, _: Vec<Effect>) {}
    fn deliver(&self, _: Arc<Message>, _: OrdinaryReceivers, groups: &[TopicFilter]) -> Vec<TopicFilter> {
        groups.to_vec()
    }
    fn fence(&self, _: Utf8, _: ConnectionId, _: FenceReason) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    fn lease_lost(&self, incarnation: Incarnation) {
        self.lost.lock().unwrap().push(incarnation);
    }
    fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        Vec::new()
    }
}

/// Collects answers.
pub struct Answers {
    sender: Mutex<mpsc::Sender<(u64, Answer)>>,
    receiver: Mutex<mpsc::Receiver<(u64, Answer)>>,
}

impl Answers {
    pub fn new() -> Arc<Self> {
        let (sender, receiver) = mpsc::channel();
        Arc::new(Self { sender: Mutex::new(sender), receiver: Mutex::new(receiver) })
    }

    pub fn next(&self, within: Duration) -> Option<(u64, Answer)> {
        self.receiver.lock().unwrap().recv_timeout(within).ok()
    }
}

impl Completion for Answers {
    fn complete(&self, ticket: u64, answer: Answer) {
        self.sender.lock().unwrap().send((ticket, answer)).unwrap();
    }
}

pub struct Node {
    pub consensus: Arc<RaftConsensus>,
    pub live: Arc<Quiet>,
    pub failed: Arc<Mutex<Option<String>>>,
}

pub async fn start(settings: RaftSettings) -> Node {
    let live = Arc::new(Quiet::default());
    let failed: Arc<Mutex<Option<String>>> = Arc::default();
    let reported = failed.clone();
    let fatal: mosquorum_cluster::Fatal = Arc::new(move |reason: String| {
        eprintln!("fatal: {reason}");
        *reported.lock().unwrap() = Some(reason);
    });
    let since = Instant::now();
    loop {
        match RaftConsensus::start(settings.clone(), live.clone(), fatal.clone(), None).await {
            Ok(consensus) => return Node { consensus, live, failed },
            // The node before it in this process is still letting go of its directory or port.
            Err(StartError::Directory(_) | StartError::Listen { .. }) if since.elapsed() < Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Node {
    pub fn submit(&self, answers: &Arc<Answers>, tickets: std::ops::Range<u64>) {
        let submissions = tickets.map(|ticket| Submission {
            command: Command::EndSession { client_id: format!("client-{ticket}").as_str().into() },
            reply: answers.clone(),
            ticket,
            incarnation: None,
        });
        self.consensus.submit(submissions.collect());
    }

    /// Stops it as a crash would: nothing is flushed or said.
    pub fn kill(self) {
        drop(self.consensus);
    }
}

/// Waits for a condition, looking often.
pub async fn until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    since.elapsed()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub struct Plan {
    pub dir: TempDir,
    pub addresses: Vec<String>,
    pub tls: Option<Vec<PemPaths>>,
}

impl Plan {
    pub fn new(nodes: usize) -> Self {
        let addresses = (0..nodes).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        Self { dir: TempDir::new(), addresses, tls: None }
    }

    pub fn settings(&self, index: usize, listed: usize) -> RaftSettings {
        let address = &self.addresses[index];
        RaftSettings {
            advertise: address.clone(),
            listen: Some(address.parse::<SocketAddr>().unwrap()),
            peers: self.addresses[..listed].to_vec(),
            tls: self.tls.as_ref().map(|tls| tls[index].clone()),
            ..RaftSettings::alone(self.data_dir(index), &format!("node-{index}"))
        }
    }

    pub fn data_dir(&self, index: usize) -> PathBuf {
        self.dir.0.join(format!("node-{index}"))
    }
}

pub fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    path.to_owned()
}
