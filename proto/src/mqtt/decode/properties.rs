//! Properties of MQTT 5.0 (section 2.2.2).
//! Always true: a property comes out only if its packet may have it, not twice (but for User Property, and Subscription
//! Identifier in PUBLISH), and with a value in its range. All that a packet need do is to put it into its field.
use super::{DecodeError, body::Body};
use crate::mqtt::{PacketType, PropertyOrder, TopicName, UserProperties, Utf8, property_order::SeenOrder};
use bytes::Bytes;

pub(super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
const USER_PROPERTY: u8 = 0x26;

pub(super) enum Property {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(Utf8),
    ResponseTopic(Utf8),
    CorrelationData(Bytes),
    SubscriptionIdentifier(u32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(Utf8),
    ServerKeepAlive(u16),
    AuthenticationMethod(Utf8),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(Utf8),
    ServerReference(Utf8),
    ReasonString(Utf8),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(bool),
    RetainAvailable(bool),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifiersAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// A set of property identifiers, one bit each.
#[derive(Clone, Copy)]
pub(super) struct PropertySet(u64);

impl PropertySet {
    const fn of(identifiers: &[u8]) -> Self {
        let (mut bits, mut index) = (1 << USER_PROPERTY, 0);
        while index < identifiers.len() {
            bits |= 1 << identifiers[index];
            index += 1;
        }
        Self(bits)
    }
    pub(super) const CONNECT: Self = Self::of(&[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x27]);
    pub(super) const WILL: Self = Self::of(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18]);
    pub(super) const CONNACK: Self =
        Self::of(&[0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x27, 0x28, 0x29, 0x2A]);
    /// From a client: without Subscription Identifier [MQTT-3.3.4-6].
    pub(super) const PUBLISH_OF_CLIENT: Self = Self::of(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x23]);
    pub(super) const PUBLISH: Self = Self::of(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23]);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(super) const ACK: Self = Self::of(&[0x1F]);
    pub(super) const SUBSCRIBE: Self = Self::of(&[0x0B]);
    pub(super) const UNSUBSCRIBE: Self = Self::of(&[]);
    pub(super) const DISCONNECT: Self = Self::of(&[0x11, 0x1C, 0x1F]);
    pub(super) const AUTH: Self = Self::of(&[0x15, 0x16, 0x1F]);
}

/// Reads the properties of one packet. User Properties are collected here, the others handed out.
pub(super) struct Properties<'a> {
    body: Body,
    packet_type: PacketType,
    allowed: PropertySet,
    seen: u64,
    user_properties: &'a mut UserProperties,
    order: SeenOrder,
}

impl<'a> Properties<'a> {
    pub(super) fn new(
        body: Body,
        packet_type: PacketType,
        allowed: PropertySet,
        user_properties: &'a mut UserProperties,
    ) -> Self {
        Self { body, packet_type, allowed, seen: 0, user_properties, order: SeenOrder::default() }
    }

    /// The next property that is not a User Property; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Property>, DecodeError> {
        while !self.body.is_empty() {
            let identifier = self.body.variable_byte_integer()?;
            let known = u8::try_from(identifier).map_err(|_| DecodeError::UnknownProperty(identifier))?;
            self.order.push(known);
            if known == USER_PROPERTY {
                self.user_property()?;
                continue;
            }
            // The value comes first: what cannot be read is malformed, whether or not it may be there.
            let property = self.value(known);
            let readable = !matches!(
                property,
                Err(DecodeError::Truncated | DecodeError::MalformedInteger | DecodeError::UnknownProperty(_))
            );
            if readable {
                self.admit(known)?;
            }
            return property.map(Some);
        }
        Ok(None)
    }

    /// The order of those read so far.
    pub(super) fn order(&self) -> PropertyOrder {
        self.order.order()
    }

    fn admit(&mut self, property: u8) -> Result<(), DecodeError> {
        let bit = 1 << property;
        if self.allowed.0 & bit == 0 {
            return Err(DecodeError::PropertyNotAllowed { property, packet_type: self.packet_type });
        }
        let repeats = property == SUBSCRIPTION_IDENTIFIER && self.packet_type == PacketType::Publish;
        if self.seen & bit != 0 && !repeats {
            return Err(DecodeError::DuplicateProperty(property));
        }
        self.seen |= bit;
        Ok(())
    }

    fn user_property(&mut self) -> Result<(), DecodeError> {
        if self.user_properties.len() == self.user_properties.capacity() {
            // Exactly as many as follow each other here, so that memory stays in proportion to what was received.
            self.user_properties.reserve_exact(1 + user_properties_after(self.body.as_slice()));
        }
        let pair = (self.body.text()?, self.body.text()?);
        self.user_properties.push(pair);
        Ok(())
    }

    fn value(&mut self, identifier: u8) -> Result<Property, DecodeError> {
        Ok(match identifier {
            0x01 => Property::PayloadFormatIndicator(self.boolean(identifier)?),
            0x02 => Property::MessageExpiryInterval(self.body.u32()?),
            0x03 => Property::ContentType(self.body.text()?),
            0x08 => Property::ResponseTopic(self.response_topic(identifier)?),
            0x09 => Property::CorrelationData(self.body.binary()?),
            SUBSCRIPTION_IDENTIFIER => {
                let value = self.body.variable_byte_integer()?;
                Property::SubscriptionIdentifier(self.not_zero(identifier, value)?)
            }
            0x11 => Property::SessionExpiryInterval(self.body.u32()?),
            0x12 => Property::AssignedClientIdentifier(self.body.text()?),
            0x13 => Property::ServerKeepAlive(self.body.u16()?),
            0x15 => Property::AuthenticationMethod(self.body.text()?),
            0x16 => Property::AuthenticationData(self.body.binary()?),
            0x17 => Property::RequestProblemInformation(self.boolean(identifier)?),
            0x18 => Property::WillDelayInterval(self.body.u32()?),
            0x19 => Property::RequestResponseInformation(self.boolean(identifier)?),
            0x1A => Property::ResponseInformation(self.body.text()?),
            0x1C => Property::ServerReference(self.body.text()?),
            0x1F => Property::ReasonString(self.body.text()?),
            0x21 => {
                let value = self.body.u16()?;
                Property::ReceiveMaximum(self.not_zero(identifier, value)?)
            }
            0x22 => Property::TopicAliasMaximum(self.body.u16()?),
            TOPIC_ALIAS => {
                let value = self.body.u16()?;
                Property::TopicAlias(self.not_zero(identifier, value)?)
            }
            0x24 => Property::MaximumQos(self.boolean(identifier)?),
            0x25 => Property::RetainAvailable(self.boolean(identifier)?),
            0x27 => {
                let value = self.body.u32()?;
                Property::MaximumPacketSize(self.not_zero(identifier, value)?)
            }
            0x28 => Property::WildcardSubscriptionAvailable(self.boolean(identifier)?),
            0x29 => Property::SubscriptionIdentifiersAvailable(self.boolean(identifier)?),
            0x2A => Property::SharedSubscriptionAvailable(self.boolean(identifier)?),
            unknown => return Err(DecodeError::UnknownProperty(u32::from(unknown))),
        })
    }

    fn bad_value(&self, property: u8) -> DecodeError {
        DecodeError::PropertyValue { property, packet_type: self.packet_type }
    }
    fn boolean(&mut self, property: u8) -> Result<bool, DecodeError> {
        match self.body.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.bad_value(property)),
        }
    }
    fn not_zero<T: Default + PartialEq>(&self, property: u8, value: T) -> Result<T, DecodeError> {
        if value == T::default() { Err(self.bad_value(property)) } else { Ok(value) }
    }
    /// Must be a topic name [MQTT-3.3.2-14].
    fn response_topic(&mut self, property: u8) -> Result<Utf8, DecodeError> {
        let topic = TopicName::new(self.body.text()?).map_err(|_| self.bad_value(property))?;
        Ok(topic.into_text())
    }
}

/// How many User Properties follow directly after the one whose name begins `input`.
fn user_properties_after(input: &[u8]) -> usize {
    fn skip_text(input: &[u8]) -> Option<&[u8]> {
        let (len, rest) = input.split_first_chunk()?;
        rest.get(usize::from(u16::from_be_bytes(*len))..)
    }
    let (mut input, mut count) = (input, 0);
    while let Some([USER_PROPERTY, rest @ ..]) = skip_text(input).and_then(skip_text) {
        count += 1;
        input = rest;
    }
    count
}
