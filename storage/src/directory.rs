//! The data directory: whose it is, and that only one process uses it.
//!
//! Always true: while a [`DataDirectory`] exists, no other process has one of the same path; each start of a node has a
//! boot number of its own, durable before the number is seen; the identity file is replaced atomically; a directory that
//! holds anything and is not ours is refused as it is.
//! A node that finds an identity with `boots` above 1 and a log that was opened for the first time (its
//! `Recovered::epoch` is 1) has lost its log: it must not go on under its old id. The caller checks that, since only it
//! opens both.
//! Not here: `persistence_file` of a node alone, what is in log, state and snapshots.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::{Fs, LockGuard, LockOutcome, parent};

/// Version of the directory's layout.
pub const DIRECTORY_FORMAT: u32 = 1;

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: [u8; 16],
    pub node_id: u64,
    pub node_name: String,
    /// Number of shards; fixed when the directory is initialised.
    pub shards: u32,
    /// Incarnation: 1 when initialised, one more (durably) at each later start.
    pub boots: u64,
}

/// Why a data directory cannot be used. Nothing was changed in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("{} is in use by {}", path.display(), match pid { Some(pid) => format!("process {pid}"), None => "another process".into() })]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("{} holds `{found}` and no identity file of mosquorum: choose an empty directory", path.display())]
    Foreign { path: PathBuf, found: String },
    #[error("{} has directory format {found}, this version knows {supported}: use a newer version", path.display())]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("the identity file {} is damaged ({detail}): restore it, or move the directory away and let the node join anew", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{} belongs to node {node_id} already", path.display())]
    AlreadyInitialised { path: PathBuf, node_id: u64 },
}

const LOCK_FILE: &str = "lock";
const IDENTITY_FILE: &str = "identity";
/// Names that may lie in a directory that is still free to take: ours from an interrupted first start, and what mkfs
/// leaves in the root of a volume.
const ALLOWED_BEFORE: [&str; 3] = [LOCK_FILE, "identity.tmp", "lost+found"];
const IDENTITY_BYTES_MAX: u64 = 64 << 10;
const TITLE: &str = "mosquorum data directory";

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub struct DataDirectory {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    identity: Option<Identity>,
    _lock: LockGuard,
}

impl DirectoryError {
    fn io(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| DirectoryError::Io { operation, path: path.clone(), source: Arc::new(source) }
    }
}

impl DataDirectory {
    /// Creates the directory when it is missing, takes its lock, and reads the identity. With one, the boot counter is
    /// durably one higher when it returns.
    pub fn open(fs: Arc<dyn Fs>, path: &Path) -> Result<DataDirectory, DirectoryError> {
        if !fs.exists(path).map_err(DirectoryError::io("look for", path))? {
            fs.create_dir_all(path).map_err(DirectoryError::io("create", path))?;
        }
        fs.sync_dir(parent(path)).map_err(DirectoryError::io("sync the parent of", path))?;
        let identity_path = path.join(IDENTITY_FILE);
        let known = fs.exists(&identity_path).map_err(DirectoryError::io("look for", &identity_path))?;
        if !known {
            refuse_foreign(&*fs, path)?;
        }
        let lock_path = path.join(LOCK_FILE);
        let lock = match fs.try_lock(&lock_path).map_err(DirectoryError::io("lock", &lock_path))? {
            LockOutcome::Held(guard) => guard,
            LockOutcome::Busy { pid } => return Err(DirectoryError::InUse { path: path.to_owned(), pid }),
        };
        let mut directory = DataDirectory { fs, path: path.to_owned(), identity: None, _lock: lock };
        // Looked at again: another process may have made it before we had the lock.
        if directory.fs.exists(&identity_path).map_err(DirectoryError::io("look for", &identity_path))? {
            let content = crate::fs::read_file(&*directory.fs, &identity_path, IDENTITY_BYTES_MAX);
            let content = content.map_err(DirectoryError::io("read", &identity_path))?;
            let mut identity = Identity::parse(&identity_path, &content)?;
            identity.boots += 1;
            directory.save(identity)?;
        }
        Ok(directory)
    }

    /// `None` until [`DataDirectory::initialise`].
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Binds an empty directory to a node, once; durable when it returns. `boots` starts at 1. Nothing else may be put
    /// into the directory before.
    pub fn initialise(
        &mut self,
        cluster_id: [u8; 16],
        node_id: u64,
        node_name: &str,
        shards: u32,
    ) -> Result<&Identity, DirectoryError> {
        if let Some(Identity { node_id, .. }) = self.identity {
            return Err(DirectoryError::AlreadyInitialised { path: self.path.clone(), node_id });
        }
        self.save(Identity { cluster_id, node_id, node_name: node_name.to_owned(), shards, boots: 1 })
    }

    /// Raises the boot counter of a directory that has an identity, durably, if it is lower than `boots`.
    pub fn raise_boots(&mut self, boots: u64) -> Result<(), DirectoryError> {
        match self.identity.clone() {
            Some(identity) if identity.boots < boots => self.save(Identity { boots, ..identity }).map(drop),
            _ => Ok(()),
        }
    }

    /// Makes the node of a directory that has an identity one of another cluster, durably. What lies in the directory is
    /// the caller's concern.
    pub fn rebind(&mut self, cluster_id: [u8; 16]) -> Result<(), DirectoryError> {
        match self.identity.clone() {
            Some(identity) => self.save(Identity { cluster_id, ..identity }).map(drop),
            None => Ok(()),
        }
    }

    fn save(&mut self, identity: Identity) -> Result<&Identity, DirectoryError> {
        let path = self.path.join(IDENTITY_FILE);
        let written = crate::fs::write_file_atomically(&*self.fs, &path, identity.encode().as_bytes());
        written.map_err(DirectoryError::io("write", &path))?;
        Ok(self.identity.insert(identity))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log's folder (created by it).
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The state store's folder (created by it).
    pub fn state_dir(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The folder of snapshots; created, durably, when it is missing.
    pub fn snapshot_dir(&self) -> Result<PathBuf, DirectoryError> {
        let dir = self.path.join("snapshots");
        let made = self.fs.create_dir_all(&dir).and_then(|()| self.fs.sync_dir(&self.path));
        made.map_err(DirectoryError::io("create", &dir))?;
        Ok(dir)
    }

    /// Renames one of the directories or files inside (a damaged log, say) and returns its new name; deletes nothing.
    pub fn move_aside(&self, inside: &Path) -> Result<PathBuf, DirectoryError> {
        crate::fs::move_aside(&*self.fs, inside).map_err(DirectoryError::io("move aside", inside))
    }
}

fn refuse_foreign(fs: &dyn Fs, path: &Path) -> Result<(), DirectoryError> {
    let names = fs.list(path).map_err(DirectoryError::io("list", path))?;
    match names.into_iter().find(|name| !ALLOWED_BEFORE.contains(&name.as_str())) {
        Some(found) => Err(DirectoryError::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

impl Identity {
    /// Lines of text, so that an operator can read them; the last one is a checksum of those before.
    fn encode(&self) -> String {
        let cluster_id: String = self.cluster_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = format!(
            "{TITLE}\nformat {DIRECTORY_FORMAT}\ncluster_id {cluster_id}\nnode_id {}\nnode_name {:?}\nshards {}\nboots {}\n",
            self.node_id, self.node_name, self.shards, self.boots
        );
        text += &format!("crc32c {:08x}\n", crc32c::crc32c(text.as_bytes()));
        text
    }

    fn parse(path: &Path, content: &[u8]) -> Result<Identity, DirectoryError> {
        let damaged = |detail: &str| DirectoryError::Damaged { path: path.to_owned(), detail: detail.into() };
        let text = std::str::from_utf8(content).map_err(|_| damaged("it is not text"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| damaged(&format!("`{name}` is missing")))
        };
        let number =
            |name: &str| field(name)?.parse::<u64>().map_err(|_| damaged(&format!("`{name}` is not a number")));
        if !text.starts_with(TITLE) {
            return Err(damaged("its first line is not ours"));
        }
        let found = number("format")? as u32;
        if found > DIRECTORY_FORMAT {
            return Err(DirectoryError::NewerFormat { path: path.to_owned(), found, supported: DIRECTORY_FORMAT });
        }
        let (body, crc) = text.rsplit_once("crc32c ").ok_or_else(|| damaged("`crc32c` is missing"))?;
        if u32::from_str_radix(crc.trim(), 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("it does not match its checksum"));
        }
        Ok(Identity {
            cluster_id: parse_hex(field("cluster_id")?).ok_or_else(|| damaged("`cluster_id` is not hexadecimal"))?,
            node_id: number("node_id")?,
            node_name: unquote(field("node_name")?).ok_or_else(|| damaged("`node_name` is not quoted"))?,
            shards: number("shards")? as u32,
            boots: number("boots")?,
        })
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// The inverse of `{:?}` for names, as far as [`Identity::encode`] can produce it.
fn unquote(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('"')?.strip_suffix('"')?.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let code: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                    char::from_u32(u32::from_str_radix(&code, 16).ok()?)?
                }
                other => other,
            },
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
