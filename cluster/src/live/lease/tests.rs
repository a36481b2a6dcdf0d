//! Leases under random delays, losses, pauses, restarts, clock offsets and drift, changes of voters: an incarnation
//! whose lease is valid has never been declared down.
use super::*;
use crate::{ids::Incarnation, live::testing::Random};
use std::collections::{BTreeMap, BinaryHeap, HashMap};

const MS: Duration = Duration::from_millis(1);

fn sets(index: u64, nodes: &[u64]) -> VoterSets {
    VoterSets { index, sets: vec![nodes.iter().map(|node| NodeId(*node)).collect()] }
}

#[test]
fn a_lease_lasts_from_the_sending_of_the_majority_th_latest_ping() {
    let mut holder = LeaseHolder::new(NodeId(1), LeaseTimes::default());
    holder.set_voters(MS, sets(5, &[1, 2, 3, 4, 5]));
    holder.granted(100 * MS, NodeId(2), 90 * MS, 5);
    assert_eq!(holder.standing(100 * MS), Standing::Starting);
    holder.granted(200 * MS, NodeId(3), 150 * MS, 5);
    assert_eq!(holder.standing(200 * MS), Standing::Valid { until: 1590 * MS });
    holder.granted(300 * MS, NodeId(4), 280 * MS, 5);
    assert_eq!(holder.standing(300 * MS), Standing::Valid { until: 1650 * MS });
    assert_eq!(holder.standing(1650 * MS), Standing::Lapsed);
    for voter in 2..=5 {
        holder.granted(1700 * MS, NodeId(voter), 1690 * MS, 5);
    }
    assert_eq!(holder.standing(1701 * MS), Standing::Lapsed, "a lease that ran out stays so");
}

#[test]
fn a_single_voter_always_serves_and_has_one_length_when_others_come() {
    let mut holder = LeaseHolder::new(NodeId(1), LeaseTimes::default());
    holder.set_voters(MS, sets(1, &[1]));
    assert_eq!(holder.standing(1_000_000 * MS), Standing::Valid { until: Duration::MAX });
    holder.set_voters(2_000_000 * MS, sets(9, &[1, 2, 3]));
    assert_eq!(holder.standing(2_000_000 * MS), Standing::Valid { until: 2_001_500 * MS });
    holder.granted(2_000_100 * MS, NodeId(3), 2_000_050 * MS, 10);
    assert_eq!(holder.standing(2_000_100 * MS), Standing::Valid { until: 2_001_500 * MS }, "set 10 is not known");
    holder.granted(2_000_100 * MS, NodeId(3), 2_000_050 * MS, 9);
    assert_eq!(holder.standing(2_000_100 * MS), Standing::Valid { until: 2_001_550 * MS });
}

#[test]
fn a_joint_change_needs_both_majorities() {
    let mut holder = LeaseHolder::new(NodeId(1), LeaseTimes::default());
    let joint =
        VoterSets { index: 7, sets: vec![sets(0, &[1, 2, 3]).sets[0].clone(), sets(0, &[1, 4, 5]).sets[0].clone()] };
    holder.set_voters(MS, joint);
    holder.granted(20 * MS, NodeId(2), 10 * MS, 7);
    assert_eq!(holder.standing(20 * MS), Standing::Starting);
    holder.granted(40 * MS, NodeId(5), 30 * MS, 7);
    assert_eq!(holder.standing(40 * MS), Standing::Valid { until: 1510 * MS });
}

#[test]
fn a_voter_refuses_only_after_silence_and_then_for_ever() {
    let times = LeaseTimes::default();
    let mut grantor = Grantor::new(Duration::ZERO, NodeId(2), Incarnation(1), times, HashMap::new());
    grantor.set_voters(Duration::ZERO, 5);
    let question = Question { node: NodeId(1), incarnation: Incarnation(4), voters_index: 5 };
    assert!(!grantor.refuse(1599 * MS, question), "it may have granted before it was restarted");
    assert!(grantor.ping(1000 * MS, NodeId(1), Incarnation(4)));
    assert!(!grantor.refuse(2599 * MS, question));
    assert!(!grantor.refuse(2600 * MS, Question { voters_index: 4, ..question }));
    assert!(grantor.refuse(2600 * MS, question));
    assert!(!grantor.ping(2601 * MS, NodeId(1), Incarnation(4)));
    assert!(!grantor.ping(2601 * MS, NodeId(1), Incarnation(3)));
    assert!(grantor.ping(2602 * MS, NodeId(1), Incarnation(5)));
    let restarted: HashMap<_, _> = grantor.refusals().into_iter().collect();
    let mut grantor = Grantor::new(9000 * MS, NodeId(2), Incarnation(2), times, restarted);
    assert!(!grantor.ping(9001 * MS, NodeId(1), Incarnation(4)));
}

#[test]
fn a_later_incarnation_that_pings_proves_the_end_of_the_earlier() {
    let mut grantor = Grantor::new(Duration::ZERO, NodeId(2), Incarnation(1), LeaseTimes::default(), HashMap::new());
    assert!(grantor.ping(5000 * MS, NodeId(1), Incarnation(4)));
    assert!(grantor.ping(5001 * MS, NodeId(1), Incarnation(5)));
    assert!(!grantor.ping(5001 * MS, NodeId(1), Incarnation(4)));
    assert!(
        grantor.would_refuse(5001 * MS, Question { node: NodeId(1), incarnation: Incarnation(4), voters_index: 0 })
    );
}

#[derive(Debug, Clone)]
enum Event {
    Tick(usize),
    Ping { from: usize, to: usize, incarnation: Incarnation, sent: Duration },
    Pong { to: usize, from: NodeId, incarnation: Incarnation, sent: Duration, index: u64, granted: bool },
    Ask { from: usize, to: usize, term: u64, question: Question, refuse: bool },
    Yes { to: usize, from: NodeId, term: u64, question: Question, refuse: bool },
}

struct Node {
    id: NodeId,
    incarnation: Incarnation,
    holder: LeaseHolder,
    grantor: Grantor,
    suspicions: Suspicions,
    offset: Duration,
    rate_ppm: u64,
    paused_until: Duration,
    /// How much of the log (its membership changes) this node has.
    known: usize,
    lags: bool,
}

/// The replicated log is an oracle here: what is decided is at once in it; nodes learn of membership entries late.
struct World {
    random: Random,
    now: Duration,
    queue: BinaryHeap<std::cmp::Reverse<(Duration, u64)>>,
    events: HashMap<u64, Event>,
    next: u64,
    nodes: Vec<Node>,
    log: Vec<VoterSets>,
    /// How many of `down` are in the log before each of its membership entries.
    downs_before: Vec<usize>,
    serving: BTreeMap<NodeId, Incarnation>,
    down: Vec<(NodeId, Incarnation)>,
    leader: usize,
    term: u64,
}

impl World {
    fn new(seed: u64, size: u64) -> Self {
        let mut random = Random::new(seed);
        let voters: Vec<_> = (1..=size).collect();
        let nodes = voters.iter().map(|id| Self::node(&mut random, *id)).collect();
        let serving = voters.iter().map(|id| (NodeId(*id), Incarnation(1))).collect();
        let mut world = Self {
            random,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            next: 0,
            nodes,
            log: vec![sets(1, &voters)],
            downs_before: vec![0],
            serving,
            down: vec![],
            leader: 0,
            term: 1,
        };
        for at in 0..world.nodes.len() {
            world.learn(at);
            world.at(Duration::ZERO, Event::Tick(at));
        }
        world
    }

    fn node(random: &mut Random, id: u64) -> Node {
        let offset = Duration::from_secs(1000 + random.below(100_000));
        let times = LeaseTimes::default();
        Node {
            id: NodeId(id),
            incarnation: Incarnation(1),
            holder: LeaseHolder::new(NodeId(id), times),
            grantor: Grantor::new(offset, NodeId(id), Incarnation(1), times, HashMap::new()),
            suspicions: Suspicions::default(),
            offset,
            rate_ppm: 980_000 + random.below(40_000),
            paused_until: Duration::ZERO,
            known: 0,
            lags: false,
        }
    }

    fn clock(&self, at: usize) -> Duration {
        let node = &self.nodes[at];
        node.offset + self.now * node.rate_ppm as u32 / 1_000_000
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.next += 1;
        self.queue.push(std::cmp::Reverse((self.now + delay, self.next)));
        self.events.insert(self.next, event);
    }

    fn send(&mut self, event: Event) {
        if self.random.percent(5) {
            return;
        }
        let delay = if self.random.percent(4) { self.random.below(4000) } else { self.random.below(20) };
        self.at(MS * delay as u32, event);
    }

    /// The node takes the next membership entry of the log.
    fn learn(&mut self, at: usize) {
        let clock = self.clock(at);
        let node = &mut self.nodes[at];
        if let Some(voters) = self.log.get(node.known) {
            node.known += 1;
            node.holder.set_voters(clock, voters.clone());
            node.grantor.set_voters(clock, voters.index);
            let applied = &self.down[..self.downs_before[node.known - 1]];
            if applied.contains(&(node.id, node.incarnation)) {
                self.restart(at, false);
            }
        }
    }

    fn restart(&mut self, at: usize, crash: bool) {
        let clock = self.clock(at);
        let node = &mut self.nodes[at];
        node.incarnation.0 += 1;
        let times = LeaseTimes::default();
        let known = self.log[node.known - 1].clone();
        node.holder = LeaseHolder::new(node.id, times);
        node.holder.set_voters(clock, known.clone());
        if crash {
            let refused = node.grantor.refusals().into_iter().collect();
            node.grantor = Grantor::new(clock, node.id, node.incarnation, times, refused);
            node.grantor.set_voters(clock, known.index);
            node.suspicions = Suspicions::default();
        }
        node.grantor.set_incarnation(node.incarnation);
        self.serving.insert(node.id, node.incarnation);
    }

    /// Swaps one voter for another by a joint change; a majority of the old set must have it first.
    fn change_voters(&mut self) {
        let newest = self.log.last().expect("the first is there").clone();
        let have = |world: &Self, node: NodeId| world.nodes[node.0 as usize - 1].known == world.log.len();
        if !newest.majority(|node| have(self, node)) {
            return;
        }
        let next = if newest.sets.len() == 2 {
            VoterSets { index: newest.index + 1, sets: vec![newest.sets[1].clone()] }
        } else {
            let mut set = newest.sets[0].clone();
            let out = self.random.below(set.len() as u64) as usize;
            let absent: Vec<_> = self.nodes.iter().map(|node| node.id).filter(|id| !set.contains(id)).collect();
            if !absent.is_empty() {
                set[out] = absent[self.random.below(absent.len() as u64) as usize];
            }
            VoterSets { index: newest.index + 1, sets: vec![newest.sets[0].clone(), set] }
        };
        // The leader has what it appends.
        if self.nodes[self.leader].known == self.log.len() {
            self.log.push(next);
            self.downs_before.push(self.down.len());
            self.learn(self.leader);
        }
    }

    fn tick(&mut self, at: usize) {
        self.at(MS * 25, Event::Tick(at));
        if self.random.percent(40) && !self.nodes[at].lags {
            self.learn(at);
        }
        if self.random.below(2000) == 0 {
            self.nodes[at].lags = !self.nodes[at].lags;
        }
        match self.random.below(6000) {
            0..12 => self.nodes[at].paused_until = self.now + MS * self.random.below(5000) as u32,
            12..14 => self.restart(at, true),
            14..16 => (self.leader, self.term) = (at, self.term + 1),
            16..26 => self.change_voters(),
            _ => {}
        }
        let clock = self.clock(at);
        let node = &mut self.nodes[at];
        if node.holder.standing(clock) == Standing::Lapsed || node.holder.is_refused() {
            self.restart(at, false);
        }
        let (incarnation, lags) = (self.nodes[at].incarnation, self.random.percent(3));
        for to in 0..self.nodes.len() {
            if to != at && !lags && self.random.percent(30) {
                self.send(Event::Ping { from: at, to, incarnation, sent: clock });
            }
        }
        if at == self.leader {
            self.lead(at, clock);
        }
    }

    fn lead(&mut self, at: usize, clock: Duration) {
        let voters = self.log[self.nodes[at].known - 1].clone();
        let me = self.nodes[at].id;
        let watched: Vec<_> = self
            .serving
            .iter()
            .filter(|(node, _)| **node != me)
            .map(|(node, incarnation)| {
                let question = Question { node: *node, incarnation: *incarnation, voters_index: voters.index };
                let silent = self.nodes[at].grantor.would_refuse(clock, question);
                Watched { node: *node, incarnation: *incarnation, silent }
            })
            .collect();
        let quiet = LeaseTimes::default().quiet();
        let serving = watched.iter().map(|watched| (watched.node, watched.incarnation));
        self.nodes[at].suspicions.see(clock, serving);
        let asks = self.nodes[at].suspicions.tick(clock, quiet, self.term, &voters, &watched);
        asks.into_iter().for_each(|ask| self.act(at, ask));
    }

    fn act(&mut self, at: usize, ask: Action) {
        let term = self.term;
        match ask {
            Action::Voters { of, node, incarnation, voters_index, refuse } => {
                let question = Question { node, incarnation, voters_index };
                for voter in of {
                    let ask = Event::Ask { from: at, to: voter.0 as usize - 1, term, question, refuse };
                    if voter == self.nodes[at].id { self.at(Duration::ZERO, ask) } else { self.send(ask) }
                }
            }
            Action::Propose { node, incarnation } => {
                // A leader has every committed entry.
                let complete = self.nodes[at].known == self.log.len();
                if at == self.leader && complete && self.serving.get(&node) == Some(&incarnation) {
                    self.serving.remove(&node);
                    self.down.push((node, incarnation));
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let at = match &event {
            Event::Tick(at) | Event::Ping { to: at, .. } | Event::Pong { to: at, .. } => *at,
            Event::Ask { to, .. } | Event::Yes { to, .. } => *to,
        };
        if self.nodes[at].paused_until > self.now {
            let wait = self.nodes[at].paused_until - self.now;
            return self.at(wait, event);
        }
        let clock = self.clock(at);
        let node = &mut self.nodes[at];
        let id = node.id;
        match event {
            Event::Tick(at) => self.tick(at),
            Event::Ping { from, to, incarnation, sent } => {
                let asker = NodeId(from as u64 + 1);
                let granted = node.grantor.ping(clock, asker, incarnation);
                let index = node.grantor.voters_index();
                self.send(Event::Pong { to: from, from: self.nodes[to].id, incarnation, sent, index, granted });
            }
            Event::Pong { from, incarnation, sent, index, granted, .. } => {
                if incarnation == node.incarnation && granted {
                    node.holder.granted(clock, from, sent, index);
                } else if incarnation == node.incarnation {
                    node.holder.refused(from);
                }
            }
            Event::Ask { from, term, question, refuse, .. } => {
                let yes = if refuse {
                    node.grantor.refuse(clock, question)
                } else {
                    node.grantor.would_refuse(clock, question)
                };
                if yes {
                    self.send(Event::Yes { to: from, from: id, term, question, refuse });
                }
            }
            Event::Yes { to, from, term, question, refuse } => {
                if let Some(ask) = node.suspicions.yes(clock, id, term, from, question, refuse) {
                    self.act(to, ask);
                }
            }
        }
    }

    fn check(&mut self, seed: u64) {
        for (node, incarnation) in &self.down {
            let at = node.0 as usize - 1;
            let clock = self.clock(at);
            let node = &mut self.nodes[at];
            let valid = matches!(node.holder.standing(clock), Standing::Valid { .. });
            assert!(
                node.incarnation != *incarnation || !valid,
                "seed {seed}: {node:?} serves and is down",
                node = node.id
            );
        }
    }

    fn run(&mut self, seed: u64, length: Duration) {
        while self.now < length {
            let std::cmp::Reverse((time, id)) = self.queue.pop().expect("ticks never end");
            self.now = time;
            let event = self.events.remove(&id).expect("queued once");
            self.handle(event);
            self.check(seed);
        }
    }
}

#[test]
fn an_incarnation_that_is_down_never_serves() {
    let mut downs = 0;
    for seed in 0..24 {
        let mut world = World::new(seed, 3 + 2 * (seed % 2));
        world.run(seed, Duration::from_secs(90));
        downs += world.down.len();
    }
    assert!(downs > 40, "the simulation declares nodes down, or it tests nothing: {downs}");
}

#[test]
fn a_killed_node_is_declared_down_within_the_budget() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3);
        for node in &mut world.nodes {
            node.rate_ppm = 1_000_000;
        }
        let mut quiet = Vec::new();
        // Only the nodes' own messages, without faults: 3 dies at 5 s.
        let killed = Duration::from_secs(5);
        let mut tick = Duration::ZERO;
        while world.down.is_empty() {
            tick += MS * 25;
            world.now = tick;
            assert!(tick < killed + MS * 1800, "seed {seed}");
            for from in 0..3 {
                if from == 2 && tick >= killed {
                    continue;
                }
                let clock = world.clock(from);
                if tick.as_millis() % 150 == 25 * from as u128 {
                    for to in (0..3).filter(|to| *to != from) {
                        let incarnation = world.nodes[from].incarnation;
                        quiet.push(Event::Ping { from, to, incarnation, sent: clock });
                    }
                }
                if from == 0 {
                    world.lead(0, clock);
                }
            }
            while let Some(event) = quiet.pop().or_else(|| world.events.drain().next().map(|(_, event)| event)) {
                if !matches!(event, Event::Tick(_)) {
                    world.handle(event);
                }
            }
        }
        assert_eq!(world.down, [(NodeId(3), Incarnation(1))]);
        assert!(world.now >= killed + MS * 1300, "not while the lease may be valid");
    }
}
