//! What a bridge says about itself under `$SYS/broker/bridges/NAME/`, on the node that runs it.
use super::{local, placement};
use crate::{broker::Broker, config::BridgeConfig, metrics::model::Reading};
use mosquorum_bridge::{BridgeSettings, Counts};
use mosquorum_cluster::state::DropReason;
use parking_lot::Mutex;
use std::sync::Arc;

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
    queue_full: u64,
    queue_bytes: u64,
    expired: u64,
    session_ended: u64,
}

impl Inner {
    /// Everything that did not reach the other side, by reason.
    fn drops(&self) -> [(&'static str, u64); 9] {
        let all = sum(self.before, self.now);
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
        ];
        let topic = |name: &str| format!("$SYS/broker/bridges/{}/{name}", bridge.name);
        for (name, value) in values {
            broker.sys.set(broker, &topic(name), value.to_string());
        }
        for (reason, count) in inner.drops() {
            broker.sys.set(broker, &topic(&format!("drops/{reason}")), count.to_string());
        }
        broker.sys.set(broker, &topic("last_error"), inner.last_error);
    }
}

/// Metrics of all bridges that this node may run.
pub(super) fn read_metrics(broker: &Broker, bridges: &[(Arc<BridgeConfig>, Arc<Status>)], r: &mut Reading) {
    let read: Vec<(&BridgeSettings, Inner)> =
        bridges.iter().map(|(config, status)| (&*config.settings, status.inner.lock().clone())).collect();
    let total = |inner: &Inner| sum(inner.before, inner.now);
    let family = r.gauge("mosquorum_bridge_here", "Whether it is this node's turn to run the bridge.");
    for (bridge, _) in &read {
        family.with([("bridge", &bridge.name)], placement::is_here(broker, &bridge.name).into());
    }
    let family = r.gauge("mosquorum_bridge_up", "Whether this node has the bridge connected to its remote.");
    read.iter().for_each(|(bridge, inner)| family.with([("bridge", &bridge.name)], inner.connected.into()));
    let family = r.gauge("mosquorum_bridge_queued_messages", "Messages that wait for the remote.");
    for (bridge, _) in &read {
        family.with([("bridge", &bridge.name)], local::queued(broker, bridge) as u64);
    }
    let family = r.counter("mosquorum_bridge_connections_total", "Connections that the remote has accepted.");
    read.iter().for_each(|(bridge, inner)| family.with([("bridge", &bridge.name)], inner.connections));
    let family = r.counter("mosquorum_bridge_messages_total", "Messages that this node carried, by direction.");
    for (bridge, inner) in &read {
        family.with([("bridge", &bridge.name), ("direction", "out")], total(inner).sent);
        family.with([("bridge", &bridge.name), ("direction", "in")], total(inner).received);
    }
    let help = "Messages of a bridge that were dropped on this node, by reason.";
    let family = r.counter("mosquorum_bridge_dropped_total", help);
    for (bridge, inner) in &read {
        for (reason, count) in inner.drops() {
            family.with([("bridge", &bridge.name), ("reason", reason)], count);
        }
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
