//! CONNECT and CONNACK (sections 3.1 and 3.2).
use super::{
    ConnectPart, DecodeError,
    body::Body,
    properties::{Properties, Property, PropertySet},
    publish::message_property,
};
use crate::mqtt::{ConnAck, Connect, PacketType, ProtocolVersion, PublishProperties, QoS, ReasonCode, TopicName, Will};

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;
const BRIDGE: u8 = 0x80;

pub(super) fn connect(first: u8, mut body: Body) -> Result<Connect, DecodeError> {
    let (version, bridge) = protocol(&mut body)?;
    if version != ProtocolVersion::V31 && first & 0x0F != 0 {
        return Err(DecodeError::ReservedFlags { packet_type: PacketType::Connect, flags: first & 0x0F });
    }
    let mut part = ConnectPart::Flags;
    fields(body, version, bridge, &mut part).map_err(|fault| DecodeError::InConnect {
        version,
        part,
        fault: Box::new(fault),
    })
}

/// Protocol name and level; the second value is Mosquitto's bridge bit.
fn protocol(body: &mut Body) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = body.binary()?;
    let is_v31 = match &name[..] {
        b"MQTT" => false,
        b"MQIsdp" => true,
        _ => return Err(DecodeError::ProtocolName),
    };
    let level = body.u8()?;
    match (is_v31, level) {
        (true, 3) => Ok((ProtocolVersion::V31, false)),
        (true, 0x83) => Ok((ProtocolVersion::V31, true)),
        (false, 4) => Ok((ProtocolVersion::V311, false)),
        (false, 0x84) => Ok((ProtocolVersion::V311, true)),
        (false, 5) => Ok((ProtocolVersion::V5, false)),
        _ => Err(DecodeError::UnsupportedProtocolLevel { level: level & !BRIDGE }),
    }
}

/// Everything after the protocol level; `part` says where it stopped.
fn fields(
    mut body: Body,
    version: ProtocolVersion,
    bridge: bool,
    part: &mut ConnectPart,
) -> Result<Connect, DecodeError> {
    let flags = body.u8()?;
    check_flags(flags, version)?;
    let mut connect = Connect::new(version, "");
    connect.bridge = bridge;
    connect.clean_start = flags & CLEAN_START != 0;
    *part = ConnectPart::KeepAlive;
    connect.keep_alive_seconds = body.u16()?;
    *part = ConnectPart::Properties;
    connect_properties(&mut connect, body.properties(version)?)?;
    *part = ConnectPart::ClientIdentifier;
    connect.client_id = body.text()?;
    if flags & WILL != 0 {
        *part = ConnectPart::Will;
        connect.will = Some(will(&mut body, flags, version)?);
    }
    // A 3.1 client may set these flags and leave the fields out.
    let present = |body: &Body| version != ProtocolVersion::V31 || !body.is_empty();
    if flags & USER_NAME != 0 && present(&body) {
        *part = ConnectPart::UserName;
        connect.user_name = Some(body.text()?);
    }
    if flags & PASSWORD != 0 && present(&body) {
        *part = ConnectPart::Password;
        connect.password = Some(body.binary()?);
    }
    *part = ConnectPart::End;
    body.finish()?;
    Ok(connect)
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    if flags >> 3 & 3 == 3 {
        return Err(DecodeError::InvalidQos);
    }
    if version != ProtocolVersion::V5 && flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    if version == ProtocolVersion::V31 {
        return Ok(()); // 3.1 does not reserve the other bits
    }
    if flags & RESERVED != 0 {
        return Err(DecodeError::ReservedConnectFlag);
    }
    if flags & WILL == 0 && flags & (WILL_RETAIN | 0b1_1000) != 0 {
        return Err(DecodeError::WillFlagsWithoutWill);
    }
    Ok(())
}

fn connect_properties(connect: &mut Connect, section: Body) -> Result<(), DecodeError> {
    let mut properties =
        Properties::new(section, PacketType::Connect, PropertySet::CONNECT, &mut connect.user_properties);
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => connect.session_expiry_interval = Some(value),
            Property::ReceiveMaximum(value) => connect.receive_maximum = Some(value),
            Property::MaximumPacketSize(value) => connect.maximum_packet_size = Some(value),
            Property::TopicAliasMaximum(value) => connect.topic_alias_maximum = Some(value),
            Property::RequestResponseInformation(value) => connect.request_response_information = Some(value),
            Property::RequestProblemInformation(value) => connect.request_problem_information = Some(value),
            Property::AuthenticationMethod(value) => connect.authentication_method = Some(value),
            Property::AuthenticationData(value) => connect.authentication_data = Some(value),
            _ => {}
        }
    }
    if connect.authentication_data.is_some() && connect.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationDataWithoutMethod);
    }
    Ok(())
}

fn will(body: &mut Body, flags: u8, version: ProtocolVersion) -> Result<Will, DecodeError> {
    let mut fields = PublishProperties::default();
    let mut user_properties = Vec::new();
    let mut delay_interval_seconds = 0;
    let section = body.properties(version)?;
    let mut properties = Properties::new(section, PacketType::Connect, PropertySet::WILL, &mut user_properties);
    while let Some(property) = properties.next()? {
        match property {
            Property::WillDelayInterval(value) => delay_interval_seconds = value,
            message => message_property(&mut fields, message),
        }
    }
    fields.order = properties.order();
    fields.user_properties = user_properties;
    let topic = TopicName::new(body.text()?)?;
    Ok(Will {
        topic,
        payload: body.binary()?,
        qos: QoS::try_from(flags >> 3 & 3).map_err(|_| DecodeError::InvalidQos)?,
        retain: flags & WILL_RETAIN != 0,
        delay_interval_seconds,
        properties: (fields != PublishProperties::default()).then(|| Box::new(fields)),
    })
}

pub(super) fn connack(mut body: Body, version: ProtocolVersion) -> Result<ConnAck, DecodeError> {
    let flags = body.u8()?;
    // 3.1 has a reserved byte here.
    if flags > 1 && version != ProtocolVersion::V31 {
        return Err(DecodeError::AcknowledgeFlags(flags));
    }
    let value = body.u8()?;
    let invalid = DecodeError::InvalidReason { packet_type: PacketType::ConnAck, value };
    let reason = if version == ProtocolVersion::V5 {
        ReasonCode::read(value, PacketType::ConnAck).ok_or(invalid)?
    } else {
        ReasonCode::from_connect_return_code(value).ok_or(invalid)?
    };
    let mut connack = ConnAck::new(flags == 1 && version != ProtocolVersion::V31, reason);
    connack_properties(&mut connack, body.properties(version)?)?;
    body.finish()?;
    Ok(connack)
}

fn connack_properties(connack: &mut ConnAck, section: Body) -> Result<(), DecodeError> {
    let mut properties =
        Properties::new(section, PacketType::ConnAck, PropertySet::CONNACK, &mut connack.user_properties);
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiryInterval(value) => connack.session_expiry_interval = Some(value),
            Property::ReceiveMaximum(value) => connack.receive_maximum = Some(value),
            Property::MaximumQos(at_least_once) => {
                connack.maximum_qos = Some(if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            Property::RetainAvailable(value) => connack.retain_available = Some(value),
            Property::MaximumPacketSize(value) => connack.maximum_packet_size = Some(value),
            Property::AssignedClientIdentifier(value) => connack.assigned_client_identifier = Some(value),
            Property::TopicAliasMaximum(value) => connack.topic_alias_maximum = Some(value),
            Property::ReasonString(value) => connack.reason_string = Some(value),
            Property::WildcardSubscriptionAvailable(value) => connack.wildcard_subscription_available = Some(value),
            Property::SubscriptionIdentifiersAvailable(value) => {
                connack.subscription_identifiers_available = Some(value);
            }
            Property::SharedSubscriptionAvailable(value) => connack.shared_subscription_available = Some(value),
            Property::ServerKeepAlive(value) => connack.server_keep_alive = Some(value),
            Property::ResponseInformation(value) => connack.response_information = Some(value),
            Property::ServerReference(value) => connack.server_reference = Some(value),
            Property::AuthenticationMethod(value) => connack.authentication_method = Some(value),
            Property::AuthenticationData(value) => connack.authentication_data = Some(value),
            _ => {}
        }
    }
    Ok(())
}
