//! A configuration file as directives: the first word of each line, and its value.
//! Always true: a line that begins with `#` in its first column says nothing, and neither does a byte order mark before
//! the first line; blanks are spaces and tabs; no word of a comment is ever a value.
//!
//! Where a value ends depends on its option (`Extent` in the option table), as in Mosquitto 2.1:
//! - Switches, numbers, names of a known few and the address after a port are words. A word that begins with `#` begins a
//!   comment, in any encoding; words beyond those that the option has are not read, which is a warning. `restart_timeout` and
//!   `bridge_tcp_keepalive` have up to three words, `listener`, `cluster_listener` and `health_listener` two; `address` and
//!   `accept_protocol_versions` all up to the comment.
//! - What Mosquitto takes for one text though it can only be a word (`bind_address`, `tls_version` and the like) is one word:
//!   a comment may follow, another word is an error.
//! - Files, folders, user names, passwords, client identifiers, prefixes, patterns of time stamps and plugins reach to the end
//!   of the line: `remote_password a # b` is a password of five characters. Quotes there are a part of the value. Where such
//!   a value looks like one with a comment or with quotes around it, that is a warning, except for secrets.
//! - `topic` has a filter, which may be `#` or stand between quotes, and up to four words. `log_dest` has one word, but
//!   `log_dest file` the rest of the line.
//!
//! Not here: which words are options (`options`), what stands below what (`sections`).
use super::options::{self, Extent, OptionSpec, Support};
use super::{ConfigError, Note};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

const BLANKS: [char; 2] = [' ', '\t'];
/// Windows editors put it before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// And these before UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];
/// Words of a `topic` line.
const TOPIC_WORDS: usize = 5;

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) key: String,
    /// Without the blanks around it and without a comment; may be empty.
    pub(super) rest: String,
    /// The first word that is neither value nor comment.
    pub(super) unread: Option<String>,
    /// `FILE:LINE`
    pub(super) origin: String,
}

impl Directive {
    /// What an operator should know about where the value of this line ends.
    /// # Errors
    /// When there is more than the option can have.
    pub(super) fn check_end(&self, spec: &OptionSpec) -> Result<Option<Note>, ConfigError> {
        let (key, origin) = (&self.key, &self.origin);
        if let Some(unread) = &self.unread {
            return unread_word(spec, key, unread).map(|text| Some(Note::warning(format!("{text} ({origin})"))));
        }
        let is_secret = ["local_password", "remote_password", "bridge_psk"].contains(&spec.canonical());
        if spec.extent != Extent::Line || is_secret || matches!(spec.state, Support::Accepted(_)) {
            return Ok(None);
        }
        let why = if self.rest.split(BLANKS).any(|word| word.starts_with('#')) {
            "goes to the end of its line, a comment there is a part of it"
        } else if self.rest.len() > 1 && self.rest.starts_with('"') && self.rest.ends_with('"') {
            "goes to the end of its line, the quotes are a part of it"
        } else {
            return Ok(None);
        };
        Ok(Some(Note::warning(format!("Warning: The value of '{key}' {why} ({origin})"))))
    }
}

/// What is to be said about a word behind a value.
/// # Errors
/// When the option has one word alone.
pub(super) fn unread_word(spec: &OptionSpec, key: &str, unread: &str) -> Result<String, ConfigError> {
    if spec.extent == Extent::Word {
        return Err(ConfigError::new(format!(
            "Error: Invalid '{key}' value, '{unread}' follows it. Expected one word."
        )));
    }
    Ok(format!("Warning: The value of '{key}' ends before '{unread}', which is not read"))
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<Directive>, ConfigError> {
    let name = path.display();
    if path.is_dir() {
        return Err(ConfigError::new(format!("Error: Config file '{name}' is a directory.")));
    }
    let bytes = std::fs::read(path).map_err(|cause| unable_to_open("config file", &name.to_string(), &cause))?;
    parse(&bytes, &name.to_string())
}

/// In Mosquitto's words, and why, unless it is that there is no such file.
fn unable_to_open(what: &str, name: &str, cause: &std::io::Error) -> ConfigError {
    ConfigError::new(match cause.kind() {
        std::io::ErrorKind::NotFound => format!("Error: Unable to open {what} '{name}'."),
        _ => format!("Error: Unable to open {what} '{name}': {cause}."),
    })
}

/// Splits the bytes of a file into directives.
pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Vec<Directive>, ConfigError> {
    if UTF_16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        let error = "Error: Malformed UTF-8 in configuration: the file is UTF-16, save it as UTF-8.";
        return Err(ConfigError::new(error).at(file));
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut directives = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if !matches!(line.first(), None | Some(b'#' | b'\r')) {
            directives.extend(directive(line, format!("{file}:{}", index + 1))?);
        }
    }
    Ok(directives)
}

/// `None` for blanks alone.
fn directive(line: &[u8], origin: String) -> Result<Option<Directive>, ConfigError> {
    let text = String::from_utf8_lossy(line);
    let is_utf8 = matches!(text, Cow::Borrowed(_));
    let text = trim(&text);
    let (key, rest) = text.split_once(BLANKS).unwrap_or((text, ""));
    if key.is_empty() {
        return Ok(None);
    }
    let extent = options::find(key).map_or(Extent::Line, |spec| spec.extent);
    let (rest, unread) = value(extent, rest);
    // What nobody reads may have any bytes.
    let is_wrong = |c: char| (c.is_control() && c != '\t') || (c == char::REPLACEMENT_CHARACTER && !is_utf8);
    if [key, rest.as_str(), unread.as_deref().unwrap_or_default()].iter().any(|part| part.contains(is_wrong)) {
        return Err(ConfigError::new("Error: Malformed UTF-8 in configuration.").at(&origin));
    }
    Ok(Some(Directive { key: key.to_owned(), rest, unread, origin }))
}

/// What follows the name of an option, as its value and the first word that is neither that nor a comment. Words of a value
/// are separated by one space.
pub(super) fn value(extent: Extent, rest: &str) -> (String, Option<String>) {
    let rest = trim(rest);
    let most = match extent {
        Extent::Line => return (rest.to_owned(), None),
        Extent::LogDest if words(rest).next() == Some("file") => return (rest.to_owned(), None),
        Extent::Topic => return topic(rest),
        Extent::Words(most) => most,
        Extent::Word | Extent::LogDest => 1,
    };
    let mut words = words(rest);
    let value: Vec<&str> = words.by_ref().take(most).collect();
    (value.join(" "), words.next().map(str::to_owned))
}

/// The words of a text up to a comment.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(BLANKS).filter(|word| !word.is_empty()).take_while(|word| !word.starts_with('#'))
}

/// A `topic` line up to a comment, its quotes left in place. An open quote reaches to the end.
fn topic(rest: &str) -> (String, Option<String>) {
    let mut left = rest;
    for count in 0.. {
        let word = match left.strip_prefix('"').and_then(|quoted| quoted.find('"')) {
            Some(length) => &left[..length + 2],
            None if left.starts_with('"') => left,
            None => left.split(BLANKS).next().unwrap_or_default(),
        };
        // The filter `#` is no comment.
        if word.is_empty() || (word.starts_with('#') && count > 0) {
            break;
        }
        if count == TOPIC_WORDS {
            return (trim(&rest[..rest.len() - left.len()]).to_owned(), Some(word.to_owned()));
        }
        left = left[word.len()..].trim_start_matches(BLANKS);
    }
    (trim(&rest[..rest.len() - left.len()]).to_owned(), None)
}

/// Without the ASCII blanks around it.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace())
}

/// The `*.conf` files of an `include_dir`, in Mosquitto's order: by name without regard to case, then with it.
pub(super) fn include_files(folder: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |cause: std::io::Error| unable_to_open("include_dir", folder, &cause);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.len() > ".conf".len() && name.ends_with(".conf") {
            names.push(name);
        }
    }
    let key = |name: &str| -> Vec<(u8, u8)> { name.bytes().map(|byte| (byte.to_ascii_uppercase(), byte)).collect() };
    names.sort_by_key(|name| key(name));
    Ok(names.iter().map(|name| Path::new(folder).join(name)).collect())
}
