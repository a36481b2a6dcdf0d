//! Metrics of Raft, the log and the links to other nodes.
use super::model::Reading;
use crate::broker::Broker;
use mosquorum_cluster::{
    ClusterStatus,
    ids::NodeId,
    metrics::{PeerMetrics, Role},
};

pub(super) fn read(broker: &Broker, r: &mut Reading) {
    let status = broker.consensus.status();
    raft(broker, &status, r);
    log(broker, r);
    if broker.clustered {
        peers(&status, &broker.peers.metrics(), r);
    }
}

fn raft(broker: &Broker, status: &ClusterStatus, r: &mut Reading) {
    let yes = u64::from;
    let available = broker.consensus.available();
    let help = "Whether a majority was heard of a moment ago and knows this node as serving.";
    r.gauge("mosquorum_cluster_available", help).whole(yes(available));
    let help = "Whether this node holds a valid lease of a majority.";
    r.gauge("mosquorum_cluster_lease_valid", help).whole(yes(broker.peers.may_serve()));
    let members = r.gauge("mosquorum_cluster_members", "Members of the cluster, as this node knows them.");
    let voters = status.members.iter().filter(|member| member.voter).count();
    members.with([("kind", "voter")], voters as u64);
    members.with([("kind", "learner")], (status.members.len() - voters) as u64);
    let own = broker.consensus.metrics().role;
    let family = r.gauge("mosquorum_raft_role", "What this node is in its group: 1 for one role, 0 for the others.");
    Role::ALL.iter().for_each(|role| family.with([("role", role.name())], yes(*role == own)));
    r.gauge("mosquorum_raft_term", "The current term.").whole(status.term);
    let help = "Number of the node that leads, 0 if none is known.";
    r.gauge("mosquorum_raft_leader_node", help).whole(status.leader.map_or(0, |leader| leader.0));
    r.gauge("mosquorum_raft_last_index", "Last entry in this node's log.").whole(status.last.0);
    r.gauge("mosquorum_raft_committed_index", "Last entry that this node knows as committed.").whole(status.commit.0);
    r.gauge("mosquorum_raft_applied_index", "Last entry that is applied here.").whole(status.applied.0);
    r.gauge("mosquorum_raft_snapshot_index", "Last entry that this node's snapshot covers.").whole(status.snapshot.0);
    r.gauge("mosquorum_raft_purged_index", "This node's log starts behind this entry.").whole(status.purged.0);
    let help = "Entries committed in the cluster that are not applied here yet.";
    r.gauge("mosquorum_raft_behind_entries", help).whole(status.behind);
    let help = "Entries that a member does not have yet; known to the leader only.";
    let family = r.gauge("mosquorum_raft_member_lag_entries", help);
    for member in &status.members {
        if let Some(lag) = member.lag {
            family.with([("member", &member.name)], lag);
        }
    }
}

fn log(broker: &Broker, r: &mut Reading) {
    let m = broker.consensus.metrics();
    let help = "From the proposal of a batch of this node's commands to its apply here.";
    r.histogram("mosquorum_commit_duration_seconds", help, m.commit);
    r.histogram("mosquorum_fsync_duration_seconds", "fdatasync of the log.", m.fsync);
    r.histogram("mosquorum_apply_duration_seconds", "Applying a group of committed entries.", m.apply);
    r.gauge("mosquorum_proposed_bytes", "Commands of this node that wait for their commit.").whole(m.proposed_bytes);
    r.counter("mosquorum_log_entries_total", "Entries written to the log.").whole(m.log_entries);
    r.counter("mosquorum_log_written_bytes_total", "Bytes written to the log.").whole(m.log_written_bytes);
    r.gauge("mosquorum_log_size_bytes", "Log segments in use.").whole(m.log_size_bytes);
    let help = "Times the log waited for its next segment: the disk is slow or full.";
    r.counter("mosquorum_log_segment_waits_total", help).whole(m.log_segment_waits);
}

fn peers(status: &ClusterStatus, peers: &PeerMetrics, r: &mut Reading) {
    let name = |node: NodeId| {
        let member = status.members.iter().find(|member| member.node == node);
        member.map_or_else(|| format!("n{}", node.0), |member| member.name.clone())
    };
    let named: Vec<_> = peers.links.iter().map(|link| (name(link.node), link)).collect();
    let family = r.gauge("mosquorum_peer_up", "Whether the live link to another node is connected and in step.");
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.up.into()));
    let family = r.gauge("mosquorum_peer_queue_bytes", "Live messages that wait for a link or its confirmation.");
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.queued_bytes));
    let family = r.counter("mosquorum_peer_sent_items_total", "Items sent over the live link to another node.");
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.sent));
    let family = r.counter("mosquorum_peer_dropped_total", "Messages not taken by a full link, by QoS.");
    for (name, link) in &named {
        family.with([("peer", name), ("qos", "0")], link.dropped);
        family.with([("peer", name), ("qos", "1 or 2")], link.refused);
    }
    r.counter("mosquorum_peer_received_items_total", "Items received from other nodes.").whole(peers.received);
    let help = "Items of other nodes that could not be understood.";
    r.counter("mosquorum_peer_invalid_items_total", help).whole(peers.invalid);
    r.gauge("mosquorum_peer_filters", "Filters of other nodes known here.").whole(peers.remote_filters);
    let claims = r.gauge("mosquorum_claims", "Client identifiers being claimed here, and held in the leader's table.");
    claims.with([("state", "pending")], peers.claims_pending);
    claims.with([("state", "held")], peers.claims_held);
}
