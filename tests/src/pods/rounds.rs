//! What is done to a release while clients use it, and whether the promises held.
//! Always true: one history over all rounds; it is judged by every checker when publishing has ended and what is owed has
//! arrived.
use super::{Simulator, kubelet::Tally};
use crate::{
    chaos::{
        actors::Stage,
        run::{DRAIN_TIMEOUT, drain, final_reads, wait_subscribed},
        workload,
    },
    checker::{self, Violation},
    client::session::Phase,
    history::{Client, CloseKind, ConnectionNumber, Event, History, Recorder},
    random::Random,
};
use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    str::FromStr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// For one step of the controller, all pods.
const TIMEOUT: Duration = Duration::from_secs(180);
/// What the promise says; of a run that took longer the files are kept.
pub const WITHOUT_A_NODE_MAX: Duration = Duration::from_secs(3);
/// Load before, between and after what is done.
const PEACE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// `helm upgrade` with a change of the pods.
    RollingRestart,
    /// `helm upgrade --set replicaCount=5`, then 3.
    ScaleUpAndDown,
    /// A machine is gone; the claim is attached elsewhere.
    LostMachine,
    /// A machine is gone, and its disk with it.
    LostClaim,
}

impl Round {
    pub const ALL: [Self; 4] = [Self::RollingRestart, Self::ScaleUpAndDown, Self::LostMachine, Self::LostClaim];

    const fn name(self) -> &'static str {
        match self {
            Self::RollingRestart => "rolling-restart",
            Self::ScaleUpAndDown => "scale",
            Self::LostMachine => "lost-machine",
            Self::LostClaim => "lost-claim",
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Round {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|round| round.name() == text).ok_or_else(|| format!("no round is named {text}"))
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub rounds: Vec<(Round, Duration)>,
    pub acknowledged: u64,
    pub violations: Vec<Violation>,
    /// The longest time from a lost connection of a client to its next one, and whose.
    pub longest_without: (Duration, String),
    /// The longest wait for the answer to a CONNECT, and whose.
    pub slowest_connect: (Duration, String),
    /// Connections that were lost.
    pub lost: usize,
    pub pods: u64,
    pub restarts: u64,
    pub pre_stop_failures: u64,
    pub killed: u64,
}

impl Report {
    #[must_use]
    pub fn line(&self) -> String {
        let rounds: Vec<String> =
            self.rounds.iter().map(|(round, took)| format!("{round} {:.1} s", took.as_secs_f64())).collect();
        format!(
            "seed {}: {} acknowledged, {} violations; {}; {} connections lost, longest without {:.2} s ({}), \
             slowest CONNECT {:.2} s ({}); {} pods, {} restarts, {} preStop failures, {} killed",
            self.seed,
            self.acknowledged,
            self.violations.len(),
            rounds.join(", "),
            self.lost,
            self.longest_without.0.as_secs_f64(),
            self.longest_without.1,
            self.slowest_connect.0.as_secs_f64(),
            self.slowest_connect.1,
            self.pods,
            self.restarts,
            self.pre_stop_failures,
            self.killed
        )
    }
}

/// Installs three nodes, does the rounds under load, and judges.
/// # Errors
/// When pods do not become what they should in time.
pub async fn run(seed: u64, rounds: &[Round], rate: u32) -> io::Result<Report> {
    let settings = [
        "auth.anonymous=true",
        "config=max_queued_messages 0\nmax_queued_bytes 0\nlog_type all",
        "minReadySeconds=1",
        "drain.rate=20",
        "drain.seconds=10",
        "terminationGracePeriodSeconds=40",
        "probes.readiness.periodSeconds=1",
        "probes.startup.periodSeconds=1",
        "reloader.intervalSeconds=1",
    ]
    .map(String::from);
    let mut random = Random::new(seed);
    let mut simulator = Simulator::install(&settings, &[], TIMEOUT).await?;
    let recorder = Recorder::new(1);
    let (phase, watch) = watch::channel(Phase::Running);
    let stage = Stage::new(vec![simulator.address], recorder.clone(), watch);
    let mut actors = JoinSet::new();
    workload::subscribers(&stage, &random.branch(1), &mut actors);
    wait_subscribed(&recorder, &actors).await;
    workload::publishers(
        &stage,
        &random.branch(2),
        workload::Rates { ordinary: rate, ..workload::Rates::default() },
        &mut actors,
    );
    sleep(PEACE).await;
    let mut done = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        let began = Instant::now();
        if let Err(error) = perform(&mut simulator, *round, number, &mut random).await {
            simulator.keep_folder();
            return Err(io::Error::other(format!("seed {seed}, {round}: {error}")));
        }
        done.push((*round, began.elapsed()));
        sleep(PEACE).await;
    }
    let _ = phase.send(Phase::Draining);
    drain(&recorder, DRAIN_TIMEOUT).await;
    recorder.record(Event::Drained);
    final_reads(&stage).await;
    let _ = phase.send(Phase::Over);
    while actors.join_next().await.is_some() {}
    let report = judge(seed, done, &recorder.snapshot(), &simulator.tally);
    if !report.violations.is_empty() || report.longest_without.0 > WITHOUT_A_NODE_MAX {
        simulator.keep_folder();
    }
    Ok(report)
}

async fn perform(simulator: &mut Simulator, round: Round, number: usize, random: &mut Random) -> io::Result<()> {
    match round {
        Round::RollingRestart => {
            simulator.upgrade(&[&format!("podAnnotations.round=r{number}")], TIMEOUT).await?;
            expect_voters(simulator, 3).await
        }
        Round::ScaleUpAndDown => {
            simulator.upgrade(&["replicaCount=5"], TIMEOUT).await?;
            expect_voters(simulator, 5).await?;
            sleep(PEACE).await;
            simulator.upgrade(&["replicaCount=3"], TIMEOUT).await?;
            expect_voters(simulator, 3).await
        }
        Round::LostMachine => {
            simulator.lose_machine(random.below(3) as usize, TIMEOUT).await?;
            expect_voters(simulator, 3).await
        }
        Round::LostClaim => {
            let ordinal = random.below(3) as usize;
            let before = node_id(&simulator.status().await?, ordinal)?;
            simulator.lose_claim(ordinal, TIMEOUT).await?;
            expect_voters(simulator, 3).await?;
            let after = node_id(&simulator.status().await?, ordinal)?;
            if after <= before {
                return Err(io::Error::other(format!(
                    "pod {ordinal} was node {before} and is {after} without its disk"
                )));
            }
            Ok(())
        }
    }
}

/// The members as a pod names them are exactly the first `wanted` pods, and all vote.
async fn expect_voters(simulator: &Simulator, wanted: usize) -> io::Result<()> {
    let status = simulator.status().await?;
    let mut names: Vec<String> = members(&status)
        .iter()
        .filter(|member| member["voter"] == true)
        .filter_map(|member| Some(member["name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    let expected: Vec<String> = (0..wanted).map(|ordinal| format!("mq-mosquorum-{ordinal}")).collect();
    if names == expected && members(&status).len() == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("expected {wanted} voters: {status}")))
}

fn members(status: &serde_json::Value) -> &[serde_json::Value] {
    status["members"].as_array().map_or(&[], Vec::as_slice)
}

fn node_id(status: &serde_json::Value, ordinal: usize) -> io::Result<u64> {
    let name = format!("mq-mosquorum-{ordinal}");
    let member = members(status).iter().find(|member| member["name"] == name.as_str());
    member.and_then(|member| member["id"].as_u64()).ok_or_else(|| io::Error::other(format!("no {name}: {status}")))
}

fn judge(seed: u64, rounds: Vec<(Round, Duration)>, history: &History, tally: &Tally) -> Report {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (longest_without, lost) = without_a_node(history);
    let acknowledged =
        history.records.iter().filter(|record| matches!(record.event, Event::PublishAcknowledged { .. })).count();
    Report {
        seed,
        rounds,
        acknowledged: acknowledged as u64,
        violations: checker::check_all(history),
        longest_without,
        slowest_connect: slowest_connect(history),
        lost,
        pods: count(&tally.pods),
        restarts: count(&tally.restarts),
        pre_stop_failures: count(&tally.pre_stop_failures),
        killed: count(&tally.killed),
    }
}

/// The longest time that a client, whose last connection was lost, had none; and how many were lost. A client whose session is
/// taken over by another connection of its own has that one.
fn without_a_node(history: &History) -> ((Duration, String), usize) {
    let mut owners: HashMap<ConnectionNumber, Client> = HashMap::new();
    let mut open: HashMap<Client, usize> = HashMap::new();
    let mut connected = HashSet::new();
    let mut since: HashMap<Client, Duration> = HashMap::new();
    let (mut longest, mut lost) = ((Duration::ZERO, "nobody".to_owned()), 0);
    for record in &history.records {
        match &record.event {
            Event::ConnectInvoked { connection, client, .. } => {
                owners.insert(*connection, client.clone());
            }
            Event::Connected { connection, .. } => {
                let Some(client) = owners.get(connection) else { continue };
                connected.insert(*connection);
                *open.entry(client.clone()).or_default() += 1;
                if let Some(from) = since.remove(client)
                    && record.at.saturating_sub(from) > longest.0
                {
                    longest = (record.at.saturating_sub(from), format!("{client} at {:.1} s", from.as_secs_f64()));
                }
            }
            Event::Closed { connection, how } if connected.remove(connection) => {
                let Some(client) = owners.get(connection) else { continue };
                let left = open.entry(client.clone()).or_default();
                *left -= 1;
                if *how == CloseKind::Lost {
                    lost += 1;
                    if *left == 0 {
                        since.entry(client.clone()).or_insert(record.at);
                    }
                }
            }
            _ => {}
        }
    }
    (longest, lost)
}

/// The longest time that a CONNECT waited for its answer or for the client's timeout to end, and whose.
fn slowest_connect(history: &History) -> (Duration, String) {
    let mut invoked = HashMap::new();
    let mut slowest = (Duration::ZERO, "nobody".to_owned());
    for record in &history.records {
        match &record.event {
            Event::ConnectInvoked { connection, client, .. } => {
                invoked.insert(*connection, (record.at, client.clone()));
            }
            Event::Connected { connection, .. } | Event::NotConnected { connection } => {
                if let Some((at, client)) = invoked.remove(connection)
                    && record.at.saturating_sub(at) > slowest.0
                {
                    slowest = (record.at.saturating_sub(at), format!("{client} at {:.1} s", at.as_secs_f64()));
                }
            }
            _ => {}
        }
    }
    slowest
}
