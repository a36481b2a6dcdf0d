//! Passwords that were right a moment ago, so that reconnecting clients do not pay for argon2id each time.
//! Always true: no password and no unkeyed hash of one is kept; the key is random and ends with the process; an entry
//! ends after 60 s and with any change of the stored password.
use super::password::PasswordHash;
use ring::hmac;
use ring::rand::SystemRandom;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const LIFE: Duration = Duration::from_secs(60);
const ENTRIES_MAX: usize = 16_384;

pub(super) struct SuccessCache {
    key: hmac::Key,
    until: HashMap<[u8; 32], Instant>,
}

/// What stands for (user, stored password, given password).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof([u8; 32]);

impl SuccessCache {
    pub(super) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self { key: key.expect("the system's random numbers are available"), until: HashMap::new() }
    }

    pub(super) fn proof(&self, username: &str, stored: &PasswordHash, password: &[u8]) -> Proof {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [username.as_bytes(), stored.hash(), password] {
            // Lengths in front, so that parts cannot run into each other.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut proof = [0; 32];
        proof.copy_from_slice(context.sign().as_ref());
        Proof(proof)
    }

    pub(super) fn contains(&self, proof: Proof, now: Instant) -> bool {
        self.until.get(&proof.0).is_some_and(|until| now < *until)
    }

    pub(super) fn insert(&mut self, proof: Proof, now: Instant) {
        if self.until.len() >= ENTRIES_MAX {
            self.until.retain(|_, until| now < *until);
            if self.until.len() >= ENTRIES_MAX {
                self.until.clear();
            }
        }
        self.until.insert(proof.0, now + LIFE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_is_remembered_for_a_minute_and_only_for_the_same_three() {
        let mut cache = SuccessCache::new();
        let (stored, now) = (PasswordHash::default_decoy(), Instant::now());
        let proof = cache.proof("user", &stored, b"password");
        cache.insert(proof, now);
        assert!(cache.contains(proof, now + Duration::from_secs(59)));
        assert!(!cache.contains(proof, now + LIFE));
        assert!(!cache.contains(cache.proof("userp", &stored, b"assword"), now));
        assert!(!cache.contains(cache.proof("user", &stored, b"Password"), now));
    }

    #[test]
    fn the_cache_stays_bounded() {
        let mut cache = SuccessCache::new();
        let now = Instant::now();
        for number in 0..(ENTRIES_MAX as u64 + 10) {
            let mut proof = [0; 32];
            proof[..8].copy_from_slice(&number.to_be_bytes());
            cache.insert(Proof(proof), now);
        }
        assert!(cache.until.len() <= ENTRIES_MAX);
    }
}
