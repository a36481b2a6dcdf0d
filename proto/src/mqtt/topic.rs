//! Topic Names and Topic Filters (MQTT 5.0 section 4.7): two types, so that they cannot be mixed up.
//! Always true: both are 1 to 65,535 bytes; a name has no wildcard [MQTT-3.3.2-2]; a filter has wildcards only as
//! whole levels, `#` last [MQTT-4.7.1-1, MQTT-4.7.1-2].
use super::Utf8;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with a topic; each is the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("topic is empty [MQTT-4.7.3-1]")]
    Empty,
    #[error("topic name contains a wildcard [MQTT-3.3.2-2]")]
    WildcardInName,
    #[error("wildcard must fill a whole level, and # the last one [MQTT-4.7.1-1]")]
    MisplacedWildcard,
    #[error("topic has {levels} levels, more than 201")]
    TooDeep { levels: usize },
    #[error("shared subscription needs $share/<name>/<filter> [MQTT-4.8.2-1]")]
    MalformedShare,
}

/// The name a message is published to. What is read from disk or a peer is checked too, but for the number of levels: what
/// an earlier version stored stays readable when that limit changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Utf8")]
pub struct TopicName(Utf8);

/// What a client subscribes to; may start with `$share/<name>/`. Checked as [`TopicName`] is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Utf8")]
pub struct TopicFilter(Utf8);

/// Most levels a topic may have; deeper ones are refused. Mosquitto's limit, which is 200 separators; in a filter it
/// includes `$share` and the share name.
pub const TOPIC_LEVELS_MAX: usize = 201;

/// The one bit that `+` and `#` differ in.
const WILDCARD_BIT: u8 = 0b1000;

impl TopicName {
    /// # Errors
    /// [`TopicError`] when the text is empty, has a wildcard or more than [`TOPIC_LEVELS_MAX`] levels.
    pub fn new(text: Utf8) -> Result<Self, TopicError> {
        // A shorter one has no room for so many separators.
        if text.len() >= TOPIC_LEVELS_MAX {
            let levels = 1 + text.as_bytes().iter().filter(|byte| **byte == b'/').count();
            if levels > TOPIC_LEVELS_MAX {
                return Err(TopicError::TooDeep { levels });
            }
        }
        Self::of_any_depth(text)
    }

    fn of_any_depth(text: Utf8) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        // This runs for every PUBLISH: one comparison per byte, without an early exit, so that many are compared at once.
        const { assert!(b'+' & !WILDCARD_BIT == b'#' && b'#' & WILDCARD_BIT == 0) };
        let wildcard = text.as_bytes().iter().fold(false, |found, byte| found | (byte & !WILDCARD_BIT == b'#'));
        if wildcard {
            return Err(TopicError::WildcardInName);
        }
        Ok(Self(text))
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
    #[must_use]
    pub fn text(&self) -> &Utf8 {
        &self.0
    }
    pub(super) fn into_text(self) -> Utf8 {
        self.0
    }
    /// The same name in an allocation of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

impl TopicFilter {
    /// # Errors
    /// [`TopicError`] when a wildcard is misplaced, a share name is malformed or the filter is empty or too deep.
    pub fn new(text: Utf8) -> Result<Self, TopicError> {
        let (filter, levels) = Self::of_any_depth(text)?;
        if levels > TOPIC_LEVELS_MAX {
            return Err(TopicError::TooDeep { levels });
        }
        Ok(filter)
    }

    /// With the number of its levels.
    fn of_any_depth(text: Utf8) -> Result<(Self, usize), TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        let mut levels = 0;
        let mut ended = false;
        for level in text.as_bytes().split(|byte| *byte == b'/') {
            levels += 1;
            let wildcard = level.iter().any(|byte| matches!(byte, b'+' | b'#'));
            if ended || (wildcard && level.len() != 1) {
                return Err(TopicError::MisplacedWildcard);
            }
            ended = level == b"#";
        }
        if let Some(rest) = text.strip_prefix("$share") {
            let mut parts = rest.splitn(3, '/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(""), Some(group), Some(filter)) if !matches!(group, "" | "+") && !filter.is_empty() => {}
                (Some(""), ..) => return Err(TopicError::MalformedShare),
                _ => {} // "$shared" is an ordinary level
            }
        }
        Ok((Self(text), levels))
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
    #[must_use]
    pub fn text(&self) -> &Utf8 {
        &self.0
    }
    /// The same filter in an allocation of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
    /// `Some(name)` for a shared subscription `$share/<name>/<filter>`.
    #[must_use]
    pub fn share_name(&self) -> Option<&str> {
        Some(self.0.strip_prefix("$share/")?.split_once('/')?.0)
    }
    /// The filter that topic names are matched against: without `$share/<name>/`.
    #[must_use]
    pub fn matched_part(&self) -> &str {
        match self.0.strip_prefix("$share/") {
            Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
            None => self.0.as_str(),
        }
    }
    /// Whether `name` matches (MQTT 5.0 section 4.7); a leading wildcard never matches a name that starts with `$`
    /// [MQTT-4.7.2-1].
    #[must_use]
    pub fn matches(&self, name: &TopicName) -> bool {
        let (filter, name) = (self.matched_part(), name.as_str());
        if name.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        levels_match(filter.split('/'), name)
    }
}

/// Whether a filter of these levels matches a Topic Name (MQTT 5.0 section 4.7.1), whatever it starts with.
#[must_use]
pub fn levels_match<'a>(filter: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    let mut names = name.split('/');
    for level in filter {
        match (level, names.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Of what was stored.
impl TryFrom<Utf8> for TopicName {
    type Error = TopicError;
    fn try_from(text: Utf8) -> Result<Self, TopicError> {
        Self::of_any_depth(text)
    }
}

/// Of what was stored.
impl TryFrom<Utf8> for TopicFilter {
    type Error = TopicError;
    fn try_from(text: Utf8) -> Result<Self, TopicError> {
        Self::of_any_depth(text).map(|(filter, _)| filter)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = TopicError;
    fn try_from(text: &str) -> Result<Self, TopicError> {
        Self::new(Utf8::from(text))
    }
}
impl TryFrom<&str> for TopicFilter {
    type Error = TopicError;
    fn try_from(text: &str) -> Result<Self, TopicError> {
        Self::new(Utf8::from(text))
    }
}
impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<TopicFilter, TopicError> {
        TopicFilter::try_from(text)
    }
    fn matches(text: &str, name: &str) -> bool {
        filter(text).unwrap().matches(&TopicName::try_from(name).unwrap())
    }

    #[test] // [MQTT-4.7.1-1, MQTT-4.7.1-2]
    fn wildcards_fill_whole_levels_and_a_multi_level_one_is_last() {
        for text in ["#", "+", "a/#", "+/a/+", "/", "a//b", "$SYS/#", "$shared/a"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["a#", "#/a", "a/#/b", "a+", "+a/b", "##", "++"] {
            assert_eq!(filter(text), Err(TopicError::MisplacedWildcard), "{text}");
        }
    }
    #[test] // [MQTT-3.3.2-2]
    fn a_name_has_neither_wildcard_at_any_place_and_may_have_everything_else() {
        for byte in 1..0x80 {
            for place in [0, 1, 15, 16, 17, 40] {
                let mut text = [b'x'; 41];
                text[place] = byte;
                let name = TopicName::try_from(std::str::from_utf8(&text).unwrap());
                assert_eq!(name.is_err(), matches!(byte, b'+' | b'#'), "{byte} at {place}");
            }
        }
    }
    #[test]
    fn a_topic_may_have_200_separators_and_no_more() {
        assert!(filter(&"/".repeat(200)).is_ok() && TopicName::try_from(&"/".repeat(200)[..]).is_ok());
        assert_eq!(filter(&"/".repeat(201)), Err(TopicError::TooDeep { levels: 202 }));
        assert!(TopicName::try_from(&"/".repeat(201)[..]).is_err());
    }
    #[test]
    fn what_is_stored_is_checked_but_for_its_depth() {
        let stored = |text: &str| postcard::to_allocvec(text).expect("text can be stored");
        let name = |text: &str| postcard::from_bytes::<TopicName>(&stored(text)).is_ok();
        let filter = |text: &str| postcard::from_bytes::<TopicFilter>(&stored(text)).is_ok();
        let deep = "/".repeat(400);
        assert!(name("a/b") && name(&deep) && !name("") && !name("a/+"));
        assert!(filter("a/+") && filter(&deep) && !filter("") && !filter("a+") && !filter("$share/g"));
    }
    #[test]
    fn a_shared_filter_matches_by_its_own_part() {
        let shared = filter("$share/group/a/+").unwrap();
        assert_eq!((shared.share_name(), shared.matched_part()), (Some("group"), "a/+"));
        assert!(matches("$share/group/a/+", "a/b"));
        assert_eq!(filter("$share/group//a").unwrap().matched_part(), "/a");
    }
    #[test] // [MQTT-4.7.2-1]
    fn a_leading_wildcard_does_not_match_a_name_that_starts_with_a_dollar() {
        assert!(!matches("#", "$SYS/uptime") && !matches("+/uptime", "$SYS/uptime"));
        assert!(matches("$SYS/#", "$SYS/uptime"));
    }
    #[test]
    fn a_multi_level_wildcard_includes_its_parent() {
        assert!(matches("a/#", "a") && matches("a/#", "a/b/c") && !matches("a/#", "ab"));
        assert!(matches("+/+", "/a") && !matches("+", "/a"));
    }
}
