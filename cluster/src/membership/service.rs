//! Membership messages of other nodes.
use super::{admin, changes, leave, neighbours::to_wire, own_address};
use crate::{
    consensus::Shared,
    raft::peer_of,
    transport::{
        PeerIdentity, Purpose,
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

#[derive(Clone)]
pub(crate) struct MembershipService {
    pub(crate) shared: Weak<Shared>,
}

impl MembershipService {
    #[allow(clippy::result_large_err)] // tonic's own type
    fn shared(&self) -> Result<Arc<Shared>, Status> {
        self.shared.upgrade().ok_or_else(|| Status::unavailable("the node is shutting down"))
    }
}

#[allow(clippy::result_large_err)]
fn check_claim(peer: Option<&PeerIdentity>, name: &str, address: &str) -> Result<(), Status> {
    match peer {
        Some(peer) if !peer.speaks_for(name, address) => {
            Err(Status::permission_denied(format!("the certificate is not valid for `{name}` ({address})")))
        }
        _ => Ok(()),
    }
}

/// The address of the leader, if it is another node.
fn leader_elsewhere(shared: &Shared) -> Option<String> {
    let view = shared.view();
    let leader = view.leader.filter(|_| !view.is_leader)?;
    view.member(leader).map(|m| m.address.clone())
}

fn refused(reason: String) -> Status {
    Status::failed_precondition(reason)
}

#[tonic::async_trait]
impl membership_server::Membership for MembershipService {
    async fn hello(&self, request: Request<wire::HelloRequest>) -> Result<Response<wire::HelloReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let request = request.into_inner();
        check_claim(peer.as_ref(), &request.name, &request.address)?;
        let view = shared.view();
        let identity = shared.identity();
        let members = view.members.iter().map(|m| wire::Member {
            node: m.node,
            name: m.name.clone(),
            address: m.address.clone(),
            voter: m.voter,
        });
        Ok(Response::new(wire::HelloReply {
            name: shared.settings.name.clone(),
            address: own_address(&shared),
            cluster: identity.map(|identity| identity.cluster.to_vec().into()).unwrap_or_default(),
            node: identity.map_or(0, |identity| identity.node),
            peers: shared.settings.forming_set(),
            leader: view.leader.unwrap_or(0),
            members: members.collect(),
            last_applied: view.applied,
            serving: shared.is_serving(),
            client_listeners: shared.settings.client_listeners.iter().map(to_wire).collect(),
        }))
    }

    async fn admit(&self, request: Request<wire::AdmitRequest>) -> Result<Response<wire::AdmitReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let request = request.into_inner();
        match leader_elsewhere(&shared) {
            // The claim was checked by the member that passed it on.
            Some(address) if request.hops == 0 => {
                check_claim(peer.as_ref(), &request.name, &request.address)?;
                let mut client = MembershipClient::new(shared.transport.channel(&address, Purpose::Control));
                client.admit(wire::AdmitRequest { hops: 1, ..request }).await
            }
            _ => {
                if request.hops == 0 {
                    check_claim(peer.as_ref(), &request.name, &request.address)?;
                }
                changes::admit(&shared, &request).await.map(Response::new).map_err(refused)
            }
        }
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        let shared = self.shared()?;
        let peer = peer_of(&request);
        let request = request.into_inner();
        if request.hops == 0 {
            check_claim(peer.as_ref(), &request.name, &request.address)?;
        }
        match leader_elsewhere(&shared) {
            Some(address) if request.hops == 0 => {
                let mut client = MembershipClient::new(shared.transport.channel(&address, Purpose::Control));
                client.join(wire::JoinRequest { hops: 1, ..request }).await
            }
            _ => {
                let voter = changes::join(&shared, &request).await.map_err(refused)?;
                Ok(Response::new(wire::JoinReply { voter }))
            }
        }
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Result<Response<wire::InviteReply>, Status> {
        let shared = self.shared()?;
        let wire::InviteRequest { cluster, mut addresses } = request.into_inner();
        if shared.identity().is_some_and(|identity| identity.cluster != cluster[..]) {
            return Err(refused("this node belongs to another cluster".into()));
        }
        addresses.truncate(INVITATION_MAX);
        *shared.invitation.lock() = addresses;
        Ok(Response::new(wire::InviteReply {}))
    }

    async fn leave(&self, request: Request<wire::LeaveRequest>) -> Result<Response<wire::LeaveReply>, Status> {
        let shared = self.shared()?;
        let request = request.into_inner();
        // Finished even if the leader stops waiting: the next one asks again.
        let done = tokio::spawn(async move { leave::prepare(&shared, request).await }).await;
        done.unwrap_or_else(|e| Err(e.to_string())).map_err(refused)?;
        Ok(Response::new(wire::LeaveReply {}))
    }

    async fn admin(&self, request: Request<wire::AdminRequest>) -> Result<Response<wire::AdminReply>, Status> {
        let shared = self.shared()?;
        let wire::AdminRequest { request, hand_over_ms } = request.into_inner();
        let Some(request) = request else {
            return Err(Status::invalid_argument("nothing is asked for"));
        };
        // Finished even if the operator's node stops waiting: half a change is worse.
        let done =
            tokio::spawn(async move { admin::lead(&shared, request, Duration::from_millis(hand_over_ms)).await }).await;
        let reply = match done.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(text) => wire::AdminReply { done: true, text },
            Err(text) => wire::AdminReply { done: false, text },
        };
        Ok(Response::new(reply))
    }
}
