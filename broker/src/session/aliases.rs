//! Topic aliases (MQTT 5.0 section 3.3.2.3.4), each direction on its own.
//! Always true: an alias is between 1 and the maximum that the receiver announced; it lives as long as the connection.
use super::SessionError;
use mosquorum_proto::mqtt::{ReasonCode, TopicName, Utf8};
use std::collections::BTreeMap;

pub(super) struct InboundAliases {
    maximum: u16,
    topics: Vec<Option<TopicName>>,
}

impl InboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { maximum, topics: Vec::new() }
    }

    /// Sets or looks up.
    /// # Errors
    /// Topic Alias Invalid when the alias is out of range, Protocol Error when it has no topic yet.
    pub(super) fn resolve(&mut self, alias: u16, topic: Option<TopicName>) -> Result<TopicName, SessionError> {
        if alias == 0 || alias > self.maximum {
            return Err(SessionError::Peer(ReasonCode::TopicAliasInvalid, "topic alias above the maximum"));
        }
        let slot = usize::from(alias) - 1;
        match topic {
            Some(topic) => {
                if self.topics.len() <= slot {
                    self.topics.resize(slot + 1, None);
                }
                self.topics[slot] = Some(topic.detached());
                Ok(topic)
            }
            None => {
                let known = self.topics.get(slot).cloned().flatten();
                known.ok_or(SessionError::Peer(ReasonCode::ProtocolError, "topic alias without a topic"))
            }
        }
    }
}

pub(super) struct OutboundAliases {
    maximum: u16,
    /// A tree, since most clients take none, and an empty one is small.
    aliases: BTreeMap<Utf8, u16>,
}

impl OutboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { maximum, aliases: BTreeMap::new() }
    }

    /// The alias to send and whether the topic must be sent with it (the first time). The first topics get them.
    pub(super) fn of(&mut self, topic: &TopicName) -> Option<(u16, bool)> {
        if self.maximum == 0 {
            return None;
        }
        if let Some(alias) = self.aliases.get(topic.as_str()) {
            return Some((*alias, false));
        }
        let alias = u16::try_from(self.aliases.len() + 1).ok().filter(|alias| *alias <= self.maximum)?;
        self.aliases.insert(topic.text().detached(), alias);
        Some((alias, true))
    }

    /// The packet that should have set the alias was not sent after all.
    pub(super) fn forget(&mut self, topic: &TopicName) {
        self.aliases.remove(topic.as_str());
    }
}
