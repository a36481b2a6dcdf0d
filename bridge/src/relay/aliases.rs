//! Topic aliases towards the remote (MQTT 5.0 section 3.3.2.3.4).
//! Always true: an alias is between 1 and what both the remote's Topic Alias Maximum and `bridge_max_topic_alias` allow,
//! stands for one topic until the connection ends, and is known to the remote before it is sent alone. The first topics
//! get them: which ones return is not known in advance, and an alias that is given away costs bytes instead of saving some.
use mosquorum_proto::mqtt::{ProtocolVersion, Publish, PublishParts, PublishProperties, TopicName};
use std::collections::HashMap;

/// What an alias adds to a packet at most: identifier and value, and one byte each for the properties' and packet's length.
const COST: usize = 5;

#[derive(Debug)]
pub(super) struct Aliases {
    maximum: u16,
    known: HashMap<TopicName, u16>,
}

impl Aliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { maximum, known: HashMap::new() }
    }

    /// Shortens `publish` if it can be. A packet that is larger than `max_packet_size` teaches the remote nothing.
    pub(super) fn shorten(&mut self, publish: &mut Publish, max_packet_size: u32) {
        let Some(topic) = publish.topic.as_ref().filter(|topic| topic.as_str().len() > COST) else { return };
        if let Some(alias) = self.known.get(topic) {
            set(publish, *alias);
            publish.topic = None;
            return;
        }
        let Some(alias) = u16::try_from(self.known.len() + 1).ok().filter(|alias| *alias <= self.maximum) else {
            return;
        };
        if PublishParts::from(&*publish).encoded_len(ProtocolVersion::V5) + COST > max_packet_size as usize {
            return;
        }
        self.known.insert(topic.detached(), alias);
        set(publish, alias);
    }
}

fn set(publish: &mut Publish, alias: u16) {
    publish.properties.get_or_insert_with(|| Box::new(PublishProperties::default())).topic_alias = Some(alias);
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_proto::mqtt::Utf8;

    fn publish(topic: &str) -> Publish {
        Publish::new(TopicName::new(Utf8::from(topic)).unwrap(), &b"x"[..])
    }

    /// Topic and alias as they are sent.
    fn sent(aliases: &mut Aliases, topic: &str) -> (Option<String>, Option<u16>) {
        let mut publish = publish(topic);
        aliases.shorten(&mut publish, u32::MAX);
        let alias = publish.properties.and_then(|properties| properties.topic_alias);
        (publish.topic.map(|topic| topic.as_str().to_owned()), alias)
    }

    #[test]
    fn the_first_topics_get_aliases_and_each_is_sent_once() {
        let mut aliases = Aliases::new(2);
        for topic in ["power/1", "power/2"] {
            assert_eq!(sent(&mut aliases, topic).0.as_deref(), Some(topic));
        }
        assert_eq!(sent(&mut aliases, "power/1"), (None, Some(1)));
        assert_eq!(sent(&mut aliases, "power/2"), (None, Some(2)));
        assert_eq!(sent(&mut aliases, "power/3"), (Some("power/3".into()), None));
        assert_eq!(sent(&mut Aliases::new(0), "power/1"), (Some("power/1".into()), None));
    }

    #[test]
    fn short_topics_stay_as_they_are() {
        assert_eq!(sent(&mut Aliases::new(9), "a/b"), (Some("a/b".into()), None));
    }

    #[test]
    fn a_packet_that_an_alias_would_make_too_large_goes_without() {
        let mut aliases = Aliases::new(9);
        let mut large = publish("power/1");
        let size = PublishParts::from(&large).encoded_len(ProtocolVersion::V5) as u32;
        aliases.shorten(&mut large, size);
        assert_eq!(large, publish("power/1"));
        aliases.shorten(&mut large, size + 5);
        assert_eq!(large.properties.unwrap().topic_alias, Some(1));
    }
}
