//! One fault from beginning to end.
//! Always true: it is recorded as begun once it is in effect and as ended before anything is taken back (of many nodes:
//! before the one that makes a majority of the cluster), so nothing between the two had the nodes' help. A clock that
//! stays wrong is a fault without an end.
use super::{Aim, Nemesis, Rhythm, shuffle};
use crate::{
    cluster::{CLOCK_READ_EVERY, Cluster, Cut},
    history::{Event, FaultKind, Recorder},
    random::Random,
};
use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// Longer than the broker itself waits before it says that a node stays.
const REMOVE_MAX: Duration = Duration::from_secs(60);
/// For a node to be added again, and for one try.
const ADD_MAX: Duration = Duration::from_secs(30);
const ADD_TRY_MAX: Duration = Duration::from_secs(15);
const HOUR: u64 = 3_600_000;
const MONTH: u64 = 30 * 24 * HOUR;
const SKEW_PPM: i32 = 500;

/// What strikes at the same time share. Held for moments only, never while one waits.
pub(super) struct Targets<'c> {
    cluster: Mutex<&'c mut Cluster>,
    clocks: Mutex<&'c mut Vec<Clock>>,
}

impl<'c> Targets<'c> {
    pub(super) fn new(cluster: &'c mut Cluster, clocks: &'c mut Vec<Clock>) -> Self {
        Self { cluster: Mutex::new(cluster), clocks: Mutex::new(clocks) }
    }
}

/// How a node's clock goes, and the faults that made it so and last.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    offset_ms: i64,
    ppm: i32,
    jumped: Option<u32>,
    skewed: Option<u32>,
}

/// One fault that is carried out; another one may be at the same time.
pub(super) struct Strike<'a, 'c> {
    pub(super) targets: &'a Targets<'c>,
    pub(super) recorder: &'a Recorder,
    pub(super) random: Random,
    pub(super) rhythm: Rhythm,
    pub(super) number: u32,
    /// Nodes that the other fault stops.
    pub(super) avoid: Vec<usize>,
    /// Faults that are over; each heals when every node serves.
    pub(super) over: Vec<u32>,
}

/// What came of a strike.
pub(super) struct Struck {
    pub(super) took_effect: bool,
    pub(super) over: Vec<u32>,
}

impl Strike<'_, '_> {
    pub(super) async fn run(mut self, aim: &Aim) -> Struck {
        let nodes = &aim.nodes[..];
        let took_effect = match (aim.nemesis, nodes) {
            (Nemesis::KillLeader | Nemesis::KillFollower | Nemesis::KillMajority | Nemesis::KillAll, _) => {
                self.kill(nodes).await
            }
            (Nemesis::PauseLeader | Nemesis::PauseFollower, _) => self.pause(nodes).await,
            (Nemesis::PartitionLeader, _) => {
                self.cut(FaultKind::Partition, nodes, |cluster| cluster.partition(nodes)).await
            }
            (Nemesis::CutPairLeader | Nemesis::CutPairFollowers, &[one, other]) => {
                self.cut(FaultKind::PartialCut, nodes, |cluster| cluster.cut_pair(one, other)).await
            }
            (Nemesis::CutOneWayFromLeader | Nemesis::CutOneWayToLeader | Nemesis::CutOneWayFollowers, &[from, to]) => {
                self.cut(FaultKind::PartialCut, nodes, |cluster| cluster.cut_one_way(from, to)).await
            }
            (Nemesis::FlappingPair, &[one, other]) => self.flap(one, other).await,
            (Nemesis::PacketLoss, &[node]) => {
                let percent = self.random.between(20, 40) as u32;
                self.cut(FaultKind::Loss, nodes, |cluster| cluster.lose(node, percent)).await
            }
            (Nemesis::ClockJumpLeader | Nemesis::ClockJumpFollower, &[node]) => self.jump(node).await,
            (Nemesis::ClockSkew, &[node]) => self.skew(node),
            (Nemesis::WipeFollower, &[node]) => self.wipe(node).await,
            (Nemesis::RemoveAdd, &[node]) => self.remove_and_add(node).await,
            _ => false,
        };
        Struck { took_effect, over: self.over }
    }

    fn on<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        act(&mut self.targets.cluster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn clock<T>(&self, node: usize, act: impl FnOnce(&mut Clock) -> T) -> T {
        act(&mut self.targets.clocks.lock().unwrap_or_else(PoisonError::into_inner)[node])
    }

    fn began(&self, kind: FaultKind, nodes: &[usize]) {
        self.recorder.record(Event::FaultBegan { fault: self.number, kind, nodes: nodes.to_vec() });
    }

    fn ended(&mut self) {
        self.has_ended(self.number);
    }

    fn has_ended(&mut self, fault: u32) {
        self.recorder.record(Event::FaultEnded { fault });
        self.over.push(fault);
    }

    async fn wait(&mut self, bounds: (u64, u64)) {
        let time = Duration::from_millis(self.random.between(bounds.0, bounds.1));
        sleep(time).await;
    }

    async fn kill(&mut self, nodes: &[usize]) -> bool {
        let (killed, kind) = self.on(|cluster| {
            let killed = if nodes.len() == cluster.len() {
                cluster.kill_all()
            } else {
                nodes.iter().filter(|node| cluster.kill(**node)).count()
            };
            (killed, if cluster.loses_unsynced() { FaultKind::PowerCut } else { FaultKind::Kill })
        });
        self.began(kind, nodes);
        self.wait(self.rhythm.down).await;
        self.start_again(nodes).await;
        killed == nodes.len()
    }

    /// In any order. The last of many often comes late: the others then serve without it, so what only that one has on
    /// disk is missed.
    async fn start_again(&mut self, nodes: &[usize]) {
        let all = self.on(|cluster| cluster.len());
        let mut order = nodes.to_vec();
        shuffle(&mut order, &mut self.random);
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
            self.start(node);
        }
    }

    fn start(&self, node: usize) {
        if let Err(error) = self.on(|cluster| cluster.start_node(node)) {
            eprintln!("node {node} cannot be started: {error}");
        }
    }

    async fn pause(&mut self, nodes: &[usize]) -> bool {
        let stopped = self.on(|cluster| nodes.iter().filter(|node| cluster.pause(**node)).count() == nodes.len());
        self.began(FaultKind::Pause, nodes);
        self.wait(self.rhythm.cut).await;
        self.ended();
        let woken = self.on(|cluster| nodes.iter().filter(|node| cluster.resume(**node)).count() == nodes.len());
        stopped && woken
    }

    async fn cut(
        &mut self,
        kind: FaultKind,
        nodes: &[usize],
        make: impl FnOnce(&mut Cluster) -> io::Result<Cut>,
    ) -> bool {
        let cut = match self.on(make) {
            Ok(cut) => cut,
            Err(error) => {
                eprintln!("no {kind}: {error}");
                return false;
            }
        };
        self.began(kind, nodes);
        self.wait(if kind == FaultKind::PartialCut { self.rhythm.links } else { self.rhythm.cut }).await;
        self.ended();
        self.on(|cluster| cluster.heal_cut(cut)).is_ok_and(|dropped| dropped > 0)
    }

    /// One fault from the first cut to the last: nobody can rely on a link that comes and goes.
    async fn flap(&mut self, one: usize, other: usize) -> bool {
        let until =
            Instant::now() + Duration::from_millis(self.random.between(self.rhythm.links.0, self.rhythm.links.1));
        let (mut dropped, mut began) = (0, false);
        let done: io::Result<()> = async {
            while Instant::now() < until {
                let cut = self.on(|cluster| cluster.cut_pair(one, other))?;
                if !std::mem::replace(&mut began, true) {
                    self.began(FaultKind::PartialCut, &[one, other]);
                }
                self.wait((300, 1500)).await;
                dropped += self.on(|cluster| cluster.heal_cut(cut))?;
                self.wait((300, 1500)).await;
            }
            Ok(())
        }
        .await;
        if let Err(error) = &done {
            eprintln!("the link does not flap: {error}");
        }
        if began {
            self.ended();
        }
        done.is_ok() && dropped > 0
    }

    /// A clock that is wrong from an earlier jump goes right by this one.
    async fn jump(&mut self, node: usize) -> bool {
        let (from, earlier) = self.clock(node, |clock| (clock.offset_ms, clock.jumped.take()));
        if let Some(earlier) = earlier {
            self.has_ended(earlier);
        }
        let range = if self.random.chance(50) { HOUR } else { MONTH };
        let distance = self.random.between(range / 10, range) as i64;
        let to = match from {
            0 if self.random.chance(50) => -distance,
            0 => distance,
            _ => 0,
        };
        let mut done = self.set_clock(node, |clock| clock.offset_ms = to);
        self.began(FaultKind::Clock, &[node]);
        self.wait(self.rhythm.cut).await;
        if to == 0 {
            self.ended();
        } else if self.random.chance(50) {
            self.ended();
            done &= self.set_clock(node, |clock| clock.offset_ms = 0);
            sleep(CLOCK_READ_EVERY).await;
        } else {
            self.clock(node, |clock| clock.jumped = Some(self.number));
        }
        done
    }

    /// The other way round if it is skewed already.
    fn skew(&mut self, node: usize) -> bool {
        let (from, earlier) = self.clock(node, |clock| (clock.ppm, clock.skewed.take()));
        if let Some(earlier) = earlier {
            self.has_ended(earlier);
        }
        let ppm = match from {
            0 if self.random.chance(50) => -SKEW_PPM,
            0 => SKEW_PPM,
            ppm => -ppm,
        };
        let done = self.set_clock(node, |clock| clock.ppm = ppm);
        self.began(FaultKind::Clock, &[node]);
        self.clock(node, |clock| clock.skewed = Some(self.number));
        done
    }

    /// Sets it for a process that runs, or for its next start.
    fn set_clock(&self, node: usize, change: impl FnOnce(&mut Clock)) -> bool {
        let (offset_ms, ppm) = self.clock(node, |clock| {
            change(clock);
            (clock.offset_ms, clock.ppm)
        });
        let written = self.on(|cluster| cluster.set_clock(node, offset_ms, ppm));
        if let Err(error) = &written {
            eprintln!("the clock of node {node} is not set: {error}");
        }
        written.is_ok()
    }

    async fn wipe(&mut self, node: usize) -> bool {
        let ran = self.empty(node);
        self.began(FaultKind::Wipe, &[node]);
        self.wait(self.rhythm.down).await;
        self.ended();
        self.start(node);
        ran
    }

    /// Kills a node and empties its folder; whether it ran.
    fn empty(&self, node: usize) -> bool {
        self.on(|cluster| cluster.wipe(node)).unwrap_or_else(|error| {
            eprintln!("the folder of node {node} is not empty: {error}");
            false
        })
    }

    /// A removal without a clear answer may still have happened: the node comes back as a new one in any case.
    async fn remove_and_add(&mut self, node: usize) -> bool {
        let all = self.on(|cluster| cluster.len());
        let others = || (0..all).filter(|other| *other != node);
        let through = others().find(|other| !self.avoid.contains(other)).or_else(|| others().next()).unwrap_or(node);
        let mut removal = self.on(|cluster| cluster.removal(node, through));
        let answer = timeout(REMOVE_MAX, removal.output()).await;
        let removed = answer.is_ok_and(|answer| answer.is_ok_and(|output| output.status.success()));
        if removed {
            self.began(FaultKind::Remove, &[node]);
            // Its process runs: nobody who asks it is to be served.
            self.wait(self.rhythm.down).await;
            self.empty(node);
        } else {
            self.empty(node);
            self.began(FaultKind::Remove, &[node]);
            self.wait(self.rhythm.down).await;
        }
        self.ended();
        self.start(node);
        self.add(node, through).await;
        removed
    }

    /// Its name is refused until an operator adds it. The answer is that it votes, or that it may join from then on.
    async fn add(&self, node: usize, through: usize) {
        let deadline = Instant::now() + ADD_MAX;
        while Instant::now() < deadline {
            let mut addition = self.on(|cluster| cluster.addition(node, through));
            let answer = timeout(ADD_TRY_MAX, addition.output()).await;
            if answer.is_ok_and(|answer| answer.is_ok_and(|output| output.status.success())) {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
        eprintln!("node {node} was not added in {ADD_MAX:?}; it joins if its name was noted");
    }
}
