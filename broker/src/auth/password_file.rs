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
    /// One of each kind of hash in the file, the dearest first: what no password fits. Never empty.
    decoys: Vec<Arc<PasswordHash>>,
}

/// Kinds of hashes (algorithm and parameters) that count; of more the dearest.
const KINDS_MAX: usize = 8;

/// One that no password fits for each kind of hash.
fn decoys<'a>(all: impl Iterator<Item = &'a Arc<PasswordHash>>) -> Vec<Arc<PasswordHash>> {
    let mut kinds: Vec<Arc<PasswordHash>> = Vec::new();
    for hash in all {
        if !kinds.iter().any(|known| known.is_of_one_kind_with(hash)) {
            kinds.push(Arc::new(hash.decoy()));
            kinds.sort_by_key(|kind| std::cmp::Reverse(kind.cost()));
            kinds.truncate(KINDS_MAX);
        }
    }
    if kinds.is_empty() {
        kinds.push(Arc::new(PasswordHash::default_decoy()));
    }
    kinds
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
                Err(AuthFileError::Damaged(format!("Error: {what} in password file '{name}' line {number}.")))
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
                return Err(AuthFileError::Damaged(format!(
                    "Error: Invalid line in password file '{name}', no username in line {}.",
                    index + 1
                )));
            }
            let Ok(hash) = PasswordHash::parse(fields.next().unwrap_or_default().trim()) else {
                return Err(AuthFileError::Damaged(format!(
                    "Error: Unable to decode line in password file '{name}' line {}, user '{user}'.",
                    index + 1
                )));
            };
            if users.insert(user.into(), Arc::new(hash)).is_some() {
                return error(&format!("Duplicate user '{user}'"));
            }
        }
        let decoys = decoys(users.values());
        Ok(Self { users, decoys })
    }

    /// The stored password of a user; for an unknown user one that no password fits and that costs as much.
    #[must_use]
    pub fn entry(&self, username: &str) -> Arc<PasswordHash> {
        Arc::clone(self.users.get(username).unwrap_or(&self.decoys[0]))
    }

    /// What is checked, too, when a password does not fit `entry`: one hash of each other kind in the file. So a wrong
    /// password takes the same time for every user, and for those that do not exist.
    pub(super) fn beside(&self, entry: &PasswordHash) -> Vec<Arc<PasswordHash>> {
        self.decoys.iter().filter(|decoy| !decoy.is_of_one_kind_with(entry)).cloned().collect()
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
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        let path = std::env::temp_dir().join(format!("mosquorum-marked-{}", std::process::id()));
        std::fs::write(&path, format!("\u{feff}test:{HASH}\n")).unwrap();
        let file = PasswordFile::load(&path);
        let _ = std::fs::remove_file(&path);
        assert!(file.unwrap().entry("test").verify(b"test"));
    }

    #[test]
    fn a_damaged_file_and_one_that_cannot_be_read_end_the_start_with_mosquittos_codes() {
        assert_eq!(PasswordFile::parse("bad:", "pw").unwrap_err().exit_code(), 3);
        let error = PasswordFile::load(Path::new("/dev/null/pw")).unwrap_err();
        assert_eq!(error.exit_code(), 13);
        let expected = "Error: Unable to open password_file \"/dev/null/pw\": Not a directory (os error 20).";
        assert_eq!(error.to_string(), expected);
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

    #[test]
    fn a_wrong_password_costs_the_same_for_every_user_and_for_none() {
        let pbkdf2 = |iterations: u32| format!("$7${iterations}${}", &HASH[3..]);
        let argon2 = format!("$argon2id$v=19$m=64,t=1,p=1${}${}", "A".repeat(22), "A".repeat(86));
        let users =
            [("a", HASH.to_owned()), ("b", pbkdf2(1000)), ("c", pbkdf2(5000)), ("d", argon2), ("e", pbkdf2(1000))];
        let lines: Vec<String> = users.iter().map(|(user, hash)| format!("{user}:{hash}")).collect();
        let file = PasswordFile::parse(&lines.join("\n"), "pw").unwrap();
        let costs = |user: &str| {
            let entry = file.entry(user);
            let mut all: Vec<u64> = file.beside(&entry).iter().map(|other| other.cost()).collect();
            all.push(entry.cost());
            all.sort_unstable();
            all
        };
        for user in ["a", "b", "c", "d", "e", "unknown"] {
            assert_eq!(costs(user), [1, 128, 1000, 5000], "{user}");
        }
    }

    #[test]
    fn of_many_kinds_the_dearest_eight_count() {
        let lines: Vec<String> = (1..=50).map(|number| format!("u{number}:$7${number}${}", &HASH[3..])).collect();
        let file = PasswordFile::parse(&lines.join("\n"), "pw").unwrap();
        let costs: Vec<u64> = file.decoys.iter().map(|decoy| decoy.cost()).collect();
        assert_eq!(costs, (43..=50).rev().collect::<Vec<_>>());
    }
}
