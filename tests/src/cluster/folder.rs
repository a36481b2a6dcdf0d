//! Folders of tests: below `target`, so on a real disk, removed when all went well.
use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct TestFolder {
    path: PathBuf,
    short: PathBuf,
    keep: bool,
}

impl TestFolder {
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> io::Result<Self> {
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("{}-{number}", std::process::id());
        let path = workspace().join("target/test-runs").join(format!("{name}-{unique}"));
        std::fs::create_dir_all(&path)?;
        let short = std::env::temp_dir().join(format!("mosquorum-{unique}"));
        std::fs::create_dir_all(&short)?;
        Ok(Self { path, short, keep: false })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path short enough for a unix socket (107 bytes).
    #[must_use]
    pub fn short_path(&self, name: &str) -> PathBuf {
        self.short.join(name)
    }

    /// Leaves the folder and says where.
    pub fn keep(&mut self) {
        if !std::mem::replace(&mut self.keep, true) {
            eprintln!("kept: {}", self.path.display());
        }
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.short);
        if !self.keep && std::env::var_os("MOSQUORUM_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The root of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Removes folders of shared brokers (`shared-NAME-PID-N`) whose process is gone: nobody drops those.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(workspace().join("target/test-runs")) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("shared-")) else { continue };
        let pid = name.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| std::fs::metadata(format!("/proc/{pid}")).is_err()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
