//! PUBLISH (section 3.3): the packet that has to be fast. Without properties it allocates nothing.
use super::{
    DecodeError, Sender,
    body::Body,
    properties::{Properties, Property, PropertySet},
};
use crate::mqtt::{PacketType, ProtocolVersion, Publish, PublishProperties, QoS, TopicError, TopicName};

pub(super) fn publish(
    first: u8,
    mut body: Body,
    version: ProtocolVersion,
    sender: Sender,
) -> Result<Publish, DecodeError> {
    let qos = QoS::try_from(first >> 1 & 3).map_err(|_| DecodeError::InvalidQos)?;
    let dup = first & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::DupAtQos0);
    }
    let text = body.text()?;
    let topic = if text.is_empty() { None } else { Some(TopicName::new(text)?) };
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { body.packet_id(PacketType::Publish)? };
    let mut properties = None;
    if version == ProtocolVersion::V5 {
        let section = body.properties(version)?;
        if !section.is_empty() {
            properties = Some(Box::new(publish_properties(section, sender)?));
        }
    }
    if topic.is_none() {
        if version != ProtocolVersion::V5 {
            return Err(TopicError::Empty.into());
        }
        if properties.as_ref().is_none_or(|properties| properties.topic_alias.is_none()) {
            return Err(DecodeError::MissingTopic);
        }
    }
    Ok(Publish { dup, qos, retain: first & 1 != 0, topic, packet_id, properties, payload: body.rest() })
}

fn publish_properties(section: Body, sender: Sender) -> Result<PublishProperties, DecodeError> {
    let mut fields = PublishProperties::default();
    let mut user_properties = Vec::new();
    let allowed = if sender == Sender::Client { PropertySet::PUBLISH_OF_CLIENT } else { PropertySet::PUBLISH };
    let mut properties = Properties::new(section, PacketType::Publish, allowed, &mut user_properties);
    while let Some(property) = properties.next()? {
        match property {
            Property::TopicAlias(value) => fields.topic_alias = Some(value),
            Property::SubscriptionIdentifier(value) => fields.subscription_identifiers.push(value),
            message => message_property(&mut fields, message),
        }
    }
    fields.order = properties.order();
    fields.user_properties = user_properties;
    Ok(fields)
}

/// The properties that PUBLISH and a will have in common.
pub(super) fn message_property(fields: &mut PublishProperties, property: Property) {
    match property {
        Property::PayloadFormatIndicator(value) => fields.payload_format_indicator = Some(value),
        Property::MessageExpiryInterval(value) => fields.message_expiry_interval = Some(value),
        Property::ContentType(value) => fields.content_type = Some(value),
        Property::ResponseTopic(value) => fields.response_topic = Some(value),
        Property::CorrelationData(value) => fields.correlation_data = Some(value),
        _ => {}
    }
}
