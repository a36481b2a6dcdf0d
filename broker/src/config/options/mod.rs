//! The one table of options: all 141 of Mosquitto 2.1 and ours.
//! Always true: each name stands here once, with what becomes of it; parser, defaults, environment, reload and
//! `--options` read this table and nothing else.
pub mod reference;
mod table;

use std::fmt::Write;
use table::TABLE;

/// Where an option may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Anywhere, for the whole broker.
    Global,
    /// As `Global`, but with `per_listener_settings true` for the listener above it.
    Security,
    /// For the listener above it.
    Listener(Place),
    /// For the bridge (`connection`) above it.
    Bridge,
    /// A plugin line.
    Plugin,
    /// Gives the file its structure: `listener`, `port`, `bind_address`, `connection`, `include_dir`.
    Structure,
}

/// Which listener a listener option needs above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Any; without one a default listener is made.
    OrDefault,
    /// Any, a default listener made by an earlier option included.
    Any,
    /// One that a `listener` line made.
    Explicit,
}

/// What a second line with the same option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    LastWins,
    Error,
    Adds,
}

/// How far a value reaches in its line. Blanks are spaces and tabs; a comment is a word that begins with `#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// So many words; what follows them is not read, except to warn of it. A comment may follow.
    Words(usize),
    /// One word that nothing but a comment may follow.
    Word,
    /// To the end of the line: blanks, quotes and `#` are a part of the value.
    Line,
    /// A topic filter, which may begin with `#` or stand between quotes, then up to four words. A comment may follow.
    Topic,
    /// One word, after which a comment may follow; but `file` and all that follows it.
    LogDest,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Supported,
    /// Accepted; the note says what is different.
    Accepted(&'static str),
    /// An error that gives the reason, except for the one `harmless` value.
    Refused(&'static str),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// As written; a trailing `*` stands for any ending.
    pub name: &'static str,
    pub scope: Scope,
    /// As it would be written, words of a list separated by blanks; empty: none.
    pub default: &'static str,
    pub repeat: Repeat,
    pub extent: Extent,
    /// Whether SIGHUP applies a changed value.
    pub reload: bool,
    pub state: Support,
    /// The option that this is another name of; empty: none.
    pub same_as: &'static str,
    /// The one value that a refused option may have, since it changes nothing.
    pub harmless: &'static str,
    /// Not an option of Mosquitto.
    pub ours: bool,
    /// What may be written: form, unit, range.
    pub values: &'static str,
    /// What it does, in a sentence or two.
    pub meaning: &'static str,
}

impl OptionSpec {
    /// The name under which values are kept.
    #[must_use]
    pub fn canonical(&self) -> &'static str {
        if self.same_as.is_empty() { self.name } else { self.same_as }
    }
    /// May be set without a listener, so also by the environment.
    #[must_use]
    pub fn is_global(&self) -> bool {
        matches!(self.scope, Scope::Global | Scope::Security)
    }
    #[must_use]
    pub fn is_security(&self) -> bool {
        self.scope == Scope::Security
    }
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.repeat == Repeat::Adds
    }
    /// Why a line with this option and value cannot be accepted.
    #[must_use]
    pub fn refusal(&self, value: &str) -> Option<&'static str> {
        match self.state {
            Support::Refused(reason) if self.harmless.is_empty() || value != self.harmless => Some(reason),
            _ => None,
        }
    }
}

/// Every row, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static OptionSpec> {
    TABLE.iter()
}

/// The row of an option as written in a file.
#[must_use]
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    TABLE.iter().find(|spec| match spec.name.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => spec.name == name,
    })
}

/// The text of `--options`: tab-separated name, scope, default, whether SIGHUP applies it, state, note.
#[must_use]
pub fn print() -> String {
    let mut text = String::from("#option\tscope\tdefault\treload\tstate\tnote\n");
    for spec in all() {
        let scope = match spec.scope {
            _ if spec.ours => "global (not in Mosquitto)",
            Scope::Global => "global",
            Scope::Security => "global/listener",
            Scope::Listener(_) => "listener",
            Scope::Bridge => "bridge",
            Scope::Plugin => "plugin",
            Scope::Structure => "file",
        };
        let (state, note) = match spec.state {
            Support::Supported => ("supported", ""),
            Support::Accepted(note) => ("accepted", note),
            Support::Refused(reason) => ("refused", reason),
        };
        let reload = if spec.reload { "yes" } else { "no" };
        let default = if spec.default.is_empty() { "-" } else { spec.default };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{scope}\t{default}\t{reload}\t{state}\t{note}", spec.name);
    }
    text
}
