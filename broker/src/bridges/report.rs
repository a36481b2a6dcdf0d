//! What a bridge says about itself: under `$SYS/broker/bridges/NAME/` on the node that runs it, and as metrics.
use super::{
    local, placement,
    status::{Figures, Status},
};
use crate::{
    broker::Broker,
    config::BridgeConfig,
    metrics::{model::Reading, table},
};
use mosquorum_bridge::BridgeSettings;
use std::sync::Arc;

/// Under `$SYS`.
pub(super) fn publish(broker: &Broker, bridge: &BridgeSettings, status: &Status) {
    let inner = status.read();
    let all = inner.total();
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
        broker.sys.set(&broker.router, &topic(name), value.to_string());
    }
    for (reason, count) in inner.drops() {
        broker.sys.set(&broker.router, &topic(&format!("drops/{reason}")), count.to_string());
    }
    broker.sys.set(&broker.router, &topic("last_error"), inner.last_error);
}

/// Metrics of all bridges that this node may run.
pub(super) fn read_metrics(broker: &Broker, bridges: &[(Arc<BridgeConfig>, Arc<Status>)], r: &mut Reading) {
    let read: Vec<(&BridgeSettings, Figures)> =
        bridges.iter().map(|(config, status)| (&*config.settings, status.read())).collect();
    let family = r.family(&table::BRIDGE_HERE);
    for (bridge, _) in &read {
        family.with([("bridge", &bridge.name)], placement::is_here(broker, &bridge.name).into());
    }
    let family = r.family(&table::BRIDGE_UP);
    read.iter().for_each(|(bridge, inner)| family.with([("bridge", &bridge.name)], inner.connected.into()));
    let family = r.family(&table::BRIDGE_QUEUED_MESSAGES);
    for (bridge, _) in &read {
        family.with([("bridge", &bridge.name)], local::queued(broker, bridge) as u64);
    }
    let family = r.family(&table::BRIDGE_CONNECTIONS_TOTAL);
    read.iter().for_each(|(bridge, inner)| family.with([("bridge", &bridge.name)], inner.connections));
    let family = r.family(&table::BRIDGE_MESSAGES_TOTAL);
    for (bridge, inner) in &read {
        family.with([("bridge", &bridge.name), ("direction", "out")], inner.total().sent);
        family.with([("bridge", &bridge.name), ("direction", "in")], inner.total().received);
    }
    let family = r.family(&table::BRIDGE_DROPPED_TOTAL);
    for (bridge, inner) in &read {
        for (reason, count) in inner.drops() {
            family.with([("bridge", &bridge.name), ("reason", reason)], count);
        }
    }
}
