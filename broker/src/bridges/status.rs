//! What a bridge has done on this node.
use mosquorum_bridge::Counts;
use mosquorum_cluster::state::DropReason;
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(super) struct Status {
    inner: Mutex<Figures>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    pub(super) connected: bool,
    pub(super) connections: u64,
    /// Of connections that are over.
    before: Counts,
    now: Counts,
    pub(super) last_error: String,
    queue_full: u64,
    queue_bytes: u64,
    expired: u64,
    session_ended: u64,
}

impl Figures {
    /// Over all connections.
    pub(super) fn total(&self) -> Counts {
        sum(self.before, self.now)
    }

    /// Everything that did not reach the other side, by reason.
    pub(super) fn drops(&self) -> [(&'static str, u64); 9] {
        let all = self.total();
        [
            ("queue_full", self.queue_full),
            ("queue_bytes", self.queue_bytes),
            ("expired", self.expired),
            ("session_ended", self.session_ended),
            ("too_large", all.dropped_too_large),
            ("refused", all.dropped_refused),
            ("topic", all.dropped_topic),
            ("loop", all.dropped_loop),
            ("window", all.dropped_full),
        ]
    }
}

impl Status {
    pub(super) fn read(&self) -> Figures {
        self.inner.lock().clone()
    }

    /// Messages that would have waited, or did, in the bridge's session.
    pub(super) fn queue_dropped(&self, reason: DropReason, count: u32) {
        let mut inner = self.inner.lock();
        let counter = match reason {
            DropReason::QueueFull => &mut inner.queue_full,
            DropReason::QueueBytes => &mut inner.queue_bytes,
            DropReason::Expired => &mut inner.expired,
            DropReason::SessionEnded => &mut inner.session_ended,
        };
        *counter += u64::from(count);
    }

    pub(super) fn connected(&self) {
        let mut inner = self.inner.lock();
        inner.connected = true;
        inner.connections += 1;
    }

    pub(super) fn counted(&self, counts: Counts) {
        self.inner.lock().now = counts;
    }

    /// The connection is over, or could not be made. Returns whether the reason is news.
    pub(super) fn ended(&self, error: &str) -> bool {
        let mut inner = self.inner.lock();
        let (before, now) = (inner.before, std::mem::take(&mut inner.now));
        inner.before = sum(before, now);
        let news = inner.connected || inner.last_error != error;
        inner.connected = false;
        error.clone_into(&mut inner.last_error);
        news
    }
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        sent: a.sent + b.sent,
        received: a.received + b.received,
        dropped_too_large: a.dropped_too_large + b.dropped_too_large,
        dropped_refused: a.dropped_refused + b.dropped_refused,
        dropped_topic: a.dropped_topic + b.dropped_topic,
        dropped_loop: a.dropped_loop + b.dropped_loop,
        dropped_full: a.dropped_full + b.dropped_full,
    }
}
