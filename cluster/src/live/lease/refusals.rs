//! Refusals on disk: a voter that restarts must not grant what it refused before.
//! Always true: what [`RefusalStore::store`] returned `Ok` for is there at the next start.
use crate::ids::{Incarnation, NodeId};
use mosquorum_storage::fs::{Fs, read_file, write_file_atomically};
use parking_lot::Mutex;
use std::{collections::HashMap, io, path::PathBuf, sync::Arc};

/// Larger files are not ours: one line per node that ever was in the cluster.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Keeps refusals over restarts. Calls block; they are made on threads that may.
pub trait RefusalStore: Send + Sync {
    /// # Errors
    /// What is stored cannot be read; the node must not grant anything then.
    fn load(&self) -> io::Result<HashMap<NodeId, Incarnation>>;
    /// Replaces everything stored; durable when it returns.
    /// # Errors
    /// It may or may not be stored.
    fn store(&self, refusals: &[(NodeId, Incarnation)]) -> io::Result<()>;
}

/// A small text file, one `node incarnation` per line and a checksum, replaced as a whole.
#[derive(Debug)]
pub struct RefusalFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    /// One write at a time, and never an older content over a newer one.
    writing: Mutex<HashMap<NodeId, Incarnation>>,
}

impl RefusalFile {
    #[must_use]
    pub fn new(fs: Arc<dyn Fs>, path: PathBuf) -> Self {
        Self { fs, path, writing: Mutex::new(HashMap::new()) }
    }
}

impl RefusalStore for RefusalFile {
    fn load(&self) -> io::Result<HashMap<NodeId, Incarnation>> {
        if !self.fs.exists(&self.path)? {
            return Ok(HashMap::new());
        }
        let content = read_file(&*self.fs, &self.path, FILE_BYTES_MAX)?;
        let refusals = parse(&content).ok_or_else(|| {
            let text = format!("{} is damaged: move it away and restart in two seconds", self.path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        self.writing.lock().clone_from(&refusals);
        Ok(refusals)
    }

    fn store(&self, refusals: &[(NodeId, Incarnation)]) -> io::Result<()> {
        let mut known = self.writing.lock();
        let mut merged = known.clone();
        for (node, incarnation) in refusals {
            let entry = merged.entry(*node).or_default();
            *entry = (*entry).max(*incarnation);
        }
        if merged == *known && !merged.is_empty() {
            return Ok(());
        }
        write_file_atomically(&*self.fs, &self.path, &format(&merged))?;
        *known = merged;
        Ok(())
    }
}

fn format(refusals: &HashMap<NodeId, Incarnation>) -> Vec<u8> {
    let mut sorted: Vec<_> = refusals.iter().map(|(node, incarnation)| (node.0, incarnation.0)).collect();
    sorted.sort_unstable();
    let lines: String = sorted.iter().map(|(node, incarnation)| format!("{node} {incarnation}\n")).collect();
    format!("{lines}crc {:08x}\n", crc32c::crc32c(lines.as_bytes())).into_bytes()
}

fn parse(content: &[u8]) -> Option<HashMap<NodeId, Incarnation>> {
    let text = std::str::from_utf8(content).ok()?;
    let at = text.rfind("crc ")?;
    let (lines, crc) = text.split_at(at);
    let crc = u32::from_str_radix(crc.strip_prefix("crc ")?.trim_end(), 16).ok()?;
    if crc != crc32c::crc32c(lines.as_bytes()) {
        return None;
    }
    lines
        .lines()
        .map(|line| {
            let (node, incarnation) = line.split_once(' ')?;
            Some((NodeId(node.parse().ok()?), Incarnation(incarnation.parse().ok()?)))
        })
        .collect()
}

/// For tests and clusters that are in memory: one that outlives the node object plays the disk.
#[derive(Debug, Default)]
pub struct RefusalsInMemory(Mutex<HashMap<NodeId, Incarnation>>);

impl RefusalStore for RefusalsInMemory {
    fn load(&self) -> io::Result<HashMap<NodeId, Incarnation>> {
        Ok(self.0.lock().clone())
    }

    fn store(&self, refusals: &[(NodeId, Incarnation)]) -> io::Result<()> {
        self.0.lock().extend(refusals.iter().copied());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_storage::fs::RealFs;
    use std::path::Path;

    #[test]
    fn a_file_is_read_back_as_written_and_damage_is_noticed() {
        let refusals = HashMap::from([(NodeId(3), Incarnation(7)), (NodeId(12), Incarnation(1))]);
        let mut content = format(&refusals);
        assert_eq!(parse(&content), Some(refusals));
        content[2] ^= 1;
        assert_eq!(parse(&content), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn refusals_survive_a_restart_and_never_shrink() {
        let dir = std::env::temp_dir().join(format!("mosquorum-refusals-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        let path = dir.join("refusals");
        let file = |path: &Path| RefusalFile::new(Arc::new(RealFs), path.to_owned());
        let first = file(&path);
        assert!(first.load().expect("no file yet").is_empty());
        first.store(&[(NodeId(2), Incarnation(5))]).expect("stored");
        first.store(&[(NodeId(2), Incarnation(4)), (NodeId(3), Incarnation(1))]).expect("stored");
        let loaded = file(&path).load().expect("read");
        assert_eq!(loaded, HashMap::from([(NodeId(2), Incarnation(5)), (NodeId(3), Incarnation(1))]));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
