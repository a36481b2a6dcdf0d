//! `mount_point`: the clients of a listener live below a prefix that they never see.
//! Always true: topics, filters (the part after `$share/<name>/`) and wills of such a client begin with the prefix inside
//! the broker; a message whose topic does not is none of its business.
//! Not here: Response Topics, which travel as they are (as in Mosquitto).
use mosquorum_proto::mqtt::{TopicFilter, TopicName, Utf8};

/// What is put before every topic of a client; empty = nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountPoint(Box<str>);

impl MountPoint {
    pub fn new(prefix: Option<&str>) -> Self {
        Self(prefix.unwrap_or_default().into())
    }

    /// `None` if the whole is longer or deeper than a topic may be.
    pub fn name(&self, topic: TopicName) -> Option<TopicName> {
        if self.0.is_empty() {
            return Some(topic);
        }
        TopicName::new(self.text("", topic.as_str())?).ok()
    }

    /// `None` if the whole is longer or deeper than a topic may be.
    pub fn filter(&self, filter: TopicFilter) -> Option<TopicFilter> {
        if self.0.is_empty() {
            return Some(filter);
        }
        let (share, matched) = filter.as_str().split_at(filter.as_str().len() - filter.matched_part().len());
        TopicFilter::new(self.text(share, matched)?).ok()
    }

    fn text(&self, share: &str, topic: &str) -> Option<Utf8> {
        Utf8::from_bytes([share, &self.0, topic].concat().into())
    }

    /// The topic as the client knows it; the inner `None`: as it is. The outer one: it lies elsewhere.
    pub fn strip(&self, topic: &TopicName) -> Option<Option<TopicName>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let rest = topic.as_str().strip_prefix(&*self.0)?;
        TopicName::new(Utf8::from(rest)).ok().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_filters_go_below_the_mount_point_and_names_come_back_without_it() {
        let mount = MountPoint::new(Some("m/"));
        let name = |text: &str| TopicName::try_from(text).expect("a topic");
        let filter = |text: &str| mount.filter(TopicFilter::try_from(text).expect("a filter"));
        assert_eq!(mount.name(name("a/b")), Some(name("m/a/b")));
        assert_eq!(filter("#").expect("short").as_str(), "m/#");
        assert_eq!(filter("$share/g/+/x").expect("short").as_str(), "$share/g/m/+/x");
        assert_eq!(mount.strip(&name("m/a")), Some(Some(name("a"))));
        assert_eq!((mount.strip(&name("other/a")), mount.strip(&name("m/"))), (None, None));
        assert_eq!(mount.name(name(&"x".repeat(65_534))), None);
        assert_eq!(MountPoint::new(None).strip(&name("a")), Some(None));
    }
}
