//! Properties of MQTT 5.0 (section 2.2.2), in Mosquitto's order where a test could see one.
use super::sink::{Count, Sink};
use crate::mqtt::{
    Ack, Auth, ConnAck, Connect, Disconnect, PublishProperties, QoS, SubAck, Subscribe, Unsubscribe, UserProperties,
    Utf8, Will,
};

const USER_PROPERTY: u8 = 0x26;

/// A packet, or a will, with properties.
pub(super) trait Properties {
    /// Writes them one after the other, without their length.
    fn write<S: Sink>(&self, sink: &mut S);

    /// Bytes of the properties, without their length.
    fn len(&self) -> usize {
        let mut count = Count(0);
        self.write(&mut count);
        count.0
    }
    fn write_with_len<S: Sink>(&self, sink: &mut S) {
        sink.variable_byte_integer(self.len() as u32);
        self.write(sink);
    }
}

pub(super) fn byte<S: Sink>(sink: &mut S, identifier: u8, value: Option<impl Into<u8>>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u8(value.into());
    }
}
pub(super) fn two_bytes<S: Sink>(sink: &mut S, identifier: u8, value: Option<u16>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u16(value);
    }
}
pub(super) fn four_bytes<S: Sink>(sink: &mut S, identifier: u8, value: Option<u32>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u32(value);
    }
}
pub(super) fn sized<S: Sink>(sink: &mut S, identifier: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.sized(value);
    }
}
/// `Option<Utf8>` or `Option<Bytes>` as bytes.
fn bytes<T: std::ops::Deref<Target: AsRef<[u8]>>>(value: &Option<T>) -> Option<&[u8]> {
    value.as_deref().map(AsRef::as_ref)
}
fn user<S: Sink>(sink: &mut S, (name, value): &(Utf8, Utf8)) {
    sink.u8(USER_PROPERTY);
    sink.sized(name.as_bytes());
    sink.sized(value.as_bytes());
}
fn all_users<S: Sink>(sink: &mut S, properties: &UserProperties) {
    properties.iter().for_each(|pair| user(sink, pair));
}

/// What belongs to the message, in the order in which it came: no topic alias, subscription identifier or expiry.
pub(super) fn message<S: Sink>(sink: &mut S, properties: &PublishProperties) {
    let mut users = properties.user_properties.iter();
    let mut listed = 0_u64;
    for identifier in properties.order.identifiers() {
        if identifier == USER_PROPERTY {
            users.by_ref().take(1).for_each(|pair| user(sink, pair));
        } else if listed & 1 << identifier == 0 {
            listed |= 1 << identifier;
            message_property(sink, properties, identifier);
        }
    }
    for identifier in [0x08, 0x09, 0x01, 0x03] {
        if listed & 1 << identifier == 0 {
            message_property(sink, properties, identifier);
        }
    }
    users.for_each(|pair| user(sink, pair));
}

fn message_property<S: Sink>(sink: &mut S, properties: &PublishProperties, identifier: u8) {
    match identifier {
        0x08 => sized(sink, 0x08, bytes(&properties.response_topic)),
        0x09 => sized(sink, 0x09, bytes(&properties.correlation_data)),
        0x01 => byte(sink, 0x01, properties.payload_format_indicator),
        _ => sized(sink, 0x03, bytes(&properties.content_type)),
    }
}

impl Properties for Connect {
    fn write<S: Sink>(&self, sink: &mut S) {
        two_bytes(sink, 0x22, self.topic_alias_maximum);
        four_bytes(sink, 0x11, self.session_expiry_interval);
        two_bytes(sink, 0x21, self.receive_maximum);
        four_bytes(sink, 0x27, self.maximum_packet_size);
        byte(sink, 0x19, self.request_response_information);
        byte(sink, 0x17, self.request_problem_information);
        sized(sink, 0x15, bytes(&self.authentication_method));
        sized(sink, 0x16, bytes(&self.authentication_data));
        all_users(sink, &self.user_properties);
    }
}
impl Properties for Will {
    fn write<S: Sink>(&self, sink: &mut S) {
        four_bytes(sink, 0x18, (self.delay_interval_seconds > 0).then_some(self.delay_interval_seconds));
        if let Some(properties) = &self.properties {
            four_bytes(sink, 0x02, properties.message_expiry_interval);
            message(sink, properties);
        }
    }
}
impl Properties for ConnAck {
    fn write<S: Sink>(&self, sink: &mut S) {
        two_bytes(sink, 0x13, self.server_keep_alive);
        two_bytes(sink, 0x22, self.topic_alias_maximum);
        sized(sink, 0x12, bytes(&self.assigned_client_identifier));
        sized(sink, 0x15, bytes(&self.authentication_method));
        sized(sink, 0x16, bytes(&self.authentication_data));
        four_bytes(sink, 0x11, self.session_expiry_interval);
        sized(sink, 0x1F, bytes(&self.reason_string));
        all_users(sink, &self.user_properties);
        byte(sink, 0x28, self.wildcard_subscription_available);
        byte(sink, 0x29, self.subscription_identifiers_available);
        byte(sink, 0x2A, self.shared_subscription_available);
        sized(sink, 0x1A, bytes(&self.response_information));
        sized(sink, 0x1C, bytes(&self.server_reference));
        byte(sink, 0x25, self.retain_available);
        four_bytes(sink, 0x27, self.maximum_packet_size);
        two_bytes(sink, 0x21, self.receive_maximum);
        // QoS 2 is said by leaving the property out (section 3.2.2.3.4).
        byte(sink, 0x24, self.maximum_qos.filter(|qos| *qos < QoS::ExactlyOnce));
    }
}
impl Properties for Ack {
    fn write<S: Sink>(&self, sink: &mut S) {
        sized(sink, 0x1F, bytes(&self.reason_string));
        all_users(sink, &self.user_properties);
    }
}
impl Properties for Subscribe {
    fn write<S: Sink>(&self, sink: &mut S) {
        if let Some(identifier) = self.subscription_identifier {
            sink.u8(0x0B);
            sink.variable_byte_integer(identifier);
        }
        all_users(sink, &self.user_properties);
    }
}
impl Properties for SubAck {
    fn write<S: Sink>(&self, sink: &mut S) {
        sized(sink, 0x1F, bytes(&self.reason_string));
        all_users(sink, &self.user_properties);
    }
}
impl Properties for Unsubscribe {
    fn write<S: Sink>(&self, sink: &mut S) {
        all_users(sink, &self.user_properties);
    }
}
impl Properties for Disconnect {
    fn write<S: Sink>(&self, sink: &mut S) {
        four_bytes(sink, 0x11, self.session_expiry_interval);
        sized(sink, 0x1F, bytes(&self.reason_string));
        all_users(sink, &self.user_properties);
        sized(sink, 0x1C, bytes(&self.server_reference));
    }
}
impl Properties for Auth {
    fn write<S: Sink>(&self, sink: &mut S) {
        sized(sink, 0x15, bytes(&self.authentication_method));
        sized(sink, 0x16, bytes(&self.authentication_data));
        sized(sink, 0x1F, bytes(&self.reason_string));
        all_users(sink, &self.user_properties);
    }
}
