//! Measures the log on a real disk: entries of 300 bytes, one sync per batch, batches of 1, 16 and 256; then 64 and
//! 1024 waiting writers of one entry each, where the group commit makes the batches.
//!
//! `cargo run --release -p mosquorum-storage --example log_bench -- [directory] [seconds per case]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mosquorum_storage::fs::{Fs, OpenMode, RealFs};
use mosquorum_storage::log::{Log, LogEntry, LogId, LogOptions};

const PAYLOAD_BYTES: usize = 300;

fn entries(next: &mut u64, count: u64) -> Vec<LogEntry> {
    let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let range = *next..*next + count;
    *next += count;
    range
        .map(|index| LogEntry { shard: 0, id: LogId { term: 1, node: 1, index }, payload: payload.clone().into() })
        .collect()
}

/// Keeps `in_flight` appends of `batch` entries waiting at any time.
fn run(log: &Log, batch: u64, in_flight: usize, seconds: f64) {
    let (sender, acknowledged): (SyncSender<Instant>, Receiver<Instant>) = sync_channel(in_flight);
    let mut next = log.bounds().last.map_or(1, |last| last.index + 1);
    let before = log.stats();
    let mut latencies = Vec::new();
    let append = |next: &mut u64| {
        let (sender, started) = (sender.clone(), Instant::now());
        log.append(
            entries(next, batch),
            Box::new(move |result| {
                result.expect("the disk works");
                let _ = sender.send(started);
            }),
        );
    };
    let started = Instant::now();
    (0..in_flight).for_each(|_| append(&mut next));
    let mut done = 0u64;
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        let appended = acknowledged.recv().expect("the writer answers");
        latencies.push(appended.elapsed());
        done += batch;
        append(&mut next);
        if next % 200_000 < batch {
            log.purge_to(LogId { term: 1, node: 1, index: next - 100_000.min(next - 1) }).expect("the log works");
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    log.flush().expect("the disk works");
    let after = log.stats();
    latencies.sort_unstable();
    let at = |p: f64| latencies[((latencies.len() - 1) as f64 * p) as usize].as_secs_f64() * 1e3;
    println!(
        "batch {batch:4} x {in_flight:4} waiting: {:8.0} entries/s, {:6.0} syncs/s, p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms, \
         sync avg {:.2} ms, {} segments ({} recycled, {} waited for)",
        done as f64 / elapsed,
        (after.syncs - before.syncs) as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
        (after.sync.sum_micros - before.sync.sum_micros) as f64 / (after.syncs - before.syncs).max(1) as f64 / 1e3,
        after.segments - before.segments,
        after.recycled - before.recycled,
        after.segment_waits - before.segment_waits,
    );
}

/// The disk's own figure under the same load: one thread that writes and syncs into a prefilled file, nothing else.
fn raw(dir: &Path, batch: usize, seconds: f64) {
    let path = dir.join("raw");
    let file = RealFs.open(&path, OpenMode::CreateOrTruncate).expect("the directory is writable");
    file.write_at(&vec![1; 32 << 20], 0).and_then(|()| file.sync_data()).expect("the disk works");
    let bytes = vec![2; batch * (PAYLOAD_BYTES + 44)];
    let (mut at, mut syncs) = (0, 0u64);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs_f64(seconds) {
        file.write_at(&bytes, at).and_then(|()| file.sync_data()).expect("the disk works");
        at = (at + bytes.len() as u64) % (30 << 20);
        syncs += 1;
    }
    let rate = syncs as f64 / started.elapsed().as_secs_f64();
    println!("batch {batch:4}, bare write + fdatasync: {:8.0} entries/s, {rate:6.0} syncs/s", rate * batch as f64);
    std::fs::remove_file(path).expect("we made it");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().map_or(5.0, |text| text.parse().expect("a number of seconds"));
    let dir = base.join(format!("mosquorum-log-bench-{}", std::process::id()));
    let open = |dir: &Path| Log::open(Arc::new(RealFs), dir, LogOptions::default()).expect("the directory is writable");
    let (log, _) = open(&dir);
    [1, 16, 256].into_iter().for_each(|batch| raw(&dir, batch, seconds));
    for (batch, in_flight) in [(1, 1), (16, 1), (256, 1), (1, 64), (1, 1024)] {
        run(&log, batch, in_flight, seconds);
    }
    let bytes = log.bounds().bytes;
    log.shutdown();
    let started = Instant::now();
    let (log, found) = open(&dir);
    println!("reopened {:.0} MB in {:.2} s: {found:?}", bytes as f64 / 1e6, started.elapsed().as_secs_f64());
    log.shutdown();
    std::fs::remove_dir_all(&dir).expect("we made it");
}
