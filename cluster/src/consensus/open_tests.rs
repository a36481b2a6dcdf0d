use super::*;
use crate::{
    consensus::{replica::MEMBERSHIP_KEY, stateful},
    ids::LogIndex,
    raft::testing::{Nobody, blank, try_start},
};
use bytes::Bytes;
use mosquorum_storage::{kv::AppliedIndex, log::LogEntry};
use std::sync::atomic::{AtomicU64, Ordering};

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mosquorum-open-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

/// A node of a cluster whose store holds the state after `applied`, with a log of term 1.
fn left_behind(dir: &Path, log_upto: u64, applied: LogId) -> RaftSettings {
    let mut directory = DataDirectory::open(Arc::new(RealFs), dir).unwrap();
    directory.initialise([7; 16], 1, "one", 1).unwrap();
    let (log, _) = Log::open(Arc::new(RealFs), &directory.log_dir(), LogOptions::default()).unwrap();
    log.save_vote(&vote_after_snapshot(id(2, 0))).unwrap();
    let entries = (1..=log_upto).map(|index| LogEntry { shard: SHARD, id: id(1, index), payload: blank() });
    log.append(entries.collect(), Box::new(|_| ()));
    log.flush().unwrap();
    log.shutdown();
    let engine = SledKv::open(&directory.state_dir()).unwrap();
    let (store, _) = StateStore::open(Arc::new(engine), SHARD).unwrap();
    let mut state = State::default();
    state.advance(LogIndex(applied.index));
    let own = (Bytes::from_static(MEMBERSHIP_KEY), Some(MembershipAt::default().to_bytes()));
    let ops = stateful::operations(state.take_changes()).chain([own]);
    store.write_checkpoint(AppliedIndex { shard: SHARD, last: Some(applied) }, ops).unwrap();
    RaftSettings { peers: vec!["other:1".into()], ..RaftSettings::alone(dir.to_owned(), "one") }
}

/// Raft can go on with it, and what the log no longer has is in a snapshot.
fn starts(settings: &RaftSettings, applied: LogId) {
    for _ in 0..2 {
        let mut disk = Disk::open(settings).unwrap();
        disk.mark_log_used().unwrap();
        let opened = disk.open_node(Arc::default(), Arc::new(Nobody)).unwrap();
        try_start(&opened.log, &opened.replica).unwrap();
        let bounds = opened.log.bounds();
        assert_eq!((opened.replica.applied().0, bounds.last), (Some(applied), Some(applied)));
        let snapshot = opened.replica.current_snapshot().and_then(|(last, _)| last).map(|id| id.index);
        assert!(snapshot >= bounds.purged.map(|id| id.index), "{snapshot:?} {:?}", bounds.purged);
        opened.log.shutdown();
    }
}

/// One test: the programs that sled starts would have the other's lock for a moment.
#[test]
fn a_log_that_ends_before_the_state_or_in_what_others_replaced_goes_on_behind_it() {
    for (log_upto, applied) in [(8, id(1, 10)), (10, id(2, 8))] {
        let dir = TempDir::new();
        let settings = left_behind(&dir.0, log_upto, applied);
        starts(&settings, applied);
    }
}
