//! How a node with an empty directory gets a number: by forming the cluster, or by being admitted to one.
use super::{FOUNDER, Pauses, REMIND_AFTER, ask_first, own_address};
use crate::{
    consensus::Shared,
    raft::View,
    transport::{Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use rustls::crypto::ring;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
const ADMIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Admitted {
    pub(super) cluster: [u8; 16],
    pub(super) node: u64,
}

/// What the listed peers say.
enum Finding {
    /// These belong to a cluster.
    Clusters(Vec<String>),
    /// All belong to none and list the same peers, and this node has the lowest address.
    Form,
    /// The fact that somebody should know if it lasts.
    Wait(String),
}

/// Resolves when this node has its number; waits for peers as long as it takes.
pub(super) async fn obtain(shared: &Arc<Shared>) -> Result<Admitted, String> {
    let others = shared.settings.other_peers();
    let may_form = !shared.disk.lock().await.has_damaged_past() || others.is_empty();
    if others.is_empty() {
        return form();
    }
    info!(peers = others.len(), "empty data directory: looking for the cluster, or for everybody to form it");
    let mut reminded = Instant::now();
    let mut pauses = Pauses::new();
    loop {
        let invited = shared.invitation.lock().clone();
        match look(shared, &others, invited).await {
            Finding::Clusters(addresses) => {
                for address in addresses {
                    match ask_admission(shared, &address).await {
                        Ok(admitted) => return Ok(admitted),
                        Err(reason) => debug!(%address, %reason, "not admitted yet"),
                    }
                }
            }
            Finding::Form if may_form => return form(),
            Finding::Form => {
                remind(&mut reminded, "a damaged directory lies beside the empty one: this node only joins")
            }
            Finding::Wait(reason) => remind(&mut reminded, &reason),
        }
        pauses.pause().await;
    }
}

fn remind(last: &mut Instant, reason: &str) {
    if last.elapsed() > REMIND_AFTER {
        warn!(%reason, "waiting to form or join a cluster");
        *last = Instant::now();
    }
}

fn form() -> Result<Admitted, String> {
    let mut cluster = [0; 16];
    ring::default_provider().secure_random.fill(&mut cluster).map_err(|_| "the system has no random numbers")?;
    info!("forming the cluster");
    Ok(Admitted { cluster, node: FOUNDER })
}

async fn look(shared: &Arc<Shared>, others: &[String], invited: Vec<String>) -> Finding {
    let mut asked = JoinSet::new();
    for address in others.iter().cloned().chain(invited).collect::<BTreeSet<_>>() {
        let shared = shared.clone();
        asked.spawn(async move {
            let reply = hello(&shared, &address).await;
            (address, reply)
        });
    }
    let replies = asked.join_all().await;
    let clusters: Vec<String> = replies
        .iter()
        .filter(|(_, reply)| reply.as_ref().is_ok_and(|r| !r.cluster.is_empty()))
        .map(|(address, _)| address.clone())
        .collect();
    if !clusters.is_empty() {
        return Finding::Clusters(clusters);
    }
    let own_set = shared.settings.forming_set();
    for (address, reply) in replies.iter().filter(|(address, _)| others.contains(address)) {
        match reply {
            Err(reason) => return Finding::Wait(format!("{address} does not answer: {reason}")),
            Ok(reply) if reply.peers != own_set => {
                return Finding::Wait(format!(
                    "{address} lists other peers ({}) than this node ({}): cluster_peer and cluster_advertise must \
                     agree on all nodes",
                    reply.peers.join(", "),
                    own_set.join(", ")
                ));
            }
            Ok(reply) if reply.name == shared.settings.name => {
                return Finding::Wait(format!("{address} has the same name as this node, `{}`", reply.name));
            }
            Ok(_) => {}
        }
    }
    if own_set.first() == Some(&shared.settings.advertise) {
        Finding::Form
    } else {
        Finding::Wait(format!("{} has to form the cluster", own_set.first().map_or("", String::as_str)))
    }
}

pub(super) async fn hello(shared: &Shared, address: &str) -> Result<wire::HelloReply, String> {
    let mut client = MembershipClient::new(shared.transport.channel(address, Purpose::Control));
    let request = wire::HelloRequest { name: shared.settings.name.clone(), address: own_address(shared) };
    match timeout(HELLO_TIMEOUT, client.hello(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".into()),
    }
}

/// Whether a node of this cluster that has more of its log knows this node as no member: it was removed while it was
/// away.
pub(super) async fn others_know_better(shared: &Shared, view: &View) -> bool {
    let Some(identity) = shared.identity() else { return false };
    for address in ask_first(shared, view) {
        let Ok(reply) = hello(shared, &address).await else { continue };
        let member = reply.members.iter().any(|m| m.node == identity.node);
        if reply.cluster[..] == identity.cluster && reply.last_applied > view.last && !member {
            return true;
        }
    }
    false
}

async fn ask_admission(shared: &Shared, address: &str) -> Result<Admitted, String> {
    let mut client = MembershipClient::new(shared.transport.channel(address, Purpose::Control));
    let request = wire::AdmitRequest { name: shared.settings.name.clone(), address: own_address(shared), hops: 0 };
    let reply = match timeout(ADMIT_TIMEOUT, client.admit(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err("no answer in time".into()),
    };
    let cluster = reply.cluster[..].try_into().map_err(|_| "the answer names no cluster".to_owned())?;
    Ok(Admitted { cluster, node: reply.node })
}
