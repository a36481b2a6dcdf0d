//! Who may connect and what they may read and write, by Mosquitto's files.
//! Always true: a name never widens a rule; no file means open, an unreadable or empty file never does; an unknown
//! user costs as much as a wrong password; a password is never logged or kept in clear.
//! Not here: certificates and their names (the TLS loader), plugins, where ACL answers are used.
mod acl;
mod acl_file;
mod cache;
mod file;
mod password;
mod password_file;
mod security;
mod verifier;

pub use acl::{Access, Acl, ClientAcl};
pub use acl_file::parse as parse_acl;
pub use password::{HashError, HashKind, PasswordHash};
pub use password_file::PasswordFile;
pub use security::{Authentication, Login, Security, SecuritySet};
pub use verifier::PasswordVerifier;

/// Why a password or ACL file cannot be used: one line, with file and line number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthFileError(pub(crate) String);
