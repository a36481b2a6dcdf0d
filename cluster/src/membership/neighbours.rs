//! Where clients of this node can go instead.
//! Always true: only nodes that answered just now, serve, and do not hand their own clients over are named.
use super::forming::hello;
use crate::{
    consensus::Shared,
    facade::{ClientListener, Neighbour},
    ids::NodeId,
};
use mosquorum_proto::peer::raft as wire;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Listeners of one node that are told to others.
const LISTENERS_MAX: usize = 64;

pub(crate) async fn neighbours(shared: Arc<Shared>) -> Vec<Neighbour> {
    let own = shared.identity().map(|identity| identity.node);
    let mut asked = JoinSet::new();
    for member in shared.view().members.into_iter().filter(|member| Some(member.node) != own) {
        let shared = shared.clone();
        asked.spawn(async move { (member.node, hello(&shared, &member.address).await) });
    }
    let mut found = Vec::new();
    while let Some(answer) = asked.join_next().await {
        let Ok((node, Ok(reply))) = answer else { continue };
        let takes_over = shared.state.read().takes_bridges(NodeId(node));
        if reply.serving && reply.node == node && takes_over {
            let listeners = reply.client_listeners.into_iter().take(LISTENERS_MAX).map(from_wire).collect();
            found.push(Neighbour { node: NodeId(node), name: reply.name, listeners });
        }
    }
    found.sort_by_key(|neighbour| neighbour.node);
    found
}

pub(super) fn to_wire(listener: &ClientListener) -> wire::ClientListener {
    let ClientListener { reference, port, tls, websockets } = listener.clone();
    wire::ClientListener { reference, port: port.into(), tls, websockets }
}

fn from_wire(listener: wire::ClientListener) -> ClientListener {
    let wire::ClientListener { reference, port, tls, websockets } = listener;
    ClientListener { reference, port: port.try_into().unwrap_or(0), tls, websockets }
}
