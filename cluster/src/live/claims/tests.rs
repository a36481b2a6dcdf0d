//! Claims under random delays, changes of the leader (the old one unaware), deaths and new incarnations of nodes: never two
//! owners of one identifier.
use super::*;
use crate::{
    ids::{ConnectionId, Epoch, Incarnation, NodeId},
    live::testing::Random,
    state::Owner,
};
use mosquorum_proto::mqtt::Utf8;
use std::collections::{BTreeMap, HashMap, VecDeque};

fn owner(node: u64, incarnation: u64, connection: u64) -> Owner {
    Owner { node: NodeId(node), incarnation: Incarnation(incarnation), connection: ConnectionId(connection) }
}

#[test]
fn epochs_grow_over_terms_and_a_new_leader_waits_for_announcements() {
    let mut table = ClaimTable::default();
    let request = |request, connection| Request {
        from: NodeId(2),
        request,
        client_id: "c".into(),
        owner: owner(2, 1, connection),
    };
    assert_eq!(table.claim(request(1, 7)), None);
    assert!(table.lead(3, BTreeMap::from([(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))])).is_empty());
    assert!(table.announced((NodeId(2), Incarnation(1)), 3, [], true).is_empty());
    assert!(table.announced((NodeId(1), Incarnation(1)), 2, [], true).is_empty(), "of another term");
    let granted = table.announced((NodeId(1), Incarnation(1)), 3, [("c".into(), owner(1, 1, 5))], true);
    assert_eq!(granted.len(), 1);
    assert_eq!((granted[0].request, granted[0].previous.clone()), (1, vec![owner(1, 1, 5)]));
    let second = table.claim(request(2, 8)).expect("nothing is missing");
    assert_eq!(second.previous, [owner(1, 1, 5), owner(2, 1, 7)]);
    assert!(second.epoch > granted[0].epoch);
    table.release("c", owner(1, 1, 5));
    table.node_ended(NodeId(2), Incarnation(1));
    assert_eq!(table.len(), 0);
    table.lead(4, BTreeMap::new());
    assert!(table.claim(request(3, 9)).expect("nothing is missing").epoch > second.epoch);
}

#[test]
fn a_later_incarnation_does_not_announce_for_the_one_that_is_waited_for() {
    let mut table = ClaimTable::default();
    table.lead(3, BTreeMap::from([(NodeId(1), Incarnation(1))]));
    let request = Request { from: NodeId(2), request: 1, client_id: "c".into(), owner: owner(2, 1, 7) };
    assert_eq!(table.claim(request), None);
    let restarted = (NodeId(1), Incarnation(9));
    assert!(table.announced(restarted, 3, [], true).is_empty(), "what the first one proposed may be on its way");
    assert_eq!(table.node_ended(NodeId(1), Incarnation(1)).len(), 1);
}

#[test]
fn a_claim_waits_for_each_former_owner_and_reports_to_the_leader_who_is_gone() {
    let mut claimer: Claimer<&str> = Claimer::new();
    let (request, ask) = claimer.claim("c".into(), owner(2, 1, 7), None, "w");
    assert_eq!(ask, None, "no leader yet");
    assert_eq!(claimer.set_leader(3, Some(NodeId(1))).len(), 1);
    assert!(claimer.granted(request, 2, Epoch(1), vec![]).is_empty(), "an answer of an earlier term");
    let previous = vec![owner(1, 1, 5), owner(3, 1, 6), owner(4, 1, 1)];
    claimer.node_ended(NodeId(4), Incarnation(1));
    let fences = claimer.granted(request, 3, Epoch(9), previous);
    let [Action::Fence { request: first, .. }, Action::Fence { request: second, .. }] = fences[..] else {
        panic!("expected two fences, got {fences:?}")
    };
    assert!(claimer.fence_done(first).is_empty());
    assert!(claimer.fence_done(first).is_empty());
    let todo = claimer.node_ended(NodeId(3), Incarnation(1));
    assert_eq!(todo[0], Action::Resolve { waiter: "w", epoch: Some(Epoch(9)) });
    assert_eq!(todo.len(), 4);
    assert!(claimer.fence_done(second).is_empty());
    assert_eq!(claimer.pending(), 0);
}

#[test]
fn a_waiting_claim_that_is_fenced_is_lost() {
    let mut claimer: Claimer<&str> = Claimer::new();
    claimer.set_leader(1, Some(NodeId(1)));
    let (request, _) = claimer.claim("c".into(), owner(2, 1, 7), None, "w");
    claimer.granted(request, 1, Epoch(1), vec![owner(1, 1, 1)]);
    assert_eq!(claimer.announce(1, NodeId(1)).0, [(Utf8::from("c"), owner(2, 1, 7))]);
    assert_eq!(claimer.fenced(owner(2, 1, 8)), None);
    assert_eq!(claimer.fenced(owner(2, 1, 7)), Some(Action::Resolve { waiter: "w", epoch: None }));
    assert_eq!(claimer.pending(), 0);
}

#[test]
fn a_claim_on_another_users_client_is_refused_and_leaves_nothing_behind() {
    let mut claimer: Claimer<&str> = Claimer::new();
    claimer.set_leader(1, Some(NodeId(1)));
    let only = Some(crate::facade::OnlyUser(Some("alice".into())));
    let (request, _) = claimer.claim("c".into(), owner(2, 1, 7), only.clone(), "w");
    let fences = claimer.granted(request, 1, Epoch(1), vec![owner(1, 1, 1), owner(3, 1, 1)]);
    let [Action::Fence { request: first, only: sent, .. }, Action::Fence { request: second, .. }] = &fences[..] else {
        panic!("expected two fences, got {fences:?}")
    };
    assert_eq!(*sent, only);
    let Action::Fence { only: again, .. } = &claimer.relink(NodeId(1))[0] else { panic!("expected a fence") };
    assert_eq!(*again, only, "it is sent again when the link begins anew");
    assert!(claimer.fence_done(*second).is_empty());
    let release = Action::Release { leader: NodeId(1), client_id: "c".into(), owner: owner(2, 1, 7) };
    assert_eq!(claimer.fence_refused(*first), [release, Action::Refuse { waiter: "w" }]);
    assert_eq!((claimer.pending(), claimer.fence_refused(*first).len()), (0, 0));
    assert!(claimer.announce(1, NodeId(1)).0.is_empty());
}

#[derive(Debug, Clone)]
enum Message {
    Claim(Request),
    Granted(Grant),
    Release(Utf8, Owner),
    Fence { from: NodeId, incarnation: Incarnation, request: u64, owner: Owner },
    FenceDone(u64),
    Announce { leader: NodeId, term: u64 },
    Announced { from: NodeId, term: u64, clients: Vec<(Utf8, Owner)>, last: bool },
}

struct Node {
    id: NodeId,
    incarnation: Incarnation,
    alive: bool,
    claimer: Claimer<Owner>,
    table: ClaimTable,
    /// Client and whether it owns it.
    connections: BTreeMap<ConnectionId, (Utf8, bool)>,
    /// How much of the log this node has applied, and the incarnations it knows of.
    applied: usize,
    incarnations: HashMap<NodeId, Incarnation>,
}

#[derive(Debug, Clone)]
enum Entry {
    Leader { term: u64, leader: NodeId },
    Up { node: NodeId, incarnation: Incarnation },
    Down { node: NodeId, incarnation: Incarnation },
}

type Link = VecDeque<(Incarnation, Incarnation, Message)>;

struct World {
    random: Random,
    nodes: Vec<Node>,
    /// Between two nodes, in order, each with the incarnations it is from and for.
    links: BTreeMap<(NodeId, NodeId), Link>,
    log: Vec<Entry>,
    serving: BTreeMap<NodeId, Incarnation>,
    term: u64,
    connection: u64,
    won: usize,
    taken_over: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let nodes: Vec<_> = (1..=4).map(|id| Self::node(id, 1)).collect();
        let serving = nodes.iter().map(|node| (node.id, node.incarnation)).collect();
        let random = Random::new(seed);
        let (links, log) = (BTreeMap::new(), vec![]);
        let mut world = Self { random, nodes, links, log, serving, term: 0, connection: 0, won: 0, taken_over: 0 };
        for node in &mut world.nodes {
            node.incarnations = world.serving.clone().into_iter().collect();
        }
        world.elect(0);
        world
    }

    fn node(id: u64, incarnation: u64) -> Node {
        Node {
            id: NodeId(id),
            incarnation: Incarnation(incarnation),
            alive: true,
            claimer: Claimer::new(),
            table: ClaimTable::default(),
            connections: BTreeMap::new(),
            applied: 0,
            incarnations: HashMap::new(),
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let node = &self.nodes[from.0 as usize - 1];
        let incarnation = *node.incarnations.get(&to).unwrap_or(&node.incarnation);
        self.answer(from, to, incarnation, message);
    }

    fn answer(&mut self, from: NodeId, to: NodeId, remote: Incarnation, message: Message) {
        let incarnation = self.nodes[from.0 as usize - 1].incarnation;
        self.links.entry((from, to)).or_default().push_back((incarnation, remote, message));
    }

    fn elect(&mut self, at: usize) {
        self.term += 1;
        let (term, leader) = (self.term, self.nodes[at].id);
        self.log.push(Entry::Leader { term, leader });
        self.apply(at, usize::MAX);
        let grants = self.nodes[at].table.lead(term, self.serving.clone());
        self.grant(leader, grants);
        for to in self.serving.keys().copied().collect::<Vec<_>>() {
            self.send(leader, to, Message::Announce { leader, term });
        }
    }

    fn apply(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            let Some(entry) = self.log.get(self.nodes[at].applied).cloned() else { return };
            let id = self.nodes[at].id;
            self.nodes[at].applied += 1;
            let node = &mut self.nodes[at];
            match entry {
                Entry::Leader { term, leader } => {
                    if leader != id && node.table.term().is_some_and(|own| own < term) {
                        node.table.stop();
                    }
                    let todo = node.claimer.set_leader(term, Some(leader));
                    self.act(id, todo);
                }
                Entry::Up { node: up, incarnation } => {
                    self.ended(at, up, Incarnation(incarnation.0 - 1));
                    self.nodes[at].incarnations.insert(up, incarnation);
                    let todo = self.nodes[at].claimer.relink(up);
                    self.act(id, todo);
                }
                Entry::Down { node: down, incarnation } => self.ended(at, down, incarnation),
            }
        }
    }

    fn ended(&mut self, at: usize, node: NodeId, incarnation: Incarnation) {
        let id = self.nodes[at].id;
        let grants = self.nodes[at].table.node_ended(node, incarnation);
        self.grant(id, grants);
        let todo = self.nodes[at].claimer.node_ended(node, incarnation);
        self.act(id, todo);
    }

    fn grant(&mut self, leader: NodeId, grants: Vec<Grant>) {
        grants.into_iter().for_each(|grant| self.answer(leader, grant.to, grant.incarnation, Message::Granted(grant)));
    }

    fn act(&mut self, id: NodeId, todo: Vec<Action<Owner>>) {
        for each in todo {
            match each {
                Action::Ask { leader, request, client_id, owner } => {
                    self.send(id, leader, Message::Claim(Request { from: id, request, client_id, owner }));
                }
                Action::Fence { request, owner, .. } => {
                    let incarnation = self.nodes[id.0 as usize - 1].incarnation;
                    self.send(id, owner.node, Message::Fence { from: id, incarnation, request, owner });
                }
                Action::Release { leader, client_id, owner } => {
                    self.send(id, leader, Message::Release(client_id, owner))
                }
                Action::Resolve { waiter, epoch: None } | Action::Refuse { waiter } => {
                    self.nodes[id.0 as usize - 1].connections.remove(&waiter.connection);
                }
                Action::Resolve { waiter, epoch: Some(_) } => {
                    if let Some(connection) = self.nodes[id.0 as usize - 1].connections.get_mut(&waiter.connection) {
                        connection.1 = true;
                        self.won += 1;
                    }
                }
            }
        }
    }

    fn deliver(&mut self) {
        let busy: Vec<_> = self.links.iter().filter(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair).collect();
        if busy.is_empty() {
            return;
        }
        let pair = busy[self.random.below(busy.len() as u64) as usize];
        let Some((from, to, message)) = self.links.get_mut(&pair).and_then(VecDeque::pop_front) else { return };
        let sender = self.nodes[pair.0.0 as usize - 1].incarnation;
        let node = &mut self.nodes[pair.1.0 as usize - 1];
        if !node.alive || to != node.incarnation || from != sender {
            return;
        }
        let id = node.id;
        match message {
            Message::Claim(request) => {
                let grant = node.table.claim(request);
                self.grant(id, grant.into_iter().collect());
            }
            Message::Granted(grant) => {
                let todo = node.claimer.granted(grant.request, grant.term, grant.epoch, grant.previous);
                self.act(id, todo);
            }
            Message::Release(client_id, owner) => node.table.release(&client_id, owner),
            Message::Fence { from, incarnation, request, owner } => {
                let lost = node.claimer.fenced(owner);
                self.act(id, lost.into_iter().collect());
                if owner.incarnation == self.nodes[id.0 as usize - 1].incarnation {
                    let closed = self.nodes[id.0 as usize - 1].connections.remove(&owner.connection);
                    self.taken_over += usize::from(closed.is_some());
                    self.nodes[id.0 as usize - 1].claimer.closed(owner);
                }
                self.answer(id, from, incarnation, Message::FenceDone(request));
            }
            Message::FenceDone(request) => {
                let todo = node.claimer.fence_done(request);
                self.act(id, todo);
            }
            Message::Announce { leader, term } => {
                let (mut clients, todo) = node.claimer.announce(term, leader);
                let rest = clients.split_off(clients.len() / 2);
                self.send(id, leader, Message::Announced { from: id, term, clients, last: false });
                self.send(id, leader, Message::Announced { from: id, term, clients: rest, last: true });
                self.act(id, todo);
            }
            Message::Announced { from, term, clients, last } => {
                let grants = node.table.announced((from, sender), term, clients, last);
                self.grant(id, grants);
            }
        }
    }

    fn step(&mut self) {
        let at = self.random.below(4) as usize;
        match self.random.below(1000) {
            0..700 => self.deliver(),
            700..850 if self.nodes[at].alive => {
                let count = self.random.below(3) as usize;
                self.apply(at, count);
            }
            850..930 if self.nodes[at].alive => {
                self.connection += 1;
                let client_id = Utf8::from(["a", "b", "c"][self.random.below(3) as usize]);
                let node = &mut self.nodes[at];
                let owner = owner(node.id.0, node.incarnation.0, self.connection);
                node.connections.insert(owner.connection, (client_id.clone(), false));
                let (_, ask) = node.claimer.claim(client_id, owner, None, owner);
                let id = node.id;
                self.act(id, ask.into_iter().collect());
            }
            930..960 if self.nodes[at].alive => {
                let node = &mut self.nodes[at];
                let owned = node.connections.iter().find(|(_, (_, owns))| *owns).map(|(id, _)| *id);
                if let Some(connection) = owned
                    && let Some((client_id, _)) = node.connections.remove(&connection)
                {
                    let (id, owner) = (node.id, owner(node.id.0, node.incarnation.0, connection.0));
                    let todo = node.claimer.release(client_id, owner);
                    self.act(id, todo.into_iter().collect());
                }
            }
            960..970 if self.nodes[at].alive && self.serving.contains_key(&self.nodes[at].id) => self.elect(at),
            970..975 => {
                self.nodes[at].alive = false;
                self.nodes[at].connections.clear();
            }
            975..990 if !self.nodes[at].alive => {
                let (node, incarnation) = (self.nodes[at].id, self.nodes[at].incarnation);
                if self.serving.remove(&node).is_some() {
                    self.log.push(Entry::Down { node, incarnation });
                } else {
                    self.restart(at);
                }
            }
            990..993 if !self.nodes[at].alive => self.restart(at),
            _ => {}
        }
    }

    fn restart(&mut self, at: usize) {
        let id = self.nodes[at].id;
        self.nodes[at] = Self::node(id.0, self.nodes[at].incarnation.0 + 1);
        let incarnation = self.nodes[at].incarnation;
        self.serving.insert(id, incarnation);
        self.log.push(Entry::Up { node: id, incarnation });
        self.nodes[at].incarnations = (1..=4).map(|id| (NodeId(id), Incarnation(1))).collect();
        self.apply(at, usize::MAX);
    }

    fn check(&self, seed: u64) {
        for client in ["a", "b", "c"] {
            let owners = self.nodes.iter().flat_map(|node| node.connections.values());
            let count = owners.filter(|(client_id, owns)| *owns && &**client_id == client).count();
            assert!(count <= 1, "seed {seed}: {count} owners of {client}");
        }
    }
}

#[test]
fn no_identifier_ever_has_two_owners() {
    let (mut won, mut taken_over) = (0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed);
        for _ in 0..6000 {
            world.step();
            world.check(seed);
        }
        won += world.won;
        taken_over += world.taken_over;
    }
    assert!(won > 5_000 && taken_over > 2_000, "{won} claims won, {taken_over} owners fenced");
}

#[test]
fn every_claim_is_answered_when_the_leader_stays() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        for _ in 0..2000 {
            world.step();
        }
        for at in 0..4 {
            if !world.nodes[at].alive {
                world.restart(at);
            }
        }
        world.elect(0);
        for _ in 0..20_000 {
            for at in 0..4 {
                world.apply(at, usize::MAX);
            }
            world.deliver();
        }
        for node in &world.nodes {
            assert_eq!(node.claimer.pending(), 0, "seed {seed}: {:?}", node.claimer);
        }
    }
}
