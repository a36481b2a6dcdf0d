//! This node's copy of the state: applied from the log, written behind to the state store, snapshotted to a file.
//! Always true: the position changes under the state's lock, so a checkpoint never mixes two; only one of checkpoint,
//! snapshot and installation runs at a time (`writing`), so a scan of the store sees exactly one checkpoint; what a
//! snapshot file covers is flushed in the store; the state's lock is never held during I/O, nor over several entries of which
//! one did as much long work as an entry may.
pub(crate) mod clock;
mod pace;
pub(crate) mod stateful;

use crate::{
    entry::{BatchHeader, Content, MembershipAt, decode_commands},
    ids::{LogIndex, Millis, NodeId},
    metrics::{Histogram, HistogramValues},
    state::{Batch, Effect, Evicted, LoadError, Message, MessageId, Origin, Outcome, Record, STEP_WORK, State},
};
use bytes::Bytes;
use mosquorum_storage::{
    fs::{Fs, OpenMode},
    kv::{AppliedIndex, KvError, KvOp, KvScan, StateStore},
    log::{LogId, Payload},
    snapshot::{self, SnapshotError, SnapshotMeta, SnapshotReader, SnapshotWriter},
};
use pace::Pace;
use parking_lot::{Mutex, RwLock};
use stateful::BatchOutcome;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

pub(crate) const SHARD: u32 = 0;
/// Version of keys and values in store and snapshot.
pub(crate) const STATE_FORMAT: u32 = 1;
/// The membership as of the checkpoint; the state's own keys start lower.
pub(crate) const MEMBERSHIP_KEY: &[u8] = b"\xff\xffmembership";

/// What messages that wait may take in memory; beyond it those that were written are only in the store.
const MESSAGE_MEMORY_MAX: u64 = 32 << 20;

/// Records that are handed on together at a start, and how many of these may wait.
const READ_CHUNK: usize = 1024;
const READ_AHEAD: usize = 16;
/// So many checkpoints after the last message that was evicted has gone, the store's memory is released.
const IDLE_CHECKPOINTS: u32 = 5;

/// A committed entry.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) id: LogId,
    pub(crate) content: Content,
}

/// What a committed entry does.
enum Step {
    Nothing,
    Membership(MembershipAt),
    Batch(Batch),
}

/// An own batch that was applied, for whoever waits.
pub(crate) struct OwnBatch {
    pub(crate) origin: Origin,
    pub(crate) sequence: u64,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) index: LogIndex,
}

/// Who is notified of what applying brought about; called without any lock, in log order.
pub(crate) trait Observer: Send + Sync {
    /// Commands of an own batch, if they need no decoding.
    fn take_commands(&self, header: &BatchHeader) -> Option<Vec<crate::state::Command>>;
    /// The encoded commands of an own batch that is not applied.
    fn proposed(&self, _: &BatchHeader) -> Option<Payload> {
        None
    }
    fn on_applied(&self, effects: Vec<Effect>, batches: Vec<OwnBatch>);
    /// A batch changed nothing: it was applied before, or one before it is missing.
    fn on_ignored(&self, origin: Origin, sequence: u64);
    /// A snapshot took the place of the state: what happened in between is not known one by one.
    fn on_replaced(&self);
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error(transparent)]
    Store(#[from] KvError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the state cannot be read: {0}")]
    State(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ReplicaError {
    /// Whether the state store can no longer be relied on.
    pub(crate) fn is_of_store(&self) -> bool {
        matches!(self, ReplicaError::Store(_) | ReplicaError::State(_))
    }
}

impl From<ReplicaError> for io::Error {
    fn from(error: ReplicaError) -> Self {
        io::Error::other(error)
    }
}

pub(crate) struct ReplicaParts {
    pub(crate) state: Arc<RwLock<State>>,
    pub(crate) store: StateStore,
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) snapshot_path: PathBuf,
    pub(crate) cluster_id: [u8; 16],
    pub(crate) node: NodeId,
    pub(crate) position: Position,
    pub(crate) snapshot: Option<(Option<LogId>, MembershipAt)>,
    pub(crate) observer: Arc<dyn Observer>,
}

pub(crate) struct Replica {
    state: Arc<RwLock<State>>,
    /// Changes only while `state` is locked for writing.
    position: Mutex<Position>,
    applied: watch::Sender<u64>,
    store: StateStore,
    writing: Mutex<Written>,
    fs: Arc<dyn Fs>,
    snapshot_path: PathBuf,
    cluster_id: [u8; 16],
    node: NodeId,
    snapshot: Mutex<Option<(Option<LogId>, MembershipAt)>>,
    /// The snapshot was written for the library, which is about to ask for it.
    snapshot_is_due: AtomicBool,
    /// Size of the last snapshot file.
    snapshot_bytes: AtomicU64,
    /// The node does not serve yet, or is stopping: there is nobody whom a snapshot could slow down.
    unpaced: AtomicBool,
    observer: Arc<dyn Observer>,
    apply_latency: Histogram,
}

/// Up to where the log is applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) last: Option<LogId>,
    pub(crate) membership: MembershipAt,
}

/// What the store holds, durably.
#[derive(Debug, Default)]
struct Written {
    last: Option<LogId>,
    /// The store is being filled, or was not to the end: what changed in the state has nothing to do with what is in it.
    broken: bool,
    /// Messages were evicted since the store last released what it took for them; `None`: they were not. So many
    /// checkpoints ago the last of them went.
    emptied: Option<u32>,
}

impl Replica {
    pub(crate) fn new(parts: ReplicaParts) -> Arc<Self> {
        let (applied, _) = watch::channel(parts.position.last.map_or(0, |id| id.index));
        Arc::new(Self {
            snapshot_bytes: AtomicU64::new(size_of(&*parts.fs, &parts.snapshot_path)),
            state: parts.state,
            writing: Mutex::new(Written { last: parts.position.last, ..Written::default() }),
            position: Mutex::new(parts.position),
            applied,
            store: parts.store,
            fs: parts.fs,
            snapshot_path: parts.snapshot_path,
            cluster_id: parts.cluster_id,
            node: parts.node,
            snapshot: Mutex::new(parts.snapshot),
            snapshot_is_due: AtomicBool::new(false),
            unpaced: AtomicBool::new(false),
            observer: parts.observer,
            apply_latency: Histogram::default(),
        })
    }

    pub(crate) fn apply_latency(&self) -> HistogramValues {
        self.apply_latency.read()
    }

    /// The latest time of the log that is applied.
    pub(crate) fn time(&self) -> Millis {
        self.state.read().time()
    }

    pub(crate) fn fs(&self) -> Arc<dyn Fs> {
        self.fs.clone()
    }

    pub(crate) fn snapshot_path(&self) -> &Path {
        &self.snapshot_path
    }

    /// Where a snapshot of another node is received.
    pub(crate) fn incoming_path(&self) -> PathBuf {
        let mut name = self.snapshot_path.as_os_str().to_owned();
        name.push(".incoming");
        name.into()
    }

    pub(crate) fn applied(&self) -> (Option<LogId>, MembershipAt) {
        let position = self.position.lock();
        (position.last, position.membership.clone())
    }

    /// The index of the last entry applied.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn current_snapshot(&self) -> Option<(Option<LogId>, MembershipAt)> {
        self.snapshot.lock().clone()
    }

    /// Applies entries in order: decoding outside the state's lock, then as many as are soon done under one lock, then whoever
    /// waits.
    pub(crate) fn apply(&self, entries: Vec<Committed>) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(()) };
        let since = Instant::now();
        let mut decoded = Vec::with_capacity(entries.len());
        for entry in entries {
            let step = match entry.content {
                Content::Blank => Step::Nothing,
                Content::Membership(record) => Step::Membership(MembershipAt::new(Some(entry.id), record)),
                Content::Batch(payload) => Step::Batch(self.decode(&payload)?),
            };
            decoded.push((entry.id, step));
        }
        let (mut effects, mut own, mut ignored) = (Vec::new(), Vec::with_capacity(decoded.len()), Vec::new());
        let mut steps = decoded.into_iter().peekable();
        while steps.peek().is_some() {
            let mut state = self.state.write();
            let (mut work, mut reached, mut membership) = (0, None, None);
            while work < STEP_WORK
                && let Some((id, step)) = steps.next()
            {
                let index = LogIndex(id.index);
                match step {
                    Step::Nothing => {}
                    Step::Membership(changed) => membership = Some(changed),
                    Step::Batch(batch) => {
                        let (origin, sequence) = (batch.origin, batch.sequence);
                        let (verdict, mut brought) = stateful::apply(&mut state, index, &batch);
                        effects.append(&mut brought);
                        work += state.work_of_last_entry();
                        match verdict {
                            BatchOutcome::Applied(outcomes) => own.push(OwnBatch { origin, sequence, outcomes, index }),
                            BatchOutcome::Ignored => ignored.push((origin, sequence)),
                        }
                    }
                }
                state.advance(index);
                reached = Some(id);
            }
            let mut position = self.position.lock();
            position.last = reached;
            if let Some(membership) = membership {
                position.membership = membership;
            }
        }
        self.observer.on_applied(effects, own);
        self.applied.send_replace(last.index);
        ignored.into_iter().for_each(|(origin, sequence)| self.observer.on_ignored(origin, sequence));
        self.apply_latency.observe(since.elapsed());
        Ok(())
    }

    /// As [`Observer::proposed`].
    pub(crate) fn proposed(&self, header: &BatchHeader) -> Option<Payload> {
        self.observer.proposed(header)
    }

    fn decode(&self, payload: &Payload) -> io::Result<Batch> {
        let header = BatchHeader::read(payload.head()).map_err(io::Error::other)?;
        let commands = match self.observer.take_commands(&header) {
            Some(commands) => commands,
            None => decode_commands(payload).map_err(io::Error::other)?,
        };
        Ok(Batch { origin: header.origin, sequence: header.sequence, time: header.time, commands })
    }

    /// Writes what changed since the last checkpoint to the store; durable when it returns. Blocks.
    pub(crate) fn checkpoint(&self) -> Result<(), ReplicaError> {
        self.checkpoint_while(&mut self.writing.lock())
    }

    fn checkpoint_while(&self, written: &mut Written) -> Result<(), ReplicaError> {
        if written.broken {
            return Err(KvError::Incomplete.into());
        }
        let (changes, position) = {
            let mut state = self.state.write();
            let position = self.position.lock().clone();
            if position.last == written.last {
                drop(state);
                return self.trim_store(written);
            }
            (state.take_changes(), position)
        };
        let membership: KvOp = (Bytes::from_static(MEMBERSHIP_KEY), Some(position.membership.to_bytes()));
        let applied = AppliedIndex { shard: SHARD, last: position.last };
        self.store.write_checkpoint(applied, stateful::operations(changes).chain([membership]))?;
        written.last = position.last;
        self.evict_messages();
        self.trim_store(written)
    }

    /// What is evicted would otherwise be in the store's memory, and so would what it took for that when it is gone.
    fn trim_store(&self, written: &mut Written) -> Result<(), ReplicaError> {
        let saved = self.state.read().totals().message_memory_saved;
        if saved > MESSAGE_MEMORY_MAX {
            self.store.trim()?;
            written.emptied = Some(0);
        } else if saved > 0 {
            written.emptied = written.emptied.map(|_| 0);
        } else if let Some(checkpoints) = &mut written.emptied {
            *checkpoints += 1;
            if *checkpoints >= IDLE_CHECKPOINTS {
                written.emptied = None;
                self.store.trim_all()?;
            }
        }
        Ok(())
    }

    /// The store must hold everything up to the last cut.
    fn evict_messages(&self) {
        let mut at = Evicted::default();
        loop {
            let freed = self.state.write().put_out(MESSAGE_MEMORY_MAX, &mut at);
            // They are dropped here, without the lock.
            if freed.is_none() {
                return;
            }
        }
    }

    /// Messages that the state has evicted; `None` for one that is no longer there. Reads the store.
    pub(crate) fn stored_messages(&self, ids: &[MessageId]) -> Result<Vec<Option<Arc<Message>>>, ReplicaError> {
        let read = |id: &MessageId| {
            let value = self.store.get(&id.key())?;
            value.map(|value| id.read(&value)).transpose().map_err(|e| ReplicaError::State(e.to_string()))
        };
        ids.iter().map(read).collect()
    }

    /// As [`Replica::build_snapshot`], for handing it to the library right after: a failure here is no reason for the
    /// group to stop, and one when the library asks would be.
    pub(crate) fn prepare_snapshot(&self) -> Result<Option<LogId>, ReplicaError> {
        let (last, _) = self.build_snapshot()?;
        self.snapshot_is_due.store(true, Ordering::Release);
        Ok(last)
    }

    /// The snapshot that was prepared, once.
    pub(crate) fn take_prepared(&self) -> Option<(Option<LogId>, MembershipAt)> {
        self.snapshot_is_due.swap(false, Ordering::AcqRel).then(|| self.current_snapshot()).flatten()
    }

    /// Whether a snapshot that is written must be written as fast as possible: messages are evicted only when it is through.
    fn is_unpaced(&self, memory_max: u64) -> bool {
        self.unpaced.load(Ordering::Relaxed) || self.state.read().totals().message_memory > memory_max
    }

    /// Size of the last snapshot's file.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes.load(Ordering::Relaxed)
    }

    /// Writes a snapshot of the state as of a checkpoint made now. Applying goes on; further checkpoints wait. Blocks.
    pub(crate) fn build_snapshot(&self) -> Result<(Option<LogId>, MembershipAt), ReplicaError> {
        self.build_snapshot_for(self.cluster_id)
    }

    /// As [`Replica::build_snapshot`], before anybody is served, and only if there is none of this position.
    pub(crate) fn ensure_snapshot(&self) -> Result<(), ReplicaError> {
        let applied = self.position.lock().last;
        if self.current_snapshot().is_some_and(|(last, _)| last == applied) {
            return Ok(());
        }
        self.unpaced.store(true, Ordering::Relaxed);
        let built = self.build_snapshot();
        self.unpaced.store(false, Ordering::Relaxed);
        built.map(drop)
    }

    /// As [`Replica::build_snapshot`], for a cluster that this node will belong to.
    pub(crate) fn build_snapshot_for(
        &self,
        cluster_id: [u8; 16],
    ) -> Result<(Option<LogId>, MembershipAt), ReplicaError> {
        let mut written = self.writing.lock();
        self.checkpoint_while(&mut written)?;
        let (applied, entries) = self.store.load()?;
        let last = applied.and_then(|applied| applied.last);
        let membership = match self.store.get(MEMBERSHIP_KEY)? {
            Some(bytes) => MembershipAt::from_bytes(&bytes).map_err(|e| ReplicaError::State(e.to_string()))?,
            None => MembershipAt::default(),
        };
        let meta = SnapshotMeta {
            shard: SHARD,
            last,
            membership: membership.to_bytes(),
            cluster_id,
            created_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            format: STATE_FORMAT,
        };
        let mut writer = SnapshotWriter::create(self.fs.clone(), &self.snapshot_path, meta)?;
        let (mut pace, began) = (Pace::default(), Instant::now());
        // What could not be evicted now, retained messages above all, will not be afterwards either.
        let memory = self.state.read().totals().message_memory.max(MESSAGE_MEMORY_MAX) + MESSAGE_MEMORY_MAX;
        for entry in entries {
            let (key, value) = entry?;
            if key != MEMBERSHIP_KEY {
                writer.add(&key, &value)?;
                if pace.is_due(writer.written()) {
                    #[allow(clippy::disallowed_methods)] // on a blocking thread
                    std::thread::sleep(pace.pause(writer.written(), began.elapsed(), self.is_unpaced(memory)));
                }
            }
        }
        let bytes = writer.finish()?.len;
        snapshot::verify(&*self.fs, &self.snapshot_path)?;
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
        *self.snapshot.lock() = Some((last, membership.clone()));
        Ok((last, membership))
    }

    /// What a node that stops leaves: the state in its store, and in its own snapshot file if that is what operators
    /// copy (`to_file`). Blocks.
    pub(crate) fn leave(&self, to_file: bool) -> Result<(), ReplicaError> {
        self.unpaced.store(true, Ordering::Relaxed);
        let snapshot = self.current_snapshot().and_then(|(last, _)| last);
        if to_file && self.position.lock().last != snapshot {
            self.build_snapshot().map(drop)
        } else {
            self.checkpoint()
        }
    }

    /// Makes a received snapshot the state of this node. Blocks.
    pub(crate) fn install(&self, received: &Path) -> Result<(), ReplicaError> {
        let mut written = self.writing.lock();
        open_snapshot(&*self.fs, received)?;
        if received != self.snapshot_path {
            self.fs.rename(received, &self.snapshot_path)?;
            self.fs.sync_dir(self.snapshot_path.parent().unwrap_or(Path::new(".")))?;
        }
        written.broken = true;
        let position = fill_store(&*self.fs, &self.snapshot_path, &self.store)?;
        let mut fresh = load_state(&self.store, self.node)?;
        {
            let mut state = self.state.write();
            fresh.succeed(&state);
            *state = fresh;
            *self.position.lock() = position.clone();
        }
        *written = Written { last: position.last, broken: false, emptied: written.emptied };
        self.snapshot_bytes.store(size_of(&*self.fs, &self.snapshot_path), Ordering::Relaxed);
        *self.snapshot.lock() = Some((position.last, position.membership));
        self.observer.on_replaced();
        self.applied.send_replace(position.last.map_or(0, |id| id.index));
        Ok(())
    }
}

fn size_of(fs: &dyn Fs, path: &Path) -> u64 {
    fs.open(path, OpenMode::Read).and_then(|file| file.len()).unwrap_or(0)
}

/// A snapshot file whose entries are what this version knows.
fn open_snapshot(fs: &dyn Fs, path: &Path) -> Result<(SnapshotMeta, SnapshotReader), ReplicaError> {
    let (meta, entries) = SnapshotReader::open(fs, path)?;
    if meta.format != STATE_FORMAT {
        let (path, found) = (path.to_owned(), meta.format);
        return Err(SnapshotError::NewerFormat { path, found, supported: STATE_FORMAT }.into());
    }
    Ok((meta, entries))
}

/// Replaces the content of a store with that of a snapshot file. Interrupted, the store is marked incomplete.
pub(crate) fn fill_store(fs: &dyn Fs, path: &Path, store: &StateStore) -> Result<Position, ReplicaError> {
    let (meta, entries) = open_snapshot(fs, path)?;
    let membership = MembershipAt::from_bytes(&meta.membership).map_err(|e| ReplicaError::State(e.to_string()))?;
    store.clear()?;
    let own = (Bytes::from_static(MEMBERSHIP_KEY), Some(meta.membership.clone()));
    let ops = entries.map(|entry| entry.map(|(key, value)| (key, Some(value))).map_err(ReplicaError::from));
    store.try_checkpoint(AppliedIndex { shard: SHARD, last: meta.last }, ops.chain([Ok(own)]))?;
    Ok(Position { last: meta.last, membership })
}

/// Reads the state back from a complete store: one thread reads records, this one makes the state of them.
pub(crate) fn load_state(store: &StateStore, node: NodeId) -> Result<State, ReplicaError> {
    let (applied, entries) = store.load()?;
    let applied = LogIndex(applied.and_then(|applied| applied.last).map_or(0, |id| id.index));
    let again = Mutex::new(None);
    let fetch = |key: &[u8]| store.get(key).unwrap_or_else(|error| again.lock().replace(error).and(None));
    let (read, loaded) = std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel(READ_AHEAD);
        let reading = std::thread::Builder::new().name("state-read".into());
        let reading = reading.spawn_scoped(scope, move || read_chunks(entries, &sender))?;
        let loaded = State::load_within(applied, chunks.into_iter().flatten(), MESSAGE_MEMORY_MAX, fetch);
        let read = reading.join().map_err(|_| io::Error::other("the thread that reads the store panicked"))?;
        Ok::<_, io::Error>((read, loaded))
    })?;
    read?;
    if let Some(error) = again.into_inner() {
        return Err(error.into());
    }
    let mut state = loaded.map_err(|e| ReplicaError::State(e.to_string()))?;
    state.only_effects_for(node);
    Ok(state)
}

/// Ends early if nobody wants more.
fn read_chunks(entries: KvScan<'_>, chunks: &SyncSender<Vec<Result<Record, LoadError>>>) -> Result<(), KvError> {
    let entries = entries.filter(|entry| entry.as_ref().map_or(true, |(key, _)| key != MEMBERSHIP_KEY));
    let mut entries = entries.map(|entry| entry.map(|(key, value)| Record::read(&key, &value)));
    loop {
        let chunk = entries.by_ref().take(READ_CHUNK).collect::<Result<Vec<_>, _>>()?;
        if chunk.is_empty() || chunks.send(chunk).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
