//! Connections between nodes need a certificate of the cluster's own authority, valid for who shows it.
#![allow(clippy::unwrap_used)] // what fails ends the test
mod common;
use common::*;
use mosquorum_cluster::{AdminRequest, Answer, Consensus, transport::PemPaths};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, dir: &TempDir, file: &str, names: &[&str]) -> PemPaths {
        self.issue_for(dir, file, names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue_for(&self, dir: &TempDir, file: &str, names: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> PemPaths {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = usages.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        PemPaths {
            revoked: None,
            ca: write(&dir.0.join(format!("{file}.ca.pem")), &self.pem),
            certificate: write(&dir.0.join(format!("{file}.pem")), &certificate.pem()),
            key: write(&dir.0.join(format!("{file}.key")), &key.serialize_pem()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn three_nodes_form_over_mutual_tls_and_one_with_a_foreign_certificate_stays_out() {
    let authority = Authority::new();
    let mut plan = Plan::new(4);
    let mut pem: Vec<_> = (0..3)
        .map(|i| authority.issue(&plan.dir, &format!("node-{i}"), &["127.0.0.1", &format!("node-{i}")]))
        .collect();
    // Of the right authority, for another name and address.
    pem.push(authority.issue(&plan.dir, "stranger", &["stranger"]));
    plan.tls = Some(pem);
    let mut nodes = Vec::new();
    for index in [2, 0, 1] {
        nodes.push(start(plan.settings(index, 3)).await);
    }
    until("all serve", SOON, || {
        nodes.iter().all(|node| {
            let voters = node.consensus.status().members.iter().filter(|m| m.voter).count();
            node.consensus.available() && voters == 3
        })
    })
    .await;
    let answers = Answers::new();
    nodes[0].submit(&answers, 0..100);
    for ticket in 0..100 {
        assert!(matches!(answers.next(SOON), Some((got, Answer::Applied { .. })) if got == ticket));
    }
    let unknown = start(plan.settings(3, 3)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!unknown.consensus.available());
    assert_eq!(nodes[0].consensus.status().members.len(), 3);
}

/// Three nodes that list each other, over TLS.
async fn three(authority: &Authority, plan: &mut Plan, more: Vec<PemPaths>) -> Vec<Node> {
    let names = |index: usize| [format!("127.0.0.{}", index + 1), format!("node-{index}")];
    let mut pem: Vec<_> = (0..3)
        .map(|index| {
            let names = names(index);
            authority.issue(&plan.dir, &format!("node-{index}"), &[&names[0], &names[1]])
        })
        .collect();
    pem.extend(more);
    plan.tls = Some(pem);
    let mut nodes = Vec::new();
    for index in 0..3 {
        nodes.push(start(plan.settings(index, 3)).await);
    }
    until("all serve", SOON, || nodes.iter().all(|node| node.consensus.available() && voters(node) == 3)).await;
    nodes
}

fn voters(node: &Node) -> usize {
    node.consensus.status().members.iter().filter(|m| m.voter).count()
}

/// Nodes on addresses of their own, so that certificates distinguish them.
fn apart(nodes: usize) -> Plan {
    let mut plan = Plan::new(nodes);
    for (index, address) in plan.addresses.iter_mut().enumerate() {
        *address = address.replace("127.0.0.1", &format!("127.0.0.{}", index + 1));
    }
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_strangers_node_with_a_certificate_of_the_clusters_authority_stays_out_until_it_is_added() {
    let authority = Authority::new();
    let mut plan = apart(4);
    let unknown = authority.issue(&plan.dir, "stranger", &["127.0.0.4", "node-3"]);
    let nodes = three(&authority, &mut plan, vec![unknown]).await;
    let unknown = start(plan.settings(3, 3)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(nodes.iter().all(|node| node.consensus.status().members.len() == 3));
    let add = AdminRequest::Add { name: "node-3".into(), address: plan.addresses[3].clone() };
    let text = nodes[1].consensus.admin(add).await.unwrap();
    assert!(text.contains("4 nodes do"), "{text}");
    until("it serves", SOON, || unknown.consensus.available()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_removed_name_is_refused_until_it_is_added_again() {
    let authority = Authority::new();
    let mut plan = apart(3);
    let mut nodes = three(&authority, &mut plan, Vec::new()).await;
    let hand_over = Duration::ZERO;
    nodes[0].consensus.admin(AdminRequest::Remove { name: "node-2".into(), hand_over }).await.unwrap();
    nodes.remove(2).kill();
    std::fs::remove_dir_all(plan.data_dir(2)).unwrap();
    let returned = start(plan.settings(2, 3)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(nodes.iter().all(|node| node.consensus.status().members.len() == 2));
    let add = AdminRequest::Add { name: "node-2".into(), address: plan.addresses[2].clone() };
    nodes[1].consensus.admin(add).await.unwrap();
    until("it serves", SOON, || returned.consensus.available()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_member_that_moved_is_reached_without_a_change_of_the_leader() {
    let authority = Authority::new();
    let mut plan = apart(3);
    let mut nodes = three(&authority, &mut plan, Vec::new()).await;
    let leader = (0..3).find(|index| nodes[*index].consensus.leadership().is_some_and(|(.., leads)| leads)).unwrap();
    let moved = (leader + 1) % 3;
    let term = nodes[leader].consensus.leadership().unwrap().1;
    nodes.remove(moved).kill();
    let mut settings = plan.settings(moved, 3);
    settings.advertise = format!("127.0.0.{}:{}", moved + 1, free_port());
    settings.listen = settings.advertise.parse().ok();
    let returned = start(settings).await;
    until("it serves", SOON, || returned.consensus.available()).await;
    assert_eq!(returned.consensus.leadership().unwrap().1, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_for_clients_alone_is_no_nodes() {
    let authority = Authority::new();
    let mut plan = apart(1);
    let usages = [ExtendedKeyUsagePurpose::ClientAuth];
    plan.tls = Some(vec![authority.issue_for(&plan.dir, "client", &["127.0.0.1"], &usages)]);
    let settings = plan.settings(0, 1);
    let Err(error) = mosquorum_cluster::transport::Transport::new(settings.tls) else { panic!("it is taken") };
    assert!(error.to_string().contains("extendedKeyUsage"), "{error}");
}
