//! What a bridge says about itself under `$SYS/broker/bridges/NAME/`, on the node that runs it.
use super::local;
use crate::broker::Broker;
use mosquorum_bridge::{BridgeSettings, Counts};
use parking_lot::Mutex;

#[derive(Debug, Default)]
pub(super) struct Status {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone)]
struct Inner {
    connected: bool,
    connections: u64,
    /// Of connections that are over.
    before: Counts,
    now: Counts,
    last_error: String,
}

impl Status {
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

    pub(super) fn publish(&self, broker: &Broker, bridge: &BridgeSettings) {
        let inner = self.inner.lock().clone();
        let all = sum(inner.before, inner.now);
        let queued = local::queued(broker, bridge) as u64;
        let values = [
            ("state", u64::from(inner.connected)),
            ("queue", queued),
            ("sent", all.sent),
            ("received", all.received),
            ("reconnects", inner.connections.saturating_sub(1)),
            ("drops/too_large", all.dropped_too_large),
            ("drops/refused", all.dropped_refused),
            ("drops/topic", all.dropped_topic),
            ("drops/overflow", all.dropped_overflow),
        ];
        let topic = |name: &str| format!("$SYS/broker/bridges/{}/{name}", bridge.name);
        for (name, value) in values {
            broker.sys.set(broker, &topic(name), value.to_string());
        }
        broker.sys.set(broker, &topic("last_error"), inner.last_error);
    }
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        sent: a.sent + b.sent,
        received: a.received + b.received,
        dropped_too_large: a.dropped_too_large + b.dropped_too_large,
        dropped_refused: a.dropped_refused + b.dropped_refused,
        dropped_topic: a.dropped_topic + b.dropped_topic,
        dropped_overflow: a.dropped_overflow + b.dropped_overflow,
    }
}
