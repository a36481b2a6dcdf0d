//! How a node with an empty directory gets a number: by forming the cluster, or by being admitted to one.
use super::{FOUNDER, Pauses, REMIND_AFTER, ask_first, own_address};
use crate::events::EVENTS;
use crate::{
    node::shared::NodeParts,
    raft::View,
    transport::{CallError, Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use rustls::crypto::ring;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tonic::{Code, Status};
use tracing::{info, warn};

const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
const ADMIT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Admitted {
    pub(crate) cluster: [u8; 16],
    pub(crate) node: u64,
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
pub(crate) async fn obtain(shared: &Arc<NodeParts>) -> Result<Admitted, String> {
    let others = shared.settings.other_peers();
    let may_form = !shared.disk.lock().await.has_damaged_past() || others.is_empty();
    let alone = others.is_empty();
    if alone && (shared.settings.listen.is_none() || shared.settings.found_alone) {
        return form();
    }
    if alone {
        info!(
            target: EVENTS,
            "this node belongs to no cluster and lists no other cluster_peer: it waits for `mosquorum cluster add {} {}` on \
             a member; cluster_new true lets it form a cluster of its own",
            shared.settings.name,
            own_address(shared)
        );
    } else {
        info!(peers = others.len(), "empty data directory: looking for the cluster, or for everybody to form it");
    }
    let mut reminded = Reminded::default();
    let mut pauses = Pauses::new();
    loop {
        let invited = shared.invitation.lock().clone();
        match look(shared, &others, invited).await {
            Finding::Clusters(addresses) => {
                for address in addresses {
                    match ask_admission(shared, &address).await {
                        Ok(admitted) => {
                            shared.set_kept_out(None);
                            return Ok(admitted);
                        }
                        Err(reason) => reminded.remind(shared, &format!("{address} does not let it in: {reason}")),
                    }
                }
            }
            Finding::Form if may_form => {
                shared.set_kept_out(None);
                return form();
            }
            Finding::Form => {
                reminded.remind(shared, "a damaged directory lies beside the empty one: this node only joins");
            }
            Finding::Wait(_) if alone => {
                shared.set_kept_out(Some("this node waits for `mosquorum cluster add` on a member".to_owned()));
            }
            Finding::Wait(reason) => reminded.remind(shared, &reason),
        }
        pauses.pause().await;
    }
}

/// Why this node waits: said when it lasts, and again when it is another reason.
#[derive(Default)]
pub(crate) struct Reminded {
    reason: String,
    since: Option<Instant>,
    said: Option<String>,
}

impl Reminded {
    fn remind(&mut self, shared: &NodeParts, reason: &str) {
        let line = format!("this node waits to form or join a cluster: {reason}");
        if self.is_due(reason, Instant::now()) {
            warn!(target: EVENTS, "{line}");
        }
        shared.set_kept_out(Some(line));
    }

    pub(crate) fn is_due(&mut self, reason: &str, now: Instant) -> bool {
        if self.reason != reason || self.since.is_none() {
            (self.reason, self.since) = (reason.to_owned(), Some(now));
        }
        let lasts = self.since.is_some_and(|since| now - since > REMIND_AFTER);
        if lasts && self.said.as_deref() != Some(reason) {
            self.said = Some(reason.to_owned());
            return true;
        }
        false
    }
}

fn form() -> Result<Admitted, String> {
    let mut cluster = [0; 16];
    ring::default_provider().secure_random.fill(&mut cluster).map_err(|_| "the system has no random numbers")?;
    info!(target: EVENTS, "this node forms the cluster");
    Ok(Admitted { cluster, node: FOUNDER })
}

async fn look(shared: &Arc<NodeParts>, others: &[String], invited: Vec<String>) -> Finding {
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
    if others.is_empty() {
        return Finding::Wait("it lists no other cluster_peer".into());
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

pub(crate) async fn hello(shared: &NodeParts, address: &str) -> Result<wire::HelloReply, CallError> {
    let mut client = MembershipClient::new(shared.transport.channel(address, Purpose::Control));
    let request = wire::HelloRequest { name: shared.settings.name.clone(), address: own_address(shared) };
    match timeout(HELLO_TIMEOUT, client.hello(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(why(shared, address, &status)),
        Err(_) => {
            let late = || CallError::Unreachable("no answer in time".into());
            Err(shared.transport.trouble(address).unwrap_or_else(late))
        }
    }
}

/// What a call failed for: the connection's trouble says more than the call's.
pub(crate) fn why(shared: &NodeParts, address: &str, status: &Status) -> CallError {
    let of_connection = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal);
    let trouble = of_connection.then(|| shared.transport.trouble(address)).flatten();
    trouble.unwrap_or_else(|| match of_connection {
        true => CallError::Unreachable(status.message().to_owned()),
        false => CallError::Refused(status.message().to_owned()),
    })
}

/// What others say of a node that has no majority.
pub(crate) enum Standing {
    Unclear,
    /// A node of this cluster that has more of its log knows it as no member: it was removed while it was away.
    Removed,
    /// Something else that will not mend itself, for the operator.
    Odd(String),
}

pub(crate) async fn ask_standing(shared: &NodeParts, view: &View) -> Standing {
    let Some(identity) = shared.identity() else { return Standing::Unclear };
    let mut odd = None;
    for address in ask_first(shared, view) {
        let reply = match hello(shared, &address).await {
            Ok(reply) => reply,
            Err(CallError::Refused(reason)) => {
                odd.get_or_insert(format!("{address}: {reason}"));
                continue;
            }
            Err(CallError::Unreachable(_)) => continue,
        };
        if reply.cluster[..] != identity.cluster {
            if !reply.cluster.is_empty() {
                odd.get_or_insert(format!(
                    "`{}` at {address} belongs to another cluster (made by `recover`?): to let this node join that one, \
                     move its data directory away",
                    reply.name
                ));
            }
            continue;
        }
        let member = reply.members.iter().find(|m| m.node == identity.node);
        if reply.last_applied > view.last && member.is_none() {
            return Standing::Removed;
        }
        let own = (&shared.settings.name, own_address(shared));
        if let Some(member) = member.filter(|m| m.name != *own.0 && m.address != own.1) {
            odd.get_or_insert(format!(
                "its data directory is that of n{} `{}` at {}, a copy cannot be another node: move it away to let this \
                 node join as a new one",
                member.node, member.name, member.address
            ));
        }
    }
    odd.map_or(Standing::Unclear, Standing::Odd)
}

async fn ask_admission(shared: &NodeParts, address: &str) -> Result<Admitted, String> {
    let mut client = MembershipClient::new(shared.transport.channel(address, Purpose::Control));
    let request =
        wire::AdmitRequest { name: shared.settings.name.clone(), address: own_address(shared), ..Default::default() };
    let reply = match timeout(ADMIT_TIMEOUT, client.admit(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(why(shared, address, &status).to_string()),
        Err(_) => return Err("no answer in time".into()),
    };
    let cluster = reply.cluster[..].try_into().map_err(|_| "the answer names no cluster".to_owned())?;
    Ok(Admitted { cluster, node: reply.node })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_node_waits_is_said_once_when_it_lasts() {
        let (mut reminded, start) = (Reminded::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let said = |reminded: &mut Reminded, reason, from, to| {
            (from..to).filter(|second| reminded.is_due(reason, at(*second))).count()
        };
        assert_eq!(said(&mut reminded, "a", 0, 10), 0);
        assert_eq!(said(&mut reminded, "a", 10, 1000), 1);
        assert_eq!(said(&mut reminded, "b", 1000, 1005), 0);
        assert_eq!(said(&mut reminded, "b", 1005, 1100), 1);
    }
}
