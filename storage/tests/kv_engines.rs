//! Every engine keeps the same contract; damaged files are errors, never panics.
#![allow(clippy::unwrap_used)] // what fails ends the test

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
#[cfg(feature = "redb")]
use mosquorum_storage::kv::RedbKv;
use mosquorum_storage::kv::{
    AppliedIndex, KvError, KvOp, KvStore, MemoryKv, SledKv, StateCondition, StateStore, move_aside,
};

struct TestDir(PathBuf);

impl TestDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mosquorum-kv-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        TestDir(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Open = fn(&Path) -> Result<Box<dyn KvStore>, KvError>;

fn open_sled(dir: &Path) -> Result<Box<dyn KvStore>, KvError> {
    Ok(Box::new(SledKv::open(dir)?))
}

#[cfg(feature = "redb")]
fn open_redb(dir: &Path) -> Result<Box<dyn KvStore>, KvError> {
    Ok(Box::new(RedbKv::open(dir)?))
}

fn engines() -> Vec<(&'static str, Open)> {
    vec![
        ("sled", open_sled),
        #[cfg(feature = "redb")]
        ("redb", open_redb),
    ]
}

fn op(key: u32, value: Option<Vec<u8>>) -> KvOp {
    (Bytes::copy_from_slice(&key.to_be_bytes()), value.map(Bytes::from))
}

fn content(store: &dyn KvStore) -> BTreeMap<Bytes, Bytes> {
    store.scan(&[]).collect::<Result<_, _>>().unwrap()
}

/// Writes and removes in a pattern; the map that must come out.
fn fill(store: &dyn KvStore) -> BTreeMap<Bytes, Bytes> {
    let mut expected = BTreeMap::new();
    for round in 0..6u32 {
        let batch: Vec<KvOp> = (0..400u32)
            .map(|i| {
                let key = i * 7 % 611 + round * 50;
                let len = if key.is_multiple_of(97) { 40_000 } else { key as usize % 300 };
                op(key, (key % 5 != round % 5).then(|| vec![(key + round) as u8; len]))
            })
            .collect();
        for (key, value) in batch.clone() {
            match value {
                Some(value) => drop(expected.insert(key, value)),
                None => drop(expected.remove(&key)),
            }
        }
        store.write(batch).unwrap();
    }
    expected
}

fn contract(store: &dyn KvStore) -> BTreeMap<Bytes, Bytes> {
    let expected = fill(store);
    assert_eq!(content(store), expected, "{}", store.engine());
    let from = 300u32.to_be_bytes();
    let rest: Vec<_> = store.scan(&from).map(|entry| entry.unwrap().0).collect();
    assert!(rest.windows(2).all(|pair| pair[0] < pair[1]) && rest[0][..] >= from[..]);
    assert_eq!(rest.len(), expected.range(Bytes::copy_from_slice(&from)..).count());
    for key in 0..900u32 {
        let key = key.to_be_bytes();
        assert_eq!(store.get(&key).unwrap().as_ref(), expected.get(&key[..]));
    }
    let too_many = (0..513).map(|key| op(key, None)).collect();
    assert!(matches!(store.write(too_many), Err(KvError::BatchTooLarge { ops: 513 })));
    store.flush().unwrap();
    expected
}

#[test]
fn engines_keep_the_contract_and_what_was_flushed() {
    contract(&MemoryKv::new());
    for (name, open) in engines() {
        let dir = TestDir::new(&format!("contract-{name}"));
        let store = open(&dir.0).unwrap();
        let expected = contract(&*store);
        store.close().unwrap();
        assert!(matches!(store.get(b"x"), Err(KvError::Closed)));
        drop(store);
        let store = open(&dir.0).unwrap();
        assert_eq!(content(&*store), expected, "{name} after a restart");
        // Without a close: what the files hold now is what kill -9 leaves.
        store.write(vec![op(5000, Some(vec![1; 50_000])), op(5001, Some(vec![2]))]).unwrap();
        store.flush().unwrap();
        let copy = TestDir::new(&format!("copy-{name}"));
        copy_dir(&dir.0, &copy.0);
        let copied = open(&copy.0).unwrap();
        assert_eq!(copied.get(&5000u32.to_be_bytes()).unwrap().unwrap().len(), 50_000, "{name}");
        assert_eq!(content(&*copied).len(), content(&*store).len(), "{name}");
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Reads everything; an error is fine, a panic is not, and neither is a wrong value.
fn open_and_read(open: Open, dir: &Path, expected: &BTreeMap<Bytes, Bytes>) -> Result<(), KvError> {
    let store = open(dir)?;
    for entry in store.scan(&[]) {
        let (key, value) = entry?;
        assert_eq!(expected.get(&key), Some(&value), "a damaged value was given out");
    }
    Ok(())
}

#[test]
fn damaged_files_are_errors_not_panics() {
    for (name, open) in engines() {
        let dir = TestDir::new(&format!("damage-{name}"));
        let store = open(&dir.0).unwrap();
        let expected = contract(&*store);
        store.close().unwrap();
        drop(store);
        let mut errors = 0;
        for (number, file) in files(&dir.0).iter().enumerate() {
            let inside = file.strip_prefix(&dir.0).unwrap();
            for damage in 0..3 {
                let copy = TestDir::new(&format!("damaged-{name}"));
                copy_dir(&dir.0, &copy.0);
                let target = copy.0.join(inside);
                let mut bytes = std::fs::read(&target).unwrap();
                match damage {
                    0 => bytes.truncate(bytes.len() / 2),
                    1 => bytes = (0..bytes.len().max(100)).map(|i| (i * 31 + number) as u8).collect(),
                    _ => bytes.iter_mut().skip(9).step_by(1000).for_each(|byte| *byte ^= 0x55),
                }
                std::fs::write(&target, bytes).unwrap();
                if name == "sled" {
                    errors += usize::from(open_and_read(open, &copy.0, &expected).is_err());
                } else {
                    // redb has no checksum on what a scan reads; it must only not panic.
                    errors += usize::from(open(&copy.0).is_err());
                }
            }
        }
        println!("{name}: {errors} damages were reported");
        assert!(errors > 0, "{name}");
        let aside = move_aside(&mosquorum_storage::fs::RealFs, &dir.0).unwrap();
        assert!(aside.to_string_lossy().ends_with(".damaged-1") && aside.exists() && !dir.0.exists());
        drop(open(&dir.0).unwrap());
        std::fs::remove_dir_all(aside).unwrap();
    }
}

#[test]
fn garbage_instead_of_a_store_is_an_error() {
    for (name, open) in engines() {
        let dir = TestDir::new(&format!("garbage-{name}"));
        std::fs::create_dir_all(dir.0.join("sled")).unwrap();
        for file in ["sled/durability_cookie", "sled/metadata", "state.redb"] {
            std::fs::write(dir.0.join(file), [0x5A; 5000]).unwrap();
        }
        let error = open(&dir.0).map(drop).unwrap_err();
        println!("{name}: {error}");
        assert!(matches!(error, KvError::Engine { .. } | KvError::Panicked { .. }));
    }
}

#[test]
fn blob_files_go_when_nothing_refers_to_them() {
    let dir = TestDir::new("blobs");
    let blobs = || files(&dir.0.join("blobs")).len();
    let store = SledKv::open(&dir.0).unwrap();
    for key in 0..40 {
        store.write(vec![op(key, Some(vec![key as u8; 4 << 20]))]).unwrap();
    }
    assert_eq!(blobs(), 3, "files of about 64 MiB");
    store.write((1..40).map(|key| op(key, None)).collect()).unwrap();
    store.flush().unwrap();
    store.flush().unwrap();
    assert_eq!(blobs(), 1, "the one live value was moved, and the rest removed");
    assert_eq!(store.get(&0u32.to_be_bytes()).unwrap().unwrap().len(), 4 << 20);
    store.close().unwrap();
    drop(store);
    let store = SledKv::open(&dir.0).unwrap();
    assert_eq!(store.get(&0u32.to_be_bytes()).unwrap().unwrap().len(), 4 << 20);
    store.write(vec![op(0, None)]).unwrap();
    store.flush().unwrap();
    assert_eq!(blobs(), 0);
}

#[test]
fn a_checkpoint_survives_in_every_engine() {
    for (name, open) in engines() {
        let dir = TestDir::new(&format!("checkpoint-{name}"));
        let applied = AppliedIndex { shard: 0, last: Some(Default::default()) };
        {
            let (state, condition) = StateStore::open(Arc::from(open(&dir.0).unwrap()), 0).unwrap();
            assert_eq!(condition, StateCondition::Empty);
            state.write_checkpoint(applied, (0..3000).map(|key| op(key, Some(vec![7; 30])))).unwrap();
        }
        let (state, condition) = StateStore::open(Arc::from(open(&dir.0).unwrap()), 0).unwrap();
        assert_eq!(condition, StateCondition::Complete(applied), "{name}");
        assert_eq!(state.load().unwrap().1.count(), 3000, "{name}");
        state.clear().unwrap();
        assert_eq!(state.scan(&[]).count(), 0, "{name}");
    }
}

#[test]
fn a_store_with_a_damaged_blob_can_be_cleared_and_filled_again() {
    let dir = TestDir::new("clear-damaged");
    let (state, _) = StateStore::open(Arc::new(SledKv::open(&dir.0).unwrap()), 0).unwrap();
    let applied = AppliedIndex { shard: 0, last: Some(Default::default()) };
    let all = || (0..600).map(|key| op(key, Some(vec![7; if key == 300 { 20 << 10 } else { 30 }])));
    state.write_checkpoint(applied, all()).unwrap();
    let blob = files(&dir.0.join("blobs")).pop().unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[10_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    assert!(matches!(state.get(&300u32.to_be_bytes()), Err(KvError::Damaged { .. })));
    state.clear().unwrap();
    assert_eq!((state.condition(), state.scan(&[]).count()), (StateCondition::Empty, 0));
    state.write_checkpoint(applied, all()).unwrap();
    assert_eq!(state.scan(&[]).filter(|entry| entry.is_ok()).count(), 600);
}
