use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::fs::{CrashMode, Fs, MemoryFs, OpenMode, read_file};

const PATH: &str = "snapshot";

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        shard: 0,
        last: Some(LogId { term: 3, node: 2, index }),
        membership: Bytes::from_static(b"members"),
        cluster_id: [9; 16],
        created_ms: 1_700_000_000_000,
        format: 4,
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn sample(count: usize, value_len: usize) -> Entries {
    (0..count).map(|i| (format!("key {i:05}").into_bytes(), vec![i as u8; value_len])).collect()
}

fn write(fs: &MemoryFs, meta: SnapshotMeta, entries: &Entries) -> Result<SnapshotFile, SnapshotError> {
    let mut writer = SnapshotWriter::create(Arc::new(fs.clone()), Path::new(PATH), meta)?;
    for (key, value) in entries {
        writer.add(key, value)?;
    }
    writer.finish()
}

fn read(fs: &MemoryFs) -> Result<(SnapshotMeta, Entries), SnapshotError> {
    let (meta, reader) = SnapshotReader::open(fs, Path::new(PATH))?;
    let entries: Result<Entries, _> = reader.map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
    Ok((meta, entries?))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_written_is_read(
        entries in proptest::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..50),
        large in 0usize..600_000,
    ) {
        let fs = MemoryFs::new();
        let mut entries = entries;
        entries.push((b"large".to_vec(), vec![7; large]));
        let file = write(&fs, meta(8), &entries).unwrap();
        let (found, verified) = verify(&fs, Path::new(PATH)).unwrap();
        prop_assert_eq!((found, verified), (meta(8), file.clone()));
        prop_assert_eq!(file.crc, crc32c::crc32c(&read_file(&fs, Path::new(PATH), 1 << 30).unwrap()));
        prop_assert_eq!(read(&fs).unwrap().1, entries);
    }
}

#[test]
fn every_cut_and_every_flip_is_noticed() {
    let fs = MemoryFs::new();
    let file = write(&fs, meta(8), &sample(40, 20)).unwrap();
    let whole = read_file(&fs, Path::new(PATH), 1 << 30).unwrap();
    for at in 0..file.len {
        fs.flip(Path::new(PATH), at, 0x20).unwrap();
        assert!(verify(&fs, Path::new(PATH)).is_err(), "flip at {at}");
        fs.flip(Path::new(PATH), at, 0x20).unwrap();
    }
    let handle = fs.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
    for len in (0..file.len).rev() {
        handle.set_len(len).unwrap();
        assert!(verify(&fs, Path::new(PATH)).is_err(), "cut at {len}");
    }
    handle.write_at(&whole, 0).unwrap();
    verify(&fs, Path::new(PATH)).unwrap();
    handle.write_at(&[0], file.len).unwrap();
    assert!(matches!(verify(&fs, Path::new(PATH)), Err(SnapshotError::Damaged { .. })));
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_snapshot_or_the_new_one() {
    let (old, new) = (sample(30, 100), sample(700, 900));
    for seed in 0..8 {
        for stop in 1.. {
            let fs = MemoryFs::new();
            write(&fs, meta(1), &old).unwrap();
            fs.stop_at_operation(stop);
            let finished = write(&fs, meta(2), &new).is_ok();
            let mode = if seed == 0 { CrashMode::LoseAll } else { CrashMode::Subset { seed: seed * 977 + stop } };
            fs.crash(mode);
            let (found, entries) = read(&fs).unwrap_or_else(|e| panic!("seed {seed} stop {stop}: {e}"));
            let is_new = found == meta(2);
            assert_eq!(entries, if is_new { new.clone() } else { old.clone() }, "seed {seed} stop {stop}");
            assert!(is_new || !finished, "seed {seed}: a finished snapshot was lost");
            if finished {
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_or_a_full_disk_fails_the_snapshot_and_keeps_the_old_one() {
    let fs = MemoryFs::new();
    write(&fs, meta(1), &sample(3, 3)).unwrap();
    fs.fail_sync(1);
    assert!(matches!(write(&fs, meta(2), &sample(5, 5)), Err(SnapshotError::Io { operation: "sync", .. })));
    fs.limit_space(Some(1000));
    assert!(matches!(write(&fs, meta(2), &sample(700, 900)), Err(SnapshotError::Io { operation: "write", .. })));
    assert_eq!(fs.list(Path::new(".")).unwrap(), [PATH], "nothing is left beside");
    assert_eq!(read(&fs).unwrap().0, meta(1));
}

#[test]
fn files_of_others_are_named_and_never_overwritten() {
    let fs = MemoryFs::new();
    let path = Path::new(PATH);
    let file = fs.open(path, OpenMode::CreateNew).unwrap();
    write(&fs, meta(1), &Vec::new()).expect("an empty file may be replaced");
    let file_of = |content: &[u8]| {
        let file = fs.open(path, OpenMode::CreateOrTruncate).unwrap();
        file.write_at(content, 0).unwrap();
    };
    drop(file);
    file_of(b"\x00\xB5\x00mosquitto db\x00\x00\x00\x00\x00\x00\x00\x06");
    assert!(matches!(read(&fs), Err(SnapshotError::MosquittoFormat { .. })));
    assert!(matches!(write(&fs, meta(1), &Vec::new()), Err(SnapshotError::MosquittoFormat { .. })));
    file_of(b"a diary");
    assert!(matches!(write(&fs, meta(1), &Vec::new()), Err(SnapshotError::Foreign { .. })));
    assert_eq!(read_file(&fs, path, 100).unwrap(), b"a diary");
    file_of(b"MQSNAPSH\x07\x00\x00\x00\x00\x00\x00\x00");
    assert!(matches!(read(&fs), Err(SnapshotError::NewerFormat { found: 7, supported: 1, .. })));
}

#[test]
fn a_received_snapshot_must_be_what_was_announced() {
    let fs = MemoryFs::new();
    let sent = write(&fs, meta(5), &sample(100, 100)).unwrap();
    let bytes = read_file(&fs, Path::new(PATH), 1 << 30).unwrap();
    let target = Path::new("received");
    let receiver = || SnapshotReceiver::create(Arc::new(fs.clone()), target).unwrap();

    let mut whole = receiver();
    assert!(matches!(whole.write(10, b"x"), Err(SnapshotError::ChunkOutOfOrder { offset: 10, received: 0 })));
    for (number, chunk) in bytes.chunks(1000).enumerate() {
        whole.write(number as u64 * 1000, chunk).unwrap();
        whole.write(number as u64 * 1000, chunk).expect("a repeated chunk is fine");
    }
    assert_eq!(whole.received(), sent.len);
    let (found, file) = whole.finish(sent.len, sent.crc).unwrap();
    assert_eq!((found, file.crc, file.path.as_path()), (meta(5), sent.crc, target));
    fs.crash(CrashMode::LoseAll);
    verify(&fs, target).unwrap();

    let mut cut = receiver();
    cut.write(0, &bytes[..500]).unwrap();
    assert!(matches!(cut.finish(sent.len, sent.crc), Err(SnapshotError::Damaged { .. })));
    let mut other = receiver();
    other.write(0, &bytes).unwrap();
    assert!(matches!(other.finish(sent.len, sent.crc ^ 1), Err(SnapshotError::NotAsAnnounced { .. })));
    assert_eq!(fs.list(Path::new(".")).unwrap(), ["received", PATH]);
}
