//! Connections between nodes need a certificate of the cluster's own authority, valid for who shows it.
mod common;
use common::*;
use mosquorum_cluster::{Answer, Consensus, transport::PemPaths};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
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
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        PemPaths {
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
    let stranger = start(plan.settings(3, 3)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!stranger.consensus.available());
    assert_eq!(nodes[0].consensus.status().members.len(), 3);
}
