//! What is wrong with a configuration, and what the operator should know about one that is accepted.
use crate::logging::Level;
use std::fmt;

/// Exit code of Mosquitto for a configuration that cannot be used.
pub const EXIT_INVALID: u8 = 3;
/// Exit code for a configuration that is read but cannot be started with.
pub const EXIT_START: u8 = 1;

/// Why a configuration cannot be used: one line, in Mosquitto's words where there are such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    origin: Option<String>,
    message: String,
    exit_code: u8,
}

impl ConfigError {
    /// `message` begins with `Error:` and ends with a full stop.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { origin: None, message: message.into(), exit_code: EXIT_INVALID }
    }
    /// Adds the place, unless one is known already.
    #[must_use]
    pub(super) fn at(mut self, origin: &str) -> Self {
        self.origin.get_or_insert_with(|| origin.to_owned());
        self
    }
    /// Mosquitto finds this when it starts, not when it reads.
    #[must_use]
    pub(super) fn at_start(mut self) -> Self {
        self.exit_code = EXIT_START;
        self
    }
    pub(super) fn unknown(option: &str) -> Self {
        let hint = match option.strip_prefix('#') {
            Some(_) => "A comment begins in the first column",
            None => "See --options for those known",
        };
        Self::new(format!("Error: Unknown configuration variable '{option}'. {hint}."))
    }
    pub(super) fn refused(option: &str, reason: &str) -> Self {
        Self::new(format!("Error: The '{option}' option is not available: {reason}."))
    }
    pub(super) fn empty(option: &str) -> Self {
        Self::new(format!("Error: Empty '{option}' value in configuration."))
    }
    pub(super) fn duplicate(option: &str) -> Self {
        Self::new(format!("Error: Duplicate '{option}' value in configuration."))
    }
    /// `FILE:LINE`, the environment variable or the flag.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }
    /// What the process should exit with at start: [`EXIT_INVALID`] or [`EXIT_START`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "Error found at {origin}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A line for the log about an accepted configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub level: Level,
    pub text: String,
}

impl Note {
    pub(super) fn info(text: impl Into<String>) -> Self {
        Self { level: Level::Info, text: text.into() }
    }
    pub(super) fn notice(text: impl Into<String>) -> Self {
        Self { level: Level::Notice, text: text.into() }
    }
    pub(super) fn warning(text: impl Into<String>) -> Self {
        Self { level: Level::Warning, text: text.into() }
    }
    /// Writes it to the log.
    pub fn log(&self) {
        crate::log_line!(self.level, "{}", self.text);
    }
}
