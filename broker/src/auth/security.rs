//! The security of one listener, made of its settings.
use super::acl::{Acl, ClientAcl};
use super::password::PasswordHash;
use super::password_file::PasswordFile;
use super::turns::{QueueFull, Source};
use super::verifier::PasswordVerifier;
use super::{AuthFileError, acl_file};
use crate::config::{SecuritySettings, Settings};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who may connect to a listener, and what they may do.
#[derive(Debug)]
pub struct Security {
    pub allow_anonymous: bool,
    pub allow_zero_length_clientid: bool,
    /// Start of client ids that the broker makes up.
    pub auto_id_prefix: String,
    /// Start that every client id must have.
    pub clientid_prefixes: Option<String>,
    pub passwords: Option<Arc<PasswordFile>>,
    /// Open when there is no `acl_file`.
    pub acl: Arc<Acl>,
}

/// What user name and password amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    Granted,
    /// Return code 5, reason code 0x87.
    NotAuthorized,
    /// Too many logins of the same source wait: return code 3, reason code 0x89.
    Busy,
}

/// What let a client in.
#[derive(Debug, Clone)]
pub enum Login {
    /// Its certificate, which no reload of the rules concerns.
    Certificate,
    /// The stored password of its user, which it knew.
    Password(Arc<PasswordHash>),
    /// `allow_anonymous`.
    Anonymous,
}

impl Security {
    /// What lets in a client that is granted access.
    #[must_use]
    pub fn login(&self, username: Option<&str>) -> Login {
        match (&self.passwords, username) {
            (Some(file), Some(username)) => Login::Password(file.entry(username)),
            _ => Login::Anonymous,
        }
    }

    /// Whether a client that was let in by `login`, perhaps by other rules than these, would be again. Its password is
    /// not known any more: where another one is stored, or one where there was none, it has to come again.
    #[must_use]
    pub fn still_lets_in(&self, login: &Login, username: Option<&str>) -> bool {
        match (login, self.login(username)) {
            (Login::Certificate, _) => true,
            (Login::Password(before), Login::Password(now)) => *before == now,
            (_, Login::Password(_)) => false,
            (_, _) => self.allow_anonymous,
        }
    }

    /// Checks user name and password of a CONNECT. Not for listeners that take the user name from a certificate.
    ///
    /// With a user name and a password file the file decides; an empty password is none. Otherwise `allow_anonymous` does, even about a client
    /// that gave a user name (as in Mosquitto 2.1).
    pub async fn authenticate(
        &self,
        verifier: &PasswordVerifier,
        username: Option<&str>,
        password: Option<&[u8]>,
        source: Source,
    ) -> Authentication {
        let granted = match (&self.passwords, username) {
            (Some(file), Some(username)) => match password {
                Some(password) if !password.is_empty() => {
                    match verifier.verify(file, username, password, source).await {
                        Ok(is_right) => is_right,
                        Err(QueueFull) => return Authentication::Busy,
                    }
                }
                _ => false,
            },
            _ => self.allow_anonymous,
        };
        if granted { Authentication::Granted } else { Authentication::NotAuthorized }
    }

    /// Whether `clientid_prefixes` lets this client id in, made up by the broker or not.
    #[must_use]
    pub fn accepts_client_id(&self, client_id: &str) -> bool {
        self.clientid_prefixes.as_ref().is_none_or(|prefix| client_id.starts_with(prefix.as_str()))
    }

    /// The rights of one client.
    #[must_use]
    pub fn rights(&self, client_id: &str, username: Option<&str>) -> ClientAcl {
        self.acl.for_client(client_id, username)
    }
}

/// The security of every listener, in the order of `Settings::listeners`. Files that several name are read once.
#[derive(Debug)]
pub struct SecuritySet(Vec<Arc<Security>>);

impl SecuritySet {
    /// Reads the password and ACL files. At a reload build a new set; on error the old one stays in use.
    /// # Errors
    /// The first file that cannot be read or has a damaged line.
    pub fn load(settings: &Settings) -> Result<Self, AuthFileError> {
        let mut files = Files::default();
        let listeners = settings.listeners.iter().map(|listener| {
            let prefixes = settings.clientid_prefixes.clone();
            files.security(&listener.security, prefixes).map(Arc::new)
        });
        Ok(Self(listeners.collect::<Result<_, _>>()?))
    }

    /// The security of the n-th listener.
    /// # Panics
    /// When there is no such listener.
    #[must_use]
    pub fn listener(&self, index: usize) -> &Arc<Security> {
        &self.0[index]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Security>> {
        self.0.iter()
    }
}

#[derive(Default)]
struct Files {
    passwords: HashMap<PathBuf, Arc<PasswordFile>>,
    acls: HashMap<PathBuf, Arc<Acl>>,
}

impl Files {
    fn security(
        &mut self,
        settings: &SecuritySettings,
        clientid_prefixes: Option<String>,
    ) -> Result<Security, AuthFileError> {
        let passwords = match &settings.password_file {
            Some(path) => Some(shared(&mut self.passwords, path, PasswordFile::load)?),
            None => None,
        };
        let acl = match &settings.acl_file {
            Some(path) => shared(&mut self.acls, path, acl_file::load)?,
            None => Arc::new(Acl::open()),
        };
        Ok(Security {
            allow_anonymous: settings.allow_anonymous,
            allow_zero_length_clientid: settings.allow_zero_length_clientid,
            auto_id_prefix: settings.auto_id_prefix.clone(),
            clientid_prefixes,
            passwords,
            acl,
        })
    }
}

fn shared<T>(
    known: &mut HashMap<PathBuf, Arc<T>>,
    path: &Path,
    load: impl Fn(&Path) -> Result<T, AuthFileError>,
) -> Result<Arc<T>, AuthFileError> {
    if let Some(file) = known.get(path) {
        return Ok(Arc::clone(file));
    }
    let file = Arc::new(load(path)?);
    known.insert(path.to_owned(), Arc::clone(&file));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(allow_anonymous: bool, passwords: Option<&str>) -> Security {
        let passwords = passwords.map(|text| Arc::new(PasswordFile::parse(text, "pw").unwrap()));
        Security {
            allow_anonymous,
            allow_zero_length_clientid: true,
            auto_id_prefix: "auto-".to_owned(),
            clientid_prefixes: Some("dev-".to_owned()),
            passwords,
            acl: Arc::new(Acl::open()),
        }
    }

    #[tokio::test]
    async fn a_password_file_decides_about_named_clients_and_allow_anonymous_about_others() {
        const FILE: &str = "test:$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";
        let verifier = PasswordVerifier::new(1);
        let test = Some("test");
        for (anonymous, file, username, password, granted) in [
            (false, None, None, None, false),
            (true, None, None, None, true),
            (true, None, test, Some("x"), true),
            (false, None, test, Some("test"), false),
            (false, Some(FILE), test, Some("test"), true),
            (true, Some(FILE), test, Some("bad"), false),
            (true, Some(FILE), test, None, false),
            (true, Some(FILE), test, Some(""), false),
            (true, Some(FILE), None, None, true),
            (false, Some(FILE), None, Some("test"), false),
            (true, Some(FILE), Some(""), Some("test"), false),
        ] {
            let security = security(anonymous, file);
            let password = password.map(str::as_bytes);
            let found = security.authenticate(&verifier, username, password, Source::Local).await;
            assert_eq!(found == Authentication::Granted, granted, "{anonymous} {username:?} {password:?}");
        }
    }

    #[test]
    fn a_changed_or_removed_password_and_the_end_of_allow_anonymous_end_what_they_let_in() {
        const FILE: &str = "test:$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";
        let (other, test) = (FILE.replace("test", "other"), Some("test"));
        let changed = FILE.replace("iiav", "jiav");
        let known = || security(false, Some(FILE)).login(test);
        assert!(security(false, Some(&format!("# again\n{FILE}"))).still_lets_in(&known(), test));
        for gone in [security(true, Some(&other)), security(true, Some(&changed)), security(false, None)] {
            assert!(!gone.still_lets_in(&known(), test));
            assert!(gone.still_lets_in(&Login::Certificate, test));
        }
        let anonymous = || security(true, None).login(None);
        assert!(security(true, Some(FILE)).still_lets_in(&anonymous(), None));
        assert!(!security(true, Some(FILE)).still_lets_in(&anonymous(), test), "it has shown no password");
        assert!(!security(false, Some(FILE)).still_lets_in(&anonymous(), None));
    }

    #[test]
    fn clientid_prefixes_let_only_their_ids_in() {
        let security = security(true, None);
        assert!(security.accepts_client_id("dev-1") && !security.accepts_client_id("1-dev-"));
    }
}
