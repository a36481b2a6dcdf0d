//! The receiving end of both lanes of a link.
//! Always true: items are taken only from the latest incarnation of the sender that was seen, and not once the log says that it is
//! over.
use crate::ids::Incarnation;

pub(crate) const LANES: usize = 2;

/// The other end does not keep to the rules (or a stream is left over from a former incarnation): the stream is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("item {number} acknowledged, but {acknowledged} were before and {sent} were sent")]
    Acknowledgement { number: u64, acknowledged: u64, sent: u64 },
    #[error("items start at {first} when {expected} comes next")]
    Gap { first: u64, expected: u64 },
    #[error("incarnation {0:?} is over")]
    Over(Incarnation),
    #[error("stream {0} is over")]
    Stream(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// This node's own incarnation, under which it receives.
    me: Incarnation,
    incarnation: Incarnation,
    /// Incarnations up to this one are over.
    ended: Incarnation,
    received: [u64; LANES],
}

/// A greeting that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The sender begins anew: forget what an earlier incarnation sent.
    pub(crate) fresh: bool,
    /// Everything up to here is handled.
    pub(crate) received: u64,
}

impl Inbox {
    /// The first message of a stream, which this node receives under its incarnation `me`.
    /// # Errors
    /// [`LinkError::Over`].
    pub(crate) fn hello(
        &mut self,
        me: Incarnation,
        incarnation: Incarnation,
        lane: usize,
    ) -> Result<Accepted, LinkError> {
        self.restart(me);
        if me < self.me {
            return Err(LinkError::Over(me));
        }
        if incarnation < self.incarnation || incarnation <= self.ended {
            return Err(LinkError::Over(incarnation));
        }
        let fresh = incarnation > self.incarnation;
        if fresh {
            self.incarnation = incarnation;
            self.received = [0; LANES];
        }
        Ok(Accepted { fresh, received: self.received[lane] })
    }

    /// How many of the items numbered from `first` on were handled before; the others are to be handled now.
    /// # Errors
    /// [`LinkError::Over`], [`LinkError::Gap`].
    pub(crate) fn receive(
        &mut self,
        (me, incarnation): (Incarnation, Incarnation),
        lane: usize,
        first: u64,
        count: usize,
    ) -> Result<usize, LinkError> {
        if me != self.me {
            return Err(LinkError::Over(me));
        }
        if incarnation != self.incarnation || incarnation <= self.ended {
            return Err(LinkError::Over(incarnation));
        }
        let received = &mut self.received[lane];
        if first == 0 || first > *received + 1 {
            return Err(LinkError::Gap { first, expected: *received + 1 });
        }
        let known = usize::try_from(*received + 1 - first).unwrap_or(usize::MAX).min(count);
        *received = (*received).max(first - 1 + count as u64);
        Ok(known)
    }

    pub(crate) fn received(&self, lane: usize) -> u64 {
        self.received[lane]
    }

    /// The incarnation whose items are taken, if it is not over.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        (self.incarnation > self.ended).then_some(self.incarnation)
    }

    /// This node begins another incarnation: every sender begins anew with it. Whether it is news: a greeting under the new one
    /// may come before.
    pub(crate) fn restart(&mut self, me: Incarnation) -> bool {
        let is_news = me > self.me;
        if is_news {
            (self.me, self.incarnation) = (me, Incarnation(0));
            self.received = [0; LANES];
        }
        is_news
    }

    /// The log says that the sender's incarnations up to this one are over. Whether items of one were taken until now.
    pub(crate) fn end(&mut self, incarnation: Incarnation) -> bool {
        let received = self.incarnation().is_some();
        self.ended = self.ended.max(incarnation);
        received && self.incarnation().is_none()
    }
}
