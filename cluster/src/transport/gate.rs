//! Who may call what, before anything of the call is read.
//! Always true: whoever is not known as a member may call the membership service only, which judges each request by
//! itself. The other services are found here by their path, so none can forget to ask.
use super::PeerCertificate;
use futures_util::future::Either;
use std::{
    future::{Ready, ready},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};
use tonic::{Status, codegen::http};
use tower::Service;

/// The one service for nodes that are no members (yet).
const FOR_NON_MEMBERS: &str = "/mosquorum.raft.v1.Membership/";

type Knows = Box<dyn Fn(&PeerCertificate) -> Result<(), Status> + Send + Sync>;

/// Says whether a peer is known; set once the node belongs to a cluster.
#[derive(Default)]
pub(super) struct Guard(OnceLock<Knows>);

impl Guard {
    pub(super) fn set(&self, knows: Knows) {
        // Set once, when the node belongs to its cluster.
        let _ = self.0.set(knows);
    }

    fn admit(&self, path: &str, peer: Option<&PeerCertificate>) -> Result<(), Status> {
        if path.starts_with(FOR_NON_MEMBERS) {
            return Ok(());
        }
        let knows = self.0.get().ok_or_else(|| Status::unavailable("this node does not belong to a cluster yet"))?;
        knows(peer.ok_or_else(|| Status::permission_denied("nobody knows whose connection this is"))?)
    }
}

#[derive(Clone)]
pub(super) struct Gate<S> {
    pub(super) inner: S,
    pub(super) guard: Arc<Guard>,
}

impl<S, B, R> Service<http::Request<B>> for Gate<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match self.guard.admit(request.uri().path(), request.extensions().get::<PeerCertificate>()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_known_reaches_the_membership_service_only() {
        let guard = Guard::default();
        let peer = PeerCertificate::default();
        let code = |guard: &Guard, path: &str| guard.admit(path, Some(&peer)).map_err(|status| status.code());
        assert_eq!(code(&guard, "/mosquorum.raft.v1.Membership/Hello"), Ok(()));
        assert_eq!(code(&guard, "/mosquorum.raft.v1.Raft/Vote"), Err(tonic::Code::Unavailable));
        guard.set(Box::new(|_| Err(Status::permission_denied("an unknown sender"))));
        assert_eq!(code(&guard, "/mosquorum.raft.v1.Membership/Admit"), Ok(()));
        for path in
            ["/mosquorum.raft.v1.Raft/Append", "/mosquorum.peer.v1.Peer/Link", "/", "/mosquorum.raft.v1.Membershi"]
        {
            assert_eq!(code(&guard, path), Err(tonic::Code::PermissionDenied), "{path}");
        }
    }
}
