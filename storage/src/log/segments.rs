//! Segment files: made ready ahead of need, and reused after a purge.
//!
//! Always true: a file is called `<generation>.log` only after its header was synced, and a name that is used is
//! durable before anything is written under it; a purged segment is first renamed to `.free`, durably, and only then
//! overwritten. Contents of `.free` and `.tmp` files mean nothing.
//! With a writer thread this work has a thread of its own ("log-segments"), because filling 32 MiB with zeros would
//! otherwise stall a sync for 150-250 ms; it syncs in pieces for the same reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::LogError;
use super::format::{SEGMENT_HEADER_BYTES, encode_segment_header};
use super::types::{LogOptions, WriterMode};
use crate::fs::{Fs, FsFile, OpenMode};

const ZERO_PIECE_BYTES: u64 = 1 << 20;

/// An empty segment, ready to be written from [`SEGMENT_HEADER_BYTES`] on.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn FsFile>,
    pub(super) recycled: bool,
}

/// Does the work, on whatever thread.
#[derive(Debug)]
struct Keeper {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    log_id: [u8; 16],
    segment_bytes: u64,
    spare_segments: usize,
    free: Vec<PathBuf>,
}

enum Task {
    Prepare(u64),
    Recycle(Vec<PathBuf>),
}

/// Makes and takes back segments.
pub(super) struct Segments {
    /// Without a thread.
    keeper: Option<Keeper>,
    thread: Option<Worker>,
    /// The generation being prepared, by the thread.
    requested: Option<u64>,
}

struct Worker {
    tasks: Option<Sender<Task>>,
    /// One answer for each [`Task::Prepare`], in order.
    ready: Receiver<Result<Prepared, LogError>>,
    join: Option<JoinHandle<()>>,
}

pub(super) fn segment_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:016x}.log"))
}

/// The generation in a segment's name.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".log")?;
    (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok()).flatten()
}

/// Whether a name is one of a file whose content means nothing.
pub(super) fn is_free_name(name: &str) -> bool {
    [".free", ".tmp"].iter().any(|end| name.strip_suffix(end).is_some_and(|stem| stem.len() == 16))
}

impl Segments {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: &LogOptions,
        log_id: [u8; 16],
        free: Vec<PathBuf>,
    ) -> Result<Self, LogError> {
        let mut keeper = Keeper {
            fs,
            dir: dir.to_owned(),
            log_id,
            segment_bytes: options.segment_bytes,
            spare_segments: options.spare_segments,
            free,
        };
        if options.writer == WriterMode::Manual {
            return Ok(Segments { keeper: Some(keeper), thread: None, requested: None });
        }
        let (tasks, todo) = channel();
        let (report, ready) = channel();
        let work = move || {
            while let Ok(task) = todo.recv() {
                match task {
                    Task::Recycle(paths) => keeper.recycle(paths),
                    Task::Prepare(generation) => {
                        let outcome = keeper.prepare(generation);
                        if let Err(error) = &outcome {
                            tracing::warn!(%error, "the next log segment is not ready");
                        }
                        if report.send(outcome).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-segments".into()).spawn(work);
        let join = thread.map_err(|error| LogError::io("start a thread for", dir, error))?;
        let worker = Worker { tasks: Some(tasks), ready, join: Some(join) };
        Ok(Segments { keeper: None, thread: Some(worker), requested: None })
    }

    /// Starts to prepare a segment in the background; without a thread, nothing happens before [`Segments::take`].
    pub(super) fn request(&mut self, generation: u64) {
        if let Some(worker) = &self.thread
            && self.requested.is_none()
        {
            worker.send(Task::Prepare(generation));
            self.requested = Some(generation);
        }
    }

    /// The segment of this generation; waits for it when it is not ready. Says whether it had to wait.
    pub(super) fn take(&mut self, generation: u64) -> Result<(Prepared, bool), LogError> {
        if let Some(keeper) = &mut self.keeper {
            return Ok((keeper.prepare(generation)?, false));
        }
        self.request(generation);
        self.requested = None;
        let worker = self.thread.as_ref().expect("either a keeper or a thread exists");
        let (outcome, waited) = match worker.ready.try_recv() {
            Ok(outcome) => (Ok(outcome), false),
            Err(_) => (worker.ready.recv(), true),
        };
        let mut prepared = outcome.map_err(|_| LogError::Closed)?;
        if prepared.as_ref().is_err_and(LogError::is_no_space) {
            // It was prepared long ago; there may be space by now.
            worker.send(Task::Prepare(generation));
            prepared = worker.ready.recv().map_err(|_| LogError::Closed)?;
        }
        let prepared = prepared?;
        assert_eq!(prepared.generation, generation, "segments are prepared one at a time, in order");
        Ok((prepared, waited))
    }

    /// Takes back segments whose purge is durable.
    pub(super) fn recycle(&mut self, paths: Vec<PathBuf>) {
        match (&mut self.keeper, &self.thread) {
            (Some(keeper), _) => keeper.recycle(paths),
            (None, Some(worker)) => worker.send(Task::Recycle(paths)),
            (None, None) => {}
        }
    }
}

impl Worker {
    fn send(&self, task: Task) {
        // A closed channel shows when the segment is taken.
        let _ = self.tasks.as_ref().map(|tasks| tasks.send(task));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(join) = self.join.take() {
            let _ = join.join();
        }
    }
}

impl Keeper {
    fn prepare(&mut self, generation: u64) -> Result<Prepared, LogError> {
        let (beside, recycled) = match self.free.pop() {
            Some(path) => (path, true),
            None => (self.dir.join(format!("{generation:016x}.tmp")), false),
        };
        let mode = if recycled { OpenMode::ReadWrite } else { OpenMode::CreateOrTruncate };
        let opened = self.fs.open(&beside, mode);
        let file = opened.map_err(|error| LogError::io("open segment", &beside, error))?;
        self.fill(&*file).map_err(|error| LogError::io("prepare segment", &beside, error))?;
        let header = encode_segment_header(&self.log_id, generation);
        file.write_at(&header, 0)
            .and_then(|()| file.sync_data())
            .map_err(|error| LogError::io("prepare segment", &beside, error))?;
        let path = segment_path(&self.dir, generation);
        self.fs
            .rename(&beside, &path)
            .and_then(|()| self.fs.sync_dir(&self.dir))
            .map_err(|error| LogError::io("name segment", &path, error))?;
        Ok(Prepared { generation, path, file, recycled })
    }

    /// Gives the file its length, writing zeros where it had no bytes: syncs of written blocks are cheapest.
    fn fill(&self, file: &dyn FsFile) -> std::io::Result<()> {
        let mut at = file.len()?;
        if at > self.segment_bytes {
            return file.set_len(self.segment_bytes.max(SEGMENT_HEADER_BYTES));
        }
        let zeros = vec![0; ZERO_PIECE_BYTES.min(self.segment_bytes) as usize];
        while at < self.segment_bytes {
            let piece = (self.segment_bytes - at).min(ZERO_PIECE_BYTES);
            file.write_at(&zeros[..piece as usize], at)?;
            file.sync_data()?;
            at += piece;
        }
        Ok(())
    }

    /// A failure leaves files that the next start finds; nothing else depends on them.
    fn recycle(&mut self, paths: Vec<PathBuf>) {
        if let Err(error) = self.try_recycle(paths) {
            tracing::warn!(%error, "purged log segments stay until the next start");
        }
    }

    fn try_recycle(&mut self, paths: Vec<PathBuf>) -> Result<(), LogError> {
        let freed = free_segments(&*self.fs, &self.dir, paths)?;
        self.free.extend(freed);
        while self.free.len() > self.spare_segments {
            let path = self.free.pop().expect("the length was checked");
            self.fs.remove_file(&path).map_err(|error| LogError::io("remove purged segment", &path, error))?;
        }
        Ok(())
    }
}

/// Renames segments to `.free`, durably.
pub(super) fn free_segments(fs: &dyn Fs, dir: &Path, paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, LogError> {
    let mut freed = Vec::new();
    for path in paths {
        let free = path.with_extension("free");
        fs.rename(&path, &free).map_err(|error| LogError::io("free segment", &path, error))?;
        freed.push(free);
    }
    if !freed.is_empty() {
        fs.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))?;
    }
    Ok(freed)
}
