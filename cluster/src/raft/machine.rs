//! The Raft library's state machine on top of [`Replica`].
//! Always true: entries reach the replica in log order and once; the library's answers to the proposer carry nothing,
//! since outcomes are local to the node that asked; the clock is never behind the state's time.
use super::{
    out_of_the_way,
    snapshot::SnapshotHandle,
    types::{
        LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig, log_id, membership, membership_record,
        stored_log_id,
    },
};
use crate::entry::{Content, MembershipAt};
use crate::replica::{Committed, Replica, clock::ClusterClock};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::{
    EntryPayload, RaftSnapshotBuilder,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot},
    type_config::alias::SnapshotOf,
};
use std::{io, sync::Arc};

/// Entries applied under one lock at most, and their bytes.
const GROUP_ENTRIES: usize = 128;
const GROUP_BYTES: usize = 4 << 20;

#[derive(Clone)]
pub(crate) struct Machine {
    replica: Arc<Replica>,
    clock: Arc<ClusterClock>,
}

impl Machine {
    pub(crate) fn new(replica: Arc<Replica>, clock: Arc<ClusterClock>) -> Self {
        clock.saw(replica.time());
        Self { replica, clock }
    }

    fn snapshot(&self, last: Option<mosquorum_storage::log::LogId>, at: MembershipAt) -> io::Result<SnapshotMeta> {
        Ok(SnapshotMeta { last_log_id: last.map(log_id), last_membership: stored_membership(at)? })
    }

    fn handle(&self) -> SnapshotHandle {
        SnapshotHandle { fs: self.replica.fs(), path: self.replica.snapshot_path().to_owned() }
    }
}

fn stored_membership(at: MembershipAt) -> io::Result<StoredMembership> {
    let position = at.log_id().map(log_id);
    if at.record.nodes.is_empty() {
        return Ok(StoredMembership::default());
    }
    Ok(StoredMembership::new(position, membership(at.record).map_err(io::Error::other)?))
}

#[derive(Default)]
struct Group {
    entries: Vec<Committed>,
    responders: Vec<ApplyResponder<TypeConfig>>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        let content = match entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Normal(Proposal(payload)) => {
                self.bytes += payload.len();
                Content::Batch(payload)
            }
            EntryPayload::Membership(membership) => Content::Membership(membership_record(&membership)),
        };
        self.entries.push(Committed { id: stored_log_id(&entry.log_id), content });
        self.responders.extend(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= GROUP_ENTRIES || self.bytes >= GROUP_BYTES
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let (last, at) = self.replica.applied();
        Ok((last.map(log_id), stored_membership(at)?))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let mut group = Group::default();
            group.add(first?);
            while !group.is_full()
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                group.add(next?);
            }
            let many = group.is_full();
            let entries = std::mem::take(&mut group.entries);
            // A node that catches up applies as fast as it can; one that keeps up need not change threads for it.
            if many { out_of_the_way(|| self.replica.apply(entries)) } else { self.replica.apply(entries) }?;
            self.clock.saw(self.replica.time());
            for responder in group.responders {
                responder.send(());
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: SnapshotHandle) -> Result<(), io::Error> {
        let replica = self.replica.clone();
        tokio::task::spawn_blocking(move || replica.install(&snapshot.path)).await??;
        self.clock.saw(self.replica.time());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, SnapshotHandle>>, io::Error> {
        let Some((last, at)) = self.replica.current_snapshot() else { return Ok(None) };
        Ok(Some(Snapshot { meta: self.snapshot(last, at)?, snapshot: self.handle() }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotHandle>, io::Error> {
        let (last, at) = match self.replica.take_prepared() {
            Some(current) => current,
            None => {
                let replica = self.replica.clone();
                tokio::task::spawn_blocking(move || replica.build_snapshot()).await??
            }
        };
        Ok(Snapshot { meta: self.snapshot(last, at)?, snapshot: self.handle() })
    }
}
