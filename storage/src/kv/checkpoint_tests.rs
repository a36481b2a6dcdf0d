use std::collections::BTreeMap;

use super::*;
use crate::kv::MemoryKv;

type Map = BTreeMap<Bytes, Bytes>;

fn applied(index: u64) -> AppliedIndex {
    AppliedIndex { shard: 0, last: Some(LogId { term: 1, node: 1, index }) }
}

fn op(number: u32, value: Option<u32>) -> KvOp {
    (Bytes::copy_from_slice(&number.to_be_bytes()), value.map(|v| Bytes::copy_from_slice(&v.to_be_bytes())))
}

fn content(state: &StateStore) -> (Option<AppliedIndex>, Map) {
    let (applied, entries) = state.load().unwrap();
    (applied, entries.collect::<Result<_, _>>().unwrap())
}

fn with_ops(base: &Map, ops: &[KvOp]) -> Map {
    let mut map = base.clone();
    for (key, value) in ops {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
    map
}

/// A first checkpoint, then a second one (or a clear) that stops at every operation, with every number of unflushed
/// batches surviving.
fn interrupted(second: impl Fn(&StateStore) -> bool, new: (Option<AppliedIndex>, Map)) {
    let first: Vec<KvOp> = (0..1500).map(|n| op(n, Some(n))).collect();
    let old = (Some(applied(10)), with_ops(&Map::new(), &first));
    let (mut incomplete, mut finished_once) = (0, false);
    for stop in 1..40 {
        for kept in 0..12 {
            let kv = Arc::new(MemoryKv::with_crashes());
            let (state, condition) = StateStore::open(kv.clone(), 0).unwrap();
            assert_eq!(condition, StateCondition::Empty);
            state.write_checkpoint(applied(10), first.clone()).unwrap();
            kv.fail_at_operation(stop);
            let finished = second(&state);
            assert!(finished || state.condition() == StateCondition::Incomplete);
            kv.crash(kept);
            let (state, condition) = StateStore::open(kv.clone(), 0).unwrap();
            if condition == StateCondition::Incomplete {
                incomplete += 1;
                assert!(!finished && matches!(state.load().map(drop), Err(KvError::Incomplete)));
                assert!(matches!(state.write_checkpoint(applied(99), []), Err(KvError::Incomplete)));
                state.clear().unwrap();
                assert_eq!(content(&state), (None, Map::new()));
                state.write_checkpoint(applied(10), first.clone()).unwrap();
                assert_eq!(content(&state), old);
            } else {
                let found = content(&state);
                assert!(found == new || (found == old && !finished), "stop {stop}, kept {kept}");
            }
            finished_once |= finished;
        }
    }
    assert!(incomplete > 10 && finished_once);
}

#[test]
fn a_checkpoint_is_old_new_or_reported_incomplete_wherever_it_stops() {
    let ops: Vec<KvOp> = (500..2500).map(|n| op(n, (n % 3 != 0).then_some(n + 1))).collect();
    let first: Vec<KvOp> = (0..1500).map(|n| op(n, Some(n))).collect();
    let new = with_ops(&with_ops(&Map::new(), &first), &ops);
    // The same position on purpose: the markers must differ all the same.
    interrupted(|state| state.write_checkpoint(applied(10), ops.clone()).is_ok(), (Some(applied(10)), new));
}

#[test]
fn a_clear_is_complete_or_reported_incomplete_wherever_it_stops() {
    interrupted(|state| state.clear().is_ok(), (None, Map::new()));
}

#[test]
fn a_small_checkpoint_is_one_batch() {
    let kv = Arc::new(MemoryKv::with_crashes());
    let (state, _) = StateStore::open(kv.clone(), 0).unwrap();
    let stats = state.write_checkpoint(applied(1), (0..510).map(|n| op(n, Some(n)))).unwrap();
    assert_eq!((stats.batches, stats.ops, stats.bytes), (1, 510, 510 * 8));
    assert_eq!(state.write_checkpoint(applied(1), (0..511).map(|n| op(n, Some(n)))).unwrap().batches, 2);
}

#[test]
fn shards_do_not_see_each_other() {
    let kv: Arc<dyn KvStore> = Arc::new(MemoryKv::new());
    let open = |shard| StateStore::open(kv.clone(), shard).unwrap().0;
    let (one, two) = (open(1), open(2));
    one.write_checkpoint(AppliedIndex { shard: 1, last: None }, [op(1, Some(1))]).unwrap();
    two.write_checkpoint(AppliedIndex { shard: 2, last: None }, [op(2, Some(2))]).unwrap();
    one.clear().unwrap();
    assert_eq!(one.scan(&[]).count(), 0);
    assert_eq!(two.scan(&[]).count(), 1);
    assert_eq!(two.get(&2u32.to_be_bytes()).unwrap().unwrap(), 2u32.to_be_bytes()[..]);
    assert_eq!(open(2).condition(), StateCondition::Complete(AppliedIndex { shard: 2, last: None }));
}

/// Counts what was written since the last flush.
#[derive(Default)]
struct Counting {
    store: MemoryKv,
    unflushed: Mutex<(usize, usize)>,
    first_flushed: Mutex<Option<bool>>,
}

impl KvStore for Counting {
    fn write(&self, batch: Vec<KvOp>) -> Result<(), KvError> {
        let mut unflushed = self.unflushed.lock();
        unflushed.0 += batch.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        unflushed.1 = unflushed.1.max(unflushed.0);
        self.store.write(batch)
    }
    fn flush(&self) -> Result<(), KvError> {
        self.unflushed.lock().0 = 0;
        // What a crash right after the first flush would leave.
        let marked = StateStore::key_of(0, KIND_MARKER, IN_PROGRESS);
        let complete = StateStore::key_of(0, KIND_MARKER, COMPLETE);
        let in_progress = self.store.get(&marked)?.is_some() && self.store.get(&complete)?.is_none();
        self.first_flushed.lock().get_or_insert(in_progress);
        self.store.flush()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.store.get(key)
    }
    fn scan(&self, from: &[u8]) -> KvScan<'_> {
        self.store.scan(from)
    }
    fn close(&self) -> Result<(), KvError> {
        self.store.close()
    }
    fn engine(&self) -> &'static str {
        "counting"
    }
}

#[test]
fn a_long_checkpoint_is_flushed_in_parts_that_begin_with_the_marker() {
    let store = Arc::new(Counting::default());
    let (state, _) = StateStore::open(store.clone(), 0).unwrap();
    let value = Bytes::from(vec![7; 1 << 20]);
    let large = |number: u32| (Bytes::copy_from_slice(&number.to_be_bytes()), Some(value.clone()));
    state.write_checkpoint(applied(1), (0..200).map(large)).unwrap();
    let most = store.unflushed.lock().1;
    assert!(most > FLUSH_BYTES / 2 && most <= FLUSH_BYTES + 2 * BATCH_BYTES_MAX, "{most} bytes at once");
    assert_eq!(*store.first_flushed.lock(), Some(true));
    assert_eq!(state.load().unwrap().1.count(), 200);
}

#[test]
fn a_checkpoint_whose_changes_cannot_be_read_to_the_end_is_incomplete() {
    let (state, _) = StateStore::open(Arc::new(MemoryKv::new()), 0).unwrap();
    let ops = (0..2000).map(|n| if n < 1500 { Ok(op(n, Some(n))) } else { Err(KvError::Closed) });
    assert!(matches!(state.try_checkpoint(applied(1), ops), Err(KvError::Closed)));
    assert_eq!(state.condition(), StateCondition::Incomplete);
    assert!(matches!(state.write_checkpoint(applied(2), [op(1, None)]), Err(KvError::Incomplete)));
}
