//! The words of `mosquorum_passwd`.
//! Always true: nothing is read or written here.
use super::Failed;
use crate::auth::HashKind;
use clap::{Arg, ArgAction, Command, ValueHint};
use std::{ffi::OsString, num::NonZeroU32, path::PathBuf};

const ABOUT: &str = "a tool for managing password files for mosquorum and mosquitto";
const FORMS: &str = "\
mosquorum_passwd [-H argon2id | -H sha512-pbkdf2] [-c | -D] passwordfile username
       mosquorum_passwd [-H argon2id | -H sha512-pbkdf2] [-c] -b passwordfile username password
       mosquorum_passwd -U passwordfile";

/// Flags, what their values are called, and what they do.
const FLAGS: [(&str, &str, &str); 6] = [
    ("b", "", "take the password from the command line."),
    ("c", "", "create a new password file. This will overwrite existing files. A dash as file prints the line."),
    ("D", "", "delete the username rather than adding or updating its password."),
    (
        "H",
        "hash",
        "the hashing algorithm: argon2id (default), sha512-pbkdf2 (Mosquitto 2.0 and earlier) or\n\
         sha512 (Mosquitto 1.6 and earlier).",
    ),
    ("I", "iterations", "the number of iterations of sha512-pbkdf2 (default 1000)."),
    ("U", "", "update a plain text password file to use hashed passwords."),
];
const HASHES: [&str; 3] = ["argon2id", "sha512-pbkdf2", "sha512"];

pub(super) fn usage() -> String {
    let rows = FLAGS.iter().map(|(flag, _, help)| format!(" -{flag} : {}\n", help.replace('\n', "\n      ")));
    format!("mosquorum_passwd is {ABOUT}.\n\nUsage: {FORMS}\n{}", rows.collect::<String>())
}

/// The words as clap describes them, for completions and the manual page; they are parsed below, as Mosquitto does.
#[must_use]
pub fn description() -> Command {
    let flags = FLAGS.iter().map(|(flag, value, help)| {
        let arg = Arg::new(*flag).short(flag.chars().next()).help(*help);
        match *value {
            "" => arg.action(ArgAction::SetTrue),
            "hash" => arg.value_name("hash").value_parser(HASHES).hide_possible_values(true),
            name => arg.value_name(name),
        }
    });
    Command::new("mosquorum_passwd")
        .about(ABOUT)
        .override_usage(FORMS)
        .disable_help_flag(true)
        .args(flags)
        .arg(word("passwordfile", "the file that is changed or made.").required(true).value_hint(ValueHint::FilePath))
        .arg(word("username", "whose password is set, or who is deleted."))
        .arg(word("password", "with -b only; other users of the machine may see it."))
}

fn word(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).value_name(name).help(help)
}

/// Bytes of user names and passwords.
const BYTES_MAX: usize = 65535;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A password that is `None` is asked for.
    Create {
        user: String,
        password: Option<String>,
    },
    Set {
        user: String,
        password: Option<String>,
    },
    Delete {
        user: String,
    },
    HashAll,
}

/// What is to be done with which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub action: Action,
    pub file: PathBuf,
    pub hash: HashKind,
}

#[derive(Default)]
struct Flags {
    batch: bool,
    create: bool,
    delete: bool,
    hash_all: bool,
}

/// Takes the words apart, without the program's own name; `None` if they are none of the forms in the usage.
/// # Errors
/// One line.
pub fn parse(words: &[OsString]) -> Result<Option<Task>, Failed> {
    let texts: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (flags, hash, used) = flags(&texts)?;
    let file = words.get(used).map(PathBuf::from);
    let rest: Vec<&str> = texts[used..].iter().map(String::as_str).collect();
    let missing = |text: &str| Err(Failed::new(text));
    for (both, names) in [
        (flags.create && flags.delete, "-c and -D"),
        (flags.create && flags.hash_all, "-c and -U"),
        (flags.delete && flags.hash_all, "-D and -U"),
        (flags.delete && flags.batch, "-b and -D"),
    ] {
        if both {
            return missing(&format!("Error: {names} cannot be used together."));
        }
    }
    let owned = |text: &str| text.to_owned();
    let action = match (&flags, rest.as_slice()) {
        (Flags { create: true, batch: true, .. }, [_, user, password, ..]) => {
            Action::Create { user: owned(user), password: Some(owned(password)) }
        }
        (Flags { create: true, batch: true, .. }, _) => {
            return missing("Error: -c argument given but password file, username, or password missing.");
        }
        (Flags { create: true, .. }, [_, user, ..]) => Action::Create { user: owned(user), password: None },
        (Flags { create: true, .. }, _) => {
            return missing("Error: -c argument given but password file or username missing.");
        }
        (Flags { delete: true, .. }, [_, user, ..]) => Action::Delete { user: owned(user) },
        (Flags { delete: true, .. }, _) => {
            return missing("Error: -D argument given but password file or username missing.");
        }
        (Flags { hash_all: true, .. }, [_]) => Action::HashAll,
        (Flags { hash_all: true, .. }, _) => return missing("Error: -U argument given but password file missing."),
        (Flags { batch: true, .. }, [_, user, password]) => {
            Action::Set { user: owned(user), password: Some(owned(password)) }
        }
        (Flags { batch: false, .. }, [_, user]) => Action::Set { user: owned(user), password: None },
        _ => return Ok(None),
    };
    check(&action)?;
    Ok(file.map(|file| Task { action, file, hash }))
}

/// The flags, the hash, and how many words they took.
fn flags(words: &[String]) -> Result<(Flags, HashKind, usize), Failed> {
    let (mut flags, mut hash, mut iterations) = (Flags::default(), HashKind::Argon2id, None);
    let mut used = 0;
    let value = |at: usize, flag: &str| {
        let missing = || Failed::new(format!("Error: {flag} argument given but not enough other arguments."));
        words.get(at).ok_or_else(missing)
    };
    while let Some(word) = words.get(used) {
        match word.as_str() {
            "-b" => flags.batch = true,
            "-c" => flags.create = true,
            "-D" => flags.delete = true,
            "-U" => flags.hash_all = true,
            "-H" => {
                used += 1;
                hash = match value(used, "-H")?.as_str() {
                    "argon2id" => HashKind::Argon2id,
                    "sha512-pbkdf2" => HashKind::Pbkdf2 { iterations: HashKind::ITERATIONS },
                    "sha512" => HashKind::Sha512,
                    other => return Err(Failed::new(format!("Error: Unknown hash type '{other}'"))),
                };
            }
            "-I" => {
                used += 1;
                let count: i32 = value(used, "-I")?.parse().unwrap_or(0);
                let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
                iterations = Some(count.ok_or_else(|| Failed::new("Error: Number of iterations must be > 0."))?);
            }
            _ => break,
        }
        used += 1;
    }
    if let (HashKind::Pbkdf2 { iterations: kept }, Some(wanted)) = (&mut hash, iterations) {
        *kept = wanted;
    }
    Ok((flags, hash, used))
}

fn check(action: &Action) -> Result<(), Failed> {
    let (user, password) = match action {
        Action::Create { user, password } | Action::Set { user, password } => (user, password.as_deref()),
        Action::Delete { user } => (user, None),
        Action::HashAll => return Ok(()),
    };
    let why = if user.len() > BYTES_MAX {
        "Username must be less than 65536 characters long"
    } else if user.bytes().any(|byte| byte.is_ascii_control()) {
        "Username must not contain control characters"
    } else if user.contains(':') {
        "Username must not contain the ':' character"
    } else if password.is_some_and(|password| password.len() > BYTES_MAX) {
        "Password must be less than 65536 characters long"
    } else {
        return Ok(());
    };
    Err(Failed::new(format!("Error: {why}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Task>, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&words).map_err(|failed| failed.text)
    }

    #[test]
    fn every_form_of_the_usage_is_understood() {
        let user = || "u".to_owned();
        let task = |action| Ok(Some(Task { action, file: "f".into(), hash: HashKind::Argon2id }));
        assert_eq!(parsed(&["f", "u"]), task(Action::Set { user: user(), password: None }));
        assert_eq!(parsed(&["-b", "f", "u", "p"]), task(Action::Set { user: user(), password: Some("p".to_owned()) }));
        assert_eq!(parsed(&["-c", "f", "u"]), task(Action::Create { user: user(), password: None }));
        assert_eq!(parsed(&["-D", "f", "u"]), task(Action::Delete { user: user() }));
        assert_eq!(parsed(&["-U", "f"]), task(Action::HashAll));
        let hash = |words: &[&str]| parsed(words).expect("good").expect("a task").hash;
        assert_eq!(hash(&["-H", "sha512", "f", "u"]), HashKind::Sha512);
        let iterations = NonZeroU32::new(7).expect("7 is not 0");
        assert_eq!(hash(&["-H", "sha512-pbkdf2", "-I", "7", "f", "u"]), HashKind::Pbkdf2 { iterations });
        assert_eq!(parsed(&[]), Ok(None));
        assert_eq!(parsed(&["-b", "f", "u"]), Ok(None));
    }

    #[test]
    fn every_flag_of_the_usage_is_understood() {
        for (flag, value, help) in FLAGS {
            assert!(usage().contains(&format!("\n -{flag} : {}", help.lines().next().unwrap())), "{flag}");
            let value = ["hash", "iterations"].iter().zip(["sha512", "5"]).find(|(name, _)| **name == value);
            let mut words = vec![format!("-{flag}")];
            words.extend(value.map(|(_, value)| value.to_owned()));
            let (_, _, used) = flags(&words).unwrap();
            assert_eq!(used, words.len(), "{flag}");
        }
        for hash in HASHES {
            assert!(parsed(&["-H", hash, "f", "u"]).is_ok(), "{hash}");
        }
    }

    #[test]
    fn wrong_words_are_one_line_each() {
        for (words, text) in [
            (vec!["-H"], "Error: -H argument given but not enough other arguments."),
            (vec!["-H", "nohash"], "Error: Unknown hash type 'nohash'"),
            (vec!["-I", "0"], "Error: Number of iterations must be > 0."),
            (vec!["-c", "-D"], "Error: -c and -D cannot be used together."),
            (vec!["-b", "-D"], "Error: -b and -D cannot be used together."),
            (vec!["-c", "-b"], "Error: -c argument given but password file, username, or password missing."),
            (vec!["-U"], "Error: -U argument given but password file missing."),
            (vec!["-D", "f", "u:"], "Error: Username must not contain the ':' character."),
            (vec!["-D", "f", "u\n"], "Error: Username must not contain control characters."),
        ] {
            assert_eq!(parsed(&words), Err(text.to_owned()));
        }
    }
}
