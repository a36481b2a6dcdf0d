//! A survivor of a lost majority becomes a cluster of its own: `mosquorum recover --force-new-cluster`, offline.
//! Always true: nothing that this node has is thrown away (entries that it does not know as committed count, since others
//! may have acknowledged them; the old snapshot is moved aside); the new cluster has an identifier of its own, so nodes of the
//! old one cannot speak to it; an interruption at any point leaves a directory on which it can be done again.
//! Not here: whether the others are really lost. Only an operator can know that.
use crate::{
    entry::{BatchHeader, Content, MembershipRecord, encode_batch, encode_commands},
    ids::{Incarnation, Millis, NodeId},
    node::{Disk, Opened, StartError},
    raft::vote_after_snapshot,
    replica::{Committed, Observer, OwnBatch},
    state::{Command, Effect, Origin, State},
};
use mosquorum_storage::log::{LogEntry, LogId};
use parking_lot::RwLock;
use rustls::crypto::ring;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub use crate::node::RaftSettings;

/// Entries are applied in groups of about so many bytes.
const GROUP_BYTES: usize = 8 << 20;

/// What an operator has to know before deciding, and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    pub name: String,
    pub node: u64,
    pub cluster: [u8; 16],
    /// Term and index of the last entry in this node's log: of several survivors the one with the highest is to be taken.
    pub last: (u64, u64),
    /// Up to here this node knows that a majority had the entries.
    pub committed: u64,
    /// Other members, by number and name.
    pub others: Vec<(u64, String)>,
    /// Durable sessions and retained messages that this node has.
    pub sessions: usize,
    pub retained: usize,
    /// The cluster that it is now, if it was made one.
    pub made: Option<[u8; 16]>,
}

/// Reads what a stopped node has; with `force` makes it a cluster of its own. Blocks.
/// # Errors
/// [`StartError`]: the node runs, belongs to no cluster, or its data cannot be read. Nothing was changed then.
pub fn recover(settings: &RaftSettings, force: bool) -> Result<Survivor, StartError> {
    let mut disk = Disk::open(settings)?;
    if disk.directory.identity().is_none() {
        let path = settings.data_dir.display();
        return Err(StartError::State(format!("{path} belongs to no cluster: there is nothing to recover")));
    }
    let state = Arc::new(RwLock::new(State::default()));
    let opened = disk.open_node(state.clone(), Arc::new(Nobody))?;
    let committed = opened.log.committed().map_or(0, |id| id.index);
    let last = apply_all(&opened)?;
    let (_, membership) = opened.replica.applied();
    let identity = opened.identity.clone();
    let others = membership.record.nodes.iter().filter(|(node, _)| **node != identity.node_id);
    let totals = state.read().totals();
    let mut survivor = Survivor {
        name: identity.node_name,
        node: identity.node_id,
        cluster: identity.cluster_id,
        last: (last.term, last.index),
        committed,
        others: others.map(|(node, (name, _))| (*node, name.clone())).collect(),
        sessions: totals.sessions,
        retained: totals.retained,
        made: None,
    };
    if force {
        survivor.made = Some(found_anew(&mut disk, &opened, &state, settings, last)?);
    }
    opened.log.shutdown();
    Ok(survivor)
}

/// Applies the log to its end.
fn apply_all(opened: &Opened) -> Result<LogId, StartError> {
    let (position, _) = opened.replica.applied();
    let mut last = position.unwrap_or_default();
    let end = opened.log.bounds().last.map_or(0, |id| id.index);
    while last.index < end {
        let entries = opened.log.read(last.index + 1..end + 1, GROUP_BYTES)?;
        let Some(newest) = entries.last().map(|entry| entry.id) else { break };
        let committed = entries.into_iter().map(|LogEntry { id, payload, .. }| {
            let content = Content::decode(payload).map_err(|error| StartError::State(error.to_string()))?;
            Ok(Committed { id, content })
        });
        let committed = committed.collect::<Result<Vec<_>, StartError>>()?;
        opened.replica.apply(committed).map_err(|error| StartError::State(error.to_string()))?;
        last = newest;
    }
    Ok(last)
}

/// In this order: the state with its new membership, the identity, the snapshot, the log's new start.
fn found_anew(
    disk: &mut Disk,
    opened: &Opened,
    state: &RwLock<State>,
    settings: &RaftSettings,
    last: LogId,
) -> Result<[u8; 16], StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::State(error.to_string());
    let node = opened.identity.node_id;
    let at = |index: u64| LogId { term: last.term + 1, node, index };
    let entries = vec![
        Committed { id: at(last.index + 1), content: farewell(&state.read(), node, opened.identity.boots) },
        Committed { id: at(last.index + 2), content: Content::Membership(alone(opened, settings)) },
    ];
    let end = at(last.index + 2);
    opened.replica.apply(entries).map_err(|error| failed(&error))?;
    opened.replica.checkpoint()?;
    let mut cluster = [0; 16];
    let random = ring::default_provider().secure_random.fill(&mut cluster);
    random.map_err(|_| failed(&"the system has no random numbers"))?;
    if opened.replica.current_snapshot().is_some() {
        disk.directory.move_aside(opened.replica.snapshot_path())?;
    }
    disk.directory.rebind(cluster)?;
    opened.replica.build_snapshot_for(cluster)?;
    opened.log.save_vote(&vote_after_snapshot(end))?;
    opened.log.reset_to(end)?;
    opened.log.flush()?;
    disk.mark_log_used()?;
    Ok(cluster)
}

/// The other nodes are gone for good; their sessions wait for their clients here.
fn farewell(state: &State, node: u64, boots: u64) -> Content {
    let lost = state.nodes().map(|(node, _)| node).filter(|other| other.0 != node);
    let commands: Vec<Command> = lost.map(|node| Command::NodeRemoved { node }).collect();
    let encoded = encode_commands(&commands, 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let origin = Origin { node: NodeId(node), incarnation: Incarnation::new(boots, 0) };
    Content::Batch(encode_batch(origin, 1, Millis(now), commands.len() as u32, &encoded))
}

fn alone(opened: &Opened, settings: &RaftSettings) -> MembershipRecord {
    let node = opened.identity.node_id;
    let own = (opened.identity.node_name.clone(), settings.advertise.clone());
    MembershipRecord { configs: vec![BTreeSet::from([node])], nodes: BTreeMap::from([(node, own)]) }
}

/// Nobody is served while this runs.
struct Nobody;

impl Observer for Nobody {
    fn take_commands(&self, _header: &BatchHeader) -> Option<Vec<Command>> {
        None
    }
    fn on_applied(&self, _effects: Vec<Effect>, _batches: Vec<OwnBatch>) {}
    fn on_ignored(&self, _origin: Origin, _sequence: u64) {}
    fn on_replaced(&self) {}
}
