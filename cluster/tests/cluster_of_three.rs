//! Three nodes and more: forming, failover, joining, leaving.
mod common;
use common::*;
use mosquorum_cluster::{AdminRequest, Answer, Consensus, RaftSettings};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

async fn start_all(plan: &Plan, order: &[usize]) -> Vec<Option<Node>> {
    let mut nodes: Vec<Option<Node>> = (0..plan.addresses.len()).map(|_| None).collect();
    for &index in order {
        nodes[index] = Some(start(plan.settings(index, 3)).await);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    nodes
}

fn running(nodes: &[Option<Node>]) -> impl Iterator<Item = &Node> {
    nodes.iter().flatten()
}

async fn all_serve(nodes: &[Option<Node>], voters: usize) {
    until("all serve", SOON, || {
        running(nodes).all(|node| {
            let status = node.consensus.status();
            node.consensus.available() && status.members.iter().filter(|m| m.voter).count() == voters
        })
    })
    .await;
}

fn leader_of(nodes: &[Option<Node>]) -> Option<usize> {
    nodes.iter().position(|node| {
        node.as_ref().is_some_and(|node| node.consensus.leadership().is_some_and(|(_, _, is_self)| is_self))
    })
}

fn expect_in_order(answers: &Answers, tickets: std::ops::Range<u64>) {
    for ticket in tickets {
        let (got, answer) = answers.next(SOON).expect("an answer");
        assert_eq!(got, ticket);
        assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn forms_once_in_any_order_and_serves_through_every_node() {
    for order in [[2, 1, 0], [1, 0, 2]] {
        let plan = Plan::new(3);
        let nodes = start_all(&plan, &order).await;
        all_serve(&nodes, 3).await;
        let clusters: Vec<_> = running(&nodes).map(|node| node.consensus.cluster_id()).collect();
        assert!(clusters.windows(2).all(|pair| pair[0] == pair[1]));
        for node in running(&nodes) {
            let answers = Answers::new();
            node.submit(&answers, 0..300);
            expect_in_order(&answers, 0..300);
            node.consensus.barrier(answers.clone(), 9);
            assert_eq!(answers.next(SOON), Some((9, Answer::BarrierPassed)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn survives_the_loss_of_the_leader_and_takes_it_back() {
    let plan = Plan::new(3);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    let mut took = Vec::new();
    for round in 0..3u64 {
        let leader = leader_of(&nodes).expect("a leader");
        let follower = (leader + 1) % 3;
        let answers = Answers::new();
        let node = nodes[follower].as_ref().unwrap();
        node.submit(&answers, 0..50);
        expect_in_order(&answers, 0..50);
        nodes[leader].take().unwrap().kill();
        let since = Instant::now();
        // Some of these are on their way to a leader that is gone.
        let node = nodes[follower].as_ref().unwrap();
        node.submit(&answers, 50..100);
        expect_in_order(&answers, 50..100);
        took.push(since.elapsed());
        let applied = node.consensus.status().applied;
        nodes[leader] = Some(start(plan.settings(leader, 3)).await);
        all_serve(&nodes, 3).await;
        until("the restarted node has everything", SOON, || {
            nodes[leader].as_ref().unwrap().consensus.status().applied >= applied
        })
        .await;
        assert!(nodes.iter().flatten().all(|n| n.failed.lock().unwrap().is_none()), "round {round}");
    }
    eprintln!("failover took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_fourth_node_joins_and_leaves_again() {
    let plan = Plan::new(4);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    nodes[3] = Some(start(plan.settings(3, 3)).await);
    all_serve(&nodes, 4).await;
    let answers = Answers::new();
    nodes[3].as_ref().unwrap().submit(&answers, 0..50);
    expect_in_order(&answers, 0..50);
    let asked = nodes[1].as_ref().unwrap();
    let text =
        asked.consensus.admin(AdminRequest::Remove { name: "node-3".into(), hand_over: Duration::ZERO }).await.unwrap();
    assert!(text.contains("node-3"), "{text}");
    nodes[3].take().unwrap().kill();
    all_serve(&nodes, 3).await;
    let text = nodes[2]
        .as_ref()
        .unwrap()
        .consensus
        .admin(AdminRequest::Resize { voters: 1, hand_over: Duration::ZERO })
        .await
        .unwrap();
    assert!(text.contains("1 nodes vote"), "{text}");
    until("one voter is left and serves", SOON, || {
        let node = nodes[0].as_ref().unwrap();
        node.consensus.available() && node.consensus.status().members.iter().filter(|m| m.voter).count() == 1
    })
    .await;
}

/// Nobody reaches the founder at first, since it listens elsewhere than it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_founder_that_restarts_while_it_forms_the_cluster_does_not_serve_alone() {
    let mut plan = Plan::new(3);
    plan.addresses.sort();
    let others = [start(plan.settings(1, 3)).await, start(plan.settings(2, 3)).await];
    let elsewhere = format!("127.0.0.1:{}", free_port()).parse().ok();
    let founder = start(RaftSettings { listen: elsewhere, ..plan.settings(0, 3) }).await;
    until("the cluster is formed", SOON, || founder.consensus.status().node.0 == 1).await;
    founder.consensus.shutdown().await;
    drop(founder);
    let founder = start(plan.settings(0, 3)).await;
    until("it serves", SOON, || founder.consensus.available()).await;
    let voters = founder.consensus.status().members.iter().filter(|member| member.voter).count();
    assert!(voters >= 2, "{voters}");
    drop(others);
}

/// It may have a lease from nodes that it still reaches.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sessions_of_a_node_that_was_removed_without_a_word_are_free_only_after_its_lease() {
    let plan = Plan::new(3);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    let removed = nodes[2].as_ref().unwrap().consensus.status().node;
    nodes[2].take().unwrap().kill();
    let (asked, since) = (nodes[0].as_ref().unwrap(), Instant::now());
    let request = AdminRequest::Remove { name: "node-2".into(), hand_over: Duration::ZERO };
    asked.consensus.admin(request).await.unwrap();
    let is_known = || asked.consensus.state().read().nodes().any(|(node, _)| node == removed);
    until("it is forgotten", SOON, || !is_known()).await;
    let lease = Duration::from_millis(1500);
    assert!(since.elapsed() >= lease, "{:?}", since.elapsed());
}

/// The node lists a peer that never answers: it can neither form a cluster nor find one by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_finds_no_cluster_joins_when_an_operator_adds_it() {
    let plan = Plan::new(3);
    let mut nodes = vec![Some(start(plan.settings(0, 1)).await)];
    all_serve(&nodes, 1).await;
    let lost = RaftSettings { peers: vec![plan.addresses[2].clone()], ..plan.settings(1, 0) };
    let add = |name: &str| AdminRequest::Add { name: name.into(), address: plan.addresses[1].clone() };
    let member = nodes[0].as_ref().unwrap().consensus.clone();
    let refusal = member.admin(add("node-1")).await.unwrap_err();
    assert!(refusal.to_string().contains("no node answers"), "{refusal}");
    nodes.push(Some(start(lost).await));
    let refusal = member.admin(add("node-9")).await.unwrap_err();
    assert!(refusal.to_string().contains("is named `node-1`"), "{refusal}");
    let text = member.admin(add("node-1")).await.unwrap();
    assert!(text.contains("2 nodes do"), "{text}");
    all_serve(&nodes, 2).await;
    let again = member.admin(add("node-1")).await.unwrap();
    assert!(again.contains("votes"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wiped_node_comes_back_under_a_new_number_in_place_of_the_old() {
    let plan = Plan::new(3);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    let wiped = nodes[2].as_ref().unwrap().consensus.status().node;
    nodes[2].take().unwrap().kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    std::fs::remove_dir_all(plan.data_dir(2)).unwrap();
    nodes[2] = Some(start(plan.settings(2, 3)).await);
    until("the new number votes", SOON, || {
        running(&nodes).all(|node| {
            let status = node.consensus.status();
            let voters: Vec<_> = status.members.iter().filter(|m| m.voter).collect();
            voters.len() == 3 && !status.members.iter().any(|m| m.node == wiped) && node.consensus.available()
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_lags_behind_the_purged_log_gets_a_snapshot() {
    let plan = Plan::new(3);
    let small = |index| RaftSettings { snapshot_log_bytes: 64 << 10, ..plan.settings(index, 3) };
    let mut nodes = vec![Some(start(small(0)).await), Some(start(small(1)).await), Some(start(small(2)).await)];
    all_serve(&nodes, 3).await;
    let lagging = (leader_of(&nodes).expect("a leader") + 1) % 3;
    let writing = (lagging + 1) % 3;
    nodes[lagging].take().unwrap().kill();
    let answers = Answers::new();
    for round in 0..60 {
        let from = round * 500;
        nodes[writing].as_ref().unwrap().submit(&answers, from..from + 500);
        expect_in_order(&answers, from..from + 500);
    }
    nodes[writing].as_ref().unwrap().consensus.checkpoint().await.unwrap();
    nodes[lagging] = Some(start(small(lagging)).await);
    all_serve(&nodes, 3).await;
    let applied = nodes[writing].as_ref().unwrap().consensus.status().applied;
    until("caught up", SOON, || nodes[lagging].as_ref().unwrap().consensus.status().applied >= applied).await;
    assert!(nodes.iter().flatten().all(|n| n.failed.lock().unwrap().is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_with_a_damaged_log_sets_it_aside_and_rejoins_under_a_new_number() {
    let plan = Plan::new(3);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    let answers = Answers::new();
    for round in 0..20 {
        nodes[0].as_ref().unwrap().submit(&answers, round * 100..round * 100 + 100);
        expect_in_order(&answers, round * 100..round * 100 + 100);
    }
    let damaged = nodes[1].as_ref().unwrap().consensus.status().node;
    nodes[1].take().unwrap().kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for file in std::fs::read_dir(plan.data_dir(1).join("log")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() > 100_000 {
            bytes[6000..6200].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    nodes[1] = Some(start(plan.settings(1, 3)).await);
    until("it serves under a new number", SOON, || {
        running(&nodes).all(|node| {
            let status = node.consensus.status();
            let voters = status.members.iter().filter(|m| m.voter).count();
            voters == 3 && !status.members.iter().any(|m| m.node == damaged) && node.consensus.available()
        })
    })
    .await;
    assert!(plan.dir.0.join("node-1.damaged-1").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_that_was_removed_while_it_was_away_does_not_serve_again() {
    let plan = Plan::new(3);
    let mut nodes = start_all(&plan, &[0, 1, 2]).await;
    all_serve(&nodes, 3).await;
    nodes[2].take().unwrap().kill();
    let asked = nodes[0].as_ref().unwrap();
    let text =
        asked.consensus.admin(AdminRequest::Remove { name: "node-2".into(), hand_over: Duration::ZERO }).await.unwrap();
    eprintln!("{text}; {}", asked.consensus.admin(AdminRequest::Status).await.unwrap());
    let returned = start(plan.settings(2, 3)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!returned.consensus.available());
    assert_eq!(nodes[0].as_ref().unwrap().consensus.status().members.len(), 2);
    assert!(nodes[0].as_ref().unwrap().consensus.available());
}
