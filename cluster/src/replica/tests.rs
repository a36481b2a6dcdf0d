use super::*;
use crate::raft::testing::Nobody;
use mosquorum_storage::{fs::MemoryFs, kv::MemoryKv};

fn id(index: u64) -> LogId {
    LogId { term: 1, node: 1, index }
}

fn replica(fs: &MemoryFs) -> Arc<Replica> {
    let (store, _) = StateStore::open(Arc::new(MemoryKv::new()), SHARD).unwrap();
    let fs = Arc::new(fs.clone());
    fs.create_dir_all(Path::new("/node")).unwrap();
    Replica::new(ReplicaParts {
        state: Arc::default(),
        store,
        fs,
        snapshot_path: "/node/state.snapshot".into(),
        cluster_id: [7; 16],
        node: NodeId(1),
        position: Position::default(),
        snapshot: None,
        observer: Arc::new(Nobody),
    })
}

/// A snapshot file of another node, with the entries as given.
fn received(fs: &MemoryFs, format: u32, entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> PathBuf {
    let path = PathBuf::from("/node/received");
    let membership = MembershipAt::default().to_bytes();
    let meta =
        SnapshotMeta { shard: SHARD, last: Some(id(50)), membership, cluster_id: [7; 16], created_ms: 0, format };
    let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), &path, meta).unwrap();
    entries.into_iter().for_each(|(key, value)| writer.add(&key, &value).unwrap());
    writer.finish().unwrap();
    path
}

fn apply(replica: &Replica, index: u64) {
    replica.apply(vec![Committed { id: id(index), content: Content::Blank }]).unwrap();
}

#[test]
fn a_snapshot_that_cannot_be_read_to_its_end_is_never_a_complete_state() {
    let fs = MemoryFs::new();
    let replica = replica(&fs);
    let entries = (0..3000u32).map(|number| (number.to_be_bytes().to_vec(), vec![1; 1000]));
    let path = received(&fs, STATE_FORMAT, entries);
    fs.flip(&path, 2_900_000, 1).unwrap();
    let (store, _) = StateStore::open(Arc::new(MemoryKv::new()), SHARD).unwrap();
    assert!(matches!(fill_store(&fs, &path, &store), Err(ReplicaError::Snapshot(SnapshotError::Damaged { .. }))));
    assert_eq!(store.condition(), mosquorum_storage::kv::StateCondition::Incomplete);
    // The same while the node runs.
    apply(&replica, 1);
    assert!(replica.install(&path).is_err());
    assert!(replica.checkpoint().is_err());
    assert_eq!(replica.store.condition(), mosquorum_storage::kv::StateCondition::Incomplete);
}

#[test]
fn after_an_installation_that_failed_nothing_of_the_former_state_is_written() {
    let fs = MemoryFs::new();
    let replica = replica(&fs);
    apply(&replica, 1);
    replica.checkpoint().unwrap();
    let path = received(&fs, STATE_FORMAT, [(b"no key of a state".to_vec(), vec![1])]);
    assert!(matches!(replica.install(&path), Err(ReplicaError::State(_))));
    apply(&replica, 2);
    assert!(matches!(replica.checkpoint(), Err(ReplicaError::Store(KvError::Incomplete))));
    let position = replica.store.load().unwrap().0.and_then(|applied| applied.last);
    assert_eq!(position, Some(id(50)), "the store is what the snapshot says");
}

#[test]
fn a_snapshot_of_a_format_to_come_changes_nothing() {
    let fs = MemoryFs::new();
    let replica = replica(&fs);
    apply(&replica, 1);
    replica.build_snapshot().unwrap();
    let path = received(&fs, STATE_FORMAT + 1, []);
    assert!(matches!(replica.install(&path), Err(ReplicaError::Snapshot(SnapshotError::NewerFormat { .. }))));
    apply(&replica, 2);
    replica.checkpoint().unwrap();
    assert_eq!(SnapshotReader::open(&fs, &replica.snapshot_path).unwrap().0.last, Some(id(1)));
}
