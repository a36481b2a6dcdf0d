//! redb behind the trait: the second engine, tested in CI. The only module that knows it.
//! Always true: batches are committed without durability; a flush is an empty commit with it.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use ::redb::{Database, Durability, ReadableDatabase, TableDefinition};
use bytes::Bytes;
use parking_lot::RwLock;

use super::guard::{guarded, open_guarded};
use super::{BATCH_OPS_MAX, KvError, KvOp, KvScan, KvStore};
use crate::fs::parent;

const ENGINE: &str = "redb";
const CACHE_BYTES: usize = 64 << 20;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

/// The state in redb, in one file `<dir>/state.redb`.
pub struct RedbKv {
    path: PathBuf,
    db: RwLock<Option<Database>>,
}

impl RedbKv {
    /// Opens or creates the store in the directory `dir`.
    /// # Errors
    /// Whatever redb cannot read, panics included, is an error; nothing is deleted.
    pub fn open(dir: &Path) -> Result<RedbKv, KvError> {
        std::fs::create_dir_all(dir).map_err(KvError::io("create", dir))?;
        let path = dir.join("state.redb");
        let inside = path.clone();
        let db = open_guarded(ENGINE, &path, move || {
            let create = || -> Result<Database, ::redb::Error> {
                let db = Database::builder().set_cache_size(CACHE_BYTES).create(&inside)?;
                let transaction = db.begin_write()?;
                transaction.open_table(TABLE)?;
                transaction.commit()?;
                Ok(db)
            };
            create().map_err(|error| engine_error(&inside, &error))
        })?;
        for dir in [dir, parent(dir)] {
            std::fs::File::open(dir).and_then(|file| file.sync_all()).map_err(KvError::io("sync", dir))?;
        }
        Ok(RedbKv { path, db: RwLock::new(Some(db)) })
    }

    fn run<T>(&self, operation: impl FnOnce(&Database) -> Result<T, ::redb::Error>) -> Result<T, KvError> {
        let db = self.db.read();
        let db = db.as_ref().ok_or(KvError::Closed)?;
        guarded(ENGINE, &self.path, || operation(db).map_err(|error| engine_error(&self.path, &error)))
    }
}

fn engine_error(path: &Path, error: &::redb::Error) -> KvError {
    KvError::Engine { engine: ENGINE, path: path.to_owned(), detail: error.to_string() }
}

impl KvStore for RedbKv {
    fn write(&self, batch: Vec<KvOp>) -> Result<(), KvError> {
        if batch.len() > BATCH_OPS_MAX {
            return Err(KvError::BatchTooLarge { ops: batch.len() });
        }
        self.run(|db| {
            let mut transaction = db.begin_write()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for (key, value) in &batch {
                    match value {
                        Some(value) => drop(table.insert(&key[..], &value[..])?),
                        None => drop(table.remove(&key[..])?),
                    }
                }
            }
            Ok(transaction.commit()?)
        })
    }

    fn flush(&self) -> Result<(), KvError> {
        self.run(|db| {
            let mut transaction = db.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            Ok(transaction.commit()?)
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.run(|db| {
            let table = db.begin_read()?.open_table(TABLE)?;
            Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    fn scan(&self, from: &[u8]) -> KvScan<'_> {
        let mut range = None;
        let mut ended = false;
        let from = from.to_vec();
        Box::new(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = self.run(|db| {
                if range.is_none() {
                    let table = db.begin_read()?.open_table(TABLE)?;
                    range = Some(table.range::<&[u8]>((Bound::Included(&from[..]), Bound::Unbounded))?);
                }
                let next = range.as_mut().and_then(Iterator::next).transpose()?;
                Ok(next.map(|(k, v)| (Bytes::copy_from_slice(k.value()), Bytes::copy_from_slice(v.value()))))
            });
            ended = !matches!(next, Ok(Some(_)));
            next.transpose()
        }))
    }

    fn close(&self) -> Result<(), KvError> {
        self.flush()?;
        drop(self.db.write().take());
        Ok(())
    }

    fn engine(&self) -> &'static str {
        ENGINE
    }
}
