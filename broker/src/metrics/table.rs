//! The one table of metrics.
//! Always true: each name stands here once; what is read, exported and told in docs/metrics.md are these rows and nothing
//! else.
use super::model::{
    Kind::{Counter, Gauge, Histogram},
    Metric,
};

/// A label and the values that it has.
type Label = (&'static str, &'static str);

const BRIDGE: Label = ("bridge", "the name of its `connection`");
const LISTENER: Label = ("listener", "its address and port, or path");
const PEER: Label = ("peer", "the other node's `cluster_name`");
const QOS: Label = ("qos", "0, 1, 2");

/// Rows by chapter: a constant for the code that fills the metric, its type, name, unit, labels and meaning.
macro_rules! table {
    ($($chapter:literal { $($constant:ident $kind:ident $name:literal $unit:literal $labels:tt $help:literal)* })*) => {
        $($(pub(crate) static $constant: Metric =
            Metric { name: $name, kind: $kind, unit: $unit, labels: &$labels, help: $help };)*)*

        /// Headings and the rows below them.
        pub(crate) static CHAPTERS: &[(&str, &[&Metric])] = &[$(($chapter, &[$(&$constant),*])),*];
    };
}

table! {
"The node" {
    BUILD_INFO Gauge "mosquorum_build_info" "1"
        [("version", "of mosquorum"), ("mosquitto_version", "that it behaves as")]
        "Versions; always 1."
    READY Gauge "mosquorum_ready" "0 or 1" []
        "Whether clients should be sent to this node."
    CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS Gauge "mosquorum_certificate_expiry_timestamp_seconds" "seconds since 1970"
        [("use", "`listener ADDRESS`, `cluster`, `bridge NAME`")]
        "When a certificate of this node ends, in seconds since 1970."
    MEMORY_BYTES Gauge "mosquorum_memory_bytes" "bytes" [("owner", "messages, commands, peer_links, rest")]
        "Resident memory by who holds it; rest is what nobody counts."
    HEALTH_CONNECTIONS_DROPPED_TOTAL Counter "mosquorum_health_connections_dropped_total" "connections" []
        "Connections to the health listener that were closed to make room for others."
}
"Traffic" {
    RECEIVED_BYTES_TOTAL Counter "mosquorum_received_bytes_total" "bytes" []
        "Bytes read from clients."
    SENT_BYTES_TOTAL Counter "mosquorum_sent_bytes_total" "bytes" []
        "Bytes written to clients."
    PUBLISHES_RECEIVED_TOTAL Counter "mosquorum_publishes_received_total" "packets" [QOS]
        "PUBLISH packets from clients."
    PUBLISHES_SENT_TOTAL Counter "mosquorum_publishes_sent_total" "packets" [QOS]
        "PUBLISH packets to clients."
    PUBLISH_RECEIVED_BYTES_TOTAL Counter "mosquorum_publish_received_bytes_total" "bytes" []
        "Payload bytes of PUBLISH packets from clients."
    PUBLISH_SENT_BYTES_TOTAL Counter "mosquorum_publish_sent_bytes_total" "bytes" []
        "Payload bytes of PUBLISH packets to clients."
    PACKETS_RECEIVED_TOTAL Counter "mosquorum_packets_received_total" "packets"
        [("type", "the packet's name: connect, publish, ...")]
        "MQTT packets from clients, by type."
    PACKETS_SENT_TOTAL Counter "mosquorum_packets_sent_total" "packets"
        [("type", "the packet's name: connack, publish, ...")]
        "MQTT packets to clients, by type."
    MESSAGES_DROPPED_TOTAL Counter "mosquorum_messages_dropped_total" "messages"
        [("reason", "queue_full, queue_bytes, expired, session_ended, not_authorized, too_large, slow_reader, no_group_member, peer_link_full, publish_refused")]
        "Messages that did not reach a client or queue they were meant for, by reason."
}
"Connections and clients" {
    CONNECTIONS_OPENED_TOTAL Counter "mosquorum_connections_opened_total" "connections" []
        "Network connections."
    CONNECTIONS_CLOSED_TOTAL Counter "mosquorum_connections_closed_total" "connections" []
        "Network connections that ended."
    CLIENTS_ACCEPTED_TOTAL Counter "mosquorum_clients_accepted_total" "packets" []
        "CONNECT packets answered with success."
    CLIENTS_REFUSED_TOTAL Counter "mosquorum_clients_refused_total" "connections" []
        "Connections and CONNECT packets refused, for any reason."
    CONNECTIONS Gauge "mosquorum_connections" "connections"
        [LISTENER, ("transport", "mqtt, websockets, http_api")]
        "Open network connections of a listener, those without a CONNECT yet included."
    CLIENTS Gauge "mosquorum_clients" "clients" [LISTENER, ("protocol", "3.1, 3.1.1, 5.0")]
        "Clients in service, by version of their protocol."
    CLIENTS_CONNECTED Gauge "mosquorum_clients_connected" "clients" []
        "Clients connected to this node."
    CLIENTS_CONNECTED_MAX Gauge "mosquorum_clients_connected_max" "clients" []
        "Most clients connected to this node at a time, as seen at each update of $SYS."
}
"Sessions and messages" {
    SESSIONS Gauge "mosquorum_sessions" "sessions" [("state", "connected, disconnected")]
        "Sessions with a record, on all nodes: with a connection, or waiting for one."
    SESSIONS_EXPIRED_TOTAL Counter "mosquorum_sessions_expired_total" "sessions" []
        "Sessions that expired or were removed, on all nodes."
    SUBSCRIPTIONS Gauge "mosquorum_subscriptions" "subscriptions" [("kind", "ordinary, shared")]
        "Subscriptions of sessions with a record, and of this node's other clients."
    RETAINED_MESSAGES Gauge "mosquorum_retained_messages" "messages" []
        "Retained messages."
    STORED_MESSAGES Gauge "mosquorum_stored_messages" "messages" []
        "Messages that queues and topics hold, each counted once."
    STORED_MESSAGE_BYTES Gauge "mosquorum_stored_message_bytes" "bytes" []
        "Payloads of the messages that queues and topics hold."
}
"Cluster and Raft" {
    CLUSTER_AVAILABLE Gauge "mosquorum_cluster_available" "0 or 1" []
        "Whether a majority was heard of a moment ago and knows this node as serving."
    CLUSTER_LEASE_VALID Gauge "mosquorum_cluster_lease_valid" "0 or 1" []
        "Whether this node holds a valid lease of a majority."
    CLUSTER_MEMBERS Gauge "mosquorum_cluster_members" "nodes" [("kind", "voter, learner")]
        "Members of the cluster, as this node knows them."
    RAFT_ROLE Gauge "mosquorum_raft_role" "0 or 1" [("role", "leader, follower, candidate, learner, none")]
        "What this node is in its group: 1 for one role, 0 for the others."
    RAFT_TERM Gauge "mosquorum_raft_term" "term" []
        "The current term."
    RAFT_LEADER_NODE Gauge "mosquorum_raft_leader_node" "node number" []
        "Number of the node that leads, 0 if none is known."
    RAFT_LAST_INDEX Gauge "mosquorum_raft_last_index" "log index" []
        "Last entry in this node's log."
    RAFT_COMMITTED_INDEX Gauge "mosquorum_raft_committed_index" "log index" []
        "Last entry that this node knows as committed."
    RAFT_APPLIED_INDEX Gauge "mosquorum_raft_applied_index" "log index" []
        "Last entry that is applied here."
    RAFT_SNAPSHOT_INDEX Gauge "mosquorum_raft_snapshot_index" "log index" []
        "Last entry that this node's snapshot covers."
    RAFT_PURGED_INDEX Gauge "mosquorum_raft_purged_index" "log index" []
        "This node's log starts behind this entry."
    RAFT_BEHIND_ENTRIES Gauge "mosquorum_raft_behind_entries" "entries" []
        "Entries committed in the cluster that are not applied here yet."
    RAFT_MEMBER_LAG_ENTRIES Gauge "mosquorum_raft_member_lag_entries" "entries" [("member", "its `cluster_name`")]
        "Entries that a member does not have yet; known to the leader only."
}
"The log and its disk" {
    COMMIT_DURATION_SECONDS Histogram "mosquorum_commit_duration_seconds" "seconds" []
        "From the proposal of a batch of this node's commands to its apply here."
    FSYNC_DURATION_SECONDS Histogram "mosquorum_fsync_duration_seconds" "seconds" []
        "fdatasync of the log."
    APPLY_DURATION_SECONDS Histogram "mosquorum_apply_duration_seconds" "seconds" []
        "Applying a group of committed entries."
    PROPOSED_BYTES Gauge "mosquorum_proposed_bytes" "bytes" []
        "Commands of this node that wait for their commit."
    LOG_ENTRIES_TOTAL Counter "mosquorum_log_entries_total" "entries" []
        "Entries written to the log."
    LOG_WRITTEN_BYTES_TOTAL Counter "mosquorum_log_written_bytes_total" "bytes" []
        "Bytes written to the log."
    LOG_SIZE_BYTES Gauge "mosquorum_log_size_bytes" "bytes" []
        "Log segments in use."
    LOG_SEGMENT_WAITS_TOTAL Counter "mosquorum_log_segment_waits_total" "waits" []
        "Times the log waited for its next segment: the disk is slow or full."
}
"Links to other nodes" {
    PEER_UP Gauge "mosquorum_peer_up" "0 or 1" [PEER]
        "Whether the live link to another node is connected and in step."
    PEER_QUEUE_BYTES Gauge "mosquorum_peer_queue_bytes" "bytes" [PEER]
        "Live messages that wait for a link or its confirmation."
    PEER_SENT_ITEMS_TOTAL Counter "mosquorum_peer_sent_items_total" "items" [PEER]
        "Items sent over the live link to another node."
    PEER_DROPPED_TOTAL Counter "mosquorum_peer_dropped_total" "messages" [PEER, ("qos", "`0`, `1 or 2`")]
        "Messages not taken by a full link, by QoS."
    PEER_RECEIVED_ITEMS_TOTAL Counter "mosquorum_peer_received_items_total" "items" []
        "Items received from other nodes."
    PEER_INVALID_ITEMS_TOTAL Counter "mosquorum_peer_invalid_items_total" "items" []
        "Items of other nodes that could not be understood."
    PEER_FILTERS Gauge "mosquorum_peer_filters" "filters" []
        "Filters of other nodes known here."
    CLAIMS Gauge "mosquorum_claims" "client identifiers" [("state", "pending, held")]
        "Client identifiers being claimed here, and held in the leader's table."
}
"Bridges" {
    BRIDGE_HERE Gauge "mosquorum_bridge_here" "0 or 1" [BRIDGE]
        "Whether it is this node's turn to run the bridge."
    BRIDGE_UP Gauge "mosquorum_bridge_up" "0 or 1" [BRIDGE]
        "Whether this node has the bridge connected to its remote."
    BRIDGE_QUEUED_MESSAGES Gauge "mosquorum_bridge_queued_messages" "messages" [BRIDGE]
        "Messages that wait for the remote."
    BRIDGE_CONNECTIONS_TOTAL Counter "mosquorum_bridge_connections_total" "connections" [BRIDGE]
        "Connections that the remote has accepted."
    BRIDGE_MESSAGES_TOTAL Counter "mosquorum_bridge_messages_total" "messages" [BRIDGE, ("direction", "out, in")]
        "Messages that this node carried, by direction."
    BRIDGE_DROPPED_TOTAL Counter "mosquorum_bridge_dropped_total" "messages"
        [BRIDGE, ("reason", "queue_full, queue_bytes, expired, session_ended, too_large, refused, topic, loop, window")]
        "Messages of a bridge that were dropped on this node, by reason."
}
"The process" {
    PROCESS_RESIDENT_MEMORY_BYTES Gauge "process_resident_memory_bytes" "bytes" []
        "Memory in use."
    PROCESS_VIRTUAL_MEMORY_BYTES Gauge "process_virtual_memory_bytes" "bytes" []
        "Address space in use."
    PROCESS_THREADS Gauge "process_threads" "threads" []
        "Threads."
    PROCESS_CPU_SECONDS_TOTAL Counter "process_cpu_seconds_total" "seconds" []
        "Processor time used, user and system."
    PROCESS_OPEN_FDS Gauge "process_open_fds" "file descriptors" []
        "Open file descriptors."
    PROCESS_MAX_FDS Gauge "process_max_fds" "file descriptors" []
        "File descriptors that may be open."
    PROCESS_START_TIME_SECONDS Gauge "process_start_time_seconds" "seconds since 1970" []
        "When the process started, since 1970."
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_says_type_and_unit_and_stands_once() {
        let mut names = BTreeSet::new();
        for Metric { name, kind, unit, labels, help } in CHAPTERS.iter().flat_map(|(_, rows)| *rows) {
            assert!(names.insert(name), "{name}");
            assert!(name.starts_with("mosquorum_") || name.starts_with("process_"), "{name}");
            assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
            let base = name.trim_end_matches("_total");
            assert_eq!(base.ends_with("_bytes"), *unit == "bytes", "{name}: {unit}");
            assert_eq!(base.ends_with("_seconds"), unit.starts_with("seconds"), "{name}: {unit}");
            let texts = labels.iter().flat_map(|(label, values)| [*label, *values]);
            for text in texts.chain([*unit, *help]) {
                assert!(!text.is_empty() && !text.contains(['|', '\n']), "{name}: {text:?} would break a page");
            }
            assert!(help.ends_with('.'), "{name}: {help}");
        }
    }
}
