//! The live side of a node that has no peers: it owns every client identifier, and nothing has to be sent anywhere.
//! Always true: nothing here waits. Connections of this node that take over from each other are the broker's own
//! business.
use crate::{
    facade::{Answer, BoxFuture, Claim, Completion, Forward, NotClaimed, OnlyUser, Peers, RemoteRoutes, Unavailable},
    ids::Epoch,
    state::Owner,
};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// [`Peers`] of a node alone.
#[derive(Debug, Default)]
pub struct Alone {
    epochs: AtomicU64,
}

impl Alone {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Peers for Alone {
    fn claim(&self, _: Utf8, _: Owner, _: Option<OnlyUser>) -> BoxFuture<'static, Result<Claim, NotClaimed>> {
        let epoch = Epoch(self.epochs.fetch_add(1, Ordering::Relaxed) + 1);
        Box::pin(std::future::ready(Ok(Claim { epoch })))
    }

    fn release(&self, _: &Utf8, _: Owner) {}

    fn fence(&self, _: Utf8, _: Owner, _: Epoch) -> BoxFuture<'static, Result<(), Unavailable>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn change_routes(&self, _: Vec<TopicFilter>, _: Vec<TopicFilter>, reply: Arc<dyn Completion>, ticket: u64) {
        reply.complete(ticket, Answer::RoutesKnown);
    }

    fn routes(&self, _: &str, _: &mut RemoteRoutes) {}

    fn routes_version(&self) -> u64 {
        0
    }

    fn routes_since(&self, _: u64, _: &mut Vec<TopicFilter>) -> bool {
        true
    }

    fn forward(&self, _: Forward, reply: Option<(Arc<dyn Completion>, u64)>) {
        if let Some((reply, ticket)) = reply {
            reply.complete(ticket, Answer::Forwarded);
        }
    }

    fn may_serve(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConnectionId, Incarnation, NodeId};
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[test]
    fn a_node_alone_claims_at_once_under_growing_epochs() {
        let alone = Alone::new();
        let owner = Owner { node: NodeId(1), incarnation: Incarnation(1), connection: ConnectionId(7) };
        let mut epochs = Vec::new();
        for _ in 0..2 {
            let mut claim = pin!(alone.claim("a".into(), owner, None));
            match claim.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(claim)) => epochs.push(claim.epoch),
                other => panic!("expected a claim, got {other:?}"),
            }
        }
        assert!(epochs[0] < epochs[1]);
        assert!(alone.may_serve());
    }
}
