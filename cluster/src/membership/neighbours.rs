//! What members say of themselves when they are asked: for operators, and for clients of this node that can go elsewhere.
//! Always true: only nodes that answered just now, serve, and do not hand their own clients over are named to clients; who
//! does not answer costs a second, however many do not; what a node of no cluster at a member's address says is not taken for the
//! member's.
use super::{ask_first, forming::hello, own_address};
use crate::{
    facade::{
        ClientListener, ClientReport, LiveSide, MemberStatus, MemberSurvey, Neighbour, REMOVED_MAX, SelfReport, Survey,
        VERSION,
    },
    ids::NodeId,
    machine_clock,
    node::shared::NodeParts,
    state::{Standing, State},
};
use mosquorum_proto::peer::raft as wire;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

/// Listeners of one node that are reported to others.
const LISTENERS_MAX: usize = 64;
/// Reasons not to send clients to a node that are reported to others, and bytes of one.
const REASONS_MAX: usize = 16;
const REASON_BYTES_MAX: usize = 256;

/// What this node says of itself to others.
pub(crate) async fn introduce(shared: &Arc<NodeParts>) -> wire::HelloReply {
    let own = report(shared).await;
    let (view, identity) = (shared.view(), shared.identity());
    let members = view.members.iter().map(|m| wire::Member {
        node: m.node,
        name: m.name.clone(),
        address: m.address.clone(),
        voter: m.voter,
        matched: m.matched.unwrap_or(0),
    });
    wire::HelloReply {
        name: shared.settings.name.clone(),
        address: own_address(shared),
        cluster: identity.map(|identity| identity.cluster.to_vec().into()).unwrap_or_default(),
        node: identity.map_or(0, |identity| identity.node),
        peers: shared.settings.forming_set(),
        leader: view.leader.unwrap_or(0),
        members: members.collect(),
        last_applied: view.applied,
        serving: own.serving,
        client_listeners: shared.settings.client_listeners.iter().map(to_wire).collect(),
        version: own.version,
        uptime_ms: own.uptime.as_millis() as u64,
        clients: own.clients.connected,
        not_ready: own.clients.not_ready,
        committed: view.commit.max(view.cluster_commit),
    }
}

async fn report(shared: &NodeParts) -> SelfReport {
    let live: Arc<dyn LiveSide> = shared.live.clone();
    // It may wait for the state, which heartbeats must not.
    let clients = tokio::task::spawn_blocking(move || live.report()).await.unwrap_or_default();
    SelfReport { version: VERSION.to_owned(), uptime: shared.started.elapsed(), serving: shared.is_serving(), clients }
}

/// What each member but this node answers, or why it does not.
async fn ask_all(shared: &Arc<NodeParts>) -> BTreeMap<u64, Result<wire::HelloReply, String>> {
    let own = shared.identity().map(|identity| identity.node);
    let mut asked = JoinSet::new();
    for member in shared.view().members.into_iter().filter(|member| Some(member.node) != own) {
        let shared = shared.clone();
        asked.spawn(async move {
            let answer = hello(&shared, &member.address).await;
            let answer = answer.map_err(|error| error.to_string());
            (member.node, answer.and_then(|reply| from_member(&shared, member.node, reply)))
        });
    }
    asked.join_all().await.into_iter().collect()
}

/// Only the member itself speaks for it.
fn from_member(shared: &NodeParts, node: u64, reply: wire::HelloReply) -> Result<wire::HelloReply, String> {
    let cluster = shared.identity().map(|identity| identity.cluster);
    if reply.cluster.is_empty() {
        return Err(format!("`{}` runs there, which belongs to no cluster yet", reply.name));
    }
    if cluster.is_none_or(|cluster| reply.cluster[..] != cluster) {
        return Err(format!("`{}` of another cluster runs there", reply.name));
    }
    if reply.node != node {
        return Err(format!("`{}` (n{}) runs there", reply.name, reply.node));
    }
    Ok(reply)
}

pub(crate) async fn neighbours(shared: Arc<NodeParts>) -> Vec<Neighbour> {
    let mut found = Vec::new();
    for (node, reply) in ask_all(&shared).await {
        let Ok(reply) = reply else { continue };
        let takes_over = shared.state.read().takes_bridges(NodeId(node));
        if reply.serving && takes_over {
            let listeners = reply.client_listeners.into_iter().take(LISTENERS_MAX).map(from_wire).collect();
            found.push(Neighbour { node: NodeId(node), name: reply.name, listeners });
        }
    }
    found
}

/// Asks all members at once.
pub(crate) async fn survey(shared: Arc<NodeParts>) -> Survey {
    let (mut replies, own) = tokio::join!(ask_all(&shared), report(&shared));
    let mut status = shared.status();
    let view = shared.view();
    let answers = replies.values().flatten();
    let committed = answers.clone().map(|reply| reply.committed).fold(view.commit.max(view.cluster_commit), u64::max);
    // The leader's word; this node's own if it leads.
    let reported = answers.clone().flat_map(|reply| &reply.members).map(|m| (m.node, m.matched));
    let matched: BTreeMap<u64, u64> = view
        .members
        .iter()
        .map(|m| (m.node, m.matched.unwrap_or(0)))
        .chain(reported)
        .filter(|(_, matched)| *matched > 0)
        .fold(BTreeMap::new(), |mut all, (node, matched)| {
            let known = all.entry(node).or_default();
            *known = matched.max(*known);
            all
        });
    let expelled = shared.identity().is_some_and(|identity| {
        let knows_better = |reply: &wire::HelloReply| {
            reply.last_applied > view.last && !reply.members.iter().any(|m| m.node == identity.node)
        };
        match view.member(identity.node) {
            Some(_) => answers.clone().any(knows_better),
            // Else it is about to become one.
            None => !view.members.is_empty() && view.applied > identity.node,
        }
    });
    // What it knew of a majority a moment ago is none of its business any more.
    status.majority &= !expelled;
    let now = machine_clock::now();
    let (for_task, members) = (shared.clone(), status.members.clone());
    let known = tokio::task::spawn_blocking(move || standings(&for_task, &members));
    let (standings, removed) = known.await.unwrap_or_default();
    let members = status.members.iter().map(|member| {
        let is_self = member.node == status.node;
        let reply = replies.remove(&member.node.0).unwrap_or_else(|| Err("it became a member just now".to_owned()));
        let has = match &reply {
            _ if is_self => Some(view.applied),
            Ok(reply) => Some(reply.last_applied),
            Err(_) => matched.get(&member.node.0).copied(),
        };
        let answer = if is_self { Ok(own.clone()) } else { reply.map(self_report) };
        let silent = shared.walls.lock().silent(now, member.node);
        MemberSurvey {
            standing: standings.get(&member.node).copied(),
            silent: if answer.is_ok() { Some(Duration::ZERO) } else { silent },
            answer,
            lag: has.map(|has| committed.saturating_sub(has)),
            member: member.clone(),
        }
    });
    let looks_for = if shared.identity().is_none() { ask_first(&shared, &view) } else { Vec::new() };
    Survey { members: members.collect(), status, expelled, removed, looks_for }
}

/// What the state knows of the nodes, and who left and is no member under another number.
fn standings(shared: &NodeParts, members: &[MemberStatus]) -> (BTreeMap<NodeId, Standing>, Vec<(NodeId, String)>) {
    let state = shared.state.read();
    let standings = state.nodes().map(|(node, record)| (node, record.standing)).collect();
    (standings, removed(&state, members))
}

fn removed(state: &State, members: &[MemberStatus]) -> Vec<(NodeId, String)> {
    let mut names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let left = state.removed().filter(|(_, record)| !record.name.is_empty() && names.insert(&record.name));
    left.map(|(node, record)| (node, record.name.to_string())).take(REMOVED_MAX).collect()
}

fn self_report(reply: wire::HelloReply) -> SelfReport {
    let reasons = reply.not_ready.into_iter().take(REASONS_MAX);
    SelfReport {
        version: shortened(reply.version),
        uptime: Duration::from_millis(reply.uptime_ms),
        serving: reply.serving,
        clients: ClientReport { connected: reply.clients, not_ready: reasons.map(shortened).collect() },
    }
}

/// Of another node: it goes to a terminal.
fn shortened(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(REASON_BYTES_MAX).collect()
}

fn to_wire(listener: &ClientListener) -> wire::ClientListener {
    let ClientListener { reference, port, tls, websockets } = listener.clone();
    wire::ClientListener { reference, port: port.into(), tls, websockets }
}

fn from_wire(listener: wire::ClientListener) -> ClientListener {
    let wire::ClientListener { reference, port, tls, websockets } = listener;
    ClientListener { reference, port: port.try_into().unwrap_or(0), tls, websockets }
}
