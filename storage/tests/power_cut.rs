//! A real process on a real disk, killed with SIGKILL: on [`PowerCutFs`] that is a power cut. What the process had
//! acknowledged is there afterwards; what it had only written is not, which shows that the cut was one.
#![cfg(feature = "test-faults")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use common::options;
use mosquorum_storage::fs::{Fs, OpenMode, PowerCutFs, RealFs, write_file_atomically};
use mosquorum_storage::log::{Log, LogEntry, LogId, LogOptions, WriterMode};

const DIR: &str = "MOSQUORUM_TEST_POWER_CUT_DIR";

fn threaded() -> LogOptions {
    LogOptions { writer: WriterMode::Thread, segment_bytes: 1 << 16, log_id: None, ..options() }
}

/// Not a test by itself: appends until it is killed, and prints each index once it is acknowledged.
#[test]
#[ignore = "the child of the test below"]
fn child_appends_until_killed() {
    let dir = PathBuf::from(std::env::var(DIR).expect("the parent names the directory"));
    let (log, found) = Log::open(Arc::new(PowerCutFs::default()), &dir, threaded()).unwrap();
    let mut next = found.last.map_or(1, |last| last.index + 1);
    loop {
        if log.queued_bytes() > 20_000 {
            std::thread::yield_now();
            continue;
        }
        let id = LogId { term: 1, node: 1, index: next };
        let entry = LogEntry { shard: 0, id, payload: Bytes::from(vec![next as u8; 200]).into() };
        let report = move |result: Result<_, _>| {
            if result.is_ok() {
                println!("acknowledged {}", id.index);
                let _ = std::io::stdout().flush();
            }
        };
        log.append(vec![entry], Box::new(report));
        if next % 300 == 0 {
            log.purge_to(LogId { term: 1, node: 1, index: next - 250 }).unwrap();
        }
        next += 1;
    }
}

/// Runs the child until it has acknowledged `more` entries, kills it, and returns the last index it acknowledged.
fn run_child(dir: &Path, plant: &str, more: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_appends_until_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env("MOSQUORUM_PLANT", plant)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = 0;
    let mut index_of = |line: String| {
        if let Some(index) = line.strip_prefix("acknowledged ").and_then(|text| text.parse().ok()) {
            last = index;
        }
    };
    lines.by_ref().take(more).map_while(Result::ok).for_each(&mut index_of);
    child.kill().unwrap();
    child.wait().unwrap();
    // Lines that were complete when it died were acknowledged too.
    lines.map_while(Result::ok).for_each(&mut index_of);
    last
}

fn found_after_kills(name: &str, plant: &str, kills: usize) -> Vec<(u64, u64)> {
    let dir = std::env::temp_dir().join(format!("mosquorum-power-cut-{name}-{}", std::process::id()));
    let mut outcomes = Vec::new();
    for kill in 0..kills {
        let acknowledged = run_child(&dir, plant, 100 + kill * 150);
        let (log, found) = Log::open(Arc::new(RealFs), &dir, threaded()).unwrap();
        let last = found.last.map_or(0, |last| last.index);
        let first = found.first.unwrap_or(1);
        let mut at = first;
        while at <= last {
            for entry in log.read(at..last + 1, 10_000).unwrap() {
                assert_eq!((entry.id.index, entry.payload.head()[0]), (at, at as u8));
                at += 1;
            }
        }
        outcomes.push((acknowledged, last));
    }
    std::fs::remove_dir_all(&dir).unwrap();
    outcomes
}

#[test]
fn a_killed_process_keeps_what_it_acknowledged() {
    for (acknowledged, found) in found_after_kills("good", "", 5) {
        assert!(acknowledged > 0 && found >= acknowledged, "acknowledged {acknowledged}, found {found}");
    }
}

#[test]
fn an_acknowledgement_before_the_sync_is_lost_by_a_kill() {
    let outcomes = found_after_kills("planted", "ack-before-fsync", 12);
    assert!(outcomes.iter().any(|(acknowledged, found)| found < acknowledged), "never caught: {outcomes:?}");
}

#[test]
fn unsynced_bytes_and_names_are_seen_here_and_nowhere_else() {
    let dir = std::env::temp_dir().join(format!("mosquorum-power-cut-names-{}", std::process::id()));
    let fs = PowerCutFs::default();
    fs.create_dir_all(&dir).unwrap();
    let (a, b) = (dir.join("a"), dir.join("b"));
    let content = |fs: &dyn Fs, path: &Path| mosquorum_storage::fs::read_file(fs, path, 1 << 20).ok();

    let file = fs.open(&a, OpenMode::CreateNew).unwrap();
    file.write_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!((fs.list(&dir).unwrap(), RealFs.exists(&a).unwrap()), (vec!["a".into()], false));
    fs.sync_dir(&dir).unwrap();
    file.write_at(&[7; 10_000], 3).unwrap();
    file.set_len(9000).unwrap();
    assert_eq!(content(&RealFs, &a).unwrap(), b"synced");
    assert_eq!(content(&fs, &a).unwrap().len(), 9000);
    file.set_len(4).unwrap();
    file.set_len(8).unwrap();
    assert_eq!(content(&fs, &a).unwrap(), b"syn\x07\0\0\0\0");
    file.sync_data().unwrap();
    assert_eq!(content(&RealFs, &a).unwrap(), b"syn\x07\0\0\0\0");

    fs.rename(&a, &b).unwrap();
    assert_eq!((fs.list(&dir).unwrap(), fs.exists(&a).unwrap()), (vec!["b".into()], false));
    assert!(RealFs.exists(&a).unwrap() && !RealFs.exists(&b).unwrap());
    fs.sync_dir(&dir).unwrap();
    assert!(!RealFs.exists(&a).unwrap() && RealFs.exists(&b).unwrap());
    write_file_atomically(&fs, &b, b"new").unwrap();
    assert_eq!(content(&RealFs, &b).unwrap(), b"new");
    fs.remove_file(&b).unwrap();
    assert!(RealFs.exists(&b).unwrap() && !fs.exists(&b).unwrap());
    fs.sync_dir(&dir).unwrap();
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    std::fs::remove_dir_all(dir).unwrap();
}
