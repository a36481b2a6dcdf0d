//! Checking passwords off the connection tasks.
//! Always true: at most one check per core runs at a time, the others wait their turn without a thread.
use super::cache::SuccessCache;
use super::password_file::PasswordFile;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// The threads and the memory of recent successes; one for the process.
pub struct PasswordVerifier {
    turns: Semaphore,
    cache: Mutex<SuccessCache>,
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl PasswordVerifier {
    /// `parallel`: checks at the same time, at least 1. [`Default`] takes the number of cores.
    #[must_use]
    pub fn new(parallel: usize) -> Self {
        Self { turns: Semaphore::new(parallel.max(1)), cache: Mutex::new(SuccessCache::new()) }
    }

    /// Whether `username` is in `file` with this password. Cancelling it is safe. Call it inside a tokio runtime.
    pub async fn verify(&self, file: &PasswordFile, username: &str, password: &[u8]) -> bool {
        let stored = file.entry(username);
        let proof = {
            let cache = self.cache.lock();
            let proof = cache.proof(username, &stored, password);
            if cache.contains(proof, Instant::now()) {
                return true;
            }
            proof
        };
        let Ok(_turn) = self.turns.acquire().await else {
            return false; // only when closed, which nobody does
        };
        let (stored, password) = (Arc::clone(&stored), password.to_vec());
        let checked = tokio::task::spawn_blocking(move || stored.verify(&password)).await;
        let is_right = checked.unwrap_or(false); // a panic or the end of the runtime is no success
        if is_right {
            self.cache.lock().insert(proof, Instant::now());
        }
        is_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "test:$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    #[tokio::test]
    async fn right_passwords_pass_twice_and_wrong_ones_never() {
        let file = PasswordFile::parse(FILE, "pw").unwrap();
        let verifier = PasswordVerifier::new(1);
        for _ in 0..2 {
            assert!(verifier.verify(&file, "test", b"test").await);
            assert!(!verifier.verify(&file, "test", b"bad").await);
            assert!(!verifier.verify(&file, "nobody", b"test").await);
        }
    }

    #[tokio::test]
    async fn a_changed_password_file_ends_the_remembered_success() {
        let verifier = PasswordVerifier::default();
        let before = PasswordFile::parse(FILE, "pw").unwrap();
        assert!(verifier.verify(&before, "test", b"test").await);
        let after = PasswordFile::parse(&FILE.replace("iiav", "jiav"), "pw").unwrap();
        assert!(!verifier.verify(&after, "test", b"test").await);
    }
}
