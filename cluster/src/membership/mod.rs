//! Who belongs to the cluster: forming it, joining it, serving in it, leaving it.
//! Always true: a cluster is formed once, by the node with the lowest address, after every listed peer said that it
//! belongs to none and lists the same peers; a node number is the index of a committed entry and never used again; it is
//! bound to the data directory before the node takes part; a stop or restart changes nothing here.
//! Not here: how a majority decides (`raft`), which clients are served (`live`, `broker`).
pub(crate) mod add;
mod admin;
pub(crate) mod changes;
pub(crate) mod events;
pub(crate) mod finish;
pub(crate) mod forget;
pub(crate) mod forming;
pub(crate) mod introductions;
mod leave;
mod neighbours;
mod rules;
mod service;

pub(crate) use admin::admin;
pub(crate) use neighbours::{neighbours, survey};
pub(crate) use service::MembershipService;

use crate::{node::shared::NodeParts, raft::View};
use std::time::Duration;
use tokio::time::sleep;

/// Between tries: short at first, since at the beginning of a cluster everything changes from moment to moment.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// How often a state that lasts is logged again.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// Pauses that grow from [`RETRY_PAUSE_MIN`] to [`RETRY_PAUSE_MAX`].
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self(RETRY_PAUSE_MIN)
    }

    pub(crate) async fn pause(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 3 / 2).min(RETRY_PAUSE_MAX);
    }
}

/// Number of the node that forms the cluster; later ones are indexes of entries, which are larger.
pub(crate) const FOUNDER: u64 = 1;

/// How others reach this node. A node alone that never said so cannot be joined.
pub(crate) fn own_address(shared: &NodeParts) -> String {
    match (&shared.settings.advertise[..], shared.settings.listen) {
        ("", Some(listen)) => listen.to_string(),
        ("", None) => "localhost:0".into(),
        (advertise, _) => advertise.to_owned(),
    }
}

/// Addresses to ask for something that the leader has to do: the leader if known, then all others.
pub(crate) fn ask_first(shared: &NodeParts, view: &View) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let leader = view.leader.and_then(|leader| view.member(leader));
    let own = own_address(shared);
    let known = leader.into_iter().chain(&view.members).map(|m| m.address.clone());
    for address in known.chain(shared.settings.other_peers()).chain(shared.invitation.lock().clone()) {
        if address != own && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
