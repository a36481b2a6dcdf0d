//! Who waits for acknowledgements of other nodes.
//! Always true: an answer is given once, when the last node that it waits for has acknowledged or is down; never with a
//! lock held (the methods that hold locks return [`Settled`]).
use super::encode::Handed;
use crate::facade::{Answer, Completion};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One node's share of an answer.
#[derive(Clone)]
pub(crate) enum Pending {
    One(Waiter),
    Shared(Arc<Countdown>),
    All(Vec<Pending>),
}

#[derive(Clone)]
pub(crate) struct Waiter {
    pub(crate) reply: Arc<dyn Completion>,
    pub(crate) ticket: u64,
    pub(crate) answer: Answer,
}

pub(crate) struct Countdown {
    left: AtomicUsize,
    waiter: Waiter,
}

impl Waiter {
    fn complete(&self) {
        self.reply.complete(self.ticket, self.answer.clone());
    }

    /// Shares the answer among `nodes`; with none it is given at once.
    pub(crate) fn share(self, nodes: usize) -> Option<Pending> {
        match nodes {
            0 => {
                self.complete();
                None
            }
            1 => Some(Pending::One(self)),
            _ => Some(Pending::Shared(Arc::new(Countdown { left: AtomicUsize::new(nodes), waiter: self }))),
        }
    }
}

impl Pending {
    /// This node has acknowledged, or is down.
    pub(crate) fn settle(self) {
        match self {
            Self::One(waiter) => waiter.complete(),
            Self::Shared(countdown) => {
                if countdown.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    countdown.waiter.complete();
                }
            }
            Self::All(pending) => pending.into_iter().for_each(Self::settle),
        }
    }
}

/// What became settled while a lock was held; settle it when the lock is gone.
#[must_use]
#[derive(Default)]
pub(crate) struct Settled {
    pending: Vec<Pending>,
    /// Messages for shared groups that were on their way to a node that is gone.
    pub(crate) orphans: Vec<Handed>,
}

impl Settled {
    /// Gives the answers; the orphans were seen to before.
    pub(crate) fn settle(self) {
        self.pending.into_iter().for_each(Pending::settle);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.pending.extend(other.pending);
        self.orphans.extend(other.orphans);
    }

    pub(crate) fn extend(&mut self, pending: impl IntoIterator<Item = Pending>) {
        self.pending.extend(pending);
    }
}

impl FromIterator<Pending> for Settled {
    fn from_iter<I: IntoIterator<Item = Pending>>(pending: I) -> Self {
        Self { pending: pending.into_iter().collect(), orphans: Vec::new() }
    }
}
