//! UTF-8 strings as MQTT allows them, sharing the buffer they were read from.
//! Always true: the bytes are valid UTF-8 without U+0000 [MQTT-1.5.4-1, MQTT-1.5.4-2], at most 65,535 of them.
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Borrow, fmt, ops::Deref};

/// A UTF-8 Encoded String of at most 65,535 bytes (MQTT 5.0 section 1.5.4). Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utf8(Bytes);

impl Utf8 {
    /// Checks and wraps bytes; `None` if they are not valid UTF-8, contain U+0000 or are too long.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let text = std::str::from_utf8(&bytes).ok()?;
        (bytes.len() <= usize::from(u16::MAX) && !text.contains('\0')).then_some(Self(bytes))
    }

    /// As [`Self::from_bytes`] for at most 65,535 bytes from the network; also refuses control characters and Unicode
    /// non-characters, as Mosquitto does (the standard leaves it to the receiver, section 1.5.4).
    pub(super) fn from_wire(bytes: Bytes) -> Option<Self> {
        // Nearly all texts are printable ASCII; without an early exit the compiler checks many bytes at once.
        if bytes.iter().fold(true, |plain, byte| plain & (0x20..0x7F).contains(byte)) {
            return Some(Self(bytes));
        }
        let text = std::str::from_utf8(&bytes).ok()?;
        let refused = |c: char| c.is_control() || matches!(c, '\u{FDD0}'..='\u{FDEF}') || c as u32 & 0xFFFE == 0xFFFE;
        (!text.chars().any(refused)).then_some(Self(bytes))
    }

    /// Wraps text that the program itself made.
    #[must_use]
    pub fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// The text; not checked again, since this is called for every message and subscriber.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn as_str(&self) -> &str {
        // SAFETY: every constructor checks the bytes (`from_bytes`) or takes them from a `str`; `Bytes` is immutable.
        unsafe { std::str::from_utf8_unchecked(&self.0) }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The same text in an allocation of its own, so that it does not keep a read buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}
impl Deref for Utf8 {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}
impl std::hash::Hash for Utf8 {
    /// As `str` does, so that maps can be asked with one ([`Borrow`]).
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
impl Borrow<str> for Utf8 {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
impl AsRef<str> for Utf8 {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}
impl From<&str> for Utf8 {
    /// Copies; text longer than 65,535 bytes or with U+0000 is cut there (only used for text of our own).
    fn from(text: &str) -> Self {
        let mut end = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let end = text[..end].find('\0').unwrap_or(end);
        Self(Bytes::copy_from_slice(&text.as_bytes()[..end]))
    }
}
impl From<String> for Utf8 {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}
impl fmt::Display for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
impl Serialize for Utf8 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Utf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
            .ok_or_else(|| serde::de::Error::custom("text is too long or contains U+0000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_set_of_texts_can_be_asked_with_a_str() {
        assert!(HashSet::from([Utf8::from("client")]).contains("client"));
    }
}
