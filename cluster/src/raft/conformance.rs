//! The Raft library's own suite for storage, against our log and replica in memory.
use super::{
    log::LogStore,
    machine::Machine,
    snapshot::SnapshotHandle,
    testing::Nobody,
    types::{SnapshotMeta, StoredMembership, TypeConfig},
};
use crate::{
    entry::{Content, encode_batch},
    ids::{Incarnation, Millis, NodeId},
    replica::{Committed, Position, Replica, ReplicaParts, SHARD, clock::ClusterClock},
    state::Origin,
};
use mosquorum_storage::{
    fs::{Fs, MemoryFs},
    kv::{MemoryKv, StateStore},
    log::{Log, LogId, LogOptions},
};
use openraft::{
    StorageError,
    storage::RaftStateMachine,
    testing::log::{StoreBuilder, Suite},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// All stores are on one disk, as sender and receiver of a snapshot file.
#[derive(Default)]
struct Builder {
    fs: MemoryFs,
    built: AtomicU64,
}

impl Builder {
    fn dir(&self) -> PathBuf {
        let dir = PathBuf::from(format!("/node-{}", self.built.fetch_add(1, Ordering::Relaxed)));
        self.fs.create_dir_all(&dir).expect("memory has room");
        dir
    }

    fn replica(&self, dir: &Path) -> Arc<Replica> {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let (store, _) = StateStore::open(Arc::new(MemoryKv::new()), SHARD).expect("a new store opens");
        Replica::new(ReplicaParts {
            state: Arc::default(),
            store,
            fs,
            snapshot_path: dir.join("state.snapshot"),
            cluster_id: [7; 16],
            node: NodeId(1),
            position: Position::default(),
            snapshot: None,
            observer: Arc::new(Nobody),
        })
    }
}

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let (dir, clock) = (self.dir(), Arc::new(ClusterClock::default()));
        let fs = Arc::new(self.fs.clone());
        let (log, _) = Log::open(fs, &dir.join("log"), LogOptions::default()).expect("a new log opens");
        Ok(((), LogStore::new(log, clock.clone()), Machine::new(self.replica(&dir), clock)))
    }
}

#[tokio::test]
async fn the_clock_is_never_behind_the_state_that_a_start_or_a_snapshot_brings() {
    let (builder, at_start, at_install) = (Builder::default(), Arc::default(), Arc::default());
    let clocks: [&Arc<ClusterClock>; 2] = [&at_start, &at_install];
    let ahead = Millis(clocks[0].now().0 + 3_600_000);
    let sender = builder.replica(&builder.dir());
    let origin = Origin { node: NodeId(2), incarnation: Incarnation(1) };
    let content = Content::Batch(encode_batch(origin, 1, ahead, 0, &Default::default()));
    sender.apply(vec![Committed { id: LogId { term: 1, node: 2, index: 1 }, content }]).expect("applied");
    sender.build_snapshot().expect("memory has room");
    let mut receiver = Machine::new(builder.replica(&builder.dir()), at_install.clone());
    assert!(clocks[1].now() < ahead);
    let handle = SnapshotHandle { fs: sender.fs(), path: sender.snapshot_path().to_owned() };
    let meta = SnapshotMeta { last_log_id: None, last_membership: StoredMembership::default() };
    receiver.install_snapshot(&meta, handle).await.expect("a good snapshot");
    let _ = Machine::new(sender, at_start.clone());
    assert!(clocks.iter().all(|clock| clock.now() >= ahead));
}

#[test]
fn log_and_state_machine_pass_the_librarys_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(Suite::<TypeConfig, LogStore, Machine, Builder, ()>::test_all(Builder::default())).unwrap();
}
