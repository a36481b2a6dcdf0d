use super::*;
use crate::{ReloadType, RestartTimeout, StartType, Topic, Topics};
use mosquorum_proto::mqtt::{Ack, ConnAck, Disconnect, PublishProperties, SubAck, Utf8};

fn settings(lines: &[&str]) -> BridgeSettings {
    BridgeSettings {
        name: "b".into(),
        topics: Topics::new(lines.iter().map(|line| Topic::parse(line).unwrap()).collect()),
        version: ProtocolVersion::V5,
        remote_client_id: Utf8::from("host.b"),
        remote_username: None,
        local_client_id: Utf8::from("local.host.b"),
        local_username: None,
        clean_session: false,
        local_clean_session: false,
        notification_topic: None,
        notifications_local_only: false,
        keep_alive_seconds: 60,
        try_private: true,
        loop_mark: false,
        attempt_unsubscribe: false,
        outgoing_retain: true,
        max_packet_size: 0,
        max_topic_alias: 10,
        receive_maximum: None,
        session_expiry_seconds: 0,
        start_type: StartType::Automatic,
        restart_timeout: RestartTimeout::Constant(Duration::from_secs(5)),
        reload_type: ReloadType::Lazy,
        round_robin: false,
    }
}

fn relay_with(settings: BridgeSettings, connack: &ConnAck, stale: &[PacketId]) -> Relay {
    let limits = Limits::new(&settings);
    let remote = Remote::new(connack, &settings, &limits);
    let mut relay = Relay::new(Arc::new(settings), remote, limits, with_stale(stale), Duration::ZERO);
    relay.to_local.clear();
    relay
}

fn with_stale(stale: &[PacketId]) -> Beginning {
    Beginning { stale: stale.to_vec(), ..Beginning::default() }
}

fn relay(lines: &[&str]) -> Relay {
    relay_with(settings(lines), &ConnAck::default(), &[])
}

fn publish(topic: &str, qos: QoS, packet_id: PacketId) -> Publish {
    let mut publish = Publish::new(TopicName::new(Utf8::from(topic)).unwrap(), &b"x"[..]);
    (publish.qos, publish.packet_id) = (qos, packet_id);
    publish
}

fn taken(packets: &mut Vec<Packet>) -> Vec<Packet> {
    std::mem::take(packets)
}

#[test]
fn a_message_goes_out_and_is_acknowledged_here_only_when_the_remote_has_it() {
    let mut relay = relay(&["a/# out 1 \"\" site/"]);
    relay.on_local(Packet::Publish(publish("a/b", QoS::AtLeastOnce, 7))).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::Publish(publish("site/a/b", QoS::AtLeastOnce, 7))]);
    assert!(relay.to_local.is_empty());
    relay.on_remote(Packet::PubAck(Ack::new(8))).unwrap();
    assert!(relay.to_local.is_empty(), "an acknowledgement of nothing is ignored");
    relay.on_remote(Packet::PubAck(Ack::new(7))).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::PubAck(Ack::new(7))]);
    assert!(relay.is_idle());
}

#[test]
fn each_step_of_qos_2_goes_out_after_the_local_session_has_made_the_one_before_durable() {
    let mut relay = relay(&["a out 2"]);
    relay.on_local(Packet::Publish(publish("a", QoS::ExactlyOnce, 3))).unwrap();
    taken(&mut relay.to_remote);
    relay.on_remote(Packet::PubRec(Ack::new(3))).unwrap();
    assert!(relay.to_remote.is_empty());
    assert_eq!(taken(&mut relay.to_local), [Packet::PubRec(Ack::new(3))]);
    relay.on_local(Packet::PubRel(Ack::new(3))).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::PubRel(Ack::new(3))]);
    relay.on_remote(Packet::PubComp(Ack::new(3))).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::PubComp(Ack::new(3))]);
    assert!(relay.is_idle());
}

#[test]
fn another_node_goes_on_with_the_same_identifiers() {
    let mut settings = settings(&["a both 2"]);
    settings.attempt_unsubscribe = true;
    let answered = |relay: &mut Relay| {
        let Some(Packet::Subscribe(subscribe)) = relay.to_remote.pop() else { panic!("{:?}", relay.to_remote) };
        let suback = SubAck::new(subscribe.packet_id, vec![ReasonCode::GrantedQos2]);
        relay.on_remote(Packet::SubAck(suback)).unwrap();
    };
    let mut first = relay_with(settings.clone(), &ConnAck::default(), &[]);
    answered(&mut first);
    first.on_local(Packet::Publish(publish("a", QoS::ExactlyOnce, u16::MAX))).unwrap();
    let Some(Packet::Publish(sent)) = first.to_remote.pop() else { panic!() };
    let mut second = relay_with(settings, &ConnAck::new(true, ReasonCode::Success), &[]);
    answered(&mut second);
    second.on_local(Packet::PubRel(Ack::new(u16::MAX))).unwrap();
    assert_eq!(taken(&mut second.to_remote), [Packet::PubRel(Ack::new(sent.packet_id))]);
    second.on_remote(Packet::PubComp(Ack::new(sent.packet_id))).unwrap();
    assert_eq!(taken(&mut second.to_local), [Packet::PubComp(Ack::new(u16::MAX))]);
}

#[test]
fn the_remote_is_answered_only_after_the_local_broker() {
    let mut relay = relay(&["# out 0"]);
    relay.on_remote(Packet::Publish(publish("c", QoS::AtLeastOnce, 20))).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::Publish(publish("c", QoS::AtLeastOnce, 20))]);
    assert!(relay.to_remote.is_empty());
    let nobody = Ack::with_reason(20, ReasonCode::NoMatchingSubscribers);
    relay.on_local(Packet::PubAck(nobody)).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::PubAck(Ack::new(20))]);
}

#[test] // 0x95 comes from brokers only.
fn a_refusal_is_passed_on_with_a_reason_that_a_client_may_give() {
    let mut relay = relay(&["a both 2"]);
    relay.to_remote.clear();
    let too_large = |id| Ack::with_reason(id, ReasonCode::PacketTooLarge);
    let quota = |id| Ack::with_reason(id, ReasonCode::QuotaExceeded);
    for (qos, id) in [(QoS::AtLeastOnce, 7), (QoS::ExactlyOnce, 8)] {
        relay.on_remote(Packet::Publish(publish("a", qos, id))).unwrap();
    }
    relay.on_local(Packet::PubAck(too_large(7))).unwrap();
    relay.on_local(Packet::PubRec(too_large(8))).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::PubAck(quota(7)), Packet::PubRec(quota(8))]);
    let Some(Packet::Subscribe(asked)) = self::relay(&["a both 2"]).to_remote.pop() else { panic!() };
    relay.on_remote(Packet::SubAck(SubAck::new(asked.packet_id, vec![ReasonCode::GrantedQos2]))).unwrap();
    relay.to_local.clear();
    relay.on_local(Packet::Publish(publish("a", QoS::ExactlyOnce, 3))).unwrap();
    let Some(Packet::Publish(sent)) = relay.to_remote.pop() else { panic!() };
    relay.on_remote(Packet::PubRec(too_large(sent.packet_id))).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::PubRec(quota(3))]);
}

#[test]
fn nothing_goes_out_before_the_questions_at_the_beginning_are_answered() {
    let mut relay = relay(&["a both 1"]);
    let Some(Packet::Subscribe(subscribe)) = taken(&mut relay.to_remote).pop() else { panic!() };
    assert!(subscribe.subscriptions[0].no_local && subscribe.subscriptions[0].retain_as_published);
    relay.on_local(Packet::Publish(publish("a", QoS::AtLeastOnce, 1))).unwrap();
    assert!(relay.to_remote.is_empty());
    let refused = SubAck::new(subscribe.packet_id, vec![ReasonCode::NotAuthorized]);
    relay.on_remote(Packet::SubAck(refused)).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::Publish(publish("a", QoS::AtLeastOnce, 2))]);
    assert!(relay.notices[0].contains("SUBSCRIBE to a"), "{:?}", relay.notices);
}

#[test]
fn the_limits_of_the_remote_are_kept() {
    let mut connack = ConnAck::new(false, ReasonCode::Success);
    connack.receive_maximum = Some(1);
    connack.maximum_qos = Some(QoS::AtLeastOnce);
    connack.retain_available = Some(false);
    connack.maximum_packet_size = Some(40);
    let mut relay = relay_with(settings(&["# out 2"]), &connack, &[]);
    let mut large = publish("a", QoS::ExactlyOnce, 1);
    large.payload = vec![0; 64].into();
    relay.on_local(Packet::Publish(large)).unwrap();
    assert_eq!((relay.counts.dropped_too_large, relay.to_remote.len()), (1, 0));
    assert_eq!(taken(&mut relay.to_local), [Packet::PubRec(Ack::new(1))]);
    relay.on_local(Packet::PubRel(Ack::new(1))).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::PubComp(Ack::new(1))]);
    for id in [2, 3] {
        let retained = Publish { retain: true, ..publish("a", QoS::ExactlyOnce, id) };
        relay.on_local(Packet::Publish(retained)).unwrap();
    }
    assert_eq!(taken(&mut relay.to_remote), [Packet::Publish(publish("a", QoS::AtLeastOnce, 2))]);
    relay.on_remote(Packet::PubAck(Ack::new(2))).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::Publish(publish("a", QoS::AtLeastOnce, 3))]);
    assert_eq!(taken(&mut relay.to_local), [Packet::PubRec(Ack::new(2))]);
}

#[test]
fn a_remote_that_forgot_the_session_does_not_have_new_messages_taken_for_old_ones() {
    let settings = settings(&["# in 2"]);
    let limits = Limits::new(&settings);
    let remote = Remote::new(&ConnAck::default(), &settings, &limits);
    let mut relay = Relay::new(Arc::new(settings), remote, limits, with_stale(&[9]), Duration::ZERO);
    assert_eq!(relay.to_local[0], Packet::PubRel(Ack::new(9)));
    taken(&mut relay.to_remote);
    relay.on_local(Packet::PubComp(Ack::new(9))).unwrap();
    assert!(relay.to_remote.is_empty());
}

#[test]
fn aliases_of_the_remote_are_resolved_and_properties_cross() {
    let mut relay = relay(&["answers/# in 1 \"\" site/", "# out 0"]);
    taken(&mut relay.to_remote);
    let mut first = publish("site/answers/1", QoS::AtMostOnce, 0);
    first.properties = Some(Box::new(PublishProperties {
        topic_alias: Some(2),
        content_type: Some(Utf8::from("text")),
        subscription_identifiers: vec![4],
        ..PublishProperties::default()
    }));
    let mut second = first.clone();
    second.topic = None;
    for packet in [first, second] {
        relay.on_remote(Packet::Publish(packet)).unwrap();
        let Some(Packet::Publish(local)) = relay.to_local.pop() else { panic!() };
        assert_eq!(local.topic.unwrap().as_str(), "answers/1");
        let properties = local.properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("text"));
        assert!(properties.topic_alias.is_none() && properties.subscription_identifiers.is_empty());
    }
    let mut unknown = publish("a", QoS::AtMostOnce, 0);
    unknown.topic = None;
    unknown.properties = Some(Box::new(PublishProperties { topic_alias: Some(3), ..PublishProperties::default() }));
    assert!(relay.on_remote(Packet::Publish(unknown)).is_err());
}

#[test]
fn a_silent_remote_is_left_and_a_speaking_one_is_not() {
    let mut relay = relay(&["# out 0"]);
    let at = Duration::from_secs;
    assert_eq!(relay.on_time(at(59)), Ok(at(60)));
    assert_eq!(relay.on_time(at(60)), Ok(at(120)));
    assert_eq!(taken(&mut relay.to_remote), [Packet::PingReq]);
    relay.read_remote(at(100));
    assert_eq!(relay.on_time(at(120)), Ok(at(160)));
    assert_eq!(relay.on_time(at(160)), Err(RelayEnd::KeepAlive));
}

#[test]
fn refusals_lower_what_is_tried_next() {
    let mut limits = Limits::new(&settings(&["# out 0"]));
    assert!(limits.lower(ReasonCode::UnsupportedProtocolVersion).is_some());
    assert_eq!(limits.version, ProtocolVersion::V311);
    assert!(limits.lower(ReasonCode::UnsupportedProtocolVersion).is_some() && !limits.try_private);
    assert!(limits.lower(ReasonCode::UnsupportedProtocolVersion).is_none());
    assert!(limits.lower(ReasonCode::QosNotSupported).is_some());
    assert_eq!(limits.max_qos, QoS::AtLeastOnce);
    assert!(limits.lower(ReasonCode::NotAuthorized).is_none());
}

#[test]
fn the_state_is_announced_on_both_sides_and_left_as_a_will() {
    let mut settings = settings(&["a out 1"]);
    settings.notification_topic = Some(TopicName::new(Utf8::from("state")).unwrap());
    let limits = Limits::new(&settings);
    let connect = Relay::remote_connect(&settings, &limits, Some(20), None);
    assert_eq!(connect.will.map(|will| (will.topic.as_str().to_owned(), will.retain)), Some(("state".into(), true)));
    assert!(Relay::local_connect(&settings, 20, true).will.is_some());
    let remote = Remote::new(&ConnAck::default(), &settings, &limits);
    let mut relay = Relay::new(Arc::new(settings), remote, limits, Beginning::default(), Duration::ZERO);
    for packets in [&mut relay.to_local, &mut relay.to_remote] {
        let Packet::Publish(publish) = &packets[0] else { panic!("{packets:?}") };
        assert_eq!((&publish.payload[..], publish.retain), (&b"1"[..], true));
    }
    assert!(relay.on_local(Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver))).is_err());
}

#[test]
fn this_side_is_notified_that_the_bridge_is_connected_once_the_remote_has_every_subscription() {
    let mut settings = settings(&["in/1 in 1", "out in 0", "out out 1"]);
    settings.notification_topic = Some(TopicName::new(Utf8::from("state")).unwrap());
    let mut relay = relay_with(settings, &ConnAck::default(), &[]);
    let subscribes = taken(&mut relay.to_remote).into_iter().filter_map(|packet| match packet {
        Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
        _ => None,
    });
    let (announced, mut answered) = (|relay: &mut Relay| taken(&mut relay.to_local), Vec::new());
    for packet_id in subscribes {
        assert!(announced(&mut relay).is_empty(), "after {answered:?}");
        // A refusal is an answer too.
        let reason = if answered.is_empty() { ReasonCode::Success } else { ReasonCode::NotAuthorized };
        relay.on_remote(Packet::SubAck(SubAck::new(packet_id, vec![reason]))).unwrap();
        answered.push(packet_id);
    }
    let packets = announced(&mut relay);
    let [Packet::Publish(state)] = &packets[..] else { panic!("{packets:?}") };
    assert_eq!((&state.payload[..], state.retain, answered.len()), (&b"1"[..], true, 2));
    relay.on_remote(Packet::SubAck(SubAck::new(answered[0], vec![ReasonCode::Success]))).unwrap();
    assert!(announced(&mut relay).is_empty(), "once");
}

#[test]
fn questions_do_not_use_identifiers_that_an_earlier_connection_may_have_left_at_the_remote() {
    let settings = settings(&["a both 2"]);
    let limits = Limits::new(&settings);
    let remote = Remote::new(&ConnAck::default(), &settings, &limits);
    let beginning = Beginning { in_flight: vec![1, 2, 3], ..Beginning::default() };
    let relay = Relay::new(Arc::new(settings), remote, limits, beginning, Duration::ZERO);
    let Packet::Subscribe(subscribe) = &relay.to_remote[0] else { panic!("{:?}", relay.to_remote) };
    assert_eq!(subscribe.packet_id, 1, "the messages have 2, 3 and 4 at the remote");
    let mut relay = relay;
    assert_eq!(relay.ask(String::new()), 5);
    assert!(relay.on_time(Duration::from_secs(30)).is_err(), "a remote that does not answer is left");
}

/// However many of them the local broker holds: what releases them may come behind everything else.
#[test]
fn what_an_earlier_connection_left_keeps_nothing_waiting() {
    let settings = settings(&["a in 2"]);
    let limits = Limits::new(&settings);
    let connack = ConnAck { session_present: true, ..ConnAck::default() };
    let remote = Remote::new(&connack, &settings, &limits);
    let stale: Vec<PacketId> = (1..=500).collect();
    let mut relay = Relay::new(Arc::new(settings), remote, limits, with_stale(&stale), Duration::ZERO);
    let Some(Packet::Subscribe(subscribe)) = taken(&mut relay.to_remote).pop() else { panic!() };
    relay.on_remote(Packet::SubAck(SubAck::new(subscribe.packet_id, vec![ReasonCode::GrantedQos2]))).unwrap();
    assert!(relay.is_idle(), "what the remote may never come back to keeps nobody busy");
    taken(&mut relay.to_local);
    let again = (501..=1000).map(|id| publish("a", QoS::AtLeastOnce, id));
    let again: Vec<_> = again.chain(stale.iter().map(|id| publish("a", QoS::ExactlyOnce, *id))).collect();
    for publish in &again {
        relay.on_remote(Packet::Publish(publish.clone())).unwrap();
    }
    assert_eq!(taken(&mut relay.to_local), again.into_iter().map(Packet::Publish).collect::<Vec<_>>());
    assert!(!relay.is_finished());
}

#[test]
fn a_remote_that_cannot_say_how_much_it_takes_gets_what_mosquitto_takes() {
    let mut settings = settings(&["a out 1"]);
    settings.version = ProtocolVersion::V311;
    let mut relay = relay_with(settings, &ConnAck::default(), &[]);
    for packet_id in 1..=30 {
        relay.on_local(Packet::Publish(publish("a", QoS::AtLeastOnce, packet_id))).unwrap();
    }
    assert_eq!(taken(&mut relay.to_remote).len(), 20);
    relay.on_remote(Packet::PubAck(Ack::new(1))).unwrap();
    assert_eq!(taken(&mut relay.to_remote).len(), 1);
}

#[test]
fn changes_missed_by_the_remote_are_sent_within_its_window_and_before_what_is_new() {
    let mut settings = settings(&["a/# out 1 \"\" site/"]);
    settings.local_clean_session = true;
    let limits = Limits::new(&settings);
    let connack = ConnAck { receive_maximum: Some(2), ..ConnAck::default() };
    let remote = Remote::new(&connack, &settings, &limits);
    let mut sent_retained = SentRetained::default();
    sent_retained.begin();
    let missed = ["a/1", "a/2", "a/3"].map(|topic| publish(topic, QoS::ExactlyOnce, 0)).into();
    let beginning = Beginning { sent_retained, missed, ..Beginning::default() };
    let mut relay = Relay::new(Arc::new(settings), remote, limits, beginning, Duration::ZERO);
    let Some(Packet::Subscribe(subscribe)) = taken(&mut relay.to_local).pop() else { panic!() };
    assert_eq!(subscribe.subscriptions[0].retain_handling, RetainHandling::DoNotSend, "what is sent is sent once");
    relay.on_local(Packet::Publish(publish("a/9", QoS::AtLeastOnce, 9))).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let Some(Packet::Publish(publish)) = relay.to_remote.first().cloned() else { panic!("{seen:?}") };
        relay.to_remote.remove(0);
        assert!(relay.to_remote.len() < 2);
        seen.push((publish.topic.unwrap().as_str().to_owned(), publish.qos, publish.retain));
        relay.on_remote(Packet::PubAck(Ack::new(publish.packet_id))).unwrap();
    }
    let one = |topic: &str, retain| (format!("site/{topic}"), QoS::AtLeastOnce, retain);
    assert_eq!(seen, [one("a/1", true), one("a/2", true), one("a/3", true), one("a/9", false)]);
    assert!(relay.is_idle());
}

#[test]
fn a_remote_that_lost_the_session_it_was_to_keep_is_sent_everything() {
    let mut settings = settings(&["a/# out 0", "b/# out 1"]);
    let handling = |settings: &BridgeSettings| {
        let limits = Limits::new(settings);
        let remote = Remote::new(&ConnAck::default(), settings, &limits);
        let mut sent_retained = SentRetained::default();
        sent_retained.begin();
        let missed = [publish("a/1", QoS::AtMostOnce, 0)].into();
        let beginning = Beginning { sent_retained, missed, ..Beginning::default() };
        let relay = Relay::new(Arc::new(settings.clone()), remote, limits, beginning, Duration::ZERO);
        let Some(Packet::Subscribe(subscribe)) = relay.to_local.last().cloned() else { panic!() };
        let sent_missed = relay.to_remote.iter().any(|packet| matches!(packet, Packet::Publish(_)));
        (subscribe.subscriptions.iter().map(|one| one.retain_handling).collect::<Vec<_>>(), sent_missed)
    };
    let compared = vec![RetainHandling::DoNotSend, RetainHandling::SendAtSubscribe];
    assert_eq!(handling(&settings), (compared, true));
    settings.session_expiry_seconds = 60;
    assert_eq!(handling(&settings), (vec![RetainHandling::SendAtSubscribe; 2], false));
}

#[test]
fn a_full_queue_of_qos_0_does_not_hide_the_release_that_the_window_waits_for() {
    let mut connack = ConnAck::new(false, ReasonCode::Success);
    connack.receive_maximum = Some(1);
    let mut relay = relay_with(settings(&["q out 2", "z out 0"]), &connack, &[]);
    for id in [1, 2] {
        relay.on_local(Packet::Publish(publish("q", QoS::ExactlyOnce, id))).unwrap();
    }
    for _ in 0..2 * QUEUED_LAST {
        relay.on_local(Packet::Publish(publish("z", QoS::AtMostOnce, 0))).unwrap();
    }
    assert!(!relay.wants_local());
    relay.on_remote(Packet::PubRec(Ack::new(1))).unwrap();
    assert!(relay.wants_local());
    assert_eq!((relay.queued_out.len(), relay.counts.dropped_full), (QUEUED_LAST, QUEUED_LAST as u64 + 1));
    relay.on_local(Packet::PubRel(Ack::new(1))).unwrap();
    assert!(!relay.wants_local());
    relay.on_remote(Packet::PubComp(Ack::new(1))).unwrap();
    assert!(relay.to_remote.contains(&Packet::Publish(publish("q", QoS::ExactlyOnce, 2))));
}

#[test]
fn a_silent_remote_is_asked_however_much_goes_out() {
    let mut relay = relay(&["a out 0"]);
    let second = Duration::from_secs(1);
    for now in 1..60 {
        relay.on_time(second * now).unwrap();
        relay.wrote_remote(second * now);
    }
    assert!(relay.to_remote.is_empty());
    relay.on_time(second * 60).unwrap();
    assert_eq!(taken(&mut relay.to_remote), [Packet::PingReq]);
    relay.wrote_remote(second * 60);
    assert_eq!(relay.on_time(second * 120), Err(RelayEnd::KeepAlive));
}

#[test]
fn a_retained_message_of_the_remote_that_is_not_kept_here_is_not_noted() {
    let retained = || Packet::Publish(Publish { retain: true, ..publish("a", QoS::AtMostOnce, 0) });
    let mut without = relay(&["# both 0"]);
    without.limits.local_retain_available = false;
    without.on_remote(retained()).unwrap();
    let mut small = relay(&["# both 0"]);
    small.limits.local_max_packet_size = 4;
    small.on_remote(retained()).unwrap();
    for relay in [&mut without, &mut small] {
        assert!(relay.take_sent_retained().topics(None, 9).is_empty());
    }
    let mut kept = relay(&["# both 0"]);
    kept.on_remote(retained()).unwrap();
    assert_eq!(kept.take_sent_retained().unconfirmed(None, 9).len(), 1);
}

#[test]
fn what_is_queued_for_a_line_that_is_gone_does_not_go_out() {
    let mut relay = relay(&["a out 1"]);
    relay.on_local(Packet::Publish(publish("b", QoS::AtLeastOnce, 1))).unwrap();
    assert_eq!((relay.counts.dropped_topic, relay.to_remote.len()), (1, 0));
    assert_eq!(taken(&mut relay.to_local), [Packet::PubAck(Ack::new(1))]);
}

fn begun(settings: BridgeSettings, connack: &ConnAck, beginning: Beginning) -> Relay {
    let limits = Limits::new(&settings);
    let remote = Remote::new(connack, &settings, &limits);
    Relay::new(Arc::new(settings), remote, limits, beginning, Duration::ZERO)
}

#[test]
fn a_line_that_is_new_is_sent_what_is_retained_though_the_remote_kept_its_session() {
    let filter = |text: &str| mosquorum_proto::mqtt::TopicFilter::new(Utf8::from(text)).unwrap();
    let beginning =
        Beginning { unsent: [filter("b/#")].into(), gone: [filter("old/#")].into(), ..Beginning::default() };
    let relay = begun(settings(&["a/# out 1", "b/# out 1"]), &ConnAck::new(true, ReasonCode::Success), beginning);
    let [Packet::Subscribe(subscribe)] = &relay.to_local[..] else { panic!("{:?}", relay.to_local) };
    let handling: Vec<_> = subscribe.subscriptions.iter().map(|line| line.retain_handling).collect();
    assert_eq!(handling, [RetainHandling::DoNotSend, RetainHandling::SendAtSubscribe]);
    let [Packet::Unsubscribe(unsubscribe)] = &relay.to_remote[..] else { panic!("{:?}", relay.to_remote) };
    assert_eq!(unsubscribe.filters, [filter("old/#")]);
}

#[test]
fn with_mqtt_3_1_an_exchange_ends_only_when_its_identifier_means_a_new_message() {
    let mut settings = settings(&["a in 2"]);
    settings.version = ProtocolVersion::V31;
    let mut relay = begun(settings, &ConnAck::default(), with_stale(&[8, 9]));
    assert!(relay.to_local.is_empty());
    let again = Publish { dup: true, ..publish("a", QoS::ExactlyOnce, 8) };
    relay.on_remote(Packet::Publish(again.clone())).unwrap();
    assert_eq!(taken(&mut relay.to_local), [Packet::Publish(again)]);
    relay.on_remote(Packet::Publish(publish("a", QoS::ExactlyOnce, 9))).unwrap();
    let released = Packet::PubRel(Ack::new(9));
    assert_eq!(taken(&mut relay.to_local), [released, Packet::Publish(publish("a", QoS::ExactlyOnce, 9))]);
}

#[test]
fn the_announcement_fits_into_a_window_that_earlier_exchanges_fill() {
    let mut settings = settings(&["a out 2"]);
    settings.notification_topic = Some(TopicName::new(Utf8::from("state")).unwrap());
    for (in_flight, expected) in [(vec![], QoS::AtLeastOnce), (vec![1], QoS::AtMostOnce)] {
        let mut connack = ConnAck::new(true, ReasonCode::Success);
        connack.receive_maximum = Some(1);
        let relay = begun(settings.clone(), &connack, Beginning { in_flight, ..Beginning::default() });
        let Some(Packet::Publish(state)) = relay.to_remote.first() else { panic!("{:?}", relay.to_remote) };
        assert_eq!(state.qos, expected);
    }
}
