//! Messages and owners as they go over a link, and back.
//! Always true: what comes from a peer is checked as if it came from a client; whatever is wrong gives `None`.
use crate::{
    facade::OrdinaryReceivers,
    ids::{ConnectionId, Incarnation, LogIndex, Millis, NodeId},
    state::{LoopId, Message, Owner},
};
use bytes::Bytes;
use mosquorum_proto::{
    mqtt::{PropertyOrder, PublishProperties, QoS, TopicFilter, TopicName, Utf8},
    peer::live as wire,
};
use prost::Message as _;
use std::sync::Arc;

const QOS: u32 = 3;
const RETAIN: u32 = 4;
const ORDINARY: u32 = 8;
const LOGGED: u32 = 16;
const AT_APPLY: u32 = 32;

/// A publish as it is handed over.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Handed {
    pub(crate) message: Arc<Message>,
    /// For subscribers that share with nobody.
    pub(crate) ordinary: bool,
    /// Durable sessions get it from the log.
    pub(crate) logged: bool,
    pub(crate) groups: Vec<TopicFilter>,
    /// As in [`crate::facade::Forward`].
    pub(crate) after: LogIndex,
    pub(crate) at_apply: bool,
    /// Nodes that had no member of the groups.
    pub(crate) tried: Vec<NodeId>,
}

impl Handed {
    pub(crate) fn ordinary_receivers(&self) -> OrdinaryReceivers {
        match (self.ordinary, self.logged) {
            (false, _) => OrdinaryReceivers::Nobody,
            (true, true) => OrdinaryReceivers::CleanSessions,
            (true, false) => OrdinaryReceivers::Everybody,
        }
    }
}

/// About what a message takes on the wire.
pub(crate) fn size_estimate(message: &Message) -> usize {
    64 + message.size_bytes()
}

pub(crate) fn to_wire(handed: &Handed) -> wire::Publish {
    let message = &*handed.message;
    let mut flags = message.qos as u32;
    flags |= if message.retain { RETAIN } else { 0 };
    flags |= if handed.ordinary { ORDINARY } else { 0 };
    flags |= if handed.logged { LOGGED } else { 0 };
    flags |= if handed.at_apply { AT_APPLY } else { 0 };
    wire::Publish {
        topic: bytes(message.topic.text()),
        payload: message.payload.clone(),
        flags,
        received_at: message.received_at.0,
        publisher_id: bytes(&message.publisher_id),
        publisher_name: message.publisher_name.as_ref().map(bytes),
        expiry_seconds: message.expiry_seconds,
        properties: message.properties.as_deref().map_or_else(Bytes::new, properties_to_wire),
        groups: handed.groups.iter().map(|filter| bytes(filter.text())).collect(),
        tried: handed.tried.iter().map(|node| node.0).collect(),
        mark: message.mark.as_deref().map_or_else(Bytes::new, |mark| Bytes::copy_from_slice(&mark.to_bytes())),
        after: handed.after.0,
    }
}

/// As an encoded `LinkItem` in two pieces, the second of which is the payload, not copied: fields come in any order.
pub(crate) fn to_wire_apart(handed: &Handed) -> [Bytes; 2] {
    use prost::encoding::{WireType, encode_key, encode_varint};
    const PAYLOAD: u32 = 2;
    const PUBLISH: u32 = 1;
    let mut publish = to_wire(handed);
    let payload = std::mem::take(&mut publish.payload);
    let mut description = publish.encode_to_vec();
    encode_key(PAYLOAD, WireType::LengthDelimited, &mut description);
    encode_varint(payload.len() as u64, &mut description);
    let mut item = Vec::with_capacity(description.len() + 16);
    encode_key(PUBLISH, WireType::LengthDelimited, &mut item);
    encode_varint((description.len() + payload.len()) as u64, &mut item);
    item.extend_from_slice(&description);
    [item.into(), payload]
}

pub(crate) fn from_wire(publish: wire::Publish) -> Option<Handed> {
    let properties = match publish.properties.is_empty() {
        true => None,
        false => Some(Box::new(properties_from_wire(publish.properties)?)),
    };
    let message = Message {
        topic: TopicName::new(Utf8::from_bytes(publish.topic)?).ok()?,
        payload: publish.payload,
        qos: match publish.flags & QOS {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        },
        retain: publish.flags & RETAIN != 0,
        properties,
        expiry_seconds: publish.expiry_seconds,
        received_at: Millis(publish.received_at),
        publisher_id: Utf8::from_bytes(publish.publisher_id)?,
        publisher_name: optional(publish.publisher_name)?,
        mark: match publish.mark.is_empty() {
            true => None,
            false => Some(Box::new(LoopId::from_bytes(&publish.mark)?)),
        },
    };
    Some(Handed {
        message: Arc::new(message),
        ordinary: publish.flags & ORDINARY != 0,
        logged: publish.flags & LOGGED != 0,
        groups: filters_from_wire(publish.groups)?,
        after: LogIndex(publish.after),
        at_apply: publish.flags & AT_APPLY != 0,
        tried: publish.tried.into_iter().map(NodeId).collect(),
    })
}

/// Filters are kept for long: each gets memory of its own.
pub(crate) fn filters_from_wire(filters: Vec<Bytes>) -> Option<Vec<TopicFilter>> {
    filters.iter().map(|text| TopicFilter::new(Utf8::from_bytes(Bytes::copy_from_slice(text))?).ok()).collect()
}

pub(crate) fn filters_to_wire<'f>(filters: impl IntoIterator<Item = &'f TopicFilter>) -> Vec<Bytes> {
    filters.into_iter().map(|filter| bytes(filter.text())).collect()
}

fn bytes(text: &Utf8) -> Bytes {
    text.as_bytes().clone()
}

/// The outer `None` is an error, the inner one absence.
fn optional(text: Option<Bytes>) -> Option<Option<Utf8>> {
    text.map_or(Some(None), |text| Utf8::from_bytes(text).map(Some))
}

fn properties_to_wire(properties: &PublishProperties) -> Bytes {
    let user = properties.user_properties.iter();
    let user_properties = user.map(|(name, value)| wire::UserProperty { name: bytes(name), value: bytes(value) });
    wire::PublishProperties {
        payload_format_indicator: properties.payload_format_indicator,
        response_topic: properties.response_topic.as_ref().map(bytes),
        correlation_data: properties.correlation_data.clone(),
        content_type: properties.content_type.as_ref().map(bytes),
        user_properties: user_properties.collect(),
        order: properties.order.to_bits(),
    }
    .encode_to_vec()
    .into()
}

fn properties_from_wire(encoded: Bytes) -> Option<PublishProperties> {
    let properties = wire::PublishProperties::decode(encoded).ok()?;
    let user = properties.user_properties.into_iter();
    let pair = |each: wire::UserProperty| Some((Utf8::from_bytes(each.name)?, Utf8::from_bytes(each.value)?));
    Some(PublishProperties {
        payload_format_indicator: properties.payload_format_indicator,
        response_topic: optional(properties.response_topic)?,
        correlation_data: properties.correlation_data,
        content_type: optional(properties.content_type)?,
        user_properties: user.map(pair).collect::<Option<_>>()?,
        order: PropertyOrder::from_bits(properties.order),
        ..PublishProperties::default()
    })
}

pub(crate) fn owner_to_wire(owner: Owner) -> wire::Owner {
    wire::Owner { node: owner.node.0, incarnation: owner.incarnation.0, connection: owner.connection.0 }
}

pub(crate) fn owner_from_wire(owner: wire::Owner) -> Owner {
    Owner {
        node: NodeId(owner.node),
        incarnation: Incarnation(owner.incarnation),
        connection: ConnectionId(owner.connection),
    }
}

/// Client identifiers are kept for long as well.
pub(crate) fn client_id_from_wire(text: &Bytes) -> Option<Utf8> {
    Utf8::from_bytes(Bytes::copy_from_slice(text))
}

#[cfg(test)]
pub(crate) fn message(topic: &str, payload: &[u8], qos: QoS) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.try_into().expect("a topic"),
        payload: Bytes::copy_from_slice(payload),
        qos,
        retain: false,
        properties: None,
        expiry_seconds: None,
        received_at: Millis(1_700_000_000_000),
        publisher_id: "publisher".into(),
        publisher_name: None,
        mark: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let full = Message {
            retain: true,
            expiry_seconds: Some(0),
            publisher_name: Some("".into()),
            mark: Some(Box::new(LoopId { origin: [3; 16], number: 9 })),
            properties: Some(Box::new(PublishProperties {
                payload_format_indicator: Some(false),
                response_topic: Some("answer/here".into()),
                correlation_data: Some(Bytes::from_static(b"\0\xff")),
                content_type: Some("".into()),
                user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
                order: PropertyOrder::from_bits(0o12345),
                ..PublishProperties::default()
            })),
            ..(*message("a/b", b"payload", QoS::ExactlyOnce)).clone()
        };
        for message in [Arc::new(full), message("a", b"", QoS::AtMostOnce)] {
            let groups = vec!["$share/g/a/#".try_into().expect("a filter")];
            let logged = message.retain;
            let (after, at_apply) = (LogIndex(7), logged);
            let handed = Handed { message, ordinary: true, logged, groups, after, at_apply, tried: vec![NodeId(9)] };
            let encoded = to_wire(&handed).encode_to_vec();
            let decoded = wire::Publish::decode(&encoded[..]).expect("as encoded");
            assert_eq!(from_wire(decoded), Some(handed.clone()));
            let apart = wire::LinkItem::decode(Bytes::from(to_wire_apart(&handed).concat())).expect("as encoded");
            let Some(wire::link_item::Body::Publish(publish)) = apart.body else { panic!("{apart:?}") };
            assert_eq!(from_wire(publish), Some(handed));
        }
    }

    #[test]
    fn what_no_client_may_send_no_peer_may_send() {
        let message = message("a", b"", QoS::AtMostOnce);
        let handed = Handed {
            message,
            ordinary: true,
            logged: false,
            groups: vec![],
            after: LogIndex(0),
            at_apply: false,
            tried: vec![],
        };
        let good = to_wire(&handed);
        assert!(from_wire(good.clone()).is_some());
        for topic in ["", "a/#", "a\0"] {
            assert_eq!(from_wire(wire::Publish { topic: Bytes::from(topic), ..good.clone() }), None);
        }
        assert_eq!(from_wire(wire::Publish { flags: 3, ..good.clone() }), None);
        assert_eq!(from_wire(wire::Publish { properties: Bytes::from_static(b"\xff"), ..good.clone() }), None);
        assert_eq!(from_wire(wire::Publish { groups: vec![Bytes::from_static(b"$share/x")], ..good }), None);
    }
}
