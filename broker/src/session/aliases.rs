//! Topic aliases (MQTT 5.0 section 3.3.2.3.4), each direction on its own.
//! Always true: an alias is between 1 and the maximum that the receiver announced; it lives as long as the connection.
use super::SessionError;
use mosquorum_proto::mqtt::{ReasonCode, TopicName, Utf8};
use std::collections::HashMap;

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
    /// Most clients take none: no room for them then.
    aliases: Option<Box<HashMap<Utf8, u16>>>,
}

impl OutboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { maximum, aliases: None }
    }

    /// The alias to send and whether the topic must be sent with it (the first time). The first topics get them.
    pub(super) fn of(&mut self, topic: &TopicName) -> Option<(u16, bool)> {
        if self.maximum == 0 {
            return None;
        }
        let aliases = self.aliases.get_or_insert_default();
        if let Some(alias) = aliases.get(topic.as_str()) {
            return Some((*alias, false));
        }
        let alias = u16::try_from(aliases.len() + 1).ok().filter(|alias| *alias <= self.maximum)?;
        aliases.insert(topic.text().detached(), alias);
        Some((alias, true))
    }

    /// The packet that should have set the alias was not sent after all.
    pub(super) fn forget(&mut self, topic: &TopicName) {
        if let Some(aliases) = &mut self.aliases {
            aliases.remove(topic.as_str());
        }
    }
}
