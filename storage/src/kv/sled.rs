//! sled 1.0 alpha behind the trait. The only module that knows it.
//!
//! Always true: one tree; no background flusher (sled's aborts the process when a flush fails), the caller flushes;
//! every value carries a CRC32C over key and value; values above 16 KiB lie in blob files, synced before the batch that
//! refers to them; panics are errors; after a failed operation nothing is written any more.
//!
//! Its cache evicts only leaves that were read and never written: whatever this process wrote stays in memory as long
//! as sled is open. [`KvStore::trim`] opens it again.
//!
//! Layout: `<dir>/sled` is sled's own, `<dir>/blobs` ours. A value is a tag (0: inline, 1: a blob's reference), the
//! CRC32C, the bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::blobs::{BlobRef, Blobs};
use super::guard::{guarded, open_guarded};
use super::{BATCH_OPS_MAX, KvError, KvKeys, KvOp, KvScan, KvStore};
use crate::fs::{RealFs, parent, with_descriptor};

const ENGINE: &str = "sled";
const FAN_OUT: usize = 128;
/// The state is in memory anyway; the store reads what waits in queues, in order, and what it changes.
const CACHE_BYTES: usize = 16 << 20;
/// Values up to this size are stored in sled itself.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// Opening again is worth it from so many written bytes on.
const TRIM_BYTES: usize = if cfg!(test) { 64 << 10 } else { 48 << 20 };
/// Entries that a scan takes from sled at once, as many as one of its leaves has.
const SCAN_AHEAD: usize = FAN_OUT;
const INLINE: u8 = 0;
const BLOB: u8 = 1;

type Db = sled::Db<FAN_OUT>;

/// The state in sled.
pub struct SledKv {
    dir: PathBuf,
    /// A handle of sled may be used by one thread at a time; a flush uses its own clone, so that it blocks nobody.
    db: Mutex<Option<Db>>,
    blobs: Blobs,
    /// Held while a batch is written, so that blobs are counted right.
    writing: Mutex<()>,
    failed: Mutex<Option<KvError>>,
    /// Bytes of keys and values since sled was opened, as sled has them.
    written: AtomicUsize,
}

impl SledKv {
    /// Opens or creates the store in the directory `dir`.
    /// # Errors
    /// Whatever sled cannot read, panics included, is an error; nothing is deleted. Then [`super::move_aside`] it.
    pub fn open(dir: &Path) -> Result<SledKv, KvError> {
        let inside = dir.join("sled");
        std::fs::create_dir_all(dir).map_err(KvError::io("create", dir))?;
        let db = open_sled(&inside)?;
        let blobs = Blobs::open(Arc::new(RealFs), &dir.join("blobs"))?;
        for path in [dir, parent(dir)] {
            sync_path(path)?;
        }
        let store = SledKv {
            dir: dir.to_owned(),
            db: Mutex::new(Some(db)),
            blobs,
            writing: Mutex::new(()),
            failed: Mutex::new(None),
            written: AtomicUsize::new(0),
        };
        // Every value is read for it; most stores have none that large.
        if store.blobs.has_files() {
            store.count_references()?;
        }
        Ok(store)
    }

    /// Runs an operation on sled; its first failure is the last operation.
    fn run<T>(&self, operation: impl FnOnce(&Db) -> std::io::Result<T>) -> Result<T, KvError> {
        let db = self.db.lock();
        self.run_on(db.as_ref().ok_or(KvError::Closed)?, operation)
    }

    fn run_on<T>(&self, db: &Db, operation: impl FnOnce(&Db) -> std::io::Result<T>) -> Result<T, KvError> {
        if let Some(error) = &*self.failed.lock() {
            return Err(error.clone());
        }
        let outcome = guarded(ENGINE, &self.dir, || operation(db).map_err(|e| engine_error(&self.dir, &e)));
        if let Err(error) = &outcome {
            *self.failed.lock() = Some(error.clone());
        }
        outcome
    }

    /// Raw entries in key order: the values as sled has them.
    fn scan_raw(&self, from: &[u8]) -> impl Iterator<Item = Result<(Bytes, sled::InlineArray), KvError>> + use<'_> {
        let (mut iterator, mut ready) = (None, VecDeque::new());
        let mut ended = false;
        let from = from.to_vec();
        std::iter::from_fn(move || {
            if ready.is_empty() && !ended {
                let read = self.run(|db| {
                    let iterator = iterator.get_or_insert_with(|| db.range(from.clone()..));
                    iterator.take(SCAN_AHEAD).collect::<std::io::Result<Vec<_>>>()
                });
                match read {
                    Ok(read) => {
                        ended = read.len() < SCAN_AHEAD;
                        ready.extend(read);
                    }
                    Err(error) => {
                        ended = true;
                        return Some(Err(error));
                    }
                }
            }
            ready.pop_front().map(|(key, value): (sled::InlineArray, _)| Ok((Bytes::copy_from_slice(&key), value)))
        })
    }

    fn count_references(&self) -> Result<(), KvError> {
        for entry in self.scan_raw(&[]) {
            let (key, raw) = entry?;
            if let Some(reference) = self.reference(&key, &raw)? {
                self.blobs.refer(reference)?;
            }
        }
        Ok(())
    }

    /// The blob that a raw value refers to, if it does.
    fn reference(&self, key: &[u8], raw: &[u8]) -> Result<Option<BlobRef>, KvError> {
        let (tag, body) = self.check(key, raw)?;
        if tag != BLOB {
            return Ok(None);
        }
        BlobRef::decode(body).map(Some).ok_or_else(|| self.damaged())
    }

    fn check<'a>(&self, key: &[u8], raw: &'a [u8]) -> Result<(u8, &'a [u8]), KvError> {
        let (head, body) = raw.split_at_checked(5).ok_or_else(|| self.damaged())?;
        if head[1..] != value_crc(key, head[0], body).to_le_bytes() || head[0] > BLOB {
            return Err(self.damaged());
        }
        Ok((head[0], body))
    }

    fn damaged(&self) -> KvError {
        KvError::Damaged { path: self.dir.clone() }
    }

    fn decode(&self, key: &[u8], raw: &[u8]) -> Result<Bytes, KvError> {
        match self.reference(key, raw)? {
            Some(reference) => self.blobs.get(reference),
            None => Ok(Bytes::copy_from_slice(self.check(key, raw)?.1)),
        }
    }

    /// The value of a key that was found with `raw`; `None` if it is gone. What `raw` refers to may be gone too, since the
    /// value was replaced or moved meanwhile: it is damaged only if the key has it still.
    fn read(&self, key: &[u8], mut raw: sled::InlineArray) -> Result<Option<Bytes>, KvError> {
        loop {
            let error = match self.decode(key, &raw) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => error,
            };
            match self.run(|db| db.get(key))? {
                None => return Ok(None),
                Some(now) if now == raw => return Err(error),
                Some(now) => raw = now,
            }
        }
    }

    /// Moves the live values of one sparse blob file to the current one, which leaves it dead.
    fn compact(&self) -> Result<(), KvError> {
        let Some(sparse) = self.blobs.sparse() else { return Ok(()) };
        let mut keys = Vec::new();
        for entry in self.scan_raw(&[]) {
            let (key, raw) = entry?;
            if self.reference(&key, &raw)?.is_some_and(|reference| reference.file == sparse) {
                keys.push(key);
            }
        }
        for key in keys {
            let _writing = self.writing.lock();
            let Some(raw) = self.run(|db| db.get(&key))? else { continue };
            if self.reference(&key, &raw)?.is_some_and(|reference| reference.file == sparse) {
                let value = self.decode(&key, &raw)?;
                self.write_locked(BTreeMap::from([(key, Some(value))]))?;
            }
        }
        Ok(())
    }

    fn write_locked(&self, ops: BTreeMap<Bytes, Option<Bytes>>) -> Result<(), KvError> {
        let mut replaced = Vec::new();
        if self.blobs.is_used() {
            for key in ops.keys() {
                if let Some(raw) = self.run(|db| db.get(key))? {
                    replaced.extend(self.reference(key, &raw)?);
                }
            }
        }
        let large: Vec<Bytes> =
            ops.values().flatten().filter(|value| value.len() > INLINE_BYTES_MAX).cloned().collect();
        let mut references = self.blobs.put(&large)?.into_iter();
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (key, value) in ops {
            bytes += key.len();
            let Some(value) = value else {
                batch.remove(&key[..]);
                continue;
            };
            let raw = if value.len() > INLINE_BYTES_MAX {
                let mut body = Vec::new();
                references.next().expect("one for each large value").encode(&mut body);
                encode_value(&key, BLOB, &body)
            } else {
                encode_value(&key, INLINE, &value)
            };
            bytes += raw.len();
            batch.insert(&key[..], raw);
        }
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.run(|db| db.apply_batch(batch))?;
        replaced.into_iter().for_each(|reference| self.blobs.release(reference));
        Ok(())
    }
}

fn open_sled(inside: &Path) -> Result<Db, KvError> {
    let inside = inside.to_owned();
    open_guarded(ENGINE, &inside.clone(), move || {
        let config = sled::Config::new().path(&inside).cache_capacity_bytes(CACHE_BYTES).flush_every_ms(None);
        let db: Db = with_descriptor(&inside, || config.open()).map_err(|error| engine_error(&inside, &error))?;
        sync_new_files(&inside)?;
        Ok(db)
    })
}

fn value_crc(key: &[u8], tag: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &[tag]), body)
}

fn encode_value(key: &[u8], tag: u8, body: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(body.len() + 5);
    raw.push(tag);
    raw.extend_from_slice(&value_crc(key, tag, body).to_le_bytes());
    raw.extend_from_slice(body);
    raw
}

fn engine_error(path: &Path, error: &std::io::Error) -> KvError {
    KvError::Engine { engine: ENGINE, path: path.to_owned(), detail: error.to_string() }
}

fn sync_path(path: &Path) -> Result<(), KvError> {
    let file = with_descriptor(path, || File::open(path));
    file.and_then(|file| file.sync_all()).map_err(KvError::io("sync", path))
}

/// sled writes its `durability_cookie` without a sync, and an empty one makes the next open fail.
fn sync_new_files(dir: &Path) -> Result<(), KvError> {
    sync_path(&dir.join("durability_cookie"))?;
    sync_path(&dir.join("slabs"))?;
    sync_path(dir)
}

impl KvStore for SledKv {
    fn write(&self, batch: Vec<KvOp>) -> Result<(), KvError> {
        if batch.len() > BATCH_OPS_MAX {
            return Err(KvError::BatchTooLarge { ops: batch.len() });
        }
        let _writing = self.writing.lock();
        self.write_locked(batch.into_iter().collect())
    }

    fn flush(&self) -> Result<(), KvError> {
        self.compact()?;
        let dead = self.blobs.dead();
        let db = self.db.lock().clone().ok_or(KvError::Closed)?;
        self.run_on(&db, |db| db.flush().map(drop))?;
        self.blobs.remove(&dead)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        match self.run(|db| db.get(key))? {
            Some(raw) => self.read(key, raw),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &[u8]) -> KvScan<'_> {
        Box::new(self.scan_raw(from).filter_map(|entry| {
            let (key, raw) = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let value = self.read(&key, raw).transpose()?;
            Some(value.map(|value| (key, value)))
        }))
    }

    fn keys(&self, from: &[u8]) -> KvKeys<'_> {
        Box::new(self.scan_raw(from).map(|entry| Ok(entry?.0)))
    }

    fn trim(&self) -> Result<(), KvError> {
        if self.written.load(Ordering::Relaxed) < TRIM_BYTES {
            return Ok(());
        }
        self.trim_all()
    }

    fn trim_all(&self) -> Result<(), KvError> {
        let _writing = self.writing.lock();
        let mut db = self.db.lock();
        if let Some(error) = &*self.failed.lock() {
            return Err(error.clone());
        }
        let Some(open) = db.take() else { return Err(KvError::Closed) };
        // It flushes what is not flushed yet.
        let outcome = guarded(ENGINE, &self.dir, || {
            drop(open);
            Ok(())
        });
        match outcome.and_then(|()| open_sled(&self.dir.join("sled"))) {
            Ok(open) => *db = Some(open),
            Err(error) => {
                *self.failed.lock() = Some(error.clone());
                return Err(error);
            }
        }
        self.written.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn close(&self) -> Result<(), KvError> {
        self.flush()?;
        let db = self.db.lock().take();
        guarded(ENGINE, &self.dir, || {
            drop(db);
            Ok(())
        })
    }

    fn engine(&self) -> &'static str {
        ENGINE
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        let db = self.db.lock().take();
        // sled flushes when it is dropped, and may panic then.
        let _ = guarded(ENGINE, &self.dir, || {
            drop(db);
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_keeps_everything_and_goes_on() {
        let folder = std::env::temp_dir().join(format!("mosquorum-trim-{}", std::process::id()));
        let store = SledKv::open(&folder).unwrap();
        let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
        // Every tenth is a blob.
        let value = |number: u32| {
            Bytes::from(vec![number as u8; if number.is_multiple_of(10) { INLINE_BYTES_MAX + 1 } else { 900 }])
        };
        for round in 0..2 {
            for number in 0..100 {
                store.write(vec![(key(round * 100 + number), Some(value(round * 100 + number)))]).unwrap();
            }
            store.write(vec![(key(round * 100), None)]).unwrap();
            store.trim().unwrap();
            assert_eq!(store.written.load(Ordering::Relaxed), 0);
            let found: Vec<_> = store.scan(&[]).map(|entry| entry.unwrap()).collect();
            let expected = (0..(round + 1) * 100).filter(|number| !number.is_multiple_of(100));
            assert_eq!(found, expected.map(|number| (key(number), value(number))).collect::<Vec<_>>());
        }
        store.write(vec![(key(1), None)]).unwrap();
        store.trim().unwrap();
        assert_ne!(store.written.load(Ordering::Relaxed), 0, "little was written, it is not worth it");
        store.close().unwrap();
        assert!(matches!(store.trim(), Ok(())));
        let store = SledKv::open(&folder).unwrap();
        assert_eq!((store.get(&key(1)).unwrap(), store.get(&key(190)).unwrap()), (None, Some(value(190))));
        drop(store);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mosquorum-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_value_that_moves_or_goes_while_it_is_read_is_no_damage() {
        let folder = Folder::new("moving");
        let store = SledKv::open(&folder.0).unwrap();
        let large = |byte: u8| Bytes::from(vec![byte; 20 << 10]);
        let (moved, gone) = (Bytes::from("moved"), Bytes::from("gone"));
        store.write(vec![(moved.clone(), Some(large(1))), (gone.clone(), Some(large(2)))]).unwrap();
        store.close().unwrap();
        drop(store);
        // Files from an earlier start are not written again.
        let store = SledKv::open(&folder.0).unwrap();
        let found: Vec<_> = store.scan_raw(&[]).map(|entry| entry.unwrap()).collect();
        store.write(vec![(moved.clone(), Some(large(3))), (gone.clone(), None)]).unwrap();
        store.flush().unwrap();
        assert!(store.decode(&found[1].0, &found[1].1).is_err(), "what was referred to is no longer there");
        let read = |at: usize| store.read(&found[at].0, found[at].1.clone());
        assert_eq!((read(1).unwrap(), read(0).unwrap()), (Some(large(3)), None));
        // The same reference twice is damage.
        let blob = std::fs::read_dir(folder.0.join("blobs")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(blob, vec![9; 20 << 10]).unwrap();
        assert!(matches!(store.get(&moved), Err(KvError::Damaged { .. })));
        assert!(matches!(store.scan(&[]).next(), Some(Err(KvError::Damaged { .. }))));
    }

    #[test]
    fn values_are_read_at_the_opening_only_if_some_may_be_in_blob_files() {
        let folder = Folder::new("opening");
        for (size, opens) in [(10, true), (INLINE_BYTES_MAX + 1, false)] {
            let store = SledKv::open(&folder.0).unwrap();
            store.write(vec![(Bytes::from("kept"), Some(Bytes::from(vec![1; size])))]).unwrap();
            store.run(|db| db.insert("damaged", &[7u8; 9][..]).map(drop)).unwrap();
            store.close().unwrap();
            drop(store);
            assert_eq!(SledKv::open(&folder.0).is_ok(), opens);
        }
    }

    #[test]
    fn values_in_blob_files_do_not_count_as_what_sled_keeps() {
        let folder = Folder::new("trim-blobs");
        let store = SledKv::open(&folder.0).unwrap();
        for number in 0..100u32 {
            let key = Bytes::copy_from_slice(&number.to_be_bytes());
            store.write(vec![(key, Some(Bytes::from(vec![1; 20 << 10])))]).unwrap();
        }
        store.trim().unwrap();
        assert_eq!(store.written.load(Ordering::Relaxed), 100 * (4 + 5 + 28), "sled was not opened again");
    }
}
