//! Metrics of Raft, the log and the links to other nodes.
use super::{model::Reading, table};
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
    r.family(&table::CLUSTER_AVAILABLE).whole(yes(available));
    r.family(&table::CLUSTER_LEASE_VALID).whole(yes(broker.peers.may_serve()));
    let members = r.family(&table::CLUSTER_MEMBERS);
    let voters = status.members.iter().filter(|member| member.voter).count();
    members.with([("kind", "voter")], voters as u64);
    members.with([("kind", "learner")], (status.members.len() - voters) as u64);
    let own = broker.consensus.metrics().role;
    let family = r.family(&table::RAFT_ROLE);
    Role::ALL.iter().for_each(|role| family.with([("role", role.name())], yes(*role == own)));
    r.family(&table::RAFT_TERM).whole(status.term);
    r.family(&table::RAFT_LEADER_NODE).whole(status.leader.map_or(0, |leader| leader.0));
    r.family(&table::RAFT_LAST_INDEX).whole(status.last.0);
    r.family(&table::RAFT_COMMITTED_INDEX).whole(status.commit.0);
    r.family(&table::RAFT_APPLIED_INDEX).whole(status.applied.0);
    r.family(&table::RAFT_SNAPSHOT_INDEX).whole(status.snapshot.0);
    r.family(&table::RAFT_PURGED_INDEX).whole(status.purged.0);
    r.family(&table::RAFT_BEHIND_ENTRIES).whole(status.behind);
    let family = r.family(&table::RAFT_MEMBER_LAG_ENTRIES);
    for member in &status.members {
        if let Some(lag) = member.lag {
            family.with([("member", &member.name)], lag);
        }
    }
}

fn log(broker: &Broker, r: &mut Reading) {
    let m = broker.consensus.metrics();
    r.histogram(&table::COMMIT_DURATION_SECONDS, m.commit);
    r.histogram(&table::FSYNC_DURATION_SECONDS, m.fsync);
    r.histogram(&table::APPLY_DURATION_SECONDS, m.apply);
    r.family(&table::PROPOSED_BYTES).whole(m.proposed_bytes);
    r.family(&table::LOG_ENTRIES_TOTAL).whole(m.log_entries);
    r.family(&table::LOG_WRITTEN_BYTES_TOTAL).whole(m.log_written_bytes);
    r.family(&table::LOG_SIZE_BYTES).whole(m.log_size_bytes);
    r.family(&table::LOG_SEGMENT_WAITS_TOTAL).whole(m.log_segment_waits);
}

fn peers(status: &ClusterStatus, peers: &PeerMetrics, r: &mut Reading) {
    let name = |node: NodeId| {
        let member = status.members.iter().find(|member| member.node == node);
        member.map_or_else(|| format!("n{}", node.0), |member| member.name.clone())
    };
    let named: Vec<_> = peers.links.iter().map(|link| (name(link.node), link)).collect();
    let family = r.family(&table::PEER_UP);
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.up.into()));
    let family = r.family(&table::PEER_QUEUE_BYTES);
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.queued_bytes));
    let family = r.family(&table::PEER_SENT_ITEMS_TOTAL);
    named.iter().for_each(|(name, link)| family.with([("peer", name)], link.sent));
    let family = r.family(&table::PEER_DROPPED_TOTAL);
    for (name, link) in &named {
        family.with([("peer", name), ("qos", "0")], link.dropped);
        family.with([("peer", name), ("qos", "1 or 2")], link.refused);
    }
    r.family(&table::PEER_RECEIVED_ITEMS_TOTAL).whole(peers.received);
    r.family(&table::PEER_INVALID_ITEMS_TOTAL).whole(peers.invalid);
    r.family(&table::PEER_FILTERS).whole(peers.remote_filters);
    let claims = r.family(&table::CLAIMS);
    claims.with([("state", "pending")], peers.claims_pending);
    claims.with([("state", "held")], peers.claims_held);
}
