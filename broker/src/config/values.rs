//! From the written text of one value to its type, with Mosquitto's rules: a number may be decimal, 0x hexadecimal or
//! 0 octal. Where a value ends is known before ([`lines`]).
use super::section::{Section, Text};
use super::{ConfigError, HostPort, Note, lines, options};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

/// The values of one section, typed on demand.
#[derive(Clone, Copy)]
pub(super) struct Values<'a>(pub(super) &'a Section);

impl<'a> Values<'a> {
    pub(super) fn texts(self, name: &str) -> &'a [Text] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
    /// Whether somebody wrote it.
    pub(super) fn has(self, name: &str) -> bool {
        self.texts(name).iter().any(|text| text.origin.is_some())
    }
    /// Puts the place of the last value of `name` on an error.
    pub(super) fn at(self, name: &str, error: ConfigError) -> ConfigError {
        match self.texts(name).last().and_then(|text| text.origin.as_deref()) {
            Some(origin) => error.at(origin),
            None => error,
        }
    }
    /// Checks every value of `name` and returns all of them.
    pub(super) fn all<T>(
        self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        self.texts(name)
            .iter()
            .map(|text| {
                parse(&text.text).map_err(|error| match &text.origin {
                    Some(origin) => error.at(origin),
                    None => error,
                })
            })
            .collect()
    }
    /// Checks every value of `name` and returns the last, which is the one that counts.
    pub(super) fn last<T>(
        self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.all(name, parse)?.pop())
    }
    /// The value that counts, or else the one that the option table names.
    pub(super) fn value<T>(self, name: &str, parse: impl Fn(&str) -> Result<T, ConfigError>) -> Result<T, ConfigError> {
        match self.last(name, &parse)? {
            Some(value) => Ok(value),
            None => parse(options::find(name).map_or("", |spec| spec.default)),
        }
    }
    /// A switch, or else its default of the option table.
    pub(super) fn is_on(self, name: &str) -> Result<bool, ConfigError> {
        self.value(name, |text| switch(name, text))
    }
    /// A switch, if it is written.
    pub(super) fn switch(self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.last(name, |text| switch(name, text))
    }
    pub(super) fn number(self, name: &str) -> Result<Option<i32>, ConfigError> {
        self.last(name, |text| number(name, text))
    }
    pub(super) fn string(self, name: &str) -> Result<Option<String>, ConfigError> {
        self.last(name, |text| string(name, text))
    }
    /// A path, as written: relative ones are relative to the current folder.
    pub(super) fn path(self, name: &str) -> Result<Option<std::path::PathBuf>, ConfigError> {
        Ok(self.string(name)?.map(Into::into))
    }
    /// A number within bounds; `complaint` is the error for others.
    pub(super) fn bounded<T: TryFrom<i32>>(
        self,
        name: &str,
        complaint: impl Fn(i32) -> String,
    ) -> Result<T, ConfigError> {
        self.value(name, |text| {
            let value = number(name, text)?;
            T::try_from(value).map_err(|_| ConfigError::new(complaint(value)))
        })
    }
    /// A limit where 0 or less means none.
    pub(super) fn limit(self, name: &str) -> Result<Option<NonZeroUsize>, ConfigError> {
        let value = self.number(name)?.unwrap_or(0);
        Ok(usize::try_from(value).ok().and_then(NonZeroUsize::new))
    }
}

/// Says of each of these options, if it is written, that it has no effect where it stands.
pub(super) fn note_without_effect(values: Values<'_>, names: &[&str], place: &str, notes: &mut Vec<Note>) {
    for name in names.iter().filter(|name| values.has(name)) {
        notes.push(Note::warning(format!("Warning: {name} has no effect on {place}.")));
    }
}

/// The first word, which is all that numbers, switches and names look at.
pub(super) fn word<'a>(name: &str, text: &'a str) -> Result<&'a str, ConfigError> {
    lines::words(text).next().ok_or_else(|| ConfigError::empty(name))
}

pub(super) fn string(name: &str, text: &str) -> Result<String, ConfigError> {
    let text = lines::trim(text);
    if text.is_empty() {
        return Err(ConfigError::empty(name));
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(ConfigError::new(format!("Error: '{name}' value is longer than 65535 bytes.")));
    }
    Ok(text.to_owned())
}

pub(super) fn switch(name: &str, text: &str) -> Result<bool, ConfigError> {
    match word(name, text)? {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(invalid(name, other, "true or false")),
    }
}

/// `Error: Invalid 'name' value (written). Expected ...`
pub(super) fn invalid(name: &str, written: &str, expected: &str) -> ConfigError {
    ConfigError::new(format!("Error: Invalid '{name}' value ({written}). Expected {expected}."))
}

pub(super) fn number(name: &str, text: &str) -> Result<i32, ConfigError> {
    let value = long_number(name, text)?;
    i32::try_from(value).map_err(|_| out_of_range(name))
}

fn out_of_range(name: &str) -> ConfigError {
    ConfigError::new(format!("Error: '{name}' value out of range. Expected {} to {}.", i32::MIN, i32::MAX))
}

/// As strtol with base 0.
pub(super) fn long_number(name: &str, text: &str) -> Result<i64, ConfigError> {
    let word = word(name, text)?;
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (radix, digits) = match hexadecimal {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(ConfigError::new(format!("Error: '{name}' value not a number.")));
    }
    let value = i64::from_str_radix(digits, radix).map_err(|_| out_of_range(name))?;
    Ok(if negative { -value } else { value })
}

/// As atoi: decimal, and letters that follow are not read. A number that is too large is the largest.
pub(super) fn leading_number(name: &str, word: &str) -> Result<i32, ConfigError> {
    let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, number),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ConfigError::new(format!("Error: '{name}' value not a number.")));
    }
    Ok(sign * digits.parse().unwrap_or(i32::MAX))
}

/// `persistent_client_expiration`: a number and s, h, d, w, m (30 days) or y.
pub(super) fn expiration(name: &str, text: &str) -> Result<Duration, ConfigError> {
    let invalid = || {
        ConfigError::new(format!(
            "Error: Invalid '{name}' duration in configuration. Expected a number above 0 and one of s, h, d, w, m, y."
        ))
    };
    let word = word(name, text)?;
    let unit = word.chars().last().ok_or_else(invalid)?;
    let unit_seconds: u64 = match unit {
        's' => 1,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'm' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(invalid()),
    };
    let count: u32 = word[..word.len() - 1].parse().map_err(|_| invalid())?;
    if count == 0 {
        return Err(invalid());
    }
    Ok(Duration::from_secs(u64::from(count) * unit_seconds))
}

/// `PORT [REST]` of a listener line: the port and the word after it.
pub(super) fn port_and_word<'a>(name: &str, text: &'a str) -> Result<(i32, Option<&'a str>), ConfigError> {
    let mut words = lines::words(text);
    let port = number(name, words.next().unwrap_or_default())?;
    Ok((port, words.next()))
}

impl FromStr for HostPort {
    type Err = String;

    /// # Errors
    /// Says what was expected.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("'{text}' is not HOST:PORT, with an IPv6 address in brackets");
        let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(expected)?,
            None if host.contains(':') => return Err(expected()),
            None => host,
        };
        let port: u16 = port.parse().map_err(|_| expected())?;
        if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
            return Err(expected());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}
