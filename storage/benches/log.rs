//! Appending to the log in memory: what the log itself costs, without a disk. For the disk there is the example
//! `log_bench`. `cargo bench -p mosquorum-storage`
use bytes::Bytes;
use divan::{Bencher, counter::ItemsCount};
use mosquorum_storage::{
    fs::MemoryFs,
    log::{Log, LogEntry, LogId, LogOptions},
};
use std::{path::Path, sync::Arc, sync::mpsc::sync_channel};

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 16, 256])]
fn append(bencher: Bencher<'_, '_>, batch: u64) {
    let (log, _) =
        Log::open(Arc::new(MemoryFs::new()), Path::new("/log"), LogOptions::default()).expect("memory is enough");
    let payload = Bytes::from(vec![b'x'; 300]);
    let (sender, done) = sync_channel(1);
    let mut next = 1;
    bencher.counter(ItemsCount::new(batch as usize)).bench_local(|| {
        let entry =
            |index| LogEntry { shard: 0, id: LogId { term: 1, node: 1, index }, payload: payload.clone().into() };
        let sender = sender.clone();
        log.append(
            (next..next + batch).map(entry).collect(),
            Box::new(move |result| {
                result.expect("memory does not fail");
                let _ = sender.send(());
            }),
        );
        next += batch;
        done.recv().expect("the writer answers");
        if next % 65_536 < batch {
            log.purge_to(LogId { term: 1, node: 1, index: next - 1 }).expect("the log works");
        }
    });
}
