//! Ways to damage files of a node that does not run, and to see that a node changed nothing.
//! Not here: which outcome a damage must have (the tests).
use crate::cluster::Cluster;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// `<persistence_file>.d` of a node.
/// # Errors
/// When there is none.
pub fn data_directory(cluster: &Cluster, node: usize) -> io::Result<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(cluster.data_folder(node))?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.is_dir() && path.extension().is_some_and(|extension| extension == "d"));
    found.pop().ok_or_else(|| io::Error::other(format!("no data directory in {}", cluster.data_folder(node).display())))
}

/// Every file below a folder, in order of path; a file stands for itself.
/// # Errors
/// Those of the file system.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if folder.is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    Ok(all)
}

/// The content of every file below a folder.
/// # Errors
/// Those of the file system.
pub fn contents(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    files(folder)?.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// The log file with most data in it.
/// # Errors
/// When there is none.
pub fn log_file(data_directory: &Path) -> io::Result<PathBuf> {
    let mut logs: Vec<(usize, PathBuf)> = Vec::new();
    for path in files(&data_directory.join("log"))? {
        logs.push((used_bytes(&path)?, path));
    }
    logs.sort();
    let (_, path) = logs.pop().ok_or_else(|| io::Error::other("no log file"))?;
    Ok(path)
}

/// Bytes up to the last one that is not 0: preallocated files are longer than what was written.
/// # Errors
/// Those of the file system.
pub fn used_bytes(path: &Path) -> io::Result<usize> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
}

/// Flips one bit of the byte at `offset`.
/// # Errors
/// Those of the file system.
pub fn flip(path: &Path, offset: usize) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(offset as u64))?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 0x10;
    file.seek(SeekFrom::Start(offset as u64))?;
    file.write_all(&byte)?;
    file.sync_all()
}

/// Overwrites what follows `offset` with bytes that no record has: a write that the crash cut short.
/// # Errors
/// Those of the file system.
pub fn scribble(path: &Path, offset: usize, bytes: usize) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(offset as u64))?;
    let garbage: Vec<u8> = (0..bytes).map(|index| (index * 7 + 13) as u8 | 1).collect();
    file.write_all(&garbage)?;
    file.sync_all()
}
