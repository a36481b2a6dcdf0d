//! Metrics: every counter of `$SYS`, and what only operators need, as one reading.
//! Always true: a reading asks nobody and waits for nothing but short locks; it does not visit connections, so it costs the
//! same with 20,000 of them.
mod certificates;
mod cluster;
pub mod exposition;
mod memory;
pub mod model;
mod process;
pub mod reference;
pub(crate) mod table;

use crate::{
    bridges,
    broker::Broker,
    config::ListenerProtocol,
    live::counters::CounterValues,
    logging::lines::{MOSQUITTO_VERSION, VERSION},
};
use model::Reading;
use std::sync::atomic::Ordering::Relaxed;

/// Everything, now. Without a broker (it is still starting) only what the process itself knows.
#[must_use]
pub fn read(broker: Option<&Broker>, ready: bool) -> Reading {
    let mut reading = Reading::default();
    let build = reading.family(&table::BUILD_INFO);
    build.with([("version", VERSION), ("mosquitto_version", MOSQUITTO_VERSION)], 1);
    reading.family(&table::READY).whole(ready.into());
    process::read(&mut reading);
    if let Some(broker) = broker {
        let counts = broker.counters.read();
        traffic(&counts, &mut reading);
        packets(&counts, &mut reading);
        drops(broker, &counts, &mut reading);
        listeners(broker, &mut reading);
        state(broker, &counts, &mut reading);
        cluster::read(broker, &mut reading);
        memory::read(broker, &mut reading);
        bridges::read_metrics(broker, &mut reading);
        certificates::read(broker, &mut reading);
    }
    reading
}

fn traffic(c: &CounterValues, r: &mut Reading) {
    r.family(&table::RECEIVED_BYTES_TOTAL).whole(c.bytes_received);
    r.family(&table::SENT_BYTES_TOTAL).whole(c.bytes_sent);
    let by_qos = |all: u64, one: u64, two: u64| [("0", all.saturating_sub(one + two)), ("1", one), ("2", two)];
    let received = by_qos(c.publish_received, c.publish_received_qos1, c.publish_received_qos2);
    let sent = by_qos(c.publish_sent, c.publish_sent_qos1, c.publish_sent_qos2);
    let family = r.family(&table::PUBLISHES_RECEIVED_TOTAL);
    received.iter().for_each(|(qos, count)| family.with([("qos", qos)], *count));
    let family = r.family(&table::PUBLISHES_SENT_TOTAL);
    sent.iter().for_each(|(qos, count)| family.with([("qos", qos)], *count));
    r.family(&table::PUBLISH_RECEIVED_BYTES_TOTAL).whole(c.publish_bytes_received);
    r.family(&table::PUBLISH_SENT_BYTES_TOTAL).whole(c.publish_bytes_sent);
    r.family(&table::CONNECTIONS_OPENED_TOTAL).whole(c.sockets_opened);
    r.family(&table::CONNECTIONS_CLOSED_TOTAL).whole(c.sockets_closed);
    r.family(&table::CLIENTS_ACCEPTED_TOTAL).whole(c.clients_total);
    r.family(&table::CLIENTS_REFUSED_TOTAL).whole(c.clients_refused);
}

fn packets(c: &CounterValues, r: &mut Reading) {
    let received = [
        ("connect", c.connects_received),
        ("publish", c.publish_received),
        ("puback", c.pubacks_received),
        ("pubrec", c.pubrecs_received),
        ("pubrel", c.pubrels_received),
        ("pubcomp", c.pubcomps_received),
        ("subscribe", c.subscribes_received),
        ("unsubscribe", c.unsubscribes_received),
        ("pingreq", c.pings_received),
        ("disconnect", c.disconnects_received),
        ("auth", c.auths_received),
    ];
    let sent = [
        ("connack", c.connacks_sent),
        ("publish", c.publish_sent),
        ("puback", c.pubacks_sent),
        ("pubrec", c.pubrecs_sent),
        ("pubrel", c.pubrels_sent),
        ("pubcomp", c.pubcomps_sent),
        ("suback", c.subacks_sent),
        ("unsuback", c.unsubacks_sent),
        ("pingresp", c.pings_sent),
        ("disconnect", c.disconnects_sent),
    ];
    let family = r.family(&table::PACKETS_RECEIVED_TOTAL);
    received.iter().for_each(|(kind, count)| family.with([("type", kind)], *count));
    let family = r.family(&table::PACKETS_SENT_TOTAL);
    sent.iter().for_each(|(kind, count)| family.with([("type", kind)], *count));
}

fn drops(broker: &Broker, c: &CounterValues, r: &mut Reading) {
    let links = broker.peers.metrics().links;
    let link_full = links.iter().map(|link| link.dropped + link.refused).sum();
    let reasons = [
        ("queue_full", c.dropped_queue_full),
        ("queue_bytes", c.dropped_queue_bytes),
        ("expired", c.dropped_expired),
        ("session_ended", c.dropped_session_ended),
        ("not_authorized", c.dropped_not_authorized),
        ("too_large", c.dropped_too_large),
        ("slow_reader", c.dropped_slow_reader),
        ("no_group_member", c.dropped_no_member),
        ("peer_link_full", link_full),
        ("publish_refused", c.publish_dropped),
    ];
    let family = r.family(&table::MESSAGES_DROPPED_TOTAL);
    reasons.iter().for_each(|(reason, count)| family.with([("reason", reason)], *count));
}

fn listeners(broker: &Broker, r: &mut Reading) {
    let listeners = broker.listeners.load();
    let settings: Vec<_> = listeners.iter().map(|listener| listener.settings()).collect();
    let names: Vec<String> = settings.iter().map(|settings| settings.address.to_string()).collect();
    let family = r.family(&table::CONNECTIONS);
    for ((listener, settings), name) in listeners.iter().zip(&settings).zip(&names) {
        let transport = match settings.protocol {
            ListenerProtocol::Mqtt => "mqtt",
            ListenerProtocol::Websockets => "websockets",
            ListenerProtocol::HttpApi => "http_api",
        };
        family.with([("listener", name), ("transport", transport)], listener.connections.load(Relaxed) as u64);
    }
    let family = r.family(&table::CLIENTS);
    for (listener, name) in listeners.iter().zip(&names) {
        for (version, count) in listener.clients.read() {
            family.with([("listener", name.as_str()), ("protocol", version)], count);
        }
    }
}

fn state(broker: &Broker, c: &CounterValues, r: &mut Reading) {
    let connected = broker.registry.len();
    let (live, live_shared) = broker.router.subscription_counts();
    let (totals, expired) = {
        let state = broker.consensus.state().read();
        (state.totals(), state.counters().sessions_expired)
    };
    r.family(&table::CLIENTS_CONNECTED).whole(connected as u64);
    r.family(&table::CLIENTS_CONNECTED_MAX).whole(broker.sys.note_connected(connected) as u64);
    let sessions = r.family(&table::SESSIONS);
    sessions.with([("state", "connected")], totals.connected as u64);
    sessions.with([("state", "disconnected")], totals.disconnected as u64);
    r.family(&table::SESSIONS_EXPIRED_TOTAL).whole(expired + c.clients_expired);
    let ordinary = (totals.subscriptions + live).saturating_sub(totals.shared_subscriptions + live_shared);
    let family = r.family(&table::SUBSCRIPTIONS);
    family.with([("kind", "ordinary")], ordinary as u64);
    family.with([("kind", "shared")], (totals.shared_subscriptions + live_shared) as u64);
    r.family(&table::RETAINED_MESSAGES).whole(totals.retained as u64);
    r.family(&table::STORED_MESSAGES).whole(totals.messages as u64);
    r.family(&table::STORED_MESSAGE_BYTES).whole(totals.message_bytes);
}
