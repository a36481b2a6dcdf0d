//! The live side over real consensus: routes, claims and messages between three nodes, and the death of one.
#![allow(clippy::unwrap_used)] // what fails ends the test
mod common;
use common::*;
use mosquorum_cluster::{
    Answer, Consensus, Forward, Peers, RaftConsensus, RemoteRoutes,
    ids::{ConnectionId, Millis, NodeId},
    live,
    state::{Message, Owner},
};
use mosquorum_proto::mqtt::QoS;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(20);

struct LiveNode {
    consensus: Arc<RaftConsensus>,
    peers: Arc<dyn Peers>,
    live: Arc<Quiet>,
}

async fn start_live(plan: &Plan, index: usize) -> LiveNode {
    let live = Arc::new(Quiet::default());
    let failed: Arc<Mutex<Option<String>>> = Arc::default();
    let fatal = Arc::new(move |reason: String| *failed.lock().unwrap() = Some(reason));
    let (consensus, peers) = live::start(plan.settings(index, 3), live.clone(), fatal).await.unwrap();
    LiveNode { consensus, peers, live }
}

impl LiveNode {
    fn node(&self) -> NodeId {
        self.consensus.origin().node
    }

    fn owner(&self, connection: u64) -> Owner {
        let origin = self.consensus.origin();
        Owner { node: origin.node, incarnation: origin.incarnation, connection: ConnectionId(connection) }
    }

    fn leads(&self) -> bool {
        self.consensus.leadership().is_some_and(|(_, _, is_self)| is_self)
    }

    async fn subscribe(&self, filter: &str) {
        let answers = Answers::new();
        self.peers.change_routes(vec![filter.try_into().unwrap()], vec![], answers.clone(), 1);
        let answer = tokio::task::spawn_blocking(move || answers.next(SOON)).await.unwrap();
        assert_eq!(answer, Some((1, Answer::RoutesKnown)));
    }

    fn routes(&self, topic: &str) -> Vec<NodeId> {
        let mut routes = RemoteRoutes::default();
        self.peers.routes(topic, &mut routes);
        routes.nodes.to_vec()
    }
}

fn message() -> Arc<Message> {
    let topic = "a/b".try_into().unwrap();
    Arc::new(Message::new(topic, bytes::Bytes::from_static(b"x"), QoS::AtLeastOnce, Millis(0)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn three_nodes_share_their_live_side_and_outlive_each_other() {
    let plan = Plan::new(3);
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(Some(start_live(&plan, index).await));
    }
    until("all may serve", SOON, || nodes.iter().flatten().all(|node| node.peers.may_serve())).await;
    for round in 0..2 {
        until("there is a leader", SOON, || nodes.iter().flatten().any(LiveNode::leads)).await;
        let leader = nodes.iter().position(|node| node.as_ref().unwrap().leads()).unwrap();
        let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
        nodes[leader].as_ref().unwrap().subscribe("a/+").await;
        let publisher = nodes[one].as_ref().unwrap();
        let (dying, client) = (nodes[leader].as_ref().unwrap(), format!("client{round}"));
        let former = dying.owner(7);
        assert_eq!(publisher.routes("a/b"), [dying.node()]);
        dying.peers.claim(client.as_str().into(), former, None).await.expect("a majority is there");
        nodes[leader] = None;
        let killed = Instant::now();

        let publisher = nodes[one].as_ref().unwrap();
        let claimer = nodes[other].as_ref().unwrap();
        let answers = Answers::new();
        let forward = Forward { nodes: [former.node].into_iter().collect(), ..Forward::new(message()) };
        publisher.peers.forward(forward, Some((answers.clone(), 3)));
        let claim = claimer.peers.claim(client.as_str().into(), claimer.owner(8), None);
        let down = || publisher.consensus.state().read().serving(former.node).is_none();
        until("the leader is declared down", SOON, down).await;
        let took = killed.elapsed();
        println!("declared down {took:?} after its death");
        assert!(took < Duration::from_secs(5), "{took:?}");
        claim.await.expect("its former owner is down");
        let answer = tokio::task::spawn_blocking(move || answers.next(SOON)).await.unwrap();
        assert_eq!(answer, Some((3, Answer::Forwarded)));
        until("its routes are gone", SOON, || publisher.routes("a/b").is_empty()).await;
        publisher.subscribe(&format!("while/it/is/gone/{round}")).await;

        nodes[leader] = Some(start_live(&plan, leader).await);
        let back = nodes[leader].as_ref().unwrap();
        until("it serves again", SOON, || back.peers.may_serve()).await;
        assert_eq!(back.routes(&format!("while/it/is/gone/{round}")), [nodes[one].as_ref().unwrap().node()]);
        assert!(back.live.lost.lock().unwrap().is_empty());
    }
}
