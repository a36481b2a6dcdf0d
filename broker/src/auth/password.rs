//! One stored password: `$6$` SHA-512, `$7$` PBKDF2-HMAC-SHA512 or `$argon2id$`, as mosquitto_passwd writes them.
//! Always true: comparison takes the same time wherever the difference is.
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{digest, pbkdf2};
use std::num::NonZeroU32;

/// Bytes of a SHA-512 or PBKDF2 hash.
const HASH_BYTES: usize = digest::SHA512_OUTPUT_LEN;
/// Bytes of a salt that mosquitto_passwd wrote: before and since version 2.1.
const SALT_BYTES: [usize; 2] = [12, 64];

/// argon2id as mosquitto_passwd makes it: memory in KiB, passes, lanes.
const ARGON2: [u32; 3] = [47_104, 1, 1];

/// Why a stored password cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not $6$, $7$ or $argon2id$ with valid salt and hash")]
pub struct HashError;

/// A stored password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    scheme: Scheme,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scheme {
    Sha512,
    Pbkdf2 { iterations: NonZeroU32 },
    Argon2id { version: Version, params: Params },
}

/// How a new password is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    Argon2id,
    Pbkdf2 { iterations: NonZeroU32 },
    Sha512,
}

impl HashKind {
    /// What mosquitto_passwd takes.
    pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not 0");
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PasswordHash({:?})", self.scheme) // neither salt nor hash
    }
}

impl PasswordHash {
    /// Reads the part of a password file's line after the user name.
    /// # Errors
    /// [`HashError`]
    pub fn parse(text: &str) -> Result<Self, HashError> {
        if let Some(rest) = text.strip_prefix("$6$") {
            let (salt, hash) = rest.split_once('$').ok_or(HashError)?;
            return Self::sha512(Scheme::Sha512, salt, hash);
        }
        if let Some(rest) = text.strip_prefix("$7$") {
            let mut parts = rest.splitn(3, '$');
            let (Some(iterations), Some(salt), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(HashError);
            };
            let iterations: i32 = iterations.parse().map_err(|_| HashError)?;
            let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new);
            let iterations = iterations.ok_or(HashError)?;
            return Self::sha512(Scheme::Pbkdf2 { iterations }, salt, hash);
        }
        let rest = text.strip_prefix("$argon2id$").ok_or(HashError)?;
        Self::argon2id(rest)
    }

    /// Hashes a new password with a salt that nobody knows.
    /// # Errors
    /// [`HashError`]: no randomness, or a password that the algorithm does not take.
    pub fn new(kind: HashKind, password: &[u8]) -> Result<Self, HashError> {
        let mut salt = vec![0; SALT_BYTES[1]];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut salt).map_err(|_| HashError)?;
        let mut hash = vec![0; HASH_BYTES];
        let scheme = match kind {
            HashKind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&salt);
                hash.copy_from_slice(context.finish().as_ref());
                Scheme::Sha512
            }
            HashKind::Pbkdf2 { iterations } => {
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, password, &mut hash);
                Scheme::Pbkdf2 { iterations }
            }
            HashKind::Argon2id => {
                let [memory, passes, lanes] = ARGON2;
                let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).map_err(|_| HashError)?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                argon2.hash_password_into(password, &salt, &mut hash).map_err(|_| HashError)?;
                Scheme::Argon2id { version: Version::V0x13, params }
            }
        };
        Ok(Self { scheme, salt, hash })
    }

    /// As it stands in a password file.
    #[must_use]
    pub fn encoded(&self) -> String {
        let (salt, hash) = (STANDARD.encode(&self.salt), STANDARD.encode(&self.hash));
        match &self.scheme {
            Scheme::Sha512 => format!("$6${salt}${hash}"),
            Scheme::Pbkdf2 { iterations } => format!("$7${iterations}${salt}${hash}"),
            Scheme::Argon2id { version, params } => {
                let (memory, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
                let (salt, hash) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.hash));
                format!("$argon2id$v={}$m={memory},t={passes},p={lanes}${salt}${hash}", *version as u32)
            }
        }
    }

    fn sha512(scheme: Scheme, salt: &str, hash: &str) -> Result<Self, HashError> {
        let salt = STANDARD.decode(salt).map_err(|_| HashError)?;
        let hash = STANDARD.decode(hash).map_err(|_| HashError)?;
        if !SALT_BYTES.contains(&salt.len()) || hash.len() != HASH_BYTES {
            return Err(HashError);
        }
        Ok(Self { scheme, salt, hash })
    }

    /// A PHC string: `v=19$m=47104,t=1,p=1$salt$hash`. Mosquitto's salts of 64 bytes are longer than PHC parsers of
    /// libraries allow, so it is taken apart here.
    fn argon2id(text: &str) -> Result<Self, HashError> {
        let mut parts = text.split('$').peekable();
        let version = match parts.next_if(|part| part.starts_with("v=")) {
            None | Some("v=16") => Version::V0x10,
            Some("v=19") => Version::V0x13,
            Some(_) => return Err(HashError),
        };
        let (Some(params), Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HashError);
        };
        let (mut memory, mut passes, mut lanes) = (None, None, None);
        for param in params.split(',') {
            let (name, value) = param.split_once('=').ok_or(HashError)?;
            let value: u32 = value.parse().map_err(|_| HashError)?;
            match name {
                "m" => memory = Some(value),
                "t" => passes = Some(value),
                "p" => lanes = Some(value),
                _ => return Err(HashError),
            }
        }
        let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| HashError)?;
        let hash = STANDARD_NO_PAD.decode(hash).map_err(|_| HashError)?;
        let (Some(memory), Some(passes), Some(lanes)) = (memory, passes, lanes) else {
            return Err(HashError);
        };
        let params = Params::new(memory, passes, lanes, Some(hash.len())).map_err(|_| HashError)?;
        if salt.len() < argon2::MIN_SALT_LEN {
            return Err(HashError);
        }
        Ok(Self { scheme: Scheme::Argon2id { version, params }, salt, hash })
    }

    /// Whether this is the password. Takes 1 us ($6$), 1 ms ($7$) or 50 ms and 46 MiB (argon2id): run it on
    /// [`super::PasswordVerifier`]'s threads.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.scheme {
            Scheme::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                is_equal(context.finish().as_ref(), &self.hash)
            }
            Scheme::Pbkdf2 { iterations } => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, *iterations, &self.salt, password, &self.hash).is_ok()
            }
            Scheme::Argon2id { version, params } => {
                let argon2 = Argon2::new(Algorithm::Argon2id, *version, params.clone());
                let mut found = vec![0; self.hash.len()];
                argon2.hash_password_into(password, &self.salt, &mut found).is_ok() && is_equal(&found, &self.hash)
            }
        }
    }

    /// A hash of the same cost that no password has.
    pub(super) fn decoy(&self) -> Self {
        Self { scheme: self.scheme.clone(), salt: self.salt.clone(), hash: vec![0; self.hash.len()] }
    }

    /// For an empty password file: as mosquitto_passwd would make by default.
    pub(super) fn default_decoy() -> Self {
        let iterations = NonZeroU32::new(1000).expect("1000 is not 0");
        Self { scheme: Scheme::Pbkdf2 { iterations }, salt: vec![0; 64], hash: vec![0; HASH_BYTES] }
    }

    /// Whether a `verify` of both costs the same.
    pub(super) fn is_of_one_kind_with(&self, other: &Self) -> bool {
        self.scheme == other.scheme
    }

    /// Roughly comparable cost of one `verify`.
    pub(super) fn cost(&self) -> u64 {
        match &self.scheme {
            Scheme::Sha512 => 1,
            Scheme::Pbkdf2 { iterations } => u64::from(iterations.get()),
            Scheme::Argon2id { params, .. } => u64::from(params.m_cost()) * u64::from(params.t_cost()) * 2,
        }
    }

    /// The stored hash, to distinguish one stored password from another.
    pub(super) fn hash(&self) -> &[u8] {
        &self.hash
    }
}

#[allow(deprecated)] // ring has no other constant-time comparison in its API yet
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    ring::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Written by mosquitto_passwd for the password "test".
    const SHA512: &str =
        "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    #[test]
    fn sha512_of_mosquitto_is_verified() {
        let hash = PasswordHash::parse(SHA512).unwrap();
        assert!(hash.verify(b"test"));
        assert!(!hash.verify(b"bad") && !hash.verify(b""));
        assert!(!hash.decoy().verify(b"test"));
    }

    #[test]
    fn a_damaged_hash_is_refused() {
        for text in [
            "",
            "bad",
            "$",
            "$6",
            "$6$",
            "$6$njERlZMi/7DzNB9E",
            "$6$njERlZMi/7DzNB9E$",
            &SHA512.replace("$6", "$5"),
            &SHA512.replace("Mi", "{i"),
            &SHA512.replace("Xv", "{}"),
            "$7$0$AAAAAAAAAAAAAAAA$AAAA",
            "$7$-5$AAAAAAAAAAAAAAAA$AAAA",
            "$argon2id$",
            "$argon2id$v=19$m=8$a$b",
        ] {
            assert_eq!(PasswordHash::parse(text), Err(HashError), "{text}");
        }
    }

    #[test]
    fn pbkdf2_is_verified() {
        let (salt, iterations) = ([7; 64], NonZeroU32::new(3).unwrap());
        let mut hash = [0; HASH_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &salt, b"secret", &mut hash);
        let text = format!("$7$3${}${}", STANDARD.encode(salt), STANDARD.encode(hash));
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(hash.verify(b"secret") && !hash.verify(b"secreT"));
    }

    #[test]
    fn argon2id_with_mosquittos_long_salt_is_verified() {
        let (salt, mut hash) = ([9; 64], [0; 64]);
        let params = Params::new(64, 1, 1, Some(64)).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(b"secret", &salt, &mut hash).unwrap();
        let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
        let hash = PasswordHash::parse(&format!("$argon2id$v=19$m=64,t=1,p=1${salt}${hash}")).unwrap();
        assert!(hash.verify(b"secret") && !hash.verify(b"Secret"));
    }
}
