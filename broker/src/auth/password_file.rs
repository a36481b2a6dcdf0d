//! `password_file`: `user:hash` lines; `#` in the first column begins a comment, lines without a colon say nothing.
use super::password::PasswordHash;
use super::{AuthFileError, file};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The users of one file.
#[derive(Debug)]
pub struct PasswordFile {
    users: HashMap<Box<str>, Arc<PasswordHash>>,
    /// What the password of an unknown user is checked against.
    decoy: Arc<PasswordHash>,
}

impl PasswordFile {
    /// # Errors
    /// When the file cannot be read or a line is damaged; one line that says where.
    pub fn load(path: &Path) -> Result<Self, AuthFileError> {
        Self::parse(&file::read(path, "password_file")?, &path.display().to_string())
    }

    /// Reads the text of a file called `name`.
    /// # Errors
    /// See [`Self::load`].
    pub fn parse(text: &str, name: &str) -> Result<Self, AuthFileError> {
        let mut users: HashMap<Box<str>, Arc<PasswordHash>> = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let error = |what: &str| {
                let number = index + 1;
                Err(AuthFileError(format!("Error: {what} in password file '{name}' line {number}.")))
            };
            if line.starts_with('#') || !line.contains(':') {
                continue;
            }
            // As Mosquitto: fields are what stands between colons, empty ones are skipped.
            let mut fields = line.split(':').filter(|field| !field.is_empty());
            let user = fields.next().unwrap_or_default().trim();
            if user.is_empty() {
                return error("Empty username");
            }
            if line.starts_with(':') {
                return Err(AuthFileError(format!(
                    "Error: Invalid line in password file '{name}', no username in line {}.",
                    index + 1
                )));
            }
            let Ok(hash) = PasswordHash::parse(fields.next().unwrap_or_default().trim()) else {
                return Err(AuthFileError(format!(
                    "Error: Unable to decode line in password file '{name}' line {}, user '{user}'.",
                    index + 1
                )));
            };
            if users.insert(user.into(), Arc::new(hash)).is_some() {
                return error(&format!("Duplicate user '{user}'"));
            }
        }
        let costly = users.values().max_by_key(|hash| hash.cost());
        let decoy = costly.map_or_else(PasswordHash::default_decoy, |hash| hash.decoy());
        Ok(Self { users, decoy: Arc::new(decoy) })
    }

    /// The stored password of a user; for an unknown user one that no password fits and that costs as much.
    #[must_use]
    pub fn entry(&self, username: &str) -> Arc<PasswordHash> {
        Arc::clone(self.users.get(username).unwrap_or(&self.decoy))
    }

    /// Users in the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$6$njERlZMi/7DzNB9E$iiavfuXvUm8iyDZArTy7smTxh07GXXOrOsqxfW6gkOYVXHGk+W+i/8d3xDxrMwEPygEBhoA8A/gjQC0N2M4Lkw==";

    fn error(text: &str) -> String {
        PasswordFile::parse(text, "pw").unwrap_err().to_string()
    }

    #[test]
    fn users_comments_and_lines_without_a_colon_are_read() {
        let file = PasswordFile::parse(&format!("# c\n\nno colon\n test :{HASH}\r\n"), "pw").unwrap();
        assert_eq!(file.len(), 1);
        assert!(file.entry("test").verify(b"test"));
        assert!(!file.entry("unknown").verify(b"test"));
    }

    #[test]
    fn damaged_lines_are_one_line_errors_in_mosquittos_words() {
        for line in ["bad:", "bad:bad", "bad:$6$", "bad:$6$njERlZMi/7DzNB9E$"] {
            let error = error(&format!("test:{HASH}\n{line}\n"));
            assert!(error.starts_with("Error: Unable to decode line in password file 'pw' line 2"), "{error}");
        }
        assert!(error(&format!(":{HASH}")).starts_with("Error: Invalid line in password file"));
        assert!(error(&format!("a:{HASH}\na:{HASH}")).contains("Duplicate user 'a'"));
        assert!(error(&format!(" :{HASH}")).contains("Empty username"));
    }

    #[test]
    fn an_empty_file_knows_nobody() {
        let file = PasswordFile::parse("", "pw").unwrap();
        assert!(file.is_empty() && !file.entry("").verify(b""));
    }

    #[test]
    fn an_unknown_user_costs_as_much_as_the_dearest_known_one() {
        let costly = format!("$7$5000${}", &HASH[3..]);
        let file = PasswordFile::parse(&format!("a:{HASH}\nb:{costly}"), "pw").unwrap();
        assert_eq!(file.entry("unknown").cost(), 5000);
    }
}
