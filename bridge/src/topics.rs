//! `topic` lines: what is shared, in which direction, under which names on either side.
//! Always true: the first line that matches decides about a message; a name that no line matches stays as it is.
use crate::topic_index::TopicIndex;
use mosquorum_proto::mqtt::{QoS, TopicFilter, TopicName, Utf8};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Out,
    In,
    Both,
}

impl Direction {
    #[must_use]
    pub fn is_out(self) -> bool {
        self != Self::In
    }
    #[must_use]
    pub fn is_in(self) -> bool {
        self != Self::Out
    }
}

/// Why a `topic` line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicLineError {
    Quote,
    Direction(String),
    QoS(String),
    Prefix { side: &'static str, prefix: String },
    Filter { side: &'static str, filter: String },
    EmptyNeedsPrefixes,
}

impl std::fmt::Display for TopicLineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Quote => write!(f, "Missing closing quote in topic value"),
            Self::Direction(word) => write!(f, "Invalid bridge topic direction '{word}', expected in, out or both"),
            Self::QoS(word) => write!(f, "Invalid bridge QoS level '{word}', expected 0, 1 or 2"),
            Self::Prefix { side, prefix } => {
                write!(f, "Invalid bridge topic {side} prefix '{prefix}', a prefix has no wildcards")
            }
            Self::Filter { side, filter } => {
                write!(f, "Invalid bridge topic {side} prefix and pattern combination '{filter}'")
            }
            Self::EmptyNeedsPrefixes => {
                write!(f, "Invalid bridge remapping, an empty pattern needs a local and a remote prefix")
            }
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic {
    pub direction: Direction,
    pub qos: QoS,
    pub local_prefix: String,
    pub remote_prefix: String,
    pub local: TopicFilter,
    pub remote: TopicFilter,
}

impl Topic {
    /// `PATTERN [out|in|both [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]`; `""` stands for an empty word, quotes allow blanks,
    /// the direction may be in capitals, and letters may follow the digit of the QoS, as in Mosquitto. What follows five
    /// words is not read. Without a comment: only the configuration's lines can have one.
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TopicLineError> {
        let mut words = split(text)?.into_iter();
        let pattern = words.next().unwrap_or_default();
        let direction = words.next().map_or(Ok(Direction::Out), |word| direction(&word))?;
        let qos = words.next().map_or(Ok(QoS::AtMostOnce), |word| qos(&word))?;
        let local_prefix = words.next().unwrap_or_default();
        let remote_prefix = words.next().unwrap_or_default();
        if pattern.is_empty() && (local_prefix.is_empty() || remote_prefix.is_empty()) {
            return Err(TopicLineError::EmptyNeedsPrefixes);
        }
        let filter = |side, prefix: &str| {
            if prefix.contains(['+', '#']) {
                return Err(TopicLineError::Prefix { side, prefix: prefix.to_owned() });
            }
            let filter = format!("{prefix}{pattern}");
            TopicFilter::new(Utf8::from(filter.clone())).map_err(|_| TopicLineError::Filter { side, filter })
        };
        let (local, remote) = (filter("local", &local_prefix)?, filter("remote", &remote_prefix)?);
        Ok(Self { direction, qos, local_prefix, remote_prefix, local, remote })
    }

    /// The remote's name of a local one that this line decides about; `None` if the result is no topic name.
    #[must_use]
    pub fn to_remote(&self, name: &TopicName) -> Option<TopicName> {
        map(name, Some((&self.local_prefix, &self.remote_prefix)))
    }
}

fn direction(word: &str) -> Result<Direction, TopicLineError> {
    match word.to_ascii_lowercase().as_str() {
        "out" => Ok(Direction::Out),
        "in" => Ok(Direction::In),
        "both" => Ok(Direction::Both),
        _ => Err(TopicLineError::Direction(word.to_owned())),
    }
}

fn qos(word: &str) -> Result<QoS, TopicLineError> {
    match word.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err(TopicLineError::QoS(word.to_owned())),
    }
}

fn split(text: &str) -> Result<Vec<String>, TopicLineError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or(TopicLineError::Quote)?,
            None => rest.split_once([' ', '\t']).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

/// All lines of a bridge, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics {
    lines: Vec<Topic>,
    out_local: TopicIndex,
    out_remote: TopicIndex,
    in_local: TopicIndex,
    in_remote: TopicIndex,
}

impl Topics {
    #[must_use]
    pub fn new(lines: Vec<Topic>) -> Self {
        let index = |wanted: fn(Direction) -> bool, filter: fn(&Topic) -> &TopicFilter| {
            let wanted = lines.iter().enumerate().filter(|(_, line)| wanted(line.direction));
            TopicIndex::new(wanted.map(|(number, line)| (number, filter(line))))
        };
        Self {
            out_local: index(Direction::is_out, |line| &line.local),
            out_remote: index(Direction::is_out, |line| &line.remote),
            in_local: index(Direction::is_in, |line| &line.local),
            in_remote: index(Direction::is_in, |line| &line.remote),
            lines,
        }
    }

    #[must_use]
    pub fn lines(&self) -> &[Topic] {
        &self.lines
    }
    pub fn outgoing(&self) -> impl Iterator<Item = &Topic> {
        self.lines.iter().filter(|topic| topic.direction.is_out())
    }
    pub fn incoming(&self) -> impl Iterator<Item = &Topic> {
        self.lines.iter().filter(|topic| topic.direction.is_in())
    }

    fn line(&self, index: &TopicIndex, name: &TopicName) -> Option<&Topic> {
        index.find(name).and_then(|number| self.lines.get(number))
    }

    /// The line that decides about a message that goes out.
    #[must_use]
    pub fn line_out(&self, name: &TopicName) -> Option<&Topic> {
        self.line(&self.out_local, name)
    }

    /// The remote's name of a local message's topic; `None` if the result is no topic name.
    #[must_use]
    pub fn to_remote(&self, name: &TopicName) -> Option<TopicName> {
        self.line_out(name).map_or_else(|| Some(name.clone()), |line| line.to_remote(name))
    }

    /// The local name of a remote message's topic.
    #[must_use]
    pub fn to_local(&self, name: &TopicName) -> Option<TopicName> {
        let found = self.line(&self.in_remote, name);
        map(name, found.map(|topic| (topic.remote_prefix.as_str(), topic.local_prefix.as_str())))
    }

    /// A Response Topic that goes out is where the answer is expected to come in, and the other way round.
    #[must_use]
    pub fn response_to_remote(&self, text: &Utf8) -> Utf8 {
        let mapped = TopicName::new(text.clone()).ok().and_then(|name| {
            let found = self.line(&self.in_local, &name).or_else(|| self.line(&self.out_local, &name));
            map(&name, found.map(|topic| (topic.local_prefix.as_str(), topic.remote_prefix.as_str())))
        });
        mapped.map_or_else(|| text.clone(), |name| name.text().clone())
    }

    #[must_use]
    pub fn response_to_local(&self, text: &Utf8) -> Utf8 {
        let mapped = TopicName::new(text.clone()).ok().and_then(|name| {
            let found = self.line(&self.out_remote, &name).or_else(|| self.line(&self.in_remote, &name));
            map(&name, found.map(|topic| (topic.remote_prefix.as_str(), topic.local_prefix.as_str())))
        });
        mapped.map_or_else(|| text.clone(), |name| name.text().clone())
    }
}

fn map(name: &TopicName, prefixes: Option<(&str, &str)>) -> Option<TopicName> {
    let Some((from, to)) = prefixes else { return Some(name.clone()) };
    if from.is_empty() && to.is_empty() {
        return Some(name.clone());
    }
    let rest = name.as_str().strip_prefix(from).unwrap_or(name.as_str());
    TopicName::new(Utf8::from(format!("{to}{rest}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(Utf8::from(text)).unwrap()
    }
    fn topics(lines: &[&str]) -> Topics {
        Topics::new(lines.iter().map(|line| Topic::parse(line).unwrap()).collect())
    }

    #[test]
    fn a_line_has_defaults_for_all_but_the_pattern() {
        let topic = Topic::parse("power/#").unwrap();
        assert_eq!((topic.direction, topic.qos), (Direction::Out, QoS::AtMostOnce));
        assert_eq!((topic.local.as_str(), topic.remote.as_str()), ("power/#", "power/#"));
        let topic = Topic::parse("\"a b/#\" both 2 \"\" site/1/").unwrap();
        assert_eq!((topic.local.as_str(), topic.remote.as_str()), ("a b/#", "site/1/a b/#"));
    }

    #[test]
    fn capitals_letters_behind_the_qos_and_a_sixth_word_are_read_as_by_mosquitto() {
        let plain = Topic::parse("a both 1 x/ y/").unwrap();
        for line in ["a Both 1 x/ y/", "a BOTH 1qos x/ y/", "a both 1 x/ y/ and more", "a\tboth 1\tx/ y/"] {
            assert_eq!(Topic::parse(line).unwrap(), plain, "{line}");
        }
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, expected) in [
            ("a up", "direction 'up'"),
            ("a out 3", "QoS level '3'"),
            ("a out 0 x/+/", "local prefix 'x/+/'"),
            ("a out 0 x/ #", "remote prefix '#'"),
            ("#/a", "combination '#/a'"),
            ("\"\" out 0 x", "empty pattern"),
            ("\"a", "closing quote"),
            ("a out x", "QoS level 'x'"),
            ("a out 1/", "QoS level '1/'"),
        ] {
            let error = Topic::parse(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn names_are_mapped_by_the_first_line_that_matches() {
        let topics = topics(&[
            "# in 0 local/topic/ remote/topic/",
            "clients/total in 0 test/org $SYS/broker/",
            "\"\" in 0 local/single remote/single",
            "ic/+ out 0 local4/top remote4/tip",
        ]);
        let local = |text| topics.to_local(&name(text)).unwrap().as_str().to_owned();
        assert_eq!(local("remote/topic/a/b"), "local/topic/a/b");
        assert_eq!(local("$SYS/broker/clients/total"), "test/orgclients/total");
        assert_eq!(local("remote/single"), "local/single");
        assert_eq!(local("elsewhere"), "elsewhere");
        assert_eq!(topics.to_remote(&name("local4/topic/x")).unwrap().as_str(), "remote4/tipic/x");
        assert_eq!(topics.to_remote(&name("local/topic/x")).unwrap().as_str(), "local/topic/x");
    }

    #[test]
    fn a_response_topic_follows_the_way_back() {
        let topics = topics(&["request/# out 1 \"\" site1/", "reply/# in 1 \"\" site1/"]);
        assert_eq!(topics.response_to_remote(&Utf8::from("reply/7")).as_str(), "site1/reply/7");
        assert_eq!(topics.response_to_local(&Utf8::from("site1/reply/7")).as_str(), "reply/7");
        assert_eq!(topics.response_to_remote(&Utf8::from("other")).as_str(), "other");
    }
}
