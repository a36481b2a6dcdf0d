//! What applying brings about, passed to whom it concerns: effects to the live side, answers to whoever submitted, the
//! end of this node's incarnation to its supervisor.
//! Always true: effects come before the answers of the same entries, both in log order; nothing is passed on while a start
//! replays its log.
use super::proposer::Proposer;
use crate::{
    entry::BatchHeader,
    facade::LiveSide,
    ids::{Incarnation, NodeId},
    replica::{Observer, OwnBatch},
    state::{Command, Effect, Origin},
};
use mosquorum_storage::log::Payload;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::mpsc;

/// Something that changes how this node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncarnationEvent {
    /// The state knows this incarnation as up.
    Up(Incarnation),
    /// The state knows this incarnation (and all before) as down, or its lease ran out.
    Ended(Incarnation),
    /// A snapshot took the place of the state: what this incarnation waited for is not known any more.
    Replaced,
}

pub(crate) struct Hub {
    live: Arc<dyn LiveSide>,
    proposer: Arc<Proposer>,
    events: mpsc::UnboundedSender<IncarnationEvent>,
    node: AtomicU64,
    silent: AtomicBool,
}

impl Hub {
    pub(crate) fn new(
        live: Arc<dyn LiveSide>,
        proposer: Arc<Proposer>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<IncarnationEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let hub = Self { live, proposer, events, node: AtomicU64::new(0), silent: AtomicBool::new(true) };
        (Arc::new(hub), receiver)
    }

    /// The start's replay is over: from now on effects are passed on.
    pub(crate) fn start_reporting(&self, node: NodeId) {
        self.node.store(node.0, Ordering::Relaxed);
        self.silent.store(false, Ordering::Release);
    }

    pub(crate) fn report(&self, event: IncarnationEvent) {
        // Nobody listens only when the node is shutting down.
        let _ = self.events.send(event);
    }
}

impl Observer for Hub {
    fn take_commands(&self, header: &BatchHeader) -> Option<Vec<Command>> {
        self.proposer.take_commands(header.origin, header.sequence)
    }

    fn proposed(&self, header: &BatchHeader) -> Option<Payload> {
        self.proposer.encoded(header.origin, header.sequence)
    }

    fn on_applied(&self, effects: Vec<Effect>, batches: Vec<OwnBatch>) {
        if self.silent.load(Ordering::Acquire) {
            return;
        }
        let this = self.node.load(Ordering::Relaxed);
        for effect in &effects {
            if let Effect::NodeChanged { node, incarnation, up } = effect
                && node.0 == this
            {
                self.report(if *up {
                    IncarnationEvent::Up(*incarnation)
                } else {
                    IncarnationEvent::Ended(*incarnation)
                });
            }
        }
        if !effects.is_empty() {
            self.live.on_effects(effects);
        }
        for batch in batches {
            self.proposer.applied(batch.origin, batch.sequence, batch.outcomes, batch.index);
        }
    }

    fn on_ignored(&self, origin: Origin, sequence: u64) {
        self.proposer.ignored(origin, sequence);
    }

    fn on_replaced(&self) {
        if !self.silent.load(Ordering::Acquire) {
            self.report(IncarnationEvent::Replaced);
        }
    }
}
