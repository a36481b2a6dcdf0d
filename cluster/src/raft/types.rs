//! The Raft library's types as this crate uses them, and their conversions to and from ours.
use crate::entry::MembershipRecord;
use mosquorum_proto::peer::raft as wire;
use mosquorum_storage::log::LogId as StoredLogId;
use openraft::{impls::leader_id_adv, type_config::alias};
use std::fmt;

openraft::declare_raft_types!(
    /// One group: opaque proposals, answered by our own apply.
    pub(crate) TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = Member,
);

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// A batch as the log holds it (see [`crate::entry`]).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proposal(pub(crate) mosquorum_storage::log::Payload);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// A node of the cluster: its name in the configuration and `host:port`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) address: String,
}

fn leader_id(term: u64, node: u64) -> leader_id_adv::LeaderId<u64, u64> {
    leader_id_adv::LeaderId { term, node_id: node }
}

pub(crate) fn log_id(id: StoredLogId) -> LogId {
    LogId::new(leader_id(id.term, id.node), id.index)
}

pub(crate) fn stored_log_id(id: &LogId) -> StoredLogId {
    StoredLogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> LogId {
    LogId::new(leader_id(id.term, id.node), id.index)
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(crate) fn vote_from_wire(vote: wire::Vote) -> Vote {
    Vote { leader_id: leader_id(vote.term, vote.node), committed: vote.committed }
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// The vote as the log keeps it: term, node, committed.
pub(crate) fn vote_to_bytes(vote: &Vote) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&vote.leader_id.term.to_le_bytes());
    bytes[8..16].copy_from_slice(&vote.leader_id.node_id.to_le_bytes());
    bytes[16] = u8::from(vote.committed);
    bytes
}

/// The vote, as bytes, of a node that has nothing but a snapshot up to `last`: what it is elected with next is later.
pub(crate) fn vote_after_snapshot(last: StoredLogId) -> [u8; 17] {
    vote_to_bytes(&Vote { leader_id: leader_id(last.term, last.node), committed: false })
}

pub(crate) fn vote_from_bytes(bytes: &[u8]) -> Option<Vote> {
    let bytes: &[u8; 17] = bytes.try_into().ok()?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes of 17"));
    Some(Vote { leader_id: leader_id(word(0), word(8)), committed: bytes[16] != 0 })
}

pub(crate) fn membership(record: MembershipRecord) -> Result<Membership, String> {
    let nodes = record.nodes.into_iter().map(|(id, (name, address))| (id, Member { name, address }));
    Membership::new(record.configs, nodes.collect::<std::collections::BTreeMap<_, _>>()).map_err(|e| e.to_string())
}

pub(crate) fn membership_record(membership: &Membership) -> MembershipRecord {
    MembershipRecord {
        configs: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, node)| (*id, (node.name.clone(), node.address.clone()))).collect(),
    }
}
