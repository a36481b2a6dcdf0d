//! The Raft library's own suite for storage, against our log and replica in memory.
use super::{log::LogStore, machine::Machine, types::TypeConfig};
use crate::{
    consensus::{
        clock::ClusterClock,
        replica::{Observer, OwnBatch, Position, Replica, ReplicaParts, SHARD},
    },
    raft::encoding::BatchHeader,
    state::{Command, Effect, Origin},
};
use mosquorum_storage::{
    fs::{Fs, MemoryFs},
    kv::{MemoryKv, StateStore},
    log::{Log, LogOptions},
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

struct Nobody;

impl Observer for Nobody {
    fn take_commands(&self, _: &BatchHeader) -> Option<Vec<Command>> {
        None
    }
    fn on_applied(&self, _: Vec<Effect>, _: Vec<OwnBatch>) {}
    fn on_ignored(&self, _: Origin, _: u64) {}
    fn on_replaced(&self) {}
}

/// All stores are on one disk, as sender and receiver of a snapshot file.
#[derive(Default)]
struct Builder {
    fs: MemoryFs,
    built: AtomicU64,
}

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let dir = PathBuf::from(format!("/node-{}", self.built.fetch_add(1, Ordering::Relaxed)));
        fs.create_dir_all(&dir).expect("memory has room");
        let (log, _) = Log::open(fs.clone(), &dir.join("log"), LogOptions::default()).expect("a new log opens");
        let (store, _) = StateStore::open(Arc::new(MemoryKv::new()), SHARD).expect("a new store opens");
        let replica = Replica::new(ReplicaParts {
            state: Arc::default(),
            store,
            fs,
            snapshot_path: dir.join("state.snapshot"),
            cluster_id: [7; 16],
            node: crate::ids::NodeId(1),
            position: Position::default(),
            snapshot: None,
            observer: Arc::new(Nobody),
        });
        Ok(((), LogStore::new(log, Arc::new(ClusterClock::default())), Machine::new(replica)))
    }
}

#[test]
fn log_and_state_machine_pass_the_librarys_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(Suite::<TypeConfig, LogStore, Machine, Builder, ()>::test_all(Builder::default())).unwrap();
}
