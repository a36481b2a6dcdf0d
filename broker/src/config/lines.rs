//! A configuration file as directives: the first word of each line, and the rest of it.
//! Always true: comments start in the first column; a directive's rest has no blanks around it.
//! Not here: which words are options (`options`), what stands below what (`sections`).
use super::ConfigError;
use std::path::{Path, PathBuf};

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) key: String,
    /// Without the blanks around it; may be empty.
    pub(super) rest: String,
    /// `FILE:LINE`
    pub(super) origin: String,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<Directive>, ConfigError> {
    let name = path.display();
    if path.is_dir() {
        return Err(ConfigError::new(format!("Error: Config file '{name}' is a directory.")));
    }
    let bytes =
        std::fs::read(path).map_err(|_| ConfigError::new(format!("Error: Unable to open config file '{name}'.")))?;
    parse(&bytes, &name.to_string())
}

/// Splits the bytes of a file into directives.
pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Vec<Directive>, ConfigError> {
    let mut directives = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if matches!(line.first(), None | Some(b'#' | b'\r')) {
            continue;
        }
        let origin = format!("{file}:{}", index + 1);
        let malformed = || ConfigError::new("Error: Malformed UTF-8 in configuration.").at(&origin);
        let line = std::str::from_utf8(line).map_err(|_| malformed())?;
        let line = line.trim_end_matches('\r').trim_start_matches(' ');
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(malformed());
        }
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        // A key that only trailing blanks follow may have a tab at its end.
        let key = key.trim_end();
        if !key.is_empty() {
            let (key, rest) = (key.to_owned(), rest.trim().to_owned());
            directives.push(Directive { key, rest, origin });
        }
    }
    Ok(directives)
}

/// The `*.conf` files of an `include_dir`, in Mosquitto's order: by name without regard to case, then with it.
pub(super) fn include_files(folder: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = || ConfigError::new(format!("Error: Unable to open include_dir '{folder}'."));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|_| failed())? {
        let name = entry.map_err(|_| failed())?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.len() > ".conf".len() && name.ends_with(".conf") {
            names.push(name);
        }
    }
    let key = |name: &str| -> Vec<(u8, u8)> { name.bytes().map(|byte| (byte.to_ascii_uppercase(), byte)).collect() };
    names.sort_by_key(|name| key(name));
    Ok(names.iter().map(|name| Path::new(folder).join(name)).collect())
}
