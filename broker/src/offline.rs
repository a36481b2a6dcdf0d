//! Sessions whose clients are away, as operators see them: who lets messages pile up, and what removed bridges left.
//! Always true: at most [`LISTED_MAX`] are listed, what removed bridges left first, then those with most messages.
use crate::broker::Broker;
use mosquorum_cluster::{
    ids::Millis,
    state::{NEVER, SessionWalk},
};
use serde::Serialize;
use std::{cmp::Reverse, collections::BinaryHeap, fmt::Write};

const LISTED_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offline {
    pub client_id: String,
    pub messages: usize,
    /// Seconds until the session ends; `None`: never.
    pub expires_in: Option<u64>,
    /// Left by a bridge that this node's configuration had and has no more.
    pub removed_bridge: bool,
}

/// How many there are, and those that are listed.
pub fn list(broker: &Broker) -> (usize, Vec<Offline>) {
    let orphans = broker.bridges.orphans();
    let now = broker.consensus.now();
    let (mut count, mut most, mut walk) = (0, BinaryHeap::new(), SessionWalk::default());
    loop {
        let state = broker.consensus.state().read();
        let more = state.walk_sessions(&mut walk, |session| {
            if state.connection_of(session).is_some() {
                return;
            }
            count += 1;
            let orphan = orphans.contains(session.client_id());
            most.push(Reverse((orphan, session.queue().len(), session.client_id().clone())));
            if most.len() > LISTED_MAX {
                most.pop();
            }
        });
        if !more {
            break;
        }
    }
    let state = broker.consensus.state().read();
    let listed = most.into_sorted_vec().into_iter().map(|Reverse((removed_bridge, messages, client_id))| {
        let session = state.session(&client_id);
        let lasts = session.map_or(NEVER, |session| session.expiry_seconds());
        let since = session.and_then(|session| session.disconnected_at()).unwrap_or(now);
        let end = since.0.saturating_add(u64::from(lasts) * 1000);
        let Millis(now) = now;
        Offline {
            client_id: client_id.to_string(),
            messages,
            expires_in: (lasts != NEVER).then(|| end.saturating_sub(now) / 1000),
            removed_bridge,
        }
    });
    (count, listed.collect())
}

pub fn table(count: usize, listed: &[Offline]) -> String {
    let mut text = format!("{count} sessions are offline");
    if listed.is_empty() {
        return text;
    }
    let _ = write!(text, "\n{:<40} {:>10} {:>12}", "client id", "messages", "expires in");
    for offline in listed {
        let expires = offline.expires_in.map_or("never".to_owned(), |seconds| format!("{seconds} s"));
        let note = if offline.removed_bridge { "  left by a removed bridge" } else { "" };
        let _ = write!(text, "\n{:<40} {:>10} {expires:>12}{note}", offline.client_id, offline.messages);
    }
    text
}
