//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (sections 3.8 to 3.11).
//! Always true: a filter that is not well-formed fails the whole packet, as in Mosquitto; a SUBACK with a failure code
//! is for filters that are well-formed but refused.
use super::{
    DecodeError,
    ack::reason,
    body::Body,
    properties::{Properties, Property, PropertySet},
};
use crate::mqtt::{
    PacketType, ProtocolVersion, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, Subscription, TopicFilter,
    Unsubscribe,
};

const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RESERVED: u8 = 0b1100_0000;

pub(super) fn subscribe(mut body: Body, version: ProtocolVersion) -> Result<Subscribe, DecodeError> {
    let mut subscribe = Subscribe::new(body.packet_id(PacketType::Subscribe)?, Vec::new());
    let section = body.properties(version)?;
    let mut properties =
        Properties::new(section, PacketType::Subscribe, PropertySet::SUBSCRIBE, &mut subscribe.user_properties);
    while let Some(property) = properties.next()? {
        if let Property::SubscriptionIdentifier(value) = property {
            subscribe.subscription_identifier = Some(value);
        }
    }
    if body.is_empty() {
        return Err(DecodeError::NoTopicFilter(PacketType::Subscribe));
    }
    subscribe.subscriptions.reserve_exact(count_filters(body.as_slice(), 1));
    while !body.is_empty() {
        let filter = TopicFilter::new(body.text()?)?;
        let options = body.u8()?;
        subscribe.subscriptions.push(subscription(filter, options, version)?);
    }
    Ok(subscribe)
}

fn subscription(filter: TopicFilter, options: u8, version: ProtocolVersion) -> Result<Subscription, DecodeError> {
    let qos = QoS::try_from(options & 3).map_err(|_| DecodeError::InvalidQos)?;
    if version != ProtocolVersion::V5 {
        // Bits above the QoS are reserved before 5.0 [MQTT-3-8.3-4].
        if options > 2 {
            return Err(DecodeError::SubscriptionOptions(options));
        }
        return Ok(Subscription::new(filter, qos));
    }
    let retain_handling = RetainHandling::try_from(options >> 4 & 3);
    match retain_handling {
        Ok(retain_handling) if options & RESERVED == 0 => {
            let no_local = options & NO_LOCAL != 0;
            if no_local && filter.share_name().is_some() {
                return Err(DecodeError::SharedNoLocal);
            }
            let retain_as_published = options & RETAIN_AS_PUBLISHED != 0;
            Ok(Subscription { filter, qos, no_local, retain_as_published, retain_handling })
        }
        _ => Err(DecodeError::SubscriptionOptions(options)),
    }
}

/// How many filters there are, `extra` bytes after each; the last may be cut off. Counting first keeps memory in
/// proportion to what was received.
fn count_filters(mut input: &[u8], extra: usize) -> usize {
    let mut count = 0;
    while let Some((len, rest)) = input.split_first_chunk() {
        count += 1;
        match rest.get(usize::from(u16::from_be_bytes(*len)) + extra..) {
            Some(next) => input = next,
            None => break,
        }
    }
    count
}

pub(super) fn unsubscribe(mut body: Body, version: ProtocolVersion) -> Result<Unsubscribe, DecodeError> {
    let mut unsubscribe = Unsubscribe::new(body.packet_id(PacketType::Unsubscribe)?, Vec::new());
    let section = body.properties(version)?;
    let mut properties =
        Properties::new(section, PacketType::Unsubscribe, PropertySet::UNSUBSCRIBE, &mut unsubscribe.user_properties);
    while properties.next()?.is_some() {}
    if body.is_empty() {
        return Err(DecodeError::NoTopicFilter(PacketType::Unsubscribe));
    }
    unsubscribe.filters.reserve_exact(count_filters(body.as_slice(), 0));
    while !body.is_empty() {
        unsubscribe.filters.push(TopicFilter::new(body.text()?)?);
    }
    Ok(unsubscribe)
}

/// SUBACK and UNSUBACK.
pub(super) fn suback(packet_type: PacketType, mut body: Body, version: ProtocolVersion) -> Result<SubAck, DecodeError> {
    let mut suback = SubAck::new(body.packet_id(packet_type)?, Vec::new());
    let section = body.properties(version)?;
    let mut properties = Properties::new(section, packet_type, PropertySet::ACK, &mut suback.user_properties);
    while let Some(property) = properties.next()? {
        if let Property::ReasonString(value) = property {
            suback.reason_string = Some(value);
        }
    }
    if packet_type == PacketType::UnsubAck && version != ProtocolVersion::V5 {
        body.finish()?;
        return Ok(suback);
    }
    suback.reasons.reserve_exact(body.as_slice().len());
    while !body.is_empty() {
        let reason = reason(&mut body, packet_type)?;
        // 3.1.1 knows one failure only [MQTT-3.9.3-2].
        if version != ProtocolVersion::V5 && reason.is_error() && reason != ReasonCode::UnspecifiedError {
            return Err(DecodeError::InvalidReason { packet_type, value: reason as u8 });
        }
        suback.reasons.push(reason);
    }
    Ok(suback)
}
