//! Who may connect and what they may read and write, by Mosquitto's files.
//! Always true: a name never widens a rule; no file means open, an unreadable or empty file never does; a wrong password
//! costs the same for each known and unknown user; a password is never logged or kept in clear.
//! Not here: certificates and their names (the TLS loader), plugins, where ACL answers are used.
mod acl;
mod acl_file;
mod cache;
mod file;
mod password;
mod password_file;
mod readers;
mod security;
mod turns;
mod verifier;

pub use acl::{Access, Acl, ClientAcl};
pub use acl_file::parse as parse_acl;
pub use password::{HashError, HashKind, PasswordHash};
pub use password_file::PasswordFile;
pub use readers::Readers;
pub use security::{Authentication, Login, Security, SecuritySet};
pub use turns::{QueueFull, Source};
pub use verifier::PasswordVerifier;

/// Why a password or ACL file cannot be used: one line, with file and line number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthFileError {
    /// It cannot be opened and read as text.
    #[error("{0}")]
    Unreadable(String),
    /// A line of it cannot be used.
    #[error("{0}")]
    Damaged(String),
}

impl AuthFileError {
    /// What a process that cannot start with it exits with, as Mosquitto.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable(_) => 13,
            Self::Damaged(_) => 3,
        }
    }
}
