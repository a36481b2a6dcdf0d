//! The twin of the engines: a sorted map that can lose the batches written since the last flush.
//! Always true: after [`MemoryKv::crash`] it holds everything flushed and a prefix of the batches written later.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{BATCH_OPS_MAX, KvError, KvOp, KvScan, KvStore};

/// An in-memory store.
#[derive(Default)]
pub struct MemoryKv {
    state: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    current: BTreeMap<Bytes, Bytes>,
    flushed: BTreeMap<Bytes, Bytes>,
    /// Batches since the last flush; `None` when crashes are not simulated.
    pending: Option<Vec<Vec<KvOp>>>,
    closed: bool,
    operations: u64,
    fail_at: Option<u64>,
}

impl MemoryKv {
    /// For a node without persistence: keeps one copy of everything.
    pub fn new() -> Self {
        MemoryKv::default()
    }

    /// For tests: [`MemoryKv::crash`] can lose what was not flushed.
    pub fn with_crashes() -> Self {
        let kv = MemoryKv::default();
        kv.state.lock().pending = Some(Vec::new());
        kv
    }

    /// Loses all but the first `kept` batches written since the last flush, clears planned failures, and reopens.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state.lock();
        let pending = state.pending.replace(Vec::new()).unwrap_or_default();
        for batch in pending.into_iter().take(kept) {
            apply(&mut state.flushed, batch);
        }
        state.current = state.flushed.clone();
        state.closed = false;
        state.fail_at = None;
    }

    /// The `n`-th write or flush from now on (1 is the next), and every later one, fails and does nothing.
    pub fn fail_at_operation(&self, n: u64) {
        let mut state = self.state.lock();
        state.fail_at = Some(state.operations + n);
    }
}

fn apply(map: &mut BTreeMap<Bytes, Bytes>, batch: Vec<KvOp>) {
    for (key, value) in batch {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

impl Contents {
    fn operation(&mut self) -> Result<(), KvError> {
        if self.closed {
            return Err(KvError::Closed);
        }
        self.operations += 1;
        match self.fail_at {
            Some(at) if self.operations >= at => {
                Err(KvError::Engine { engine: "memory", path: "memory".into(), detail: "set to fail".into() })
            }
            _ => Ok(()),
        }
    }
}

impl KvStore for MemoryKv {
    fn write(&self, batch: Vec<KvOp>) -> Result<(), KvError> {
        if batch.len() > BATCH_OPS_MAX {
            return Err(KvError::BatchTooLarge { ops: batch.len() });
        }
        let mut state = self.state.lock();
        state.operation()?;
        if let Some(pending) = &mut state.pending {
            pending.push(batch.clone());
        }
        apply(&mut state.current, batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.operation()?;
        if let Some(pending) = &mut state.pending {
            for batch in std::mem::take(pending) {
                apply(&mut state.flushed, batch);
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let state = self.state.lock();
        if state.closed { Err(KvError::Closed) } else { Ok(state.current.get(key).cloned()) }
    }

    fn scan(&self, from: &[u8]) -> KvScan<'_> {
        let mut next = Bound::Included(Bytes::copy_from_slice(from));
        Box::new(std::iter::from_fn(move || {
            let state = self.state.lock();
            if state.closed {
                return Some(Err(KvError::Closed));
            }
            let (key, value) = state.current.range((next.clone(), Bound::Unbounded)).next()?;
            next = Bound::Excluded(key.clone());
            Some(Ok((key.clone(), value.clone())))
        }))
    }

    fn close(&self) -> Result<(), KvError> {
        self.flush()?;
        self.state.lock().closed = true;
        Ok(())
    }

    fn engine(&self) -> &'static str {
        "memory"
    }
}
