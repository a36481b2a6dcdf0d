//! The running Raft group of this node, in our own terms.
//! Always true: no method here answers "failed" for something that may have been committed; [`NotLeader`] means that
//! asking again, elsewhere, is safe.
use super::{
    log::LogStore,
    machine::Machine,
    network::{Addresses, NetworkFactory, PeerIdentity},
    senders::Introductions,
    types::{Member, Proposal, TypeConfig},
};
use crate::{
    admin_error::AdminError,
    metrics::Role,
    replica::{Replica, clock::ClusterClock},
    transport::{Neighbours, Transport},
};
use bytes::Bytes;
use mosquorum_storage::log::{Log, Payload};
use openraft::{
    ChangeMembers, Config, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
    impls::ProgressResponder,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

const HEARTBEAT_MS: u64 = 100;
const ELECTION_MIN_MS: u64 = 350;
/// Also the leader's lease: a follower waits for it and its own timeout before it campaigns.
const ELECTION_MAX_MS: u64 = 550;
/// Without word from the leader (or, as leader, from a majority) for so long there is no majority to be counted on.
const CONTACT_LOST: Duration = Duration::from_millis(2 * ELECTION_MAX_MS);

pub(crate) struct Engine {
    raft: Raft<TypeConfig, Machine>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) identity: PeerIdentity,
    /// Held while a snapshot comes in.
    pub(crate) receiving: tokio::sync::Mutex<()>,
    started: Instant,
    /// Milliseconds after `started` of the last message of a leader; 0 = never.
    last_leader_message: AtomicU64,
    leadership: watch::Receiver<Leadership>,
    /// Members that this node's log does not have yet.
    pub(crate) introductions: Introductions,
}

/// Who leads, as far as this node knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) is_self: bool,
}

/// Nothing was done here: ask the leader (if known), or later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NotLeader {
    pub(crate) leader: Option<u64>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("this node does not lead the cluster")]
    NotLeader(Option<u64>),
    #[error("{0}")]
    Refused(String),
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl From<EngineError> for AdminError {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::NotLeader(_) => Self::NotLeader(text),
            EngineError::Refused(_) => Self::Refused(text),
            EngineError::Stopped(_) => Self::Internal(text),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemberView {
    pub(crate) node: u64,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) voter: bool,
    /// Last entry known to be on that node; known to the leader only.
    pub(crate) matched: Option<u64>,
    /// Time since its last answer to the leader; known to the leader only.
    pub(crate) silent: Option<Duration>,
}

/// A glance at the group.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) leader: Option<u64>,
    pub(crate) is_leader: bool,
    pub(crate) role: Role,
    pub(crate) term: u64,
    pub(crate) last: u64,
    pub(crate) commit: u64,
    /// Committed by a majority as the leader last said: may lie beyond what this node has.
    pub(crate) cluster_commit: u64,
    pub(crate) applied: u64,
    pub(crate) snapshot: u64,
    /// The log starts behind it.
    pub(crate) purged: u64,
    pub(crate) members: Vec<MemberView>,
    /// Why the group stopped for good, if it did.
    pub(crate) stopped: Option<String>,
}

impl View {
    pub(crate) fn voters(&self) -> usize {
        self.members.iter().filter(|m| m.voter).count()
    }

    pub(crate) fn member(&self, node: u64) -> Option<&MemberView> {
        self.members.iter().find(|m| m.node == node)
    }
}

pub(crate) struct EngineStart {
    pub(crate) log: Log,
    pub(crate) replica: Arc<Replica>,
    pub(crate) clock: Arc<ClusterClock>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) identity: PeerIdentity,
}

fn config() -> Config {
    Config {
        cluster_name: "mosquorum".into(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        heartbeat_min_interval: Some(HEARTBEAT_MS),
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1024,
        // Log entries as long as there are any: a snapshot is for what was purged.
        replication_lag_threshold: u64::MAX / 2,
        // When to take snapshots and how much log to keep behind them is decided by bytes, in `node::duties`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        quorum_loss_probe_interval: Some(4 * ELECTION_MAX_MS),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    }
}

impl Engine {
    /// Recovers the group from log and replica (committed entries beyond the replica's are applied before this returns)
    /// and starts it. Runs on the current tokio runtime from then on.
    pub(crate) async fn start(start: EngineStart) -> Result<Arc<Self>, EngineError> {
        let config = config().validate().map_err(|e| EngineError::Stopped(e.to_string()))?;
        let addresses = Addresses::default();
        let network = NetworkFactory {
            transport: start.transport.clone(),
            identity: start.identity.clone(),
            addresses: addresses.clone(),
        };
        let raft = Raft::new(
            start.identity.node,
            Arc::new(config),
            network,
            LogStore::new(start.log, start.clock.clone()),
            Machine::new(start.replica.clone(), start.clock),
        )
        .await
        .map_err(|e| EngineError::Stopped(e.to_string()))?;
        // Right after the start the metrics are empty even if the log is not.
        let stopped = |e: &dyn std::fmt::Display| EngineError::Stopped(e.to_string());
        if raft.is_initialized().await.map_err(|e| stopped(&e))? {
            raft.wait(None)
                .metrics(|m| m.membership_config.nodes().next().is_some(), "members known")
                .await
                .map_err(|e| stopped(&e))?;
        }
        let (publish, leadership) = watch::channel(Leadership::default());
        tokio::spawn(publish_leadership(raft.clone(), publish));
        tokio::spawn(follow_addresses(raft.clone(), addresses, start.transport));
        Ok(Arc::new(Self {
            raft,
            replica: start.replica,
            identity: start.identity,
            receiving: tokio::sync::Mutex::new(()),
            started: Instant::now(),
            last_leader_message: AtomicU64::new(0),
            leadership,
            introductions: Introductions::default(),
        }))
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, Machine> {
        &self.raft
    }

    pub(crate) fn node(&self) -> u64 {
        self.identity.node
    }

    /// Changes with leader and term; ends when the group stops.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leadership.borrow().is_self
    }

    pub(super) fn note_leader_message(&self) {
        self.last_leader_message.store(self.started.elapsed().as_millis().max(1) as u64, Ordering::Relaxed);
    }

    /// Whether a leader with a majority was there a moment ago.
    pub(crate) fn has_majority(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader == Some(self.node()) {
            let alone = metrics.membership_config.voter_ids().count() == 1;
            return alone || metrics.last_quorum_acked.is_some_and(|at| at.into_inner().elapsed() < CONTACT_LOST);
        }
        let last = self.last_leader_message.load(Ordering::Relaxed);
        last != 0 && self.started.elapsed().saturating_sub(Duration::from_millis(last)) < CONTACT_LOST
    }

    pub(crate) fn view(&self) -> View {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let config = &m.membership_config;
        let voters: BTreeSet<u64> = config.voter_ids().collect();
        let members = config.nodes().map(|(&node, info)| MemberView {
            node,
            name: info.name.clone(),
            address: info.address.clone(),
            voter: voters.contains(&node),
            matched: m.replication.as_ref().and_then(|r| r.get(&node)).and_then(|id| id.map(|id| id.index)),
            silent: m
                .heartbeat
                .as_ref()
                .and_then(|h| h.get(&node))
                .and_then(|at| at.map(|at| at.into_inner().elapsed())),
        });
        View {
            leader: m.current_leader,
            is_leader: m.current_leader == Some(self.node()),
            role: match m.state {
                ServerState::Leader => Role::Leader,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Shutdown => Role::None,
            },
            term: m.current_term,
            last: m.last_log_index.unwrap_or(0),
            commit: m.local_committed.map_or(0, |id| id.index),
            cluster_commit: m.cluster_committed.map_or(0, |id| id.index),
            applied: m.last_applied.map_or(0, |id| id.index),
            snapshot: m.snapshot.map_or(0, |id| id.index),
            purged: m.purged.map_or(0, |id| id.index),
            members: members.collect(),
            stopped: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Who could carry bytes for this node.
    pub(crate) fn neighbours(&self) -> Neighbours {
        let members = self.view().members.into_iter().filter(|m| m.node != self.node());
        Neighbours {
            members: members.map(|m| (m.node, m.address)).collect(),
            cluster: Bytes::copy_from_slice(&self.identity.cluster),
            me: self.node(),
        }
    }

    /// Forms the cluster with this node alone. Only ever called once for a cluster.
    pub(crate) async fn initialize(&self, name: &str, address: &str) -> Result<(), EngineError> {
        let member = Member { name: name.to_owned(), address: address.to_owned() };
        match self.raft.initialize(BTreeMap::from([(self.node(), member)])).await {
            Ok(()) => Ok(()),
            // It was, before a restart.
            Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(EngineError::Stopped(error.to_string())),
        }
    }

    /// Campaigns now instead of after a timeout: for a node that needs nobody else's vote.
    pub(crate) async fn elect_now(&self) {
        // An error means that the group stopped, which its status shows.
        let _ = self.raft.trigger().elect(false).await;
    }

    /// Hands a batch to the log in the order of calls. The future resolves when it was applied here, or when it is
    /// known that this node could not see it through; dropping the future changes nothing.
    pub(crate) async fn propose(
        &self,
        payload: Payload,
    ) -> Result<impl Future<Output = Result<(), NotLeader>> + Send + 'static, NotLeader> {
        let (responder, applied) = ProgressResponder::complete_only();
        let leader = self.leadership.borrow().leader;
        let unknown = NotLeader { leader };
        self.raft.client_write_ff(Proposal(payload), Some(responder)).await.map_err(|_| unknown)?;
        Ok(async move {
            match applied.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to))) => {
                    Err(NotLeader { leader: to.leader_id })
                }
                _ => Err(NotLeader::default()),
            }
        })
    }

    /// The index that must be applied before whatever was acknowledged anywhere until now can be seen.
    pub(crate) async fn read_index(&self) -> Result<u64, NotLeader> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(NotLeader { leader: to.leader_id })
            }
            Err(_) => Err(NotLeader::default()),
        }
    }

    /// Commits an entry that does nothing; its index is taken by nothing else for ever.
    pub(crate) async fn commit_blank(&self) -> Result<u64, EngineError> {
        self.raft.write_blank().await.map(|written| written.log_id.index).map_err(write_error)
    }

    pub(crate) async fn add_learner(&self, node: u64, name: &str, address: &str) -> Result<(), EngineError> {
        let member = Member { name: name.to_owned(), address: address.to_owned() };
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, member)]))).await
    }

    /// Makes a learner a voter and takes others out, in one step.
    pub(crate) async fn promote(&self, node: u64, instead_of: BTreeSet<u64>) -> Result<(), EngineError> {
        self.replace(BTreeSet::from([node]), instead_of).await
    }

    /// Takes nodes out of the cluster, voters or not.
    pub(crate) async fn remove(&self, nodes: BTreeSet<u64>) -> Result<(), EngineError> {
        self.replace(BTreeSet::new(), nodes).await
    }

    /// Ends a joint configuration that a leader before left: to the newer of its two sets.
    pub(crate) async fn finish_change(&self) -> Result<(), EngineError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await
    }

    async fn replace(&self, voters: BTreeSet<u64>, removed: BTreeSet<u64>) -> Result<(), EngineError> {
        let view = self.view();
        let removed_voters: BTreeSet<u64> =
            removed.iter().copied().filter(|node| view.member(*node).is_some_and(|m| m.voter)).collect();
        let learners: BTreeSet<u64> =
            removed.iter().copied().filter(|node| view.member(*node).is_some_and(|m| !m.voter)).collect();
        let mut changes = Vec::new();
        if !voters.is_empty() {
            changes.push(ChangeMembers::AddVoterIds(voters));
        }
        if !learners.is_empty() {
            changes.push(ChangeMembers::RemoveNodes(learners));
        }
        if !removed_voters.is_empty() {
            changes.push(ChangeMembers::RemoveVoters(removed_voters));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.change(ChangeMembers::Batch(changes)).await
    }

    /// The address of a member changed; its identity did not.
    pub(crate) async fn set_address(&self, node: u64, name: &str, address: &str) -> Result<(), EngineError> {
        let member = Member { name: name.to_owned(), address: address.to_owned() };
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, member)]))).await
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), EngineError> {
        self.raft.change_membership(change, false).await.map(drop).map_err(write_error)
    }

    pub(crate) async fn transfer_leader(&self, to: u64) -> Result<(), EngineError> {
        self.raft.trigger().transfer_leader(to).await.map_err(|e| EngineError::Stopped(e.to_string()))
    }

    /// Asks for a snapshot of this node; [`View::snapshot`] says when it is there.
    pub(crate) async fn build_snapshot(&self) -> Result<(), EngineError> {
        self.raft.trigger().snapshot().await.map_err(|e| EngineError::Stopped(e.to_string()))
    }

    /// Lets the log go up to an index that a snapshot covers.
    pub(crate) async fn purge(&self, upto: u64) -> Result<(), EngineError> {
        self.raft.trigger().purge_log(upto).await.map_err(|e| EngineError::Stopped(e.to_string()))
    }

    pub(crate) async fn shutdown(&self) {
        // A panic of one of its tasks was logged where it happened.
        let _ = self.raft.shutdown().await;
    }
}

fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> EngineError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)) => {
            EngineError::NotLeader(to.leader_id)
        }
        RaftError::APIError(error) => EngineError::Refused(error.to_string()),
        RaftError::Fatal(error) => EngineError::Stopped(error.to_string()),
    }
}

async fn publish_leadership(raft: Raft<TypeConfig, Machine>, publish: watch::Sender<Leadership>) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let m = metrics.borrow_watched();
            Leadership {
                leader: m.current_leader,
                term: m.vote.leader_id.term,
                is_self: m.current_leader == Some(m.id),
            }
        };
        publish.send_if_modified(|known| std::mem::replace(known, now) != now);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps the members' addresses as they are in the newest membership; what was an address is released.
async fn follow_addresses(raft: Raft<TypeConfig, Machine>, addresses: Addresses, transport: Arc<Transport>) {
    let mut metrics = raft.server_metrics();
    loop {
        let now: BTreeMap<u64, String> = {
            let m = metrics.borrow_watched();
            m.membership_config.nodes().map(|(node, member)| (*node, member.address.clone())).collect()
        };
        if **addresses.load() != now {
            let before = addresses.swap(Arc::new(now.clone()));
            let gone = before.values().filter(|address| !now.values().any(|known| known == *address));
            gone.for_each(|address| transport.forget(address));
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
