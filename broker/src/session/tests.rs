//! Sessions against recorded surroundings: inputs in, packets and requests out.
mod order;

use super::{
    ClientKind, Denied, Ending, Marks, MountPoint, QueueItem, Session, SessionError, SessionOptions,
    env::{Access, Cluster, Control, Journal, Output, Routing, Trace},
};
use crate::live::{
    Delivery,
    counters::CounterValues,
    router::{Choice, SharedTarget, Targets},
};
use bytes::{Bytes, BytesMut};
use mosquorum_cluster::{
    Answer,
    ids::{Epoch, LogIndex, Millis, NodeId},
    state::{Command, DeliveryOptions, Live, LoopId, Message, Outcome, QueueLimits},
};
use mosquorum_proto::mqtt::{
    Ack, Decoder, Disconnect, Packet, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    Subscription, TopicFilter, TopicName, Utf8,
};
use std::{collections::BTreeSet, sync::Arc};

struct Fake {
    now: u64,
    out: BytesMut,
    counts: CounterValues,
    submitted: Vec<(Command, u64)>,
    barriers: Vec<u64>,
    /// Filters told, and the ticket.
    routes: Vec<(usize, u64)>,
    /// Every subscription existed before.
    subscribed: bool,
    /// Live subscriptions that were made, in their order.
    made: Vec<Subscription>,
    /// Deliveries that came since the packets were begun with.
    arrived: Vec<Delivery>,
    delivered: Vec<Bytes>,
    /// Shared groups that match, and how many each delivery knew of.
    groups: usize,
    groups_known: Vec<usize>,
    /// The entry behind which other nodes handle each delivery, and tickets of those that wait for them.
    after: Vec<u64>,
    forwards: Vec<u64>,
    /// Other nodes have live subscribers.
    forwarded: bool,
    /// A durable session matches every topic.
    durable: bool,
    clustered: bool,
    queue: Vec<QueueItem>,
    /// Given to other members of their groups.
    chosen_again: usize,
    sources_lost_rights: bool,
    /// Entries of the queue that one read brings, since they are large.
    read_at_once: usize,
    denied: Vec<Denied>,
}

fn fake() -> Fake {
    Fake {
        now: 1_000,
        out: BytesMut::new(),
        counts: CounterValues::default(),
        submitted: Vec::new(),
        barriers: Vec::new(),
        routes: Vec::new(),
        subscribed: false,
        made: Vec::new(),
        arrived: Vec::new(),
        delivered: Vec::new(),
        groups: 0,
        groups_known: Vec::new(),
        after: Vec::new(),
        forwards: Vec::new(),
        forwarded: false,
        durable: false,
        clustered: false,
        queue: Vec::new(),
        chosen_again: 0,
        sources_lost_rights: false,
        read_at_once: usize::MAX,
        denied: Vec::new(),
    }
}

impl Output for Fake {
    fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }
    fn share(&mut self, payload: &Bytes) {
        self.out.extend_from_slice(payload);
    }
    fn out_congested(&self) -> bool {
        false
    }
    fn count(&mut self) -> &mut CounterValues {
        &mut self.counts
    }
}

impl Cluster for Fake {
    fn now(&self) -> Millis {
        Millis(self.now)
    }
    fn node(&self) -> NodeId {
        NodeId(1)
    }
    fn submit(&mut self, command: Command, ticket: u64) {
        self.submitted.push((command, ticket));
    }
    fn needs_barrier(&self) -> bool {
        self.clustered
    }
    fn barrier(&mut self, ticket: u64) {
        self.barriers.push(ticket);
    }
    fn change_routes(&mut self, added: Vec<TopicFilter>, _: Vec<TopicFilter>, ticket: u64) {
        self.routes.push((added.len(), ticket));
    }
    fn queue(&mut self, from_seq: u64, max: usize, into: &mut Vec<QueueItem>) -> bool {
        let rest = || self.queue.iter().filter(|item| item.seq >= from_seq);
        into.extend(rest().take(max.min(self.read_at_once)).cloned());
        rest().count() > into.len()
    }
    fn retained(
        &mut self,
        _: &TopicFilter,
        _: Option<TopicName>,
        _: usize,
        _: &mut Vec<Arc<Message>>,
    ) -> Option<TopicName> {
        None
    }
    fn next_mark(&mut self) -> Option<LoopId> {
        None
    }
    fn origin(&mut self) -> [u8; 16] {
        [9; 16]
    }
}

impl Routing for Fake {
    fn targets(&mut self, _: &TopicName) -> Arc<Targets> {
        Arc::new(Targets {
            durable: self.durable,
            groups: (0..self.groups).map(shared_target).collect(),
            ..Targets::nobody()
        })
    }
    fn choose(&mut self, _: &Targets, _: &Message, _: bool) -> Vec<Choice> {
        Vec::new()
    }
    fn deliver(
        &mut self,
        message: &Arc<Message>,
        to: &Targets,
        _: Vec<Choice>,
        _: bool,
        after: LogIndex,
        ticket: Option<u64>,
    ) -> bool {
        self.delivered.push(message.payload.clone());
        self.groups_known.push(to.groups.len());
        self.after.push(after.0);
        self.forwards.extend(ticket.filter(|_| self.forwarded));
        self.forwarded && ticket.is_some()
    }
    fn watch_groups(&mut self, _: &Arc<Message>, _: Vec<(TopicFilter, NodeId)>, _: LogIndex, _: Option<u64>) -> bool {
        false
    }
    fn choose_again(&mut self, _: Arc<Message>, _: &TopicFilter) {
        self.chosen_again += 1;
    }
    fn subscribe_live(&mut self, subscription: &Subscription, _: Option<u32>, _: bool) -> bool {
        self.made.push(subscription.clone());
        self.subscribed
    }
    fn arrived(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.arrived)
    }
    fn unsubscribe_live(&mut self, _: &TopicFilter) -> bool {
        false
    }
}

impl Access for Fake {
    fn source_may_write(&mut self, _: &Message) -> bool {
        !self.sources_lost_rights
    }
    fn may_read(&mut self, _: &TopicName) -> bool {
        true
    }
    fn may_write(&mut self, _: &TopicName) -> bool {
        true
    }
    fn may_subscribe(&mut self, _: &TopicFilter) -> bool {
        true
    }
    fn may_unsubscribe(&mut self, _: &TopicFilter) -> bool {
        true
    }
}

impl Control for Fake {
    fn control(&mut self, topic: &TopicName, _: &[u8]) -> Option<(TopicName, String)> {
        Some((TopicName::new(Utf8::from(format!("{}/response", topic.as_str()))).ok()?, "answer".to_owned()))
    }
}

impl Trace for Fake {}

impl Journal for Fake {
    fn denied(&mut self, what: Denied, _: &str) {
        self.denied.push(what);
    }
}

fn shared_target(number: usize) -> SharedTarget {
    SharedTarget::nobody(TopicFilter::try_from(format!("$share/g{number}/t").as_str()).expect("a filter"))
}

impl Fake {
    fn sent(&mut self) -> Vec<Packet> {
        let mut decoder = Decoder::for_client(ProtocolVersion::V5, u32::MAX);
        let mut packets = Vec::new();
        decoder.decode_all(&mut self.out, &mut packets).expect("we encode what can be decoded");
        packets
    }
}

fn session(durable: bool) -> Session {
    Session::new(SessionOptions {
        client_id: Utf8::from("c"),
        username: None,
        version: ProtocolVersion::V5,
        kind: ClientKind::Ordinary,
        marks: Marks::Ignored,
        epoch: durable.then_some(Epoch(7)),
        durable,
        session_expiry_seconds: if durable { 60 } else { 0 },
        session_expiry_max: u32::MAX,
        request_problem_information: true,
        client_maximum_packet_size: u32::MAX,
        send_window: 2,
        send_window_bytes: 0,
        receive_maximum: 20,
        topic_alias_maximum_in: 0,
        topic_alias_maximum_out: 0,
        max_qos: QoS::ExactlyOnce,
        retain_available: true,
        mount_point: MountPoint::default(),
        message_size_limit: 0,
        limits: QueueLimits {
            messages: 0,
            bytes: 0,
            inflight: 2,
            queue_qos0: false,
            upgrade_qos: false,
            merge_overlapping: false,
            shared_offline: false,
        },
    })
}

fn publish(qos: QoS, id: u16, payload: &'static str, retain: bool) -> Packet {
    let topic = TopicName::try_from("t").expect("a plain topic");
    let mut publish = Publish::new(topic, Bytes::from_static(payload.as_bytes()));
    publish.qos = qos;
    publish.packet_id = id;
    publish.retain = retain;
    Packet::Publish(publish)
}

fn subscribe(filter: &str) -> Packet {
    let filter = TopicFilter::try_from(filter).expect("a filter");
    Packet::Subscribe(Subscribe::new(9, vec![Subscription::new(filter, QoS::AtLeastOnce)]))
}

fn published(matched: u32, duplicate: bool) -> Answer {
    Answer::Applied { outcome: Outcome::Published { matched, duplicate }, index: LogIndex(1) }
}

#[test]
fn a_publish_for_a_durable_session_is_acknowledged_only_after_its_commit() {
    let (mut session, mut env) = (session(false), fake());
    env.durable = true;
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    assert!(env.sent().is_empty(), "acknowledged before it was durable");
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, published(1, false), &mut env).unwrap();
    assert!(matches!(env.sent()[..], [Packet::PubAck(ref ack)] if ack.packet_id == 1 && !ack.reason.is_error()));
}

#[test]
fn acknowledgements_leave_in_the_order_of_the_publishes() {
    let (mut session, mut env) = (session(false), fake());
    env.durable = true;
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    env.durable = false;
    session.on_packet(publish(QoS::AtLeastOnce, 2, "b", false), &mut env).unwrap();
    assert!(env.sent().is_empty());
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, published(1, false), &mut env).unwrap();
    let ids: Vec<u16> =
        env.sent().iter().map(|p| if let Packet::PubAck(ack) = p { ack.packet_id } else { 0 }).collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn in_a_cluster_nobody_subscribed_is_believed_only_behind_a_barrier() {
    let (mut session, mut env) = (session(false), fake());
    env.clustered = true;
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    assert!(env.sent().is_empty() && env.submitted.is_empty());
    // Another node's SUBACK became visible meanwhile.
    env.durable = true;
    session.on_answer(env.barriers[0], Answer::BarrierPassed, &mut env).unwrap();
    assert!(env.sent().is_empty());
    assert_eq!(env.submitted.len(), 1, "the message goes through the log after all");
}

#[test]
fn a_message_behind_one_that_waits_for_its_barrier_is_not_proposed_before_it() {
    let (mut session, mut env) = (session(false), fake());
    env.clustered = true;
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    env.durable = true;
    session.on_packet(publish(QoS::AtLeastOnce, 2, "b", false), &mut env).unwrap();
    assert!(env.submitted.is_empty());
    session.on_answer(env.barriers[0], Answer::BarrierPassed, &mut env).unwrap();
    let payloads: Vec<&Bytes> = env
        .submitted
        .iter()
        .map(|(command, _)| match command {
            Command::Publish(publish) => &publish.message.payload,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(payloads, ["a", "b"]);
}

#[test]
fn messages_that_wait_for_a_barrier_share_the_next_one() {
    let (mut session, mut env) = (session(false), fake());
    env.clustered = true;
    for id in 1..=4 {
        session.on_packet(publish(QoS::AtLeastOnce, id, "a", false), &mut env).unwrap();
    }
    assert_eq!(env.barriers.len(), 1);
    session.on_answer(env.barriers[0], Answer::BarrierPassed, &mut env).unwrap();
    assert_eq!((env.sent().len(), env.barriers.len()), (1, 2), "the first was covered, the others ask together");
    session.on_answer(env.barriers[1], Answer::BarrierPassed, &mut env).unwrap();
    assert_eq!((env.sent().len(), env.barriers.len()), (3, 2));
}

fn live_of(command: &Command) -> &Live {
    let Command::Publish(publish) = command else { panic!("{command:?}") };
    &publish.live
}

#[test]
fn a_retained_message_is_given_to_live_subscribers_by_the_log_and_later_ones_do_not_overtake_it() {
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(publish(QoS::AtLeastOnce, 1, "kept", true), &mut env).unwrap();
    session.on_packet(publish(QoS::AtLeastOnce, 2, "later", false), &mut env).unwrap();
    assert_eq!(live_of(&env.submitted[0].0), &Live::AtApply { groups: Vec::new() });
    assert!(env.delivered.is_empty(), "the later one waits");
    let committed =
        Answer::Applied { outcome: Outcome::Published { matched: 0, duplicate: false }, index: LogIndex(9) };
    session.on_answer(env.submitted[0].1, committed, &mut env).unwrap();
    assert_eq!(env.delivered, ["later"]);
    assert_eq!(env.after, [9], "on other nodes it comes behind the entry");
}

#[test]
fn a_retained_message_is_not_proposed_while_an_earlier_one_of_its_topic_is_on_its_way_to_other_nodes() {
    let (mut session, mut env) = (session(false), fake());
    (env.forwarded, env.durable) = (true, true);
    session.on_packet(publish(QoS::AtLeastOnce, 1, "first", false), &mut env).unwrap();
    session.on_packet(publish(QoS::AtLeastOnce, 2, "kept", true), &mut env).unwrap();
    assert_eq!((env.delivered.len(), env.submitted.len()), (1, 1));
    session.on_answer(env.forwards[0], Answer::Forwarded, &mut env).unwrap();
    assert_eq!(env.submitted.len(), 2);
}

#[test]
fn what_a_connection_with_a_record_publishes_carries_its_epoch() {
    let (mut session, mut env) = (session(true), fake());
    env.durable = true;
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    session.on_packet(publish(QoS::ExactlyOnce, 2, "b", false), &mut env).unwrap();
    let carried: Vec<_> = env
        .submitted
        .iter()
        .map(|(command, _)| {
            let Command::Publish(publish) = command else { panic!("{command:?}") };
            (publish.epoch, publish.packet_id, publish.live == Live::ByOrigin)
        })
        .collect();
    let epoch = session.options.epoch;
    assert!(epoch.is_some());
    assert_eq!(carried, [(epoch, None, true), (epoch, Some(2), false)]);
}

#[test]
fn a_repeated_qos_2_publish_is_acknowledged_again_but_delivered_once() {
    // [MQTT-4.3.3-10]
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(publish(QoS::ExactlyOnce, 5, "a", false), &mut env).unwrap();
    session.on_packet(publish(QoS::ExactlyOnce, 5, "a", false), &mut env).unwrap();
    assert_eq!(env.delivered.len(), 1);
    assert_eq!(env.sent().len(), 2);
}

#[test]
fn a_refused_qos_2_publish_leaves_no_packet_identifier_behind() {
    // It may be one that was taken on an earlier connection and comes again.
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let (mut session, mut env) = (session(true), fake());
        (session.options.version, session.options.message_size_limit) = (version, 1);
        session.on_packet(publish(QoS::ExactlyOnce, 5, "too long", false), &mut env).unwrap();
        if version == ProtocolVersion::V311 {
            session.on_packet(Packet::PubRel(Ack::new(5)), &mut env).unwrap();
        }
        let [(Command::Release { packet_id: 5, .. }, _)] = &env.submitted[..] else { panic!("{:?}", env.submitted) };
        session.on_packet(publish(QoS::ExactlyOnce, 5, "b", false), &mut env).unwrap();
        assert!(matches!(env.submitted[1..], [(Command::Publish(_), _)]), "behind it");
    }
}

#[test]
fn a_superseded_connection_acknowledges_nothing_and_closes() {
    let (mut session, mut env) = (session(true), fake());
    session.on_packet(publish(QoS::ExactlyOnce, 5, "a", false), &mut env).unwrap();
    let ticket = env.submitted[0].1;
    let superseded = Answer::Applied { outcome: Outcome::Superseded, index: LogIndex(1) };
    assert_eq!(session.on_answer(ticket, superseded, &mut env), Err(SessionError::Superseded));
    assert!(env.sent().is_empty());
}

fn item(seq: u64, qos: QoS) -> QueueItem {
    let topic = TopicName::try_from("t").expect("a plain topic");
    let message = Message::new(topic, Bytes::from_static(b"x"), qos, Millis(0));
    let options = DeliveryOptions { qos, ..DeliveryOptions::default() };
    QueueItem { seq, packet_id: seq as u16 + 1, message: Some(Arc::new(message)), options, dup: false }
}

#[test]
fn pubrel_to_a_durable_subscriber_follows_the_commit_of_its_pubrec() {
    let (mut session, mut env) = (session(true), fake());
    env.queue.push(item(0, QoS::ExactlyOnce));
    session.pump(true, &mut env);
    assert!(matches!(env.sent()[..], [Packet::Publish(_)]));
    session.on_packet(Packet::PubRec(Ack::new(1)), &mut env).unwrap();
    session.pump(false, &mut env);
    assert!(env.sent().is_empty(), "PUBREL before the PUBREC was durable");
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, Answer::Applied { outcome: Outcome::Done, index: LogIndex(2) }, &mut env).unwrap();
    assert!(matches!(env.sent()[..], [Packet::PubRel(_)]));
}

#[test]
fn no_more_than_the_receive_maximum_is_in_flight() {
    // [MQTT-3.3.4-9]
    let (mut session, mut env) = (session(true), fake());
    env.queue.extend((0..5).map(|seq| item(seq, QoS::AtLeastOnce)));
    session.pump(true, &mut env);
    assert_eq!(env.sent().len(), 2);
    session.on_packet(Packet::PubAck(Ack::new(1)), &mut env).unwrap();
    session.pump(false, &mut env);
    assert_eq!(env.sent().len(), 1);
}

#[test]
fn a_queue_that_is_read_in_parts_goes_out_whole() {
    let (mut session, mut env) = (session(true), Fake { read_at_once: 1, ..fake() });
    env.queue.extend((0..5).map(|seq| item(seq, QoS::AtLeastOnce)));
    session.pump(true, &mut env);
    let mut sent = env.sent().len();
    assert_eq!(sent, 2, "all that may be in flight");
    for packet_id in 1..=5 {
        session.on_packet(Packet::PubAck(Ack::new(packet_id)), &mut env).unwrap();
        session.pump(false, &mut env);
        sent += env.sent().len();
    }
    assert_eq!(sent, 5);
    assert!(!session.has_backlog());
}

#[test]
fn a_subscription_of_a_durable_session_is_acknowledged_only_after_its_commit() {
    let (mut session, mut env) = (session(true), fake());
    session.on_packet(subscribe("a/#"), &mut env).unwrap();
    assert!(env.sent().is_empty());
    let answer = Answer::Applied { outcome: Outcome::Subscribed { existed: vec![false] }, index: LogIndex(3) };
    session.on_answer(env.submitted[0].1, answer, &mut env).unwrap();
    assert!(matches!(env.sent()[..], [Packet::SubAck(_)]));
}

#[test]
fn suback_waits_until_all_nodes_know_the_routes_whoever_told_them() {
    for subscribed in [false, true] {
        let (mut session, mut env) = (session(false), fake());
        (env.clustered, env.subscribed) = (true, subscribed);
        session.on_packet(subscribe("a/#"), &mut env).unwrap();
        assert!(
            env.made.is_empty(),
            "what was acknowledged before may not be here yet, and would come as a live message"
        );
        session.on_answer(env.barriers[0], Answer::BarrierPassed, &mut env).unwrap();
        let [(told, ticket)] = env.routes[..] else { panic!("{:?}", env.routes) };
        assert_eq!((told, env.made.len()), (usize::from(!subscribed), 1));
        assert!(env.sent().is_empty());
        session.on_answer(ticket, Answer::RoutesKnown, &mut env).unwrap();
        assert!(matches!(env.sent()[..], [Packet::SubAck(_)]));
    }
}

fn protocol_error(result: Result<(), SessionError>) -> bool {
    matches!(result, Err(SessionError::Peer(ReasonCode::ProtocolError, _)))
}

fn deliver(session: &mut Session, qos: QoS, env: &mut Fake) {
    let item = item(0, qos);
    let delivery = Delivery { message: item.message.expect("it has one"), options: item.options, group: None };
    session.on_delivery(delivery, env);
}

#[test]
fn a_retained_publish_is_unrouted_until_its_commit_is_known() {
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(publish(QoS::AtMostOnce, 0, "kept", true), &mut env).unwrap();
    assert!(session.has_unrouted(), "the connection must not end before");
    let ticket = env.submitted[0].1;
    session.on_answer(ticket, published(0, false), &mut env).unwrap();
    assert!(!session.has_unrouted());
}

#[test]
fn nobody_subscribed_is_said_in_puback_but_not_in_pubrec() {
    // MQTT 5.0 section 3.4.2.1
    let (mut session, mut env) = (session(false), fake());
    session.on_packet(publish(QoS::AtLeastOnce, 1, "a", false), &mut env).unwrap();
    session.on_packet(publish(QoS::ExactlyOnce, 2, "b", false), &mut env).unwrap();
    let sent = env.sent();
    let [Packet::PubAck(puback), Packet::PubRec(pubrec)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((puback.reason, pubrec.reason), (ReasonCode::NoMatchingSubscribers, ReasonCode::Success));
}

#[test]
fn a_qos_2_publish_that_comes_a_third_time_is_a_protocol_error() {
    // [MQTT-4.4.0-1]
    let (mut session, mut env) = (session(false), fake());
    for _ in 0..2 {
        session.on_packet(publish(QoS::ExactlyOnce, 5, "a", false), &mut env).unwrap();
    }
    assert!(protocol_error(session.on_packet(publish(QoS::ExactlyOnce, 5, "a", false), &mut env)));
}

#[test]
fn an_unknown_topic_alias_is_a_protocol_error_and_one_above_the_maximum_invalid() {
    // [MQTT-3.3.2-9]
    let mut options = session(false).options;
    options.topic_alias_maximum_in = 10;
    let (mut session, mut env) = (Session::new(options), fake());
    let by_alias = |alias| {
        let Packet::Publish(mut publish) = publish(QoS::AtMostOnce, 0, "a", false) else { unreachable!() };
        publish.topic = None;
        publish.properties = Some(Box::new(PublishProperties { topic_alias: Some(alias), ..Default::default() }));
        Packet::Publish(publish)
    };
    assert!(protocol_error(session.on_packet(by_alias(10), &mut env)));
    let result = session.on_packet(by_alias(11), &mut env);
    assert!(matches!(result, Err(SessionError::Peer(ReasonCode::TopicAliasInvalid, _))));
}

#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    // [MQTT-4.3.2-1] [MQTT-4.3.3-1]
    let ack = || Ack::new(1);
    for durable in [false, true] {
        for (qos, wrong) in [
            (QoS::AtLeastOnce, Packet::PubRec(ack())),
            (QoS::AtLeastOnce, Packet::PubComp(ack())),
            (QoS::ExactlyOnce, Packet::PubAck(ack())),
            (QoS::ExactlyOnce, Packet::PubComp(ack())),
        ] {
            let (mut session, mut env) = (session(durable), fake());
            if durable {
                env.queue.push(item(0, qos));
                session.pump(true, &mut env);
            } else {
                deliver(&mut session, qos, &mut env);
            }
            assert!(matches!(env.sent()[..], [Packet::Publish(_)]));
            assert!(protocol_error(session.on_packet(wrong.clone(), &mut env)), "{durable} {qos:?} {wrong:?}");
        }
    }
}

#[test]
fn a_repeated_pubrec_is_answered_again() {
    let (mut session, mut env) = (session(false), fake());
    deliver(&mut session, QoS::ExactlyOnce, &mut env);
    for _ in 0..2 {
        session.on_packet(Packet::PubRec(Ack::new(1)), &mut env).unwrap();
    }
    assert!(matches!(env.sent()[..], [Packet::Publish(_), Packet::PubRel(_), Packet::PubRel(_)]));
}

#[test]
fn a_pubrec_for_what_is_still_to_be_sent_again_gets_no_pubrel() {
    let (mut session, mut env) = (session(true), fake());
    env.queue.extend((0..3).map(|seq| item(seq, QoS::ExactlyOnce)));
    session.pump(true, &mut env);
    assert_eq!(env.sent().len(), 2, "the window");
    session.on_packet(Packet::PubRec(Ack::new(3)), &mut env).unwrap();
    assert!(env.sent().is_empty(), "the client would forget the identifier and take the message twice");
}

#[test]
fn the_window_counts_payload_bytes() {
    let mut options = session(true).options;
    (options.send_window, options.send_window_bytes) = (20, 2);
    let (mut session, mut env) = (Session::new(options), fake());
    env.queue.extend((0..3).map(|seq| item(seq, QoS::AtLeastOnce)));
    session.pump(true, &mut env);
    assert_eq!(env.sent().len(), 2, "one byte each");
}

#[test] // [MQTT-4.8.2-5]
fn a_shared_qos_2_message_that_was_sent_goes_to_nobody_else() {
    let (mut session, mut env) = (session(false), fake());
    for (seq, qos) in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        let item = item(seq as u64, qos);
        let group = Some(TopicFilter::try_from("$share/g/t").expect("a filter"));
        session.on_delivery(
            Delivery { message: item.message.expect("it has one"), options: item.options, group },
            &mut env,
        );
    }
    assert_eq!(env.sent().len(), 2, "the third waits for the window");
    let _ = session.end(Ending::WithWill, &mut env);
    assert_eq!(env.chosen_again, 2, "the QoS 1 message, and the one that was not sent");
}

#[test]
fn packet_identifiers_in_flight_are_distinct_however_many_messages_were_dropped_between() {
    let mut options = session(false).options;
    options.send_window = 20;
    let (mut session, mut env) = (Session::new(options), fake());
    let mut deliver = |expiry_seconds, times: usize, env: &mut Fake| {
        let item = item(0, QoS::AtLeastOnce);
        let message = Message { expiry_seconds, ..Message::clone(&item.message.expect("it has one")) };
        let message = Arc::new(message);
        for _ in 0..times {
            session.on_delivery(Delivery { message: message.clone(), options: item.options.clone(), group: None }, env);
        }
    };
    for dropped in [9, 65_533, 65_534, 65_535] {
        deliver(None, 1, &mut env);
        deliver(Some(1), dropped, &mut env);
    }
    let sent = env.sent();
    let ids: BTreeSet<u16> =
        sent.iter().map(|p| if let Packet::Publish(publish) = p { publish.packet_id } else { 0 }).collect();
    assert_eq!((sent.len(), ids.len()), (4, 4));
}

#[test] // [MQTT-3.3.2-6]
fn a_message_expiry_interval_of_0_is_none_and_one_of_all_ones_stays() {
    for (interval, kept) in [(0, None), (u32::MAX, Some(u32::MAX))] {
        let (mut session, mut env) = (session(false), fake());
        env.durable = true;
        let Packet::Publish(mut publish) = publish(QoS::AtLeastOnce, 1, "a", false) else { unreachable!() };
        let properties = PublishProperties { message_expiry_interval: Some(interval), ..Default::default() };
        publish.properties = Some(Box::new(properties));
        session.on_packet(Packet::Publish(publish), &mut env).unwrap();
        let (Command::Publish(command), _) = &env.submitted[0] else { panic!() };
        assert_eq!(command.message.expiry_seconds, kept);
        assert_eq!(
            command.message.remaining_seconds(Millis(1_999)),
            kept,
            "as it came while less than a second passed"
        );
    }
}

#[test] // [MQTT-4.3.3-7]
fn a_qos_2_message_that_was_sent_before_is_sent_again_although_it_has_expired() {
    let (mut session, mut env) = (session(true), fake());
    for (seq, qos, dup) in [(0, QoS::ExactlyOnce, true), (1, QoS::ExactlyOnce, false), (2, QoS::AtLeastOnce, true)] {
        let item = item(seq, qos);
        let message = Message { expiry_seconds: Some(1), ..Message::clone(item.message.as_ref().expect("it has one")) };
        env.queue.push(QueueItem { message: Some(Arc::new(message)), dup, ..item });
    }
    session.pump(true, &mut env);
    let sent = env.sent();
    let [Packet::Publish(publish)] = &sent[..] else { panic!("{sent:?}") };
    let interval = publish.properties.as_ref().and_then(|properties| properties.message_expiry_interval);
    assert_eq!((publish.packet_id, interval), (1, Some(1)), "0 would say that it does not expire");
    assert_eq!(env.counts.dropped_expired, 2);
}

#[test] // check_retain_source
fn a_retained_message_whose_source_may_not_write_any_more_does_not_reach_a_durable_session() {
    let (mut session, mut env) = (session(true), fake());
    env.sources_lost_rights = true;
    for (seq, retain, dup) in [(0, true, false), (1, false, false), (2, true, true)] {
        let mut item = item(seq, QoS::ExactlyOnce);
        (item.options.retain, item.dup) = (retain, dup);
        env.queue.push(item);
    }
    session.pump(true, &mut env);
    let ids: Vec<u16> =
        env.sent().iter().map(|p| if let Packet::Publish(publish) = p { publish.packet_id } else { 0 }).collect();
    assert_eq!(ids, [2, 3], "an exchange that has begun is completed");
    assert_eq!(env.denied, [Denied::RetainedSource]);
}

#[test]
fn disconnect_cannot_raise_the_session_expiry_above_the_operators_bound() {
    let mut options = session(true).options;
    options.session_expiry_max = 100;
    let (mut session, mut env) = (Session::new(options), fake());
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    disconnect.session_expiry_interval = Some(u32::MAX);
    let _ = session.on_packet(Packet::Disconnect(disconnect), &mut env);
    assert_eq!(session.options.session_expiry_seconds, 100);
}
