//! The numbers of `$SYS/broker/...`, from one reading of counters and gauges.
//! Always true: every number that Mosquitto 2.1 documents is here, under its name; ours stand below `drops/`.
use crate::live::counters::CounterValues;

/// What is measured when it is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    pub(super) connected: u64,
    /// Kept sessions whose client is away.
    pub(super) disconnected: u64,
    /// The most clients that were connected at once.
    pub(super) maximum: u64,
    pub(super) expired: u64,
    /// Messages in queues and topics, each once.
    pub(super) messages: u64,
    pub(super) message_bytes: u64,
    pub(super) subscriptions: u64,
    pub(super) shared_subscriptions: u64,
    pub(super) retained: u64,
    /// Memory of the process: now, and at most so far.
    pub(super) memory: u64,
    pub(super) memory_maximum: u64,
    /// Messages that wait for a connection to take them, and their bytes.
    pub(super) waiting: u64,
    pub(super) waiting_bytes: u64,
}

/// The topics of `/api/v1/systree`, below `$SYS/broker/`.
pub(super) const SYSTREE: [&str; 24] = [
    "clients/total",
    "clients/maximum",
    "clients/disconnected",
    "clients/connected",
    "clients/expired",
    "messages/stored",
    "store/messages/bytes",
    "subscriptions/count",
    "shared_subscriptions/count",
    "retained messages/count",
    "heap/current",
    "heap/maximum",
    "messages/received",
    "messages/sent",
    "bytes/received",
    "bytes/sent",
    "publish/bytes/received",
    "publish/bytes/sent",
    "packet/out/count",
    "packet/out/bytes",
    "connections/socket/count",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
];

/// Messages for which there was no room in a queue, as in Mosquitto; other reasons are counted below `drops/`.
pub(super) fn dropped(c: &CounterValues) -> u64 {
    c.dropped_queue_full + c.dropped_queue_bytes + c.dropped_slow_reader
}

/// Packets of any kind.
pub(super) fn messages_sent(c: &CounterValues) -> u64 {
    c.publish_sent
        + c.connacks_sent
        + c.subacks_sent
        + c.unsubacks_sent
        + c.pubacks_sent
        + c.pubrecs_sent
        + c.pubrels_sent
        + c.pubcomps_sent
        + c.pings_sent
        + c.disconnects_sent
}

/// Names below `$SYS/broker/`, and their values.
pub(super) fn numbers(c: &CounterValues, g: &Gauges) -> Vec<(&'static str, u64)> {
    let mut all = traffic(c);
    all.extend(packets(c));
    all.extend(gauges(c, g));
    all.extend([
        ("drops/queue_full", c.dropped_queue_full),
        ("drops/queue_bytes", c.dropped_queue_bytes),
        ("drops/expired", c.dropped_expired),
        ("drops/session_ended", c.dropped_session_ended),
        ("drops/not_authorized", c.dropped_not_authorized),
        ("drops/too_large", c.dropped_too_large),
        ("drops/slow_reader", c.dropped_slow_reader),
        ("drops/no_member", c.dropped_no_member),
        ("clients/refused", c.clients_refused),
    ]);
    all
}

fn gauges(c: &CounterValues, g: &Gauges) -> [(&'static str, u64); 18] {
    [
        ("clients/total", g.connected + g.disconnected),
        ("clients/connected", g.connected),
        ("clients/active", g.connected),
        ("clients/disconnected", g.disconnected),
        ("clients/inactive", g.disconnected),
        ("clients/maximum", g.maximum),
        ("clients/expired", g.expired),
        ("connections/socket/count", c.sockets_opened),
        ("messages/stored", g.messages),
        ("store/messages/count", g.messages),
        ("store/messages/bytes", g.message_bytes),
        ("retained messages/count", g.retained),
        ("subscriptions/count", g.subscriptions),
        ("shared_subscriptions/count", g.shared_subscriptions),
        ("heap/current", g.memory),
        ("heap/maximum", g.memory_maximum),
        ("packet/out/count", g.waiting),
        ("packet/out/bytes", g.waiting_bytes),
    ]
}

fn traffic(c: &CounterValues) -> Vec<(&'static str, u64)> {
    vec![
        ("messages/received", c.messages_received),
        ("messages/sent", messages_sent(c)),
        ("publish/messages/received", c.publish_received),
        ("publish/messages/sent", c.publish_sent),
        ("publish/messages/dropped", dropped(c)),
        ("publish/bytes/received", c.publish_bytes_received),
        ("publish/bytes/sent", c.publish_bytes_sent),
        ("bytes/received", c.bytes_received),
        ("bytes/sent", c.bytes_sent),
    ]
}

/// Each kind of packet.
fn packets(c: &CounterValues) -> [(&'static str, u64); 23] {
    [
        ("mqtt/connect/received", c.connects_received),
        ("mqtt/connack/sent", c.connacks_sent),
        ("mqtt/publish/received", c.publish_received),
        ("mqtt/publish/sent", c.publish_sent),
        ("mqtt/publish/dropped", dropped(c)),
        ("mqtt/puback/received", c.pubacks_received),
        ("mqtt/puback/sent", c.pubacks_sent),
        ("mqtt/pubrec/received", c.pubrecs_received),
        ("mqtt/pubrec/sent", c.pubrecs_sent),
        ("mqtt/pubrel/received", c.pubrels_received),
        ("mqtt/pubrel/sent", c.pubrels_sent),
        ("mqtt/pubcomp/received", c.pubcomps_received),
        ("mqtt/pubcomp/sent", c.pubcomps_sent),
        ("mqtt/subscribe/received", c.subscribes_received),
        ("mqtt/suback/sent", c.subacks_sent),
        ("mqtt/unsubscribe/received", c.unsubscribes_received),
        ("mqtt/unsuback/sent", c.unsubacks_sent),
        ("mqtt/pingreq/received", c.pings_received),
        ("mqtt/pingresp/sent", c.pings_sent),
        ("mqtt/disconnect/received", c.disconnects_received),
        ("mqtt/disconnect/sent", c.disconnects_sent),
        ("mqtt/auth/received", c.auths_received),
        // No method of enhanced authentication is known, so none is answered with AUTH.
        ("mqtt/auth/sent", 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_given_once_and_the_system_tree_names_known_ones() {
        let numbers = numbers(&CounterValues::default(), &Gauges::default());
        let names: BTreeSet<&str> = numbers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), numbers.len());
        assert!(SYSTREE.iter().all(|name| names.contains(name)));
    }

    #[test]
    fn clients_are_those_connected_and_those_away() {
        let gauges = Gauges { connected: 2, disconnected: 3, ..Gauges::default() };
        let numbers = numbers(&CounterValues::default(), &gauges);
        assert!(numbers.contains(&("clients/total", 5)) && numbers.contains(&("clients/inactive", 3)));
    }
}
