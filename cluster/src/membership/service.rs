//! Membership messages of other nodes.
use super::{admin, changes, leave, neighbours, rules::Rules};
use crate::events::EVENTS;
use crate::{
    admin_error::AdminError,
    node::shared::NodeParts,
    raft::peer_of,
    transport::{
        PeerCertificate, Purpose, host_of,
        services::raft::{membership_client::MembershipClient, membership_server},
    },
};
use mosquorum_proto::peer::raft as wire;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tonic::{Request, Response, Status};

/// Addresses of an invitation that are kept.
const INVITATION_MAX: usize = 64;
const LEADER_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct MembershipService {
    pub(crate) shared: Weak<NodeParts>,
}

impl MembershipService {
    #[allow(clippy::result_large_err)] // tonic's own type
    fn shared(&self) -> Result<Arc<NodeParts>, Status> {
        self.shared.upgrade().ok_or_else(|| Status::unavailable("the node is shutting down"))
    }
}

#[allow(clippy::result_large_err)]
fn check_claim(peer: Option<&PeerCertificate>, name: &str, address: &str) -> Result<(), Status> {
    match peer {
        Some(peer) if !peer.is_valid_for(name, address) => {
            Err(Status::permission_denied(format!("the certificate is not valid for `{name}` ({address})")))
        }
        _ => Ok(()),
    }
}

/// Those of the names for which the certificate is valid.
fn proven(peer: Option<&PeerCertificate>, names: &[&str]) -> Vec<String> {
    let peer = peer.cloned().unwrap_or_default();
    peer.proven(names.iter().copied()).into_iter().map(str::to_owned).collect()
}

/// Refuses whoever is no member of this node's cluster.
#[allow(clippy::result_large_err)]
fn check_member(shared: &NodeParts, peer: Option<&PeerCertificate>) -> Result<(), Status> {
    let engine = shared.engine.load_full().ok_or_else(|| Status::unavailable("this node belongs to no cluster yet"))?;
    engine.check_certificate(&peer.cloned().unwrap_or_default())
}

/// The address of the leader, if it is another node.
fn leader_elsewhere(shared: &NodeParts) -> Option<String> {
    let view = shared.view();
    let leader = view.leader.filter(|_| !view.is_leader)?;
    view.member(leader).map(|m| m.address.clone())
}

/// Only the leader asks a node to leave (or that node itself). Who leads may be known a moment later here than there.
async fn check_leads(shared: &NodeParts, peer: Option<&PeerCertificate>) -> Result<(), Status> {
    let Some(peer) = peer else { return Ok(()) };
    let since = tokio::time::Instant::now();
    loop {
        let view = shared.view();
        let own = shared.identity().map(|identity| identity.node);
        let mut asked = view.leader.into_iter().chain(own).filter_map(|node| view.member(node));
        if asked.any(|member| peer.is_valid_for(&member.name, &member.address)) {
            return Ok(());
        }
        if since.elapsed() > LEADER_TIMEOUT {
            return Err(Status::permission_denied("only the leader tells a node to leave"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The kind of the error goes with it as far as a status has words for it.
fn refused(error: AdminError) -> Status {
    match error {
        AdminError::Internal(text) => Status::internal(text),
        error => Status::failed_precondition(error.to_string()),
    }
}

#[tonic::async_trait]
impl membership_server::Membership for MembershipService {
    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let request = request.into_inner();
        check_claim(peer.as_ref(), &request.name, &request.address)?;
        Ok(Response::new(neighbours::introduce(&shared).await))
    }

    async fn admit(&self, request: Request<wire::AdmitRequest>) -> Result<Response<wire::AdmitReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let mut request = request.into_inner();
        if request.hops == 0 {
            check_claim(peer.as_ref(), &request.name, &request.address)?;
            request.proven = proven(peer.as_ref(), &[&request.name, host_of(&request.address)]);
        } else {
            // The claim was checked by the member that passes it on.
            check_member(&shared, peer.as_ref())?;
        }
        match leader_elsewhere(&shared) {
            Some(address) if request.hops == 0 => {
                let mut client = MembershipClient::new(shared.transport.channel(&address, Purpose::Control));
                client.admit(wire::AdmitRequest { hops: 1, ..request }).await
            }
            _ => changes::admit(&shared, &request).await.map(Response::new).map_err(refused),
        }
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let mut request = request.into_inner();
        if request.hops == 0 {
            check_claim(peer.as_ref(), &request.name, &request.address)?;
            let view = shared.view();
            let known = view.member(request.node).map_or(["", ""], |m| [&m.name, host_of(&m.address)]);
            request.proven = proven(peer.as_ref(), &[&request.name, host_of(&request.address), known[0], known[1]]);
        } else {
            check_member(&shared, peer.as_ref())?;
        }
        match leader_elsewhere(&shared) {
            Some(address) if request.hops == 0 => {
                let mut client = MembershipClient::new(shared.transport.channel(&address, Purpose::Control));
                client.join(wire::JoinRequest { hops: 1, ..request }).await
            }
            _ => {
                changes::refuse_copy(&shared, &request).await.map_err(refused)?;
                let voter = changes::join(&shared, &request).await.map_err(refused)?;
                Ok(Response::new(wire::JoinReply { voter }))
            }
        }
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Result<Response<wire::InviteReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let wire::InviteRequest { cluster, mut addresses, name, address } = request.into_inner();
        check_claim(peer.as_ref(), &name, &address)?;
        let engine = shared.engine.load_full();
        let rules = Rules::of(&shared, engine.as_deref());
        if !rules.may_invite(&proven(peer.as_ref(), &[&name, host_of(&address)])) {
            return Err(Status::permission_denied(format!(
                "`{name}` ({address}) is neither one of this node's cluster_peer hosts nor named by its cluster_allow"
            )));
        }
        if shared.identity().is_some_and(|identity| identity.cluster != cluster[..]) {
            return Err(refused(AdminError::Refused("this node belongs to another cluster".into())));
        }
        tracing::info!(target: EVENTS, "{name} at {address} invites this node into its cluster");
        addresses.truncate(INVITATION_MAX);
        *shared.invitation.lock() = addresses;
        Ok(Response::new(wire::InviteReply {}))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        check_member(&shared, peer.as_ref())?;
        check_leads(&shared, peer.as_ref()).await?;
        let request = request.into_inner();
        // Finished even if the leader stops waiting: the next one asks again.
        let done = tokio::spawn(async move { leave::prepare(&shared, request).await }).await;
        done.unwrap_or_else(|e| Err(AdminError::of_task(&e))).map_err(refused)?;
        Ok(Response::new(wire::LeaveReply {}))
    }

    async fn admin(&self, request: Request<wire::AdminRequest>) -> Result<Response<wire::AdminReply>, Status> {
        let shared = self.shared()?;
        check_member(&shared, peer_of(&request).as_ref())?;
        let wire::AdminRequest { request, hand_over_ms } = request.into_inner();
        let Some(request) = request else {
            return Err(Status::invalid_argument("nothing is asked for"));
        };
        // Finished even if the operator's node stops waiting: half a change is worse.
        let done =
            tokio::spawn(async move { admin::lead(&shared, request, Duration::from_millis(hand_over_ms)).await }).await;
        Ok(Response::new(admin::to_wire(done.unwrap_or_else(|e| Err(AdminError::of_task(&e))))))
    }
}
