//! What breaks the nodes, when, and how it is taken back.
//! Always true: faults have numbers of their own; at most two are in effect at a time, besides clocks that stay wrong;
//! the next ones come when every node serves again. Each is recorded as begun once it is in effect and as ended before
//! anything is taken back (`strike`); it is healed when every node serves and no other fault of its time is left.
//! One disk at most is emptied at a time, and only when all nodes vote: nothing acknowledged is lost by that.
mod aim;
mod kinds;
mod strike;

pub use kinds::Nemesis;

use crate::{
    client::session::Phase,
    cluster::Cluster,
    history::{Event, Recorder},
    random::Random,
};
use aim::{Aim, Roles};
use std::time::{Duration, Instant};
use strike::{Clock, Strike, Struck, Targets};
use tokio::{sync::watch, time::sleep};

/// How long a node may take to serve after it was started again.
const SERVE_AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long the cluster may take to have all its voters before a disk is emptied.
const VOTERS_MAX: Duration = Duration::from_secs(10);
/// The second of two faults comes so many milliseconds after the first, which lasts longer.
const SECOND_AFTER: (u64, u64) = (0, 800);

/// A fault that was tried.
#[derive(Debug, Clone)]
pub struct Fault {
    /// As the history calls it.
    pub number: u32,
    pub nemesis: Nemesis,
    /// Half of [`Nemesis::TwoAtOnce`].
    pub one_of_two: bool,
    pub nodes: Vec<usize>,
    /// The process died by our signal, stopped, packets were dropped, the clock was set, the node was removed.
    pub took_effect: bool,
    pub leader_known: bool,
}

impl Fault {
    /// What was asked for.
    #[must_use]
    pub fn kind(&self) -> Nemesis {
        if self.one_of_two { Nemesis::TwoAtOnce } else { self.nemesis }
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// Milliseconds of peace before each fault.
    pub peace: (u64, u64),
    /// Milliseconds that nodes stay down.
    pub down: (u64, u64),
    /// Milliseconds that a node is stopped or cut off, or its clock is wrong: longer than an election takes.
    pub cut: (u64, u64),
    /// Milliseconds that a link between two nodes is broken: longer than a node may take to find its way around it.
    pub links: (u64, u64),
    pub faults_max: usize,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self { peace: (1500, 3500), down: (100, 2500), cut: (4000, 6000), links: (7000, 11000), faults_max: usize::MAX }
    }
}

impl Rhythm {
    /// Long enough for two faults to overlap. No link is broken longer than a node is stopped: with another fault it
    /// may leave nobody a majority.
    fn of_two(self) -> Self {
        Self { down: (self.down.0.max(1000), self.down.1.max(3500)), links: self.cut, ..self }
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
    let clocks = vec![Clock::default(); cluster.len()];
    let mut torment = Torment { cluster, clocks, recorder, random, rhythm, faults: Vec::new() };
    // The first round goes through all of them in a shuffled order, so that short runs see different ones.
    let mut round: Vec<Nemesis> = Vec::new();
    while torment.faults.len() < rhythm.faults_max && *phase.borrow() == Phase::Running {
        let peace = Duration::from_millis(torment.random.between(rhythm.peace.0, rhythm.peace.1));
        if Instant::now() + peace >= until {
            break;
        }
        sleep(peace).await;
        if round.is_empty() {
            round = nemeses.to_vec();
            shuffle(&mut round, torment.random);
        }
        let Some(nemesis) = round.pop() else { break };
        torment.strike(nemesis).await;
    }
    torment.faults
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for index in (1..items.len()).rev() {
        items.swap(index, random.below(index as u64 + 1) as usize);
    }
}

/// The faults of a run, one after the other or two at a time.
struct Torment<'a> {
    cluster: &'a mut Cluster,
    clocks: Vec<Clock>,
    recorder: &'a Recorder,
    random: &'a mut Random,
    rhythm: Rhythm,
    faults: Vec<Fault>,
}

impl Torment<'_> {
    async fn strike(&mut self, nemesis: Nemesis) {
        let all = self.cluster.len();
        let leader = if all > 1 { self.cluster.leader().await } else { Some(0) };
        let roles = Roles { all, leader: leader.unwrap_or_else(|| self.random.below(all as u64) as usize) };
        let aims = if nemesis == Nemesis::TwoAtOnce {
            aim::pair(roles, self.random).to_vec()
        } else {
            vec![aim::aim(nemesis, roles, self.random)]
        };
        let struck = if aims.iter().any(|aim| aim.nemesis.empties_disks()) && !self.all_vote().await {
            // A disk less would be one too many.
            aims.iter().map(|_| Struck { took_effect: false, over: Vec::new() }).collect()
        } else {
            self.carry_out(&aims).await
        };
        let mut over = Vec::new();
        for (aim, struck) in aims.iter().zip(struck) {
            over.extend(struck.over);
            self.faults.push(Fault {
                number: self.faults.len() as u32 + 1,
                nemesis: aim.nemesis,
                one_of_two: aims.len() > 1,
                nodes: aim.nodes.clone(),
                took_effect: struck.took_effect,
                leader_known: leader.is_some(),
            });
        }
        self.wait_healed(&over).await;
    }

    async fn carry_out(&mut self, aims: &[Aim]) -> Vec<Struck> {
        let first_number = self.faults.len() as u32 + 1;
        let rhythm = if aims.len() > 1 { self.rhythm.of_two() } else { self.rhythm };
        let gap = Duration::from_millis(self.random.between(SECOND_AFTER.0, SECOND_AFTER.1));
        let targets = Targets::new(&mut *self.cluster, &mut self.clocks);
        let strike = |index: usize| Strike {
            targets: &targets,
            recorder: self.recorder,
            random: self.random.branch(u64::from(first_number) + index as u64),
            rhythm,
            number: first_number + index as u32,
            avoid: aims
                .iter()
                .enumerate()
                .filter(|(other, aim)| *other != index && aim.nemesis.stops_processes())
                .flat_map(|(_, aim)| aim.nodes.clone())
                .collect(),
            over: Vec::new(),
        };
        let struck = match aims {
            [only] => vec![strike(0).run(only).await],
            [first, second] => {
                let later = async {
                    sleep(gap).await;
                    strike(1).run(second).await
                };
                let (first, second) = tokio::join!(strike(0).run(first), later);
                vec![first, second]
            }
            _ => Vec::new(),
        };
        // The next fault is another one.
        self.random.next_u64();
        struck
    }

    /// Whether the group is whole: an earlier node that was lost has been replaced.
    async fn all_vote(&mut self) -> bool {
        let deadline = Instant::now() + VOTERS_MAX;
        while Instant::now() < deadline {
            for node in 0..self.cluster.len() {
                if self.cluster.voters(node).await == Some(self.cluster.len()) {
                    return true;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Waits until every node serves. A node that ended by itself is started once more, as a service manager would do.
    async fn wait_healed(&mut self, over: &[u32]) {
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
        for fault in over {
            self.recorder.record(Event::Healed { fault: *fault });
        }
    }
}
