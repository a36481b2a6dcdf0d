//! What breaks the nodes, when, and how it is taken back.
//! Always true: one fault at a time; it is recorded as begun once it is in effect and as ended before anything is taken
//! back (of many nodes: before the one that makes a majority), so nothing between the two had the nodes' help.
use crate::{
    client::session::Phase,
    cluster::Cluster,
    history::{Event, FaultKind, Recorder},
    random::Random,
};
use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::sleep};

/// How long a node may take to serve after it was started again.
const SERVE_AGAIN_MAX: Duration = Duration::from_secs(60);

/// A way to break a cluster. With the power-cut build every kill is a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nemesis {
    KillLeader,
    KillFollower,
    /// Two of three: no majority is left.
    KillMajority,
    KillAll,
    PauseLeader,
    PartitionLeader,
}

impl Nemesis {
    pub const ALL: [Self; 6] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillMajority,
        Self::KillAll,
        Self::PauseLeader,
        Self::PartitionLeader,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill-leader",
            Self::KillFollower => "kill-follower",
            Self::KillMajority => "kill-majority",
            Self::KillAll => "kill-all",
            Self::PauseLeader => "pause-leader",
            Self::PartitionLeader => "partition-leader",
        }
    }
}

impl fmt::Display for Nemesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Nemesis {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|nemesis| nemesis.name() == text).ok_or_else(|| format!("unknown nemesis {text:?}"))
    }
}

/// A fault that was tried.
#[derive(Debug, Clone)]
pub struct Fault {
    pub nemesis: Nemesis,
    pub nodes: Vec<usize>,
    /// The process died by our signal, stopped, or packets were dropped.
    pub took_effect: bool,
    pub leader_known: bool,
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Milliseconds of peace before each fault.
    pub peace: (u64, u64),
    /// Milliseconds that nodes stay down.
    pub down: (u64, u64),
    /// Milliseconds that a node is stopped or cut off: longer than an election takes.
    pub cut: (u64, u64),
    pub faults_max: usize,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { peace: (1500, 3500), down: (100, 2500), cut: (4000, 6000), faults_max: usize::MAX }
    }
}

/// Breaks the cluster until `until`, or as often as the rhythm says. Every node serves (or is recorded as not serving)
/// when it returns.
pub async fn torment(
    cluster: &mut Cluster,
    nemeses: &[Nemesis],
    rhythm: Rhythm,
    until: Instant,
    recorder: &Recorder,
    random: &mut Random,
    phase: &watch::Receiver<Phase>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    // The first round goes through all of them in a shuffled order, so that short runs see different ones.
    let mut round: Vec<Nemesis> = Vec::new();
    while faults.len() < rhythm.faults_max && *phase.borrow() == Phase::Running {
        let peace = Duration::from_millis(random.between(rhythm.peace.0, rhythm.peace.1));
        if Instant::now() + peace >= until {
            break;
        }
        sleep(peace).await;
        if round.is_empty() {
            round = nemeses.to_vec();
            for index in (1..round.len()).rev() {
                round.swap(index, random.below(index as u64 + 1) as usize);
            }
        }
        let Some(nemesis) = round.pop() else { break };
        let number = faults.len() as u32 + 1;
        faults.push(Strike { cluster, recorder, random, rhythm, number }.run(nemesis).await);
    }
    faults
}

/// One fault from beginning to end.
struct Strike<'a> {
    cluster: &'a mut Cluster,
    recorder: &'a Recorder,
    random: &'a mut Random,
    rhythm: Rhythm,
    number: u32,
}

impl Strike<'_> {
    async fn run(mut self, nemesis: Nemesis) -> Fault {
        let all = self.cluster.len();
        let leader = if all > 1 { self.cluster.leader().await } else { Some(0) };
        let target = leader.unwrap_or_else(|| self.random.below(all as u64) as usize);
        let other = (target + 1 + self.random.below(all.max(2) as u64 - 1) as usize) % all;
        let nodes = match nemesis {
            Nemesis::KillLeader | Nemesis::PauseLeader | Nemesis::PartitionLeader => vec![target],
            Nemesis::KillFollower => vec![other],
            Nemesis::KillMajority => vec![target, other],
            Nemesis::KillAll => (0..all).collect(),
        };
        let took_effect = match nemesis {
            Nemesis::PauseLeader => self.pause(&nodes).await,
            Nemesis::PartitionLeader => self.partition(&nodes).await,
            _ => self.kill(&nodes).await,
        };
        self.wait_healed().await;
        Fault { nemesis, nodes, took_effect, leader_known: leader.is_some() }
    }

    fn began(&self, kind: FaultKind, nodes: &[usize]) {
        self.recorder.record(Event::FaultBegan { fault: self.number, kind, nodes: nodes.to_vec() });
    }

    fn ended(&self) {
        self.recorder.record(Event::FaultEnded { fault: self.number });
    }

    async fn wait(&mut self, bounds: (u64, u64)) {
        let time = Duration::from_millis(self.random.between(bounds.0, bounds.1));
        sleep(time).await;
    }

    async fn kill(&mut self, nodes: &[usize]) -> bool {
        let killed = if nodes.len() == self.cluster.len() {
            self.cluster.kill_all()
        } else {
            nodes.iter().filter(|node| self.cluster.kill(**node)).count()
        };
        let kind = if self.cluster.loses_unsynced() { FaultKind::PowerCut } else { FaultKind::Kill };
        self.began(kind, nodes);
        self.wait(self.rhythm.down).await;
        self.start_again(nodes).await;
        killed == nodes.len()
    }

    /// In any order. The last of many often comes late: the others then serve without it, so what only that one has on
    /// disk is missed.
    async fn start_again(&mut self, nodes: &[usize]) {
        let all = self.cluster.len();
        let mut order = nodes.to_vec();
        for index in (1..order.len()).rev() {
            order.swap(index, self.random.below(index as u64 + 1) as usize);
        }
        let last = order.len() - 1;
        let mut ended = false;
        for (position, node) in order.into_iter().enumerate() {
            match position {
                0 => {}
                _ if position == last && self.random.chance(50) => self.wait((1500, 4000)).await,
                _ => self.wait((0, 400)).await,
            }
            let running = all - nodes.len() + position + 1;
            if running * 2 > all && !std::mem::replace(&mut ended, true) {
                self.ended();
            }
            if let Err(error) = self.cluster.start_node(node) {
                eprintln!("node {node} cannot be started: {error}");
            }
        }
    }

    async fn pause(&mut self, nodes: &[usize]) -> bool {
        let stopped = nodes.iter().filter(|node| self.cluster.pause(**node)).count() == nodes.len();
        self.began(FaultKind::Pause, nodes);
        self.wait(self.rhythm.cut).await;
        self.ended();
        let woken = nodes.iter().filter(|node| self.cluster.resume(**node)).count() == nodes.len();
        stopped && woken
    }

    async fn partition(&mut self, nodes: &[usize]) -> bool {
        if let Err(error) = self.cluster.partition(nodes) {
            eprintln!("no partition: {error}");
            return false;
        }
        self.began(FaultKind::Partition, nodes);
        self.wait(self.rhythm.cut).await;
        self.ended();
        self.cluster.heal().is_ok_and(|dropped| dropped > 0)
    }

    /// Waits until every node serves. A node that ended by itself is started once more, as a service manager would do.
    async fn wait_healed(&mut self) {
        for node in 0..self.cluster.len() {
            let began = Instant::now();
            let mut answer = self.cluster.wait_serving(node, SERVE_AGAIN_MAX).await;
            if answer.is_err() && !self.cluster.runs(node) && self.cluster.start_node(node).is_ok() {
                answer = self.cluster.wait_serving(node, SERVE_AGAIN_MAX).await;
            }
            if let Err(error) = answer {
                eprintln!("{error}");
                self.recorder.record(Event::NodeNotServing { node, waited: began.elapsed() });
            }
        }
        self.recorder.record(Event::Healed { fault: self.number });
    }
}
