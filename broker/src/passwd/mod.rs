//! `mosquorum_passwd`: makes and changes password files, with the words, answers and exit codes of mosquitto_passwd.
//! Always true: a file is replaced whole, by a new one beside it, or stays as it was; nobody else may read what is
//! written; a password is shown nowhere.
mod edit;
mod prompt;
mod words;

use crate::auth::{HashKind, PasswordHash};
use edit::Edited;
use std::{
    ffi::OsString,
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    process::ExitCode,
};
pub use words::{Action, Task, description, parse};

/// Rights of a file that is made.
const MODE: u32 = 0o600;

/// What `main` of the program is.
pub fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { text, code }) => {
            if !text.is_empty() {
                eprintln!("{text}");
            }
            ExitCode::from(code)
        }
    }
}

/// One line for stderr, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    pub text: String,
    pub code: u8,
}

impl Failed {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }
}

fn run(words: Vec<OsString>) -> Result<(), Failed> {
    let Some(task) = parse(&words)? else {
        print!("{}", words::usage());
        return Err(Failed::new(""));
    };
    let Task { action, file, hash } = task;
    match action {
        Action::Create { user, password } => {
            let password = given(password)?;
            if file.as_os_str() == "-" {
                println!("{}", line(&user, &password, hash)?);
                return Ok(());
            }
            println!("Adding password for user {user}");
            let text = format!("{}\n", line(&user, &password, hash)?);
            // Overwriting is what -c means; whoever owns the file goes on owning it.
            let known = fs::metadata(&file).ok();
            write(&file, &text, known.as_ref())
        }
        Action::Set { user, password } => change(&file, |text| {
            let password = given(password)?;
            let new = line(&user, &password, hash)?;
            let Edited { text, found } = edit::set(text, &user, &new).map_err(corrupt)?;
            println!("{} password for user {user}", if found { "Updating" } else { "Adding" });
            Ok(text)
        }),
        Action::Delete { user } => change(&file, |text| {
            let Edited { text, found } = edit::delete(text, &user).map_err(corrupt)?;
            if found { Ok(text) } else { Err(Failed::new(format!("Warning: User {user} not found in password file."))) }
        }),
        Action::HashAll => change(&file, |text| edit::hash_all(text, |user, password| line(user, password, hash))),
    }
}

fn corrupt(line: usize) -> Failed {
    Failed::new(format!("Error: Corrupt password file at line {line}."))
}

fn given(password: Option<String>) -> Result<String, Failed> {
    password.map_or_else(prompt::password_twice, Ok)
}

/// A line of a password file, without its end.
fn line(user: &str, password: &str, kind: HashKind) -> Result<String, Failed> {
    let hash =
        PasswordHash::new(kind, password.as_bytes()).map_err(|_| Failed::new("Error: Unable to hash password."))?;
    Ok(format!("{user}:{}", hash.encoded()))
}

fn change(file: &Path, edit: impl FnOnce(&str) -> Result<String, Failed>) -> Result<(), Failed> {
    let unopened =
        |cause: io::Error| Failed::new(format!("Error: Unable to open password file {}. {cause}.", file.display()));
    // Through links, so that the file itself is replaced.
    let file = file.canonicalize().map_err(unopened)?;
    let known = fs::metadata(&file).map_err(unopened)?;
    let text = fs::read_to_string(&file).map_err(unopened)?;
    write(&file, &edit(&text)?, Some(&known))
}

/// Writes beside it, then renames.
fn write(file: &Path, text: &str, known: Option<&fs::Metadata>) -> Result<(), Failed> {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if known.is_some_and(|known| !known.is_file()) {
        // A device or pipe is written to, not replaced.
        return fs::write(&file, text).map_err(|cause| unwritten(&file, &cause));
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let new = file.with_file_name(name);
    let written = write_new(&new, text, known).and_then(|()| fs::rename(&new, &file));
    written.map_err(|cause| {
        let _ = fs::remove_file(&new);
        unwritten(&file, &cause)
    })
}

fn unwritten(file: &Path, cause: &io::Error) -> Failed {
    Failed::new(format!("Error: Unable to open file {} for writing. {cause}.", file.display()))
}

fn write_new(path: &Path, text: &str, known: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    if let Some(known) = known {
        if (known.uid(), known.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
            std::os::unix::fs::fchown(&file, Some(known.uid()), Some(known.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(known.permissions().mode() & 0o7777))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PasswordFile;

    fn ran(words: &[&str]) -> Result<(), Failed> {
        run(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn what_is_written_lets_the_user_in_and_nobody_else_read() {
        let folder = std::env::temp_dir().join(format!("mosquorum-passwd-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("passwd");
        let name = file.to_str().expect("text");
        let opens = |user: &str, password: &str| {
            let text = fs::read_to_string(&file).expect("a file");
            PasswordFile::parse(&text, "passwd").expect("a password file").entry(user).verify(password.as_bytes())
        };
        assert_eq!(ran(&["-H", "sha512-pbkdf2", "-I", "10", "-b", "-c", name, "one", "first"]), Ok(()));
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, MODE);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("rights");
        assert_eq!(ran(&["-b", name, "two", "second"]), Ok(()));
        assert_eq!(ran(&["-H", "sha512", "-b", name, "three", "third"]), Ok(()));
        assert_eq!(ran(&["-H", "sha512", "-b", name, "one", "other"]), Ok(()));
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o640);
        assert!(opens("one", "other") && opens("two", "second") && opens("three", "third"));
        assert!(!opens("one", "first") && !opens("two", "third"));
        assert_eq!(ran(&["-D", name, "two"]), Ok(()));
        assert!(!opens("two", "second") && opens("three", "third"));
        let missing = ran(&["-D", name, "two"]).expect_err("it is gone");
        assert_eq!(missing.text, "Warning: User two not found in password file.");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "nothing is left beside it");
        fs::write(&file, "a:plain\nb:text\n").expect("written");
        assert_eq!(ran(&["-H", "sha512", "-U", name]), Ok(()));
        assert!(opens("a", "plain") && opens("b", "text"));
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_damaged_file_stays_as_it_is() {
        let file = std::env::temp_dir().join(format!("mosquorum-passwd-damaged-{}", std::process::id()));
        fs::write(&file, "one:x\n\n").expect("written");
        let failed = ran(&["-H", "sha512", "-b", file.to_str().expect("text"), "two", "p"]).expect_err("damage");
        assert_eq!(failed.text, "Error: Corrupt password file at line 2.");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "one:x\n\n");
        fs::remove_file(&file).expect("removed");
    }
}
