//! Opening what a node left on its disk, and judging what of it can be relied on.
//! Always true: nothing is deleted; what cannot be read is moved aside when it can be rebuilt (the state store) and is
//! an error otherwise; a log that has less than this node once acknowledged is an error, never a fresh start.
use super::settings::{Persistence, RaftSettings};
use crate::{
    entry::MembershipAt,
    events::EVENTS,
    ids::NodeId,
    raft::vote_after_snapshot,
    replica::{Observer, Position, Replica, ReplicaError, ReplicaParts, SHARD, fill_store, load_state},
    state::State,
};
use mosquorum_storage::{
    directory::{DataDirectory, DirectoryError, Identity},
    fs::{Fs, MemoryFs, RealFs, move_aside, write_file_atomically},
    kv::{KvError, KvStore, MemoryKv, SledKv, StateCondition, StateStore},
    log::{Log, LogError, LogId, LogOptions},
    snapshot::{self, SnapshotError, SnapshotReader},
};
use parking_lot::RwLock;
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::{info, warn};

/// Why a node cannot start. The text is for the operator and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("state store: {0}")]
    Store(#[from] KvError),
    #[error(
        "the log in {} is gone or older than what this node acknowledged: restore it, or move {} away ({})",
        log.display(), data_dir.display(),
        if *alone { "the snapshot file alone restores the node, without what came after it" }
        else { "the node then rejoins the cluster under a new id" }
    )]
    LogLost { log: PathBuf, data_dir: PathBuf, alone: bool },
    #[error(
        "the log starts after entry {purged}, and there is no snapshot in {} that reaches so far: restore it, or move {} \
         away (a node of a cluster then rejoins under a new id)", snapshot.display(), data_dir.display()
    )]
    NoSnapshot { snapshot: PathBuf, data_dir: PathBuf, purged: u64 },
    #[error("{} is a snapshot of another cluster than {}", snapshot.display(), data_dir.display())]
    ForeignSnapshot { snapshot: PathBuf, data_dir: PathBuf },
    #[error(
        "{} is a snapshot of a cluster of {voters} nodes: only a snapshot of a node alone restores a node alone",
        snapshot.display()
    )]
    ClusterSnapshot { snapshot: PathBuf, voters: usize },
    #[error("{0}")]
    State(String),
    #[error("the state in {} cannot be read: {detail}", snapshot.display())]
    UnknownState { snapshot: PathBuf, detail: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cluster listener {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] crate::transport::TlsError),
    #[error("a cluster of several nodes always persists: set persistence true")]
    MemoryCluster,
}

impl StartError {
    /// Whether this node's copy is lost, so that only others can replace it.
    fn is_loss(&self) -> bool {
        matches!(
            self,
            StartError::Log(LogError::Damaged { .. })
                | StartError::Snapshot(SnapshotError::Damaged { .. })
                | StartError::LogLost { .. }
                | StartError::NoSnapshot { .. }
        )
    }
}

impl StartError {
    /// Whether the state store cannot be relied on, so that another one is filled.
    fn is_of_store(&self) -> bool {
        match self {
            StartError::Store(error) => error.is_damage(),
            StartError::State(_) => true,
            _ => false,
        }
    }
}

impl From<ReplicaError> for StartError {
    fn from(error: ReplicaError) -> Self {
        match error {
            ReplicaError::Store(error) => StartError::Store(error),
            ReplicaError::Snapshot(error) => StartError::Snapshot(error),
            ReplicaError::State(detail) => StartError::State(detail),
            ReplicaError::Io(error) => StartError::State(error.to_string()),
        }
    }
}

/// The disk (or memory) under a node, before and after it has an identity.
pub(crate) struct Disk {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) directory: DataDirectory,
    memory: bool,
    /// As configured; otherwise it is inside the directory.
    snapshot_path: Option<PathBuf>,
    data_dir: PathBuf,
    alone: bool,
}

/// Log and replica of a node with an identity.
pub(crate) struct Opened {
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) replica: Arc<Replica>,
    /// Whether the log holds nothing and never did.
    pub(crate) pristine: bool,
}

/// Written once the log exists: from then on its absence is a loss.
const LOG_MARKER: &str = "log-created";
/// Written when a node that was removed is added again: what the directory holds is that of a number which never comes back.
const LEFT_MARKER: &str = "left-the-cluster";

impl Disk {
    /// Takes the data directory. Blocks.
    pub(crate) fn open(settings: &RaftSettings) -> Result<Self, StartError> {
        let memory = settings.persistence == Persistence::Memory;
        let alone = settings.other_peers().is_empty() && settings.listen.is_none();
        if memory && !settings.other_peers().is_empty() {
            return Err(StartError::MemoryCluster);
        }
        let fs = file_system(memory);
        set_stale_directory_aside(&*fs, settings)?;
        let directory = DataDirectory::open(fs.clone(), &settings.data_dir)?;
        let snapshot_path = settings.snapshot_path.clone();
        Ok(Self { fs, directory, memory, snapshot_path, data_dir: settings.data_dir.clone(), alone })
    }

    /// Whether an earlier directory of this node was damaged and moved away: it may only join, never form.
    pub(crate) fn has_damaged_past(&self) -> bool {
        let mut aside = self.data_dir.as_os_str().to_owned();
        aside.push(".damaged-1");
        self.fs.exists(Path::new(&aside)).unwrap_or(true)
    }

    /// Opens log and state of a directory that has an identity. Blocks.
    pub(crate) fn open_node(
        &mut self,
        state: Arc<RwLock<State>>,
        observer: Arc<dyn Observer>,
    ) -> Result<Opened, StartError> {
        let identity = self.directory.identity().cloned().expect("callers open a node after it got its identity");
        let (log, recovered) = Log::open(self.fs.clone(), &self.directory.log_dir(), LogOptions::default())?;
        if recovered.truncated_torn_tail_bytes > 0 {
            info!(target: EVENTS, bytes = recovered.truncated_torn_tail_bytes, "cut off log records that a crash had torn");
        }
        let snapshot_path = match &self.snapshot_path {
            Some(path) => path.clone(),
            None => self.directory.snapshot_dir()?.join("state.snapshot"),
        };
        let snapshot = self.read_snapshot_meta(&identity, &snapshot_path)?;
        if let Some((Some(last), _)) = snapshot
            && self.snapshot_path.is_some()
            && !self.log_was_used()?
        {
            restart_log(&log, last)?;
            info!(target: EVENTS, snapshot = %snapshot_path.display(), "restoring the node from its persistence file alone");
        }
        let bounds = log.bounds();
        let pristine = bounds.last.is_none() && bounds.purged.is_none() && log.vote().is_none();
        if pristine && self.log_was_used()? {
            return Err(self.log_lost());
        }
        if pristine && snapshot.as_ref().is_some_and(|(last, _)| last.is_some()) {
            return Err(self.log_lost());
        }
        let node = NodeId(identity.node_id);
        let (store, position, loaded) = self.open_state(bounds.purged, snapshot.as_ref(), &snapshot_path, node)?;
        if pristine && position.last.is_some() {
            return Err(self.log_lost());
        }
        // A restored node's counter begins anew; what it served under then may not come again.
        self.directory.raise_boots(loaded.last_incarnation(node).boots() + 1)?;
        let identity = self.directory.identity().cloned().unwrap_or(identity);
        *state.write() = loaded;
        info!(
            applied = position.last.map_or(0, |id| id.index),
            log_last = bounds.last.map_or(0, |id| id.index),
            "state loaded"
        );
        let replica = Replica::new(ReplicaParts {
            state,
            store,
            fs: self.fs.clone(),
            snapshot_path,
            cluster_id: identity.cluster_id,
            node,
            position,
            snapshot,
            observer,
        });
        reconcile(&log, &replica)?;
        Ok(Opened { identity, log, replica, pristine })
    }

    fn log_lost(&self) -> StartError {
        StartError::LogLost { log: self.directory.log_dir(), data_dir: self.data_dir.clone(), alone: self.alone }
    }

    /// A log that was used before and is empty now is not this node's log.
    fn log_was_used(&self) -> Result<bool, StartError> {
        let marker = self.data_dir.join(LOG_MARKER);
        self.fs.exists(&marker).map_err(|source| StartError::Io { path: marker.clone(), source })
    }

    /// Binds the empty directory of a node alone to what its persistence file says, if there is one: a backup is that
    /// file. Returns whether it did.
    fn adopt_snapshot(&mut self, name: &str) -> Result<bool, StartError> {
        let Some(path) = self.snapshot_path.clone().filter(|_| self.alone) else { return Ok(false) };
        let io = |source| StartError::Io { path: path.clone(), source };
        if !self.fs.exists(&path).map_err(io)? {
            return Ok(false);
        }
        snapshot::verify(&*self.fs, &path)?;
        let (meta, _) = SnapshotReader::open(&*self.fs, &path)?;
        let membership = MembershipAt::from_bytes(&meta.membership).map_err(|e| StartError::State(e.to_string()))?;
        let voters: BTreeSet<u64> = membership.record.configs.iter().flatten().copied().collect();
        match voters.first() {
            Some(node) if voters.len() == 1 => self.directory.initialise(meta.cluster_id, *node, name, 1)?,
            // The file that a node writes before it serves: nothing is in it.
            None if meta.last.is_none() => return Ok(false),
            _ => return Err(StartError::ClusterSnapshot { snapshot: path.clone(), voters: voters.len() }),
        };
        Ok(true)
    }

    /// The log is about to hold its first entry or vote.
    pub(crate) fn mark_log_used(&self) -> Result<(), StartError> {
        let marker = self.data_dir.join(LOG_MARKER);
        let io = |source| StartError::Io { path: marker.clone(), source };
        if !self.fs.exists(&marker).map_err(io)? {
            write_file_atomically(&*self.fs, &marker, b"").map_err(io)?;
        }
        Ok(())
    }

    /// The next start begins with an empty directory, and keeps this one beside.
    pub(crate) fn mark_left(&self) -> Result<(), StartError> {
        let marker = self.data_dir.join(LEFT_MARKER);
        write_file_atomically(&*self.fs, &marker, b"").map_err(|source| StartError::Io { path: marker, source })
    }

    fn read_snapshot_meta(
        &self,
        identity: &Identity,
        path: &Path,
    ) -> Result<Option<(Option<LogId>, MembershipAt)>, StartError> {
        let io = |source| StartError::Io { path: path.to_owned(), source };
        if !self.fs.exists(path).map_err(io)? {
            return Ok(None);
        }
        // The file that operators keep is looked at as a whole: a backup that is damaged is of no use when it is needed.
        let meta = match self.snapshot_path {
            Some(_) => snapshot::verify(&*self.fs, path)?.0,
            None => SnapshotReader::open(&*self.fs, path)?.0,
        };
        if meta.cluster_id != identity.cluster_id {
            return Err(StartError::ForeignSnapshot { snapshot: path.to_owned(), data_dir: self.data_dir.clone() });
        }
        let membership = MembershipAt::from_bytes(&meta.membership).map_err(|e| StartError::State(e.to_string()))?;
        Ok(Some((meta.last, membership)))
    }

    /// The store, and the state read from it; one that cannot be read to its end is moved aside and filled anew, once.
    fn open_state(
        &self,
        purged: Option<LogId>,
        snapshot: Option<&(Option<LogId>, MembershipAt)>,
        path: &Path,
        node: NodeId,
    ) -> Result<(StateStore, Position, State), StartError> {
        let read = |store: &StateStore| {
            let (position, rebuilt) = self.recover_store(store, purged, snapshot, path)?;
            match load_state(store, node) {
                Err(ReplicaError::State(detail)) if rebuilt => {
                    // The next start would take it for a store of its own.
                    store.clear()?;
                    Err(StartError::UnknownState { snapshot: path.to_owned(), detail })
                }
                loaded => Ok((position, loaded?)),
            }
        };
        let store = self.open_store()?;
        match read(&store) {
            Err(error) if error.is_of_store() && !self.memory => {
                drop(store);
                self.set_store_aside(&error)?;
                let store = self.open_store()?;
                let (position, state) = read(&store)?;
                Ok((store, position, state))
            }
            outcome => outcome.map(|(position, state)| (store, position, state)),
        }
    }

    fn set_store_aside(&self, error: &dyn std::error::Error) -> Result<(), StartError> {
        let dir = self.directory.state_dir();
        let aside = move_aside(&RealFs, &dir).map_err(|source| StartError::Io { path: dir, source })?;
        warn!(%error, aside = %aside.display(), "state store cannot be used, moved aside and rebuilt");
        Ok(())
    }

    fn open_store(&self) -> Result<StateStore, StartError> {
        if self.memory {
            return Ok(StateStore::open(Arc::new(MemoryKv::new()), SHARD)?.0);
        }
        let dir = self.directory.state_dir();
        let open = || -> Result<StateStore, KvError> {
            let engine: Arc<dyn KvStore> = Arc::new(SledKv::open(&dir)?);
            Ok(StateStore::open(engine, SHARD)?.0)
        };
        match open() {
            Ok(store) => Ok(store),
            Err(error) => {
                self.set_store_aside(&error)?;
                Ok(open()?)
            }
        }
    }

    /// Brings the store to a complete state that the log continues; its position, and whether it was filled anew.
    fn recover_store(
        &self,
        store: &StateStore,
        purged: Option<LogId>,
        snapshot: Option<&(Option<LogId>, MembershipAt)>,
        path: &Path,
    ) -> Result<(Position, bool), StartError> {
        let reaches = |last: Option<LogId>| last.map_or(0, |id| id.index + 1) >= purged.map_or(0, |id| id.index + 1);
        if let StateCondition::Complete(applied) = store.condition()
            && reaches(applied.last)
        {
            let membership = match store.get(crate::replica::MEMBERSHIP_KEY)? {
                Some(bytes) => MembershipAt::from_bytes(&bytes).map_err(|e| StartError::State(e.to_string()))?,
                None => MembershipAt::default(),
            };
            return Ok((Position { last: applied.last, membership }, false));
        }
        match snapshot {
            Some((last, _)) if reaches(*last) => {
                info!(target: EVENTS, snapshot = %path.display(), "state store rebuilt from the snapshot");
                snapshot::verify(&*self.fs, path)?;
                Ok((fill_store(&*self.fs, path, store)?, true))
            }
            _ if purged.is_none() => {
                store.clear()?;
                Ok((Position::default(), true))
            }
            _ => Err(StartError::NoSnapshot {
                snapshot: path.to_owned(),
                data_dir: self.data_dir.clone(),
                purged: purged.map_or(0, |id| id.index),
            }),
        }
    }
}

/// An unused log goes on where the snapshot ends. Done again after a crash, until the log is used.
fn restart_log(log: &Log, last: LogId) -> Result<(), LogError> {
    log.save_vote(&vote_after_snapshot(last))?;
    log.reset_to(last)?;
    log.flush().map(drop)
}

/// Raft applies what is committed before this node's own log has it on its disk, so after a crash the state may be ahead
/// of the log, or the log may end in entries that others replaced. Such a log is of no use: what the state holds was
/// committed, and the log goes on behind it. Done again after a crash.
fn reconcile(log: &Log, replica: &Replica) -> Result<(), StartError> {
    let Some(applied) = replica.applied().0 else { return Ok(()) };
    let bounds = log.bounds();
    let found = match bounds.purged {
        Some(purged) if purged.index >= applied.index => Some(purged),
        _ if bounds.last.is_none_or(|last| last.index < applied.index) => None,
        _ => log.read(applied.index..applied.index + 1, 1)?.first().map(|entry| entry.id),
    };
    if found.is_some_and(|id| id == applied || id.index > applied.index) {
        return Ok(());
    }
    warn!(
        applied = applied.index,
        log_last = bounds.last.map_or(0, |id| id.index),
        "the log does not have what the state holds: it goes on behind the state"
    );
    // First: what the log no longer has must be in a snapshot.
    replica.ensure_snapshot()?;
    log.reset_to(applied)?;
    log.flush()?;
    Ok(())
}

fn file_system(memory: bool) -> Arc<dyn Fs> {
    if memory {
        return Arc::new(MemoryFs::default());
    }
    #[cfg(feature = "test-faults")]
    if std::env::var("MOSQUORUM_FS").is_ok_and(|fs| fs == "power-cut") {
        return Arc::new(mosquorum_storage::fs::PowerCutFs::default());
    }
    Arc::new(RealFs)
}

/// As [`Disk::open`] and [`Disk::open_node`]. A node of a cluster whose log or snapshot is damaged or gone sets its
/// directory aside and rejoins under a new number; a node alone has nobody who could replace what is lost, and stops.
pub(crate) fn open(
    settings: &RaftSettings,
    state: &Arc<RwLock<State>>,
    observer: &Arc<dyn Observer>,
) -> Result<(Disk, Option<Opened>), StartError> {
    if !settings.other_peers().is_empty() && settings.data_dir.join(LEFT_MARKER).exists() {
        let io = |source| StartError::Io { path: settings.data_dir.clone(), source };
        let aside = move_aside(&*file_system(false), &settings.data_dir).map_err(io)?;
        warn!(aside = %aside.display(), "this node was removed and added again: it joins under a new number, its former data is kept");
    }
    let once = || {
        let mut disk = Disk::open(settings)?;
        let known = disk.directory.identity().is_some() || disk.adopt_snapshot(&settings.name)?;
        let opened = if known { Some(disk.open_node(state.clone(), observer.clone())?) } else { None };
        Ok::<_, StartError>((disk, opened))
    };
    match once() {
        Err(error) if !settings.other_peers().is_empty() && error.is_loss() => {
            let io = |source| StartError::Io { path: settings.data_dir.clone(), source };
            let aside = move_aside(&*file_system(false), &settings.data_dir).map_err(io)?;
            warn!(%error, aside = %aside.display(), "data directory set aside, rejoining the cluster under a new number");
            *state.write() = State::default();
            once()
        }
        other => other,
    }
}

/// The snapshot file of a node alone was removed: the operator wants to start empty. The rest is kept beside.
fn set_stale_directory_aside(fs: &dyn Fs, settings: &RaftSettings) -> Result<(), StartError> {
    let Some(snapshot) = &settings.snapshot_path else { return Ok(()) };
    let io = |source| StartError::Io { path: snapshot.clone(), source };
    let log_used = fs.exists(&settings.data_dir.join(LOG_MARKER)).map_err(io)?;
    if log_used && !fs.exists(snapshot).map_err(io)? {
        let aside = move_aside(fs, &settings.data_dir).map_err(io)?;
        warn!(aside = %aside.display(), "the persistence file was removed: starting empty, the rest is kept");
    }
    Ok(())
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
