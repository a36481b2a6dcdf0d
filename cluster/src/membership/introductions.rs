//! Asks other members who the members are, when a message comes from a node that is not a member in this node's log (yet).
//! Always true: only nodes at addresses of members, of `cluster_peer` or of an invitation are asked, and TLS says that they
//! are the ones; what they say holds until this node's own log is as far.
use super::{ask_first, forming::hello};
use crate::{node::shared::NodeParts, raft::Engine};
use std::sync::Arc;
use tokio::task::JoinSet;

pub(crate) async fn run(shared: Arc<NodeParts>, engine: Arc<Engine>) {
    while engine.view().stopped.is_none() {
        engine.introductions.wanted().await;
        ask(&shared, &engine).await;
    }
}

pub(crate) async fn ask(shared: &Arc<NodeParts>, engine: &Engine) {
    let mut asked = JoinSet::new();
    for address in ask_first(shared, &engine.view()) {
        let shared = shared.clone();
        asked.spawn(async move { hello(&shared, &address).await });
    }
    while let Some(answer) = asked.join_next().await {
        let Ok(Ok(reply)) = answer else { continue };
        if reply.cluster[..] == engine.identity.cluster {
            engine.introduce(&reply.members, reply.last_applied);
        }
    }
}
