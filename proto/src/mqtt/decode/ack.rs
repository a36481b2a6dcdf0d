//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7), DISCONNECT and AUTH (sections 3.14 and 3.15).
use super::{
    DecodeError, Sender,
    body::Body,
    properties::{Properties, Property, PropertySet},
};
use crate::mqtt::{Ack, Auth, Disconnect, PacketType, ProtocolVersion, ReasonCode};

pub(super) fn ack(
    packet_type: PacketType,
    mut body: Body,
    version: ProtocolVersion,
    sender: Sender,
) -> Result<Ack, DecodeError> {
    let mut ack = Ack::new(body.packet_id(packet_type)?);
    if version == ProtocolVersion::V5 && !body.is_empty() {
        let value = body.u8()?;
        ack.reason = match ReasonCode::try_from(value) {
            // What brokers say of a payload above their `message_size_limit`; the standard has no word for it.
            Ok(reason @ ReasonCode::PacketTooLarge)
                if sender != Sender::Client && matches!(packet_type, PacketType::PubAck | PacketType::PubRec) =>
            {
                reason
            }
            _ => ReasonCode::read(value, packet_type).ok_or(DecodeError::InvalidReason { packet_type, value })?,
        };
        if !body.is_empty() {
            let section = body.properties(version)?;
            let mut properties = Properties::new(section, packet_type, PropertySet::ACK, &mut ack.user_properties);
            while let Some(property) = properties.next()? {
                if let Property::ReasonString(value) = property {
                    ack.reason_string = Some(value);
                }
            }
        }
    }
    body.finish()?;
    Ok(ack)
}

/// # Errors
/// [`DecodeError::InvalidReason`] if the code does not exist or not in this packet.
pub(super) fn reason(body: &mut Body, packet_type: PacketType) -> Result<ReasonCode, DecodeError> {
    let value = body.u8()?;
    ReasonCode::read(value, packet_type).ok_or(DecodeError::InvalidReason { packet_type, value })
}

pub(super) fn disconnect(mut body: Body, version: ProtocolVersion) -> Result<Disconnect, DecodeError> {
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    if version == ProtocolVersion::V5 && !body.is_empty() {
        disconnect.reason = reason(&mut body, PacketType::Disconnect)?;
        if !body.is_empty() {
            let section = body.properties(version)?;
            let mut properties = Properties::new(
                section,
                PacketType::Disconnect,
                PropertySet::DISCONNECT,
                &mut disconnect.user_properties,
            );
            while let Some(property) = properties.next()? {
                match property {
                    Property::SessionExpiryInterval(value) => disconnect.session_expiry_interval = Some(value),
                    Property::ReasonString(value) => disconnect.reason_string = Some(value),
                    Property::ServerReference(value) => disconnect.server_reference = Some(value),
                    _ => {}
                }
            }
        }
    }
    body.finish()?;
    Ok(disconnect)
}

pub(super) fn auth(mut body: Body, version: ProtocolVersion) -> Result<Auth, DecodeError> {
    let mut auth = Auth {
        reason: ReasonCode::Success,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    };
    if !body.is_empty() {
        auth.reason = reason(&mut body, PacketType::Auth)?;
        if !body.is_empty() {
            let section = body.properties(version)?;
            let mut properties =
                Properties::new(section, PacketType::Auth, PropertySet::AUTH, &mut auth.user_properties);
            while let Some(property) = properties.next()? {
                match property {
                    Property::AuthenticationMethod(value) => auth.authentication_method = Some(value),
                    Property::AuthenticationData(value) => auth.authentication_data = Some(value),
                    Property::ReasonString(value) => auth.reason_string = Some(value),
                    _ => {}
                }
            }
        }
        // Only the short form, which means success, goes without a method (section 3.15.2.2.2).
        if auth.reason != ReasonCode::Success && auth.authentication_method.is_none() {
            return Err(DecodeError::MissingAuthenticationMethod);
        }
    }
    body.finish()?;
    Ok(auth)
}
