//! Before nodes are taken out of the cluster: their clients go elsewhere, and what they said is committed.
//! Always true: a node that answers leaves with no client on it and nothing of its own uncommitted, so a DISCONNECT that
//! it has read counts; afterwards it can propose nothing any more, and nobody else may speak for its incarnation. A node
//! that does not answer is taken for dead: its sessions end uncleanly, as they would without the change.
use crate::{
    admin_error::AdminError,
    events::EVENTS,
    ids::NodeId,
    node::shared::NodeParts,
    transport::{Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tonic::Code;
use tracing::{info, warn};

/// A node that has not answered the leader for so long is not asked.
const SILENT: Duration = Duration::from_secs(3);

/// What came of asking nodes that leave.
pub(crate) struct HandedOver {
    /// Nobody is left on these.
    pub(crate) nodes: BTreeSet<u64>,
    /// What the operator should know.
    pub(crate) notes: String,
}

/// The leader's side: asks all nodes that leave, at the same time.
/// # Errors
/// When a node says that it stays: nothing was changed.
pub(crate) async fn hand_over(
    shared: &Arc<NodeParts>,
    nodes: &BTreeSet<u64>,
    within: Duration,
) -> Result<HandedOver, AdminError> {
    let (view, mut asked) = (shared.view(), JoinSet::new());
    for member in view.members.iter().filter(|member| nodes.contains(&member.node)) {
        let serves = shared.state.read().serving(NodeId(member.node)).is_some();
        if !serves || member.silent.is_some_and(|silent| silent > SILENT) {
            continue;
        }
        let timeout = within + 2 * shared.settings.commit_timeout;
        let mut client = MembershipClient::new(shared.transport.channel(&member.address, Purpose::Control));
        let request = wire::LeaveRequest {
            cluster: shared.identity().map(|identity| identity.cluster.to_vec().into()).unwrap_or_default(),
            node: member.node,
            leaving: nodes.iter().copied().collect(),
            hand_over_ms: within.as_millis() as u64,
        };
        let (node, name) = (member.node, member.name.clone());
        asked.spawn(async move { (node, name, tokio::time::timeout(timeout, client.leave(request)).await) });
    }
    let mut handed_over = HandedOver { nodes: BTreeSet::new(), notes: String::new() };
    while let Some(answer) = asked.join_next().await {
        let Ok((node, name, answer)) = answer else { continue };
        let why = match answer {
            Ok(Ok(_)) => {
                handed_over.nodes.insert(node);
                continue;
            }
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                return Err(AdminError::Refused(format!("{name} stays: {}", status.message())));
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "no answer in time".to_owned(),
        };
        warn!(name, why, "a node that leaves does not hand its clients over");
        let _ = write!(handed_over.notes, "{name} did not hand its clients over ({why}); ");
    }
    Ok(handed_over)
}

/// The side of the node that leaves.
pub(crate) async fn prepare(shared: &Arc<NodeParts>, request: wire::LeaveRequest) -> Result<(), AdminError> {
    let own = shared.identity().ok_or_else(AdminError::no_cluster)?;
    if request.cluster[..] != own.cluster || request.node != own.node {
        return Err(AdminError::Refused(format!("this is n{} of its cluster, not n{}", own.node, request.node)));
    }
    info!(target: EVENTS, "this node is about to be taken out of the cluster, clients are handed over");
    let leaving = request.leaving.into_iter().map(NodeId).collect();
    let handed_over = shared.live.hand_over(leaving, Duration::from_millis(request.hand_over_ms)).await;
    handed_over.map_err(AdminError::Refused)?;
    if !shared.proposer.settle(shared.settings.commit_timeout).await {
        return Err(AdminError::Unavailable("what its clients sent is not committed".into()));
    }
    Ok(())
}
