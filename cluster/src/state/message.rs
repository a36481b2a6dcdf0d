//! An application message on its way through the broker, apart from any connection.
use super::LoopId;
use crate::ids::Millis;
use bytes::Bytes;
use mosquorum_proto::mqtt::{PublishProperties, QoS, TopicName, Utf8};
use serde::{Deserialize, Serialize};

/// Shared by all its receivers. `properties` has no topic alias, subscription identifier or expiry interval (see
/// `expiry_seconds`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub topic: TopicName,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub properties: Option<Box<PublishProperties>>,
    pub expiry_seconds: Option<u32>,
    /// When the message reached the cluster: expiry counts from here.
    pub received_at: Millis,
    /// For No Local and for the recheck of retained messages; empty when the broker itself is the publisher.
    pub publisher_id: Utf8,
    pub publisher_name: Option<Utf8>,
    /// Makes it recognisable over bridges. Ordinary clients do not see it.
    pub mark: Option<Box<LoopId>>,
}

impl Message {
    /// Nobody's, not retained, without properties, that does not expire.
    #[must_use]
    pub fn new(topic: TopicName, payload: Bytes, qos: QoS, received_at: Millis) -> Self {
        Self {
            topic,
            payload,
            qos,
            retain: false,
            properties: None,
            expiry_seconds: None,
            received_at,
            publisher_id: Utf8::default(),
            publisher_name: None,
            mark: None,
        }
    }

    /// Seconds left at `now`, rounded so that a message just received keeps its whole interval; `Some(0)` = expired,
    /// `None` = never expires.
    #[must_use]
    pub fn remaining_seconds(&self, now: Millis) -> Option<u32> {
        let interval = self.expiry_seconds?;
        let waited = now.0.saturating_sub(self.received_at.0) / 1000;
        Some(u64::from(interval).saturating_sub(waited) as u32)
    }

    #[must_use]
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expiry_seconds.is_some_and(|s| now.0 >= self.received_at.0.saturating_add(u64::from(s) * 1000))
    }

    /// What a node says of itself below `$SYS`: never in the replicated state, never queued. (What bridges of others say
    /// there is a client's message like any other.)
    #[must_use]
    pub fn is_node_local(&self) -> bool {
        self.publisher_id.is_empty() && self.topic.as_str().starts_with("$SYS/")
    }

    /// What the message counts for against byte limits.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.payload.len() + self.topic.as_str().len()
    }

    /// What topic and properties take, about.
    pub(super) fn description_bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |properties| {
            let text = |text: &Option<Utf8>| text.as_ref().map_or(0, |text| text.as_str().len());
            let user = properties.user_properties.iter();
            size_of::<PublishProperties>()
                + text(&properties.response_topic)
                + text(&properties.content_type)
                + properties.correlation_data.as_ref().map_or(0, Bytes::len)
                + user
                    .map(|(name, value)| 2 * size_of::<Utf8>() + name.as_str().len() + value.as_str().len())
                    .sum::<usize>()
        });
        self.topic.as_str().len() + properties
    }

    /// A copy whose buffers hold nothing but this message (it may otherwise keep a whole read buffer alive).
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            topic: self.topic.detached(),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: self.properties.as_deref().map(|properties| Box::new(detached(properties))),
            ..self.clone()
        }
    }
}

fn detached(properties: &PublishProperties) -> PublishProperties {
    let user = properties.user_properties.iter();
    PublishProperties {
        response_topic: properties.response_topic.as_ref().map(Utf8::detached),
        content_type: properties.content_type.as_ref().map(Utf8::detached),
        correlation_data: properties.correlation_data.as_ref().map(|data| Bytes::copy_from_slice(data)),
        user_properties: user.map(|(name, value)| (name.detached(), value.detached())).collect(),
        ..properties.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_message_holds_nothing_of_the_buffer_that_it_was_read_into() {
        let buffer = Bytes::from(b"topic payload name value type".to_vec());
        let text = |range: std::ops::Range<usize>| Utf8::from_bytes(buffer.slice(range)).unwrap();
        let properties = PublishProperties {
            content_type: Some(text(25..29)),
            correlation_data: Some(buffer.slice(6..13)),
            user_properties: vec![(text(14..18), text(19..24))],
            ..PublishProperties::default()
        };
        let mut message =
            Message::new(TopicName::new(text(0..5)).unwrap(), buffer.slice(6..13), QoS::AtLeastOnce, Millis(0));
        message.properties = Some(Box::new(properties));
        let detached = message.detached();
        assert_eq!(detached, message);
        drop(message);
        assert!(buffer.is_unique());
    }
}
