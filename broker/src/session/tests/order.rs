//! The packets of one client take effect in their order, whatever waits for the log or for other nodes.
use super::*;
use mosquorum_proto::mqtt::Unsubscribe;

fn subscribed() -> Answer {
    Answer::Applied { outcome: Outcome::Subscribed { existed: vec![false] }, index: LogIndex(3) }
}

fn unsubscribe() -> Packet {
    Packet::Unsubscribe(Unsubscribe::new(9, vec![TopicFilter::try_from("t").expect("a filter")]))
}

/// An answer and all that follows from it.
fn answer(session: &mut Session, ticket: u64, answer: Answer, env: &mut Fake) {
    session.on_answer(ticket, answer, env).expect("the connection goes on");
    session.go_on(env).expect("the connection goes on");
}

fn disconnect(reason: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect::new(reason))
}

#[test]
fn a_subscription_does_not_see_what_the_client_published_before_it() {
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(publish(QoS::AtMostOnce, 0, "kept", true), &mut env).unwrap();
    session.on_packet(subscribe("t"), &mut env).unwrap();
    session.on_packet(Packet::PingReq, &mut env).unwrap();
    assert!(env.sent().is_empty() && !session.wants_input());
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, published(0, false), &mut env).unwrap();
    assert!(env.sent().is_empty(), "what came with the answer is sent before");
    session.go_on(&mut env).unwrap();
    assert!(matches!(env.sent()[..], [Packet::SubAck(_), Packet::PingResp]));
    assert!(session.wants_input());
}

#[test]
fn a_message_behind_the_subscription_of_a_durable_session_is_matched_behind_it() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut session, mut env) = (session(true), fake());
        session.on_packet(subscribe("t"), &mut env).unwrap();
        session.on_packet(publish(qos, u16::from(qos != QoS::AtMostOnce), "x", false), &mut env).unwrap();
        assert_eq!((env.submitted.len(), env.delivered.len()), (1, 0), "only the subscription");
        env.durable = true;
        let ticket = env.submitted[0].1;
        answer(&mut session, ticket, subscribed(), &mut env);
        assert!(env.submitted.len() == 2 || !env.delivered.is_empty(), "{qos:?}");
    }
}

#[test]
fn a_message_behind_the_end_of_a_subscription_is_matched_behind_it() {
    let (mut session, mut env) = (session(true), fake());
    env.durable = true;
    session.on_packet(unsubscribe(), &mut env).unwrap();
    session.on_packet(publish(QoS::AtLeastOnce, 1, "y", false), &mut env).unwrap();
    assert_eq!((env.submitted.len(), env.delivered.len()), (1, 0));
    env.durable = false;
    let ended = Answer::Applied { outcome: Outcome::Unsubscribed { existed: vec![true] }, index: LogIndex(4) };
    let ticket = env.submitted[0].1;
    answer(&mut session, ticket, ended, &mut env);
    assert_eq!((env.submitted.len(), env.delivered.len()), (1, 1), "nobody durable is left");
}

#[test]
fn a_message_behind_the_subscription_of_a_clean_session_waits_until_it_is_made() {
    let (mut session, mut env) = (session(false), fake());
    env.clustered = true;
    session.on_packet(subscribe("t"), &mut env).unwrap();
    session.on_packet(publish(QoS::AtMostOnce, 0, "x", false), &mut env).unwrap();
    let barrier = env.barriers[0];
    answer(&mut session, barrier, Answer::BarrierPassed, &mut env);
    assert!(env.delivered.is_empty());
    let ticket = env.routes[0].1;
    answer(&mut session, ticket, Answer::RoutesKnown, &mut env);
    assert_eq!(env.delivered, ["x"]);
}

#[test]
fn of_two_subscriptions_under_way_the_later_one_is_made_last_whichever_barrier_passes_first() {
    let (mut session, mut env) = (session(false), fake());
    env.clustered = true;
    let with_qos = |qos| {
        let filter = TopicFilter::try_from("t").expect("a filter");
        Packet::Subscribe(Subscribe::new(9, vec![Subscription::new(filter, qos)]))
    };
    session.on_packet(with_qos(QoS::AtMostOnce), &mut env).unwrap();
    session.on_packet(with_qos(QoS::AtLeastOnce), &mut env).unwrap();
    assert_eq!(env.barriers.len(), 2, "they go together");
    for ticket in [env.barriers[1], env.barriers[0]] {
        answer(&mut session, ticket, Answer::BarrierPassed, &mut env);
    }
    let made: Vec<QoS> = env.made.iter().map(|subscription| subscription.qos).collect();
    assert_eq!(made, [QoS::AtMostOnce, QoS::AtLeastOnce]);
    for (_, ticket) in env.routes.clone() {
        answer(&mut session, ticket, Answer::RoutesKnown, &mut env);
    }
    assert!(matches!(env.sent()[..], [Packet::SubAck(_), Packet::SubAck(_)]));
}

#[test]
fn an_unsubscribe_behind_a_subscribe_is_answered_behind_it() {
    for durable in [false, true] {
        let (mut session, mut env) = (session(durable), fake());
        env.clustered = true;
        session.on_packet(subscribe("t"), &mut env).unwrap();
        session.on_packet(unsubscribe(), &mut env).unwrap();
        if durable {
            assert_eq!(env.submitted.len(), 1);
            let ticket = env.submitted[0].1;
            answer(&mut session, ticket, subscribed(), &mut env);
            assert!(matches!(env.sent()[..], [Packet::SubAck(_)]));
            assert!(matches!(env.submitted[1].0, Command::Unsubscribe { .. }));
        } else {
            let barrier = env.barriers[0];
            answer(&mut session, barrier, Answer::BarrierPassed, &mut env);
            let ticket = env.routes[0].1;
            answer(&mut session, ticket, Answer::RoutesKnown, &mut env);
            assert!(matches!(env.sent()[..], [Packet::SubAck(_), Packet::UnsubAck(_)]));
        }
    }
}

#[test]
fn subscriptions_under_way_do_not_wait_for_each_other() {
    let (mut session, mut env) = (session(true), fake());
    for _ in 0..3 {
        session.on_packet(subscribe("t"), &mut env).unwrap();
    }
    assert_eq!(env.submitted.len(), 3);
    assert!(session.wants_input());
}

#[test]
fn what_a_client_sent_to_itself_comes_before_the_answer_to_its_unsubscribe() {
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(subscribe("t"), &mut env).unwrap();
    session.on_packet(publish(QoS::AtMostOnce, 0, "x", false), &mut env).unwrap();
    let item = item(0, QoS::AtMostOnce);
    env.arrived.push(Delivery { message: item.message.expect("it has one"), options: item.options, group: None });
    session.on_packet(unsubscribe(), &mut env).unwrap();
    assert!(matches!(env.sent()[..], [Packet::SubAck(_), Packet::Publish(_), Packet::UnsubAck(_)]));
}

#[test]
fn a_message_that_waits_behind_a_subscription_goes_its_way_though_the_client_has_left() {
    let (mut session, mut env) = (session(true), fake());
    session.on_packet(subscribe("t"), &mut env).unwrap();
    session.on_packet(publish(QoS::AtMostOnce, 0, "x", false), &mut env).unwrap();
    session.on_packet(disconnect(ReasonCode::Success), &mut env).unwrap();
    assert!(session.has_unrouted(), "the connection must not end before");
    let said = session.deferred_disconnect(&mut env);
    assert_eq!(said, Some(SessionError::Disconnected { with_will: false }));
    let ticket = env.submitted[0].1;
    answer(&mut session, ticket, subscribed(), &mut env);
    assert_eq!((env.delivered.len(), session.has_unrouted()), (1, false));
}

#[test]
fn nothing_behind_a_packet_that_ends_the_connection_takes_effect() {
    let (mut session, mut env) = (session(true), fake());
    session.on_packet(subscribe("t"), &mut env).unwrap();
    session.on_packet(publish(QoS::AtMostOnce, 0, "x", false), &mut env).unwrap();
    session.on_packet(Packet::PingResp, &mut env).unwrap();
    session.on_packet(publish(QoS::AtMostOnce, 0, "behind", false), &mut env).unwrap();
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, subscribed(), &mut env).unwrap();
    assert!(protocol_error(session.go_on(&mut env)));
    assert!(!session.has_unrouted());
    session.go_on(&mut env).unwrap();
    assert_eq!(env.delivered, ["x"]);
}

#[test] // [MQTT-3.14.4-3], section 3.14.2.1
fn a_goodbye_with_any_reason_but_success_publishes_the_will() {
    for (reason, with_will) in [
        (ReasonCode::Success, false),
        (ReasonCode::DisconnectWithWill, true),
        (ReasonCode::UnspecifiedError, true),
        (ReasonCode::AdministrativeAction, true),
    ] {
        let (mut session, mut env) = (session(false), fake());
        let said = session.on_packet(disconnect(reason), &mut env);
        assert_eq!(said, Err(SessionError::Disconnected { with_will }), "{reason:?}");
    }
}

#[test] // [MQTT-3.1.2-24]
fn an_answer_about_filters_that_the_client_does_not_take_ends_the_connection_before_anything_takes_effect() {
    // Fixed header, packet identifier, property length and a reason for each filter.
    for (maximum, fits) in [(8, true), (7, false)] {
        let filters = ["a", "b", "c"].map(|filter| TopicFilter::try_from(filter).expect("a filter"));
        let subscriptions = filters.iter().map(|filter| Subscription::new(filter.clone(), QoS::AtLeastOnce));
        for packet in [
            Packet::Subscribe(Subscribe::new(9, subscriptions.clone().collect())),
            Packet::Unsubscribe(Unsubscribe::new(9, filters.to_vec())),
        ] {
            let options = SessionOptions { client_maximum_packet_size: maximum, ..session(false).options };
            let (mut session, mut env) = (Session::new(options), fake());
            let result = session.on_packet(packet.clone(), &mut env);
            if fits {
                assert_eq!((result, env.out.len()), (Ok(()), 8), "{packet:?}");
            } else {
                assert!(matches!(result, Err(SessionError::Peer(ReasonCode::PacketTooLarge, _))), "{packet:?}");
                assert!(env.made.is_empty() && env.sent().is_empty());
            }
        }
    }
}

#[test]
fn a_packet_with_very_many_filters_takes_several_commands_and_has_one_answer() {
    let (mut session, mut env) = (session(true), fake());
    let filters: Vec<_> = (0..2500).map(|n| TopicFilter::try_from(format!("f/{n}").as_str()).unwrap()).collect();
    let subscriptions = filters.iter().map(|filter| Subscription::new(filter.clone(), QoS::AtLeastOnce)).collect();
    session.on_packet(Packet::Subscribe(Subscribe::new(3, subscriptions)), &mut env).unwrap();
    let submitted = std::mem::take(&mut env.submitted);
    assert_eq!(submitted.len(), 3);
    for (command, ticket) in submitted {
        assert!(env.sent().is_empty(), "answered before all of it was applied");
        let Command::Subscribe { subscriptions, .. } = command else { panic!("{command:?}") };
        assert!(subscriptions.len() <= 1000);
        let outcome = Outcome::Subscribed { existed: vec![false; subscriptions.len()] };
        answer(&mut session, ticket, Answer::Applied { outcome, index: LogIndex(3) }, &mut env);
    }
    let [Packet::SubAck(ack)] = &env.sent()[..] else { panic!() };
    assert_eq!((ack.packet_id, ack.reasons.len()), (3, 2500));
    session.on_packet(Packet::Unsubscribe(Unsubscribe::new(4, filters)), &mut env).unwrap();
    for (number, (command, ticket)) in std::mem::take(&mut env.submitted).into_iter().enumerate() {
        assert!(env.sent().is_empty());
        let Command::Unsubscribe { filters, .. } = command else { panic!("{command:?}") };
        let outcome = Outcome::Unsubscribed { existed: vec![number != 1; filters.len()] };
        answer(&mut session, ticket, Answer::Applied { outcome, index: LogIndex(4) }, &mut env);
    }
    let [Packet::UnsubAck(ack)] = &env.sent()[..] else { panic!() };
    let unknown: Vec<_> = (0..2500).filter(|place| ack.reasons[*place] == ReasonCode::NoSubscriptionExisted).collect();
    assert_eq!(unknown, (1000..2000).collect::<Vec<_>>());
}
