//! Random packets that one version of MQTT can carry: what is encoded from them must come back the same.
#![allow(dead_code)] // each test file uses its own part
use bytes::Bytes;
use mosquorum_proto::mqtt::*;
use proptest::{collection::vec, option, prelude::*, sample::select};

pub(crate) fn version() -> impl Strategy<Value = ProtocolVersion> {
    select(&[ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5][..])
}

/// A version and a packet that exists in it.
pub(crate) fn versioned_packet() -> impl Strategy<Value = (ProtocolVersion, Packet)> {
    (version(), packet()).prop_filter_map("AUTH exists in 5.0 only", |(version, packet)| {
        fit(packet, version).map(|packet| (version, packet))
    })
}

fn text() -> impl Strategy<Value = Utf8> {
    "[a-zA-Z0-9 äß€𝄞/+#$]{0,20}".prop_map(Utf8::from)
}
fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}
fn topic() -> impl Strategy<Value = TopicName> {
    "[a-z0-9é/$]{1,20}".prop_map(|text| TopicName::new(text.into()).expect("has no wildcard"))
}
fn filter() -> impl Strategy<Value = TopicFilter> {
    let levels = vec(prop_oneof![Just("+".to_owned()), "[a-z0-9é$]{0,6}"], 1..5);
    (levels, any::<bool>(), option::weighted(0.2, "[a-z]{1,5}"))
        .prop_map(|(levels, multi, share)| {
            let share = share.map_or(String::new(), |name| format!("$share/{name}/"));
            format!("{share}x{}{}", levels.join("/").trim_start_matches('+'), if multi { "/#" } else { "" })
        })
        .prop_filter_map("a random level may be misplaced", |text| TopicFilter::new(text.into()).ok())
}
fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}
fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..4)
}
fn packet_id() -> impl Strategy<Value = PacketId> {
    1..=u16::MAX
}
fn identifier() -> impl Strategy<Value = u32> {
    prop_oneof![1..200_u32, 1..=268_435_455_u32]
}
fn reason(packet_type: PacketType) -> impl Strategy<Value = ReasonCode> {
    let all: Vec<_> = (0..=u8::MAX).filter_map(|value| ReasonCode::try_from(value).ok()).collect();
    select(all.into_iter().filter(|reason| reason.is_allowed_in(packet_type)).collect::<Vec<_>>())
}

fn message_properties() -> impl Strategy<Value = PublishProperties> {
    (
        option::of(any::<bool>()),
        option::of(any::<u32>()),
        option::of(topic()),
        option::of(binary()),
        option::of(text()),
        user_properties(),
    )
        .prop_map(|(format, expiry, response, correlation, content, user_properties)| PublishProperties {
            payload_format_indicator: format,
            message_expiry_interval: expiry,
            response_topic: response.map(|topic| topic.text().clone()),
            correlation_data: correlation,
            content_type: content,
            user_properties,
            ..PublishProperties::default()
        })
}
fn boxed_unless_empty(properties: PublishProperties) -> Option<Box<PublishProperties>> {
    (properties != PublishProperties::default()).then(|| Box::new(properties))
}

fn will() -> impl Strategy<Value = Will> {
    (topic(), binary(), qos(), any::<bool>(), any::<u32>(), message_properties()).prop_map(
        |(topic, payload, qos, retain, delay_interval_seconds, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval_seconds,
            properties: boxed_unless_empty(properties),
        },
    )
}

fn connect() -> impl Strategy<Value = Packet> {
    let plain = (any::<bool>(), any::<bool>(), any::<u16>(), text(), option::of(text()), option::of(binary()));
    let numbers =
        (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX), option::of(any::<u16>()));
    let rest = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        user_properties(),
        option::of((text(), option::of(binary()))),
    );
    (plain, option::of(will()), numbers, rest).prop_map(|(plain, will, numbers, rest)| {
        let (bridge, clean_start, keep_alive_seconds, client_id, user_name, password) = plain;
        let authentication = rest.3;
        Packet::Connect(Box::new(Connect {
            bridge,
            clean_start,
            keep_alive_seconds,
            user_name,
            password,
            will,
            session_expiry_interval: numbers.0,
            receive_maximum: numbers.1,
            maximum_packet_size: numbers.2,
            topic_alias_maximum: numbers.3,
            request_response_information: rest.0,
            request_problem_information: rest.1,
            user_properties: rest.2,
            authentication_data: authentication.as_ref().and_then(|(_, data)| data.clone()),
            authentication_method: authentication.map(|(method, _)| method),
            ..Connect::new(ProtocolVersion::V5, client_id)
        }))
    })
}

fn connack() -> impl Strategy<Value = Packet> {
    let head = (any::<bool>(), reason(PacketType::ConnAck), user_properties());
    let texts = (option::of(text()), option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let numbers =
        (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX), option::of(any::<u16>()));
    let flags = (
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
    );
    (head, texts, numbers, flags, option::of(any::<u16>()), option::of(binary())).prop_map(
        |(head, texts, numbers, flags, server_keep_alive, authentication_data)| {
            Packet::ConnAck(Box::new(ConnAck {
                user_properties: head.2,
                session_expiry_interval: numbers.0,
                receive_maximum: numbers.1,
                maximum_packet_size: numbers.2,
                topic_alias_maximum: numbers.3,
                maximum_qos: flags.4.map(|one| if one { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
                retain_available: flags.0,
                wildcard_subscription_available: flags.1,
                subscription_identifiers_available: flags.2,
                shared_subscription_available: flags.3,
                assigned_client_identifier: texts.0,
                reason_string: texts.1,
                response_information: texts.2,
                server_reference: texts.3,
                authentication_method: texts.4,
                authentication_data,
                server_keep_alive,
                ..ConnAck::new(head.0, head.1)
            }))
        },
    )
}

pub(crate) fn publish() -> impl Strategy<Value = Publish> {
    let flags = (any::<bool>(), qos(), any::<bool>(), packet_id());
    let own = (option::of(1..=u16::MAX), vec(identifier(), 0..4), any::<bool>());
    (flags, topic(), message_properties(), own, binary()).prop_map(|(flags, topic, properties, own, payload)| {
        let (topic_alias, subscription_identifiers, leave_topic_out) = own;
        Publish {
            dup: flags.0 && flags.1 != QoS::AtMostOnce,
            qos: flags.1,
            retain: flags.2,
            topic: (topic_alias.is_none() || !leave_topic_out).then_some(topic),
            packet_id: if flags.1 == QoS::AtMostOnce { 0 } else { flags.3 },
            properties: boxed_unless_empty(PublishProperties { topic_alias, subscription_identifiers, ..properties }),
            payload,
        }
    })
}

fn ack() -> impl Strategy<Value = Packet> {
    use PacketType::{PubAck, PubComp, PubRec, PubRel};
    let fields = (packet_id(), option::of(text()), user_properties());
    (select(&[PubAck, PubRec, PubRel, PubComp][..]), fields)
        .prop_flat_map(|(packet_type, fields)| (Just(packet_type), Just(fields), reason(packet_type)))
        .prop_map(|(packet_type, (packet_id, reason_string, user_properties), reason)| {
            let ack = Ack { packet_id, reason, reason_string, user_properties };
            match packet_type {
                PubAck => Packet::PubAck(ack),
                PubRec => Packet::PubRec(ack),
                PubRel => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            }
        })
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (filter(), qos(), any::<bool>(), any::<bool>(), 0..=2_u8).prop_map(
        |(filter, qos, no_local, retain_as_published, handling)| Subscription {
            no_local: no_local && filter.share_name().is_none(),
            filter,
            qos,
            retain_as_published,
            retain_handling: RetainHandling::try_from(handling).expect("0 to 2 exist"),
        },
    )
}
fn subscribe() -> impl Strategy<Value = Packet> {
    (packet_id(), option::of(identifier()), user_properties(), vec(subscription(), 1..5)).prop_map(
        |(packet_id, subscription_identifier, user_properties, subscriptions)| {
            Packet::Subscribe(Subscribe { packet_id, subscription_identifier, user_properties, subscriptions })
        },
    )
}
fn unsubscribe() -> impl Strategy<Value = Packet> {
    (packet_id(), user_properties(), vec(filter(), 1..5)).prop_map(|(packet_id, user_properties, filters)| {
        Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters })
    })
}
fn suback(packet_type: PacketType) -> impl Strategy<Value = SubAck> {
    (packet_id(), option::of(text()), user_properties(), vec(reason(packet_type), 0..6)).prop_map(
        |(packet_id, reason_string, user_properties, reasons)| SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}
fn disconnect() -> impl Strategy<Value = Packet> {
    let texts = (option::of(text()), option::of(text()));
    (reason(PacketType::Disconnect), option::of(any::<u32>()), texts, user_properties()).prop_map(
        |(reason, session_expiry_interval, (reason_string, server_reference), user_properties)| {
            Packet::Disconnect(Disconnect {
                reason,
                session_expiry_interval,
                reason_string,
                user_properties,
                server_reference,
            })
        },
    )
}
fn auth() -> impl Strategy<Value = Packet> {
    (reason(PacketType::Auth), text(), option::of(binary()), option::of(text()), user_properties()).prop_map(
        |(reason, method, data, reason_string, user_properties)| {
            Packet::Auth(Box::new(Auth { reason_string, user_properties, ..Auth::new(reason, method, data) }))
        },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        connect(),
        connack(),
        publish().prop_map(Packet::Publish),
        ack(),
        subscribe(),
        unsubscribe(),
        suback(PacketType::SubAck).prop_map(Packet::SubAck),
        suback(PacketType::UnsubAck).prop_map(Packet::UnsubAck),
        disconnect(),
        auth(),
        Just(Packet::PingReq),
        Just(Packet::PingResp),
    ]
}

/// The packet with only what `version` can carry; `None` if it does not exist there.
fn fit(packet: Packet, version: ProtocolVersion) -> Option<Packet> {
    if version == ProtocolVersion::V5 {
        return Some(match packet {
            Packet::Connect(connect) => Packet::Connect(Box::new(Connect { bridge: false, ..*connect })),
            other => other,
        });
    }
    let plain = |ack: Ack| Ack::new(ack.packet_id);
    Some(match packet {
        Packet::Connect(connect) => Packet::Connect(Box::new(Connect {
            bridge: connect.bridge,
            clean_start: connect.clean_start,
            keep_alive_seconds: connect.keep_alive_seconds,
            password: connect.password.filter(|_| connect.user_name.is_some()),
            user_name: connect.user_name,
            will: connect.will.map(|will| Will { delay_interval_seconds: 0, properties: None, ..will }),
            ..Connect::new(version, connect.client_id)
        })),
        Packet::ConnAck(connack) => Packet::ConnAck(Box::new(ConnAck::new(
            connack.session_present && version == ProtocolVersion::V311,
            ReasonCode::from_connect_return_code(connack.reason.connect_return_code())?,
        ))),
        Packet::Publish(publish) => {
            Packet::Publish(Publish { topic: Some(publish.topic?), properties: None, ..publish })
        }
        Packet::PubAck(ack) => Packet::PubAck(plain(ack)),
        Packet::PubRec(ack) => Packet::PubRec(plain(ack)),
        Packet::PubRel(ack) => Packet::PubRel(plain(ack)),
        Packet::PubComp(ack) => Packet::PubComp(plain(ack)),
        Packet::Subscribe(subscribe) => {
            let plain = |subscription: Subscription| Subscription::new(subscription.filter, subscription.qos);
            Packet::Subscribe(Subscribe::new(
                subscribe.packet_id,
                subscribe.subscriptions.into_iter().map(plain).collect(),
            ))
        }
        Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe(Unsubscribe::new(unsubscribe.packet_id, unsubscribe.filters))
        }
        Packet::SubAck(suback) => {
            let plain = |reason: ReasonCode| {
                if reason.is_error() { ReasonCode::UnspecifiedError } else { reason }
            };
            Packet::SubAck(SubAck::new(suback.packet_id, suback.reasons.into_iter().map(plain).collect()))
        }
        Packet::UnsubAck(suback) => Packet::UnsubAck(SubAck::new(suback.packet_id, Vec::new())),
        Packet::Disconnect(_) => Packet::Disconnect(Disconnect::new(ReasonCode::Success)),
        Packet::Auth(_) => return None,
        Packet::PingReq => Packet::PingReq,
        Packet::PingResp => Packet::PingResp,
    })
}
