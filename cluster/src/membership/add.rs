//! `mosquorum cluster add`: the leader sends a running node, which belongs to no cluster yet, where to join.
//! Always true: the node itself asks for admission, as one that lists a member as its peer does; for a node that does not
//! answer only its name is noted, which may join from then on, so a mistyped address costs no majority.
use super::{changes::decide, forming::hello, own_address};
use crate::{
    admin_error::AdminError,
    node::shared::NodeParts,
    state::Command,
    transport::{Purpose, host_of, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long the operator waits for a node to copy the state; the node goes on joining after that.
pub(crate) const JOIN_WAIT: Duration = Duration::from_secs(120);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn add(shared: &Arc<NodeParts>, node: &wire::AddNode) -> Result<String, AdminError> {
    let (name, address) = (&node.name, &node.address);
    let identity = shared.identity().ok_or_else(AdminError::no_cluster)?;
    let added = Command::NodeAdded { name: name.as_str().into(), host: host_of(address).into() };
    let found = match hello(shared, address).await {
        Ok(found) => found,
        Err(reason) => {
            decide(shared, added).await?;
            return Err(AdminError::Unavailable(format!(
                "no node answers at {address}: {reason}; `{name}` may join from now on: start it with cluster_listener, and \
                 run this again unless it lists a member as its cluster_peer"
            )));
        }
    };
    if found.name != *name {
        return Err(AdminError::Refused(format!("the node at {address} is named `{}`, not `{name}`", found.name)));
    }
    if !found.cluster.is_empty() && found.cluster[..] != identity.cluster {
        return Err(AdminError::Refused(format!(
            "`{name}` belongs to another cluster: move its data directory away to let it join this one"
        )));
    }
    decide(shared, added).await?;
    invite(shared, address, &identity.cluster).await?;
    let since = Instant::now();
    while since.elapsed() < JOIN_WAIT {
        let view = shared.view();
        if let Some(member) = view.members.iter().find(|m| m.name == *name && m.address == *address && m.voter) {
            return Ok(format!("{name} (n{}) votes, {} nodes do", member.node, view.voters()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(AdminError::Unavailable(format!(
        "`{name}` was invited and goes on joining; `cluster status` shows when it votes"
    )))
}

/// Gives the members' addresses to a node that looks for its cluster.
async fn invite(shared: &NodeParts, address: &str, cluster: &[u8]) -> Result<(), AdminError> {
    let addresses = shared.view().members.iter().map(|m| m.address.clone()).collect();
    let mut client = MembershipClient::new(shared.transport.channel(address, Purpose::Control));
    let (cluster, name) = (cluster.to_vec().into(), shared.settings.name.clone());
    let request = wire::InviteRequest { cluster, addresses, name, address: own_address(shared) };
    match timeout(CALL_TIMEOUT, client.invite(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(AdminError::Refused(format!("{address} refuses: {}", status.message()))),
        Err(_) => Err(AdminError::Unavailable(format!("{address} does not answer in time"))),
    }
}
