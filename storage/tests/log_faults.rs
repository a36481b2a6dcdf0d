//! The log on a disk that fails, fills up or changes bytes, and its everyday behaviour with a writer thread.
#![allow(clippy::disallowed_methods)] // threads of tests may wait
#![allow(clippy::unwrap_used)] // what fails ends the test

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use bytes::Bytes;
use common::{Content, DIR, Model, Random, open, options};
use mosquorum_storage::fs::{CrashMode, Fs, FsFile, LockOutcome, MemoryFs, OpenMode, RealFs};
use mosquorum_storage::log::{Log, LogEntry, LogError, LogId, LogOptions, WriterMode};

fn entry(term: u64, index: u64, len: usize) -> LogEntry {
    LogEntry { shard: 0, id: LogId { term, node: 1, index }, payload: Bytes::from(vec![index as u8; len]).into() }
}

fn append(log: &Log, entries: Vec<LogEntry>) -> Result<(), LogError> {
    let (sender, outcome) = channel();
    log.append(entries, Box::new(move |result| sender.send(result.map(drop)).expect("the test waits")));
    log.run_pending();
    outcome.recv().expect("every append is answered")
}

fn segment_paths(fs: &dyn Fs) -> Vec<PathBuf> {
    let names = fs.list(Path::new(DIR)).unwrap();
    names.iter().filter(|n| n.ends_with(".log")).map(|n| Path::new(DIR).join(n)).collect()
}

#[test]
fn a_failed_sync_fails_the_log_for_good_and_is_never_retried() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, vec![entry(1, 1, 100)]).unwrap();
    let (sender, outcomes) = channel();
    for index in 2..5 {
        let sender = sender.clone();
        log.append(vec![entry(1, index, 100)], Box::new(move |result| sender.send(result).unwrap()));
    }
    let vote_sender = sender.clone();
    log.save_vote_then(b"vote", Box::new(move |result| vote_sender.send(result).unwrap()));
    fs.fail_sync(1);
    let syncs = fs.syncs();
    log.run_pending();
    for outcome in outcomes.try_iter() {
        assert!(matches!(outcome, Err(LogError::Failed { operation: "sync", .. })), "{outcome:?}");
    }
    assert_eq!(fs.syncs(), syncs + 1, "one failed sync, no other");
    assert!(append(&log, vec![entry(1, 5, 10)]).unwrap_err().is_permanent());
    assert!(append(&log, vec![entry(1, 6, 10)]).unwrap_err().is_permanent());
    assert!(log.save_vote(b"later").unwrap_err().is_permanent());
    assert!(log.truncate_from(1).unwrap_err().is_permanent());
    assert!(log.purge_to(LogId { term: 1, node: 1, index: 1 }).unwrap_err().is_permanent());
    assert_eq!(log.read(1..9, 1 << 20).unwrap().len(), 4, "reading goes on");
    log.shutdown();
    assert_eq!((fs.syncs(), fs.syncs_after_failure()), (syncs + 1, 0));
    fs.crash(CrashMode::LoseAll);
    let (log, _) = open(&fs).unwrap();
    assert_eq!(log.bounds().last.unwrap().index, 1);
}

#[test]
fn what_the_kernel_forgot_after_a_failed_sync_is_written_again_before_it_counts() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, vec![entry(1, 1, 100)]).unwrap();
    fs.fail_sync(1);
    append(&log, vec![entry(1, 2, 100)]).unwrap_err();
    drop(log);
    // The process restarts without a reboot: the page cache still shows entry 2.
    let (log, found) = open(&fs).unwrap();
    assert_eq!(found.last.unwrap().index, 2);
    fs.crash(CrashMode::LoseAll);
    drop(log);
    let (_log, found) = open(&fs).unwrap();
    assert_eq!(found.last.unwrap().index, 2, "it was reported as durable");
}

#[test]
fn a_full_disk_is_an_error_and_the_log_opens_again() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    fs.limit_space(Some(10_000));
    let mut acknowledged = 0;
    let error = loop {
        match append(&log, vec![entry(1, acknowledged + 1, 1000)]) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(acknowledged > 3 && error.is_no_space() && error.is_permanent(), "{acknowledged} {error}");
    fs.limit_space(None);
    drop(log);
    let (log, found) = open(&fs).unwrap();
    assert_eq!(found.last.unwrap().index, acknowledged);
    append(&log, vec![entry(1, acknowledged + 1, 1000)]).unwrap();
}

#[test]
fn every_flipped_byte_of_what_was_synced_is_damage_or_harmless() {
    let fs = MemoryFs::new();
    let (mut model, mut random) = (Model::new(), Random(4));
    let (log, _) = open(&fs).unwrap();
    for _ in 0..60 {
        model.step(&log, &mut random);
    }
    log.run_pending();
    let content = Content::of(&log).unwrap();
    log.shutdown();
    let (mut damaged, mut harmless) = (0, 0);
    let paths = segment_paths(&fs);
    for (number, path) in paths.iter().enumerate() {
        let len = fs.open(path, OpenMode::Read).unwrap().len().unwrap();
        // The last segment ends with the watermark of the shutdown, behind which nothing was acknowledged.
        let is_last = number + 1 == paths.len();
        for offset in (0..len).step_by(5) {
            fs.flip(path, offset, 0x10).unwrap();
            match open(&fs) {
                Err(LogError::Damaged { .. } | LogError::Foreign { .. } | LogError::NewerFormat { .. }) => {
                    damaged += 1;
                }
                Err(other) => panic!("byte {offset} of {path:?}: {other}"),
                Ok((log, _)) => {
                    assert_eq!(Content::of(&log).unwrap(), content, "byte {offset} of {path:?}, last {is_last}");
                    harmless += 1;
                    // Opening has written a new epoch: start over from the state before.
                    fs.crash(CrashMode::LoseAll);
                    log.shutdown();
                }
            }
            fs.flip(path, offset, 0x10).unwrap();
        }
    }
    println!("{damaged} flips were damage, {harmless} harmless");
    assert!(damaged > 1000);
}

#[test]
fn a_missing_segment_is_damage() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    for index in 1..40 {
        append(&log, vec![entry(1, index, 500)]).unwrap();
    }
    log.shutdown();
    let paths = segment_paths(&fs);
    assert!(paths.len() > 3);
    let aside = Path::new(DIR).join("aside");
    for path in &paths[..paths.len() - 1] {
        fs.rename(path, &aside).unwrap();
        let error = open(&fs).map(drop).unwrap_err();
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
        fs.rename(&aside, path).unwrap();
    }
    open(&fs).unwrap();
}

#[test]
fn foreign_and_newer_segments_are_named() {
    let fs = MemoryFs::new();
    drop(open(&fs).unwrap());
    let path = &segment_paths(&fs)[0];
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    let mut magic = [0; 9];
    file.read_at(&mut magic, 0).unwrap();
    file.write_at(&[9], 8).unwrap();
    assert!(matches!(open(&fs), Err(LogError::NewerFormat { found: 9, supported: 1, .. })));
    file.write_at(b"SQLite format 3", 0).unwrap();
    assert!(matches!(open(&fs), Err(LogError::Foreign { .. })));
    file.write_at(&[0; 64], 0).unwrap();
    assert!(matches!(open(&fs), Err(LogError::Damaged { offset: 0, .. })));
}

#[test]
fn an_entry_larger_than_a_segment_is_kept_and_its_file_shrinks_when_recycled() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, vec![entry(1, 1, 300_000)]).unwrap();
    append(&log, vec![entry(1, 2, 10), entry(1, 3, 70_000), entry(1, 4, 10)]).unwrap();
    drop(log);
    let (log, _) = open(&fs).unwrap();
    let read = log.read(1..5, 1).unwrap();
    assert_eq!((read.len(), read[0].payload.len()), (1, 300_000));
    assert_eq!(log.read(1..5, 1 << 20).unwrap().len(), 4);
    for index in 5..30 {
        append(&log, vec![entry(1, index, 500)]).unwrap();
    }
    log.purge_to(LogId { term: 1, node: 1, index: 28 }).unwrap();
    log.run_pending();
    for index in 30..60 {
        append(&log, vec![entry(1, index, 500)]).unwrap();
    }
    for path in segment_paths(&fs) {
        assert!(fs.open(&path, OpenMode::Read).unwrap().len().unwrap() <= 4096 + 1000);
    }
}

#[test]
fn a_rolling_log_uses_a_bounded_number_of_files() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    for index in 1..2000 {
        append(&log, vec![entry(1, index, 300)]).unwrap();
        if index > 20 {
            log.purge_to(LogId { term: 1, node: 1, index: index - 20 }).unwrap();
        }
    }
    assert!(fs.list(Path::new(DIR)).unwrap().len() <= 6, "{:?}", fs.list(Path::new(DIR)));
    assert!(log.stats().recycled > 100);
}

#[test]
fn reads_are_cut_by_bytes_and_refused_below_the_purge() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, (5..50).map(|index| entry(1, index, 100)).collect()).unwrap();
    assert_eq!(log.bounds().first, Some(5));
    assert_eq!(log.read(0..100, usize::MAX).unwrap().len(), 45);
    assert_eq!(log.read(49..100, 0).unwrap().len(), 1);
    assert!(log.read(50..100, 1000).unwrap().is_empty());
    let cut = log.read(10..50, 1000).unwrap();
    assert!((7..=10).contains(&cut.len()), "{}", cut.len());
    log.purge_to(LogId { term: 1, node: 1, index: 20 }).unwrap();
    assert!(matches!(log.read(20..30, 1000), Err(LogError::Purged { index: 20, purged: 20 })));
    assert_eq!(log.read(21..22, 1000).unwrap()[0].id.index, 21);
    assert!(matches!(append(&log, vec![entry(1, 52, 1)]), Err(LogError::NotContiguous { expected: 50, got: 52 })));
    log.reset_to(LogId { term: 3, node: 1, index: 90 }).unwrap();
    append(&log, vec![entry(3, 91, 1)]).unwrap();
    assert_eq!(log.read(91..92, 1000).unwrap()[0].id.term, 3);
}

#[test]
fn entries_whose_memory_was_let_go_of_are_read_from_the_disk() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, (5..5000).map(|index| entry(1, index, 1)).collect()).unwrap();
    let read = |range: std::ops::Range<u64>| {
        let mut from_disk = false;
        let entries = log.read_by(range, usize::MAX, |read| {
            from_disk = true;
            read();
        });
        (entries.unwrap(), from_disk)
    };
    let (entries, from_disk) = read(4995..5000);
    assert!(!from_disk && entries.len() == 5);
    log.shrink_cache(0);
    assert_eq!(read(4995..5000), (entries, true));
    append(&log, vec![entry(1, 5000, 1)]).unwrap();
    assert_eq!(read(5000..5001), (vec![entry(1, 5000, 1)], false));
    assert_eq!(read(5..6000).0.len(), 4996);
}

#[test]
fn truncation_reports_the_entry_before_also_when_it_is_in_a_file() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    append(&log, (1..100).map(|index| entry(index, index, 100)).collect()).unwrap();
    log.truncate_from(10).unwrap();
    assert_eq!(log.bounds().last, Some(entry(9, 9, 0).id));
    append(&log, vec![entry(200, 10, 5)]).unwrap();
    drop(log);
    let (log, found) = open(&fs).unwrap();
    assert_eq!(found.last, Some(entry(200, 10, 0).id));
    assert_eq!(log.read(9..20, 1 << 20).unwrap().len(), 2);
    log.truncate_from(1).unwrap();
    assert_eq!(log.bounds().last, None);
    log.flush().unwrap();
}

#[test]
fn space_that_comes_back_before_it_is_needed_is_not_missed() {
    let fs = MemoryFs::new();
    let threaded = LogOptions { writer: WriterMode::Thread, ..options() };
    let (log, _) = Log::open(Arc::new(fs.clone()), Path::new(DIR), threaded).unwrap();
    append(&log, vec![entry(1, 1, 2000)]).unwrap();
    // Segment 2 is prepared in the background; segment 3 finds the disk full.
    while segment_paths(&fs).len() < 2 {
        std::thread::yield_now();
    }
    fs.limit_space(Some(0));
    append(&log, vec![entry(1, 2, 3000)]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    fs.limit_space(None);
    append(&log, vec![entry(1, 3, 3000)]).unwrap();
    log.shutdown();
}

#[test]
fn a_panic_in_a_waiter_fails_the_log_instead_of_leaving_others_waiting() {
    let fs = MemoryFs::new();
    let threaded = LogOptions { writer: WriterMode::Thread, ..options() };
    let (log, _) = Log::open(Arc::new(fs), Path::new(DIR), threaded).unwrap();
    log.append(vec![entry(1, 1, 10)], Box::new(|_| panic!("on purpose")));
    while log.failure().is_none() {
        std::thread::yield_now();
    }
    assert!(matches!(log.flush(), Err(LogError::Closed)));
    log.shutdown();
}

/// With threads, on the real disk: completions in order, reads at any time, group commit.
#[test]
fn a_writer_thread_acknowledges_in_order_while_others_read() {
    let dir = std::env::temp_dir().join(format!("mosquorum-log-test-{}", std::process::id()));
    let threaded = LogOptions { writer: WriterMode::Thread, segment_bytes: 1 << 16, cache_bytes: 10_000, ..options() };
    let (log, _) = Log::open(Arc::new(RealFs), &dir, threaded.clone()).unwrap();
    let (sender, outcomes) = channel();
    let reader = log.clone();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let reading = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let bounds = reader.bounds();
            let (Some(first), Some(last)) = (bounds.first, bounds.last) else { continue };
            match reader.read(first..last.index + 1, 5000) {
                Ok(entries) => assert_eq!(entries[0].id.index, first),
                Err(error) => assert!(matches!(error, LogError::Purged { .. }), "{error}"),
            }
        }
    });
    for index in 1..=3000 {
        let sender = sender.clone();
        log.append(vec![entry(1, index, 300)], Box::new(move |result| sender.send((index, result)).unwrap()));
        assert_eq!(log.read(index..index + 1, 1).unwrap()[0].id.index, index);
        if index % 500 == 0 {
            log.purge_to(LogId { term: 1, node: 1, index: index - 100 }).unwrap();
            log.save_vote(format!("{index}").as_bytes()).unwrap();
        }
    }
    for expected in 1..=3000 {
        let (index, result) = outcomes.recv().unwrap();
        result.unwrap();
        assert_eq!(index, expected);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    reading.join().unwrap();
    assert_eq!(log.queued_bytes(), 0);
    assert!(log.stats().syncs < 3000);
    log.save_committed(LogId { term: 1, node: 1, index: 2999 });
    let clone = log.clone();
    log.shutdown();
    assert!(matches!(append(&clone, vec![entry(1, 3001, 1)]), Err(LogError::Closed)));
    let (log, found) = Log::open(Arc::new(RealFs), &dir, threaded).unwrap();
    assert_eq!((found.last.unwrap().index, found.truncated_torn_tail_bytes), (3000, 0));
    assert_eq!(log.vote().unwrap(), "3000");
    assert_eq!(log.committed().unwrap().index, 2999);
    assert_eq!(log.read(2901..3001, usize::MAX).unwrap().len(), 100);
    drop(log);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Once set to, fails to free purged segments as a full disk would.
#[derive(Debug)]
struct Full {
    fs: MemoryFs,
    failures: AtomicUsize,
}

impl Fs for Full {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn FsFile>> {
        self.fs.open(path, mode)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        self.fs.exists(path)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
        self.fs.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> std::io::Result<()> {
        self.fs.create_dir_all(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        let frees = to.extension().is_some_and(|extension| extension == "free");
        let one_less = |left: usize| left.checked_sub(1);
        if frees && self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.fs.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.fs.remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.fs.sync_dir(dir)
    }
    fn free_bytes(&self, dir: &Path) -> std::io::Result<u64> {
        self.fs.free_bytes(dir)
    }
    fn try_lock(&self, path: &Path) -> std::io::Result<LockOutcome> {
        self.fs.try_lock(path)
    }
}

#[test]
fn segments_that_cannot_be_freed_cost_no_entry() {
    let memory = MemoryFs::new();
    let fs = Arc::new(Full { fs: memory.clone(), failures: AtomicUsize::new(1) });
    let options = || LogOptions { writer: WriterMode::Thread, ..options() };
    let (log, _) = Log::open(fs.clone(), Path::new(DIR), options()).unwrap();
    for index in 1..100 {
        append(&log, vec![entry(1, index, 1000)]).unwrap();
        if index == 30 {
            log.purge_to(LogId { term: 1, node: 1, index: 20 }).unwrap();
        }
    }
    assert_eq!(fs.failures.load(Ordering::SeqCst), 0, "it could not be freed");
    log.shutdown();
    memory.crash(CrashMode::LoseAll);
    let (log, found) = Log::open(fs, Path::new(DIR), options()).unwrap();
    assert_eq!(found.last.unwrap().index, 99);
    assert_eq!(log.read(21..100, 1 << 20).unwrap().len(), 79);
}

#[test]
fn a_segment_that_is_cut_while_it_is_read_is_an_error() {
    let fs = MemoryFs::new();
    let (log, _) = open(&fs).unwrap();
    for index in 1..20 {
        append(&log, vec![entry(1, index, 1000)]).unwrap();
    }
    let first = segment_paths(&fs).remove(0);
    fs.open(&first, OpenMode::ReadWrite).unwrap().set_len(100).unwrap();
    assert!(matches!(log.read(1..4, 1 << 20), Err(LogError::Damaged { .. })));
}
