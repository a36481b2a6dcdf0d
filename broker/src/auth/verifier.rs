//! Checking passwords off the connection tasks.
//! Always true: at most one check per core runs at a time, also of those that nobody waits for any more; the others wait
//! their turn without a thread, and no source keeps another one waiting for more than one check of its own (`turns`).
use super::cache::SuccessCache;
use super::password_file::PasswordFile;
use super::turns::{QueueFull, Source, Turns};
use parking_lot::Mutex;
use std::time::Instant;

/// The threads and the memory of recent successes; one for the process.
pub struct PasswordVerifier {
    turns: Turns,
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
        Self { turns: Turns::new(parallel), cache: Mutex::new(SuccessCache::new()) }
    }

    /// Whether `username` is in `file` with this password. Cancelling it leaves the queue, but does not end a check that
    /// has begun. Call it inside a tokio runtime.
    /// # Errors
    /// [`QueueFull`] when too many logins of this source wait already; nothing was checked.
    pub async fn verify(
        &self,
        file: &PasswordFile,
        username: &str,
        password: &[u8],
        source: Source,
    ) -> Result<bool, QueueFull> {
        let stored = file.entry(username);
        let proof = {
            let cache = self.cache.lock();
            let proof = cache.proof(username, &stored, password);
            if cache.contains(proof, Instant::now()) {
                return Ok(true);
            }
            proof
        };
        let turn = self.turns.take(source).await?;
        let (others, password) = (file.beside(&stored), password.to_vec());
        let check = move || {
            // Here, since it is over when the thread is free again, whoever still waits.
            let _turn = turn;
            let is_right = stored.verify(&password);
            if !is_right {
                for other in &others {
                    std::hint::black_box(other.verify(&password));
                }
            }
            is_right
        };
        let checked = tokio::task::spawn_blocking(check).await;
        let is_right = checked.unwrap_or(false); // a panic or the end of the runtime is no success
        if is_right {
            self.cache.lock().insert(proof, Instant::now());
        }
        Ok(is_right)
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
            for (user, password, right) in [("test", "test", true), ("test", "bad", false), ("nobody", "test", false)] {
                let found = verifier.verify(&file, user, password.as_bytes(), Source::Local).await;
                assert_eq!(found, Ok(right), "{user} {password}");
            }
        }
    }

    #[tokio::test]
    async fn a_changed_password_file_ends_the_remembered_success() {
        let verifier = PasswordVerifier::default();
        let before = PasswordFile::parse(FILE, "pw").unwrap();
        assert!(verifier.verify(&before, "test", b"test", Source::Local).await == Ok(true));
        let after = PasswordFile::parse(&FILE.replace("iiav", "jiav"), "pw").unwrap();
        assert_eq!(verifier.verify(&after, "test", b"test", Source::Local).await, Ok(false));
    }
    #[tokio::test]
    async fn a_check_that_nobody_waits_for_any_more_keeps_its_turn_until_it_is_over() {
        // Far longer than what follows.
        let file = PasswordFile::parse(&FILE.replace("$6$", "$7$3000000$"), "pw").unwrap();
        let verifier = PasswordVerifier::new(1);
        let mut abandoned = Box::pin(verifier.verify(&file, "test", b"bad", Source::Local));
        assert!(futures_util::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        let mut next = Box::pin(verifier.verify(&file, "test", b"bad", Source::Local));
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert!(futures_util::poll!(&mut next).is_pending());
        }
        assert_eq!(verifier.turns.waiting(), 1, "it waits for its turn, it is not checked yet");
    }
}
