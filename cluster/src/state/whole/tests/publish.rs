//! Matching, queueing, acknowledging, retained messages. Covers MQTT 5.0 sections 3.3, 4.3, 4.4, 4.6.
use super::*;

#[test]
fn qos_is_the_lower_of_message_and_subscription_unless_it_is_to_be_raised() {
    for (upgrade_qos, published, subscribed, expected) in
        [(false, 2, 1, 1), (false, 1, 2, 1), (true, 1, 2, 2), (true, 0, 1, 1)]
    {
        let mut world = World::new();
        let mut command = connect("c");
        command.limits.upgrade_qos = upgrade_qos;
        let (epoch, ..) = world.connect(command);
        world.subscribe("c", epoch, sub("a", subscribed));
        world.publish(message("a", "1", published));
        let qos = world.session("c").queue().iter_from(0).next().unwrap().qos();
        assert_eq!(u8::from(qos), expected);
    }
}

/// As Mosquitto with allow_duplicate_messages true, its default.
#[test]
fn each_overlapping_subscription_gets_its_own_copy() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    for (filter, qos, identifier) in [("a/#", 1, 5), ("a/b", 2, 6), ("+/b", 0, 7)] {
        world.subscribe_as("c", epoch, sub(filter, qos), Some(identifier));
    }
    assert_eq!(world.publish(message("a/b", "1", 2)), 3);
    let copies = world.session("c").queue().iter_from(0).map(|e| (u8::from(e.qos()), e.options().identifiers[0]));
    assert_eq!(copies.collect::<Vec<_>>(), [(2, 6), (1, 5)]);
    let now = world.effects.iter().filter(|effect| matches!(effect, Effect::DeliverNow { .. })).count();
    let grew = world.effects.iter().filter(|effect| matches!(effect, Effect::QueueGrew { .. })).count();
    assert_eq!((now, grew), (1, 1));
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-4]
#[test]
fn overlapping_subscriptions_can_be_merged() {
    let mut world = World::new();
    let mut command = connect("c");
    command.limits.merge_overlapping = true;
    let (epoch, ..) = world.connect(command);
    for (filter, qos, identifier) in [("a/#", 1, Some(5)), ("a/b", 0, None), ("+/b", 2, Some(7)), ("#", 0, Some(8))] {
        world.subscribe_as("c", epoch, sub(filter, qos), identifier);
    }
    assert_eq!(world.publish(message("a/b", "1", 2)), 1);
    let entries: Vec<_> = world.session("c").queue().iter_from(0).map(Entry::options).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].qos, &entries[0].identifiers[..]), (QoS::ExactlyOnce, &[5, 7, 8][..]));
}

/// [MQTT-3.8.3-3], [MQTT-3.3.1-12], [MQTT-3.3.1-13]
#[test]
fn no_local_and_retain_as_published_are_honoured() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("publisher"));
    world.subscribe("publisher", epoch, Subscription { no_local: true, ..sub("a", 1) });
    let (epoch, ..) = world.connect(connect("plain"));
    world.subscribe("plain", epoch, sub("a", 1));
    let (epoch, ..) = world.connect(connect("rap"));
    world.subscribe("rap", epoch, Subscription { retain_as_published: true, ..sub("a", 1) });
    assert_eq!(world.publish(Message { retain: true, ..message("a", "1", 1) }), 2);
    assert!(world.queue("publisher").is_empty());
    let retain = |client| world.session(client).queue().iter_from(0).next().unwrap().options().retain;
    assert_eq!((retain("plain"), retain("rap")), (false, true));
}

#[test]
fn qos_0_is_delivered_now_or_kept_while_the_client_is_away() {
    let mut world = World::new();
    let mut command = connect("c");
    let (epoch, ..) = world.connect(command.clone());
    world.subscribe("c", epoch, sub("a", 2));
    world.publish(message("a", "1", 0));
    assert!(matches!(&world.effects[..], [Effect::DeliverNow { owner, .. }] if *owner == command.owner));
    world.disconnect("c", epoch, true);
    world.publish(message("a", "2", 0));
    assert!(world.effects.is_empty() && world.queue("c").is_empty());
    assert!(!world.state.queues_qos0("a"));
    command.limits.queue_qos0 = true;
    let (epoch, ..) = world.connect(command.clone());
    world.disconnect("c", epoch, true);
    assert!(world.state.queues_qos0("a"));
    world.publish(message("a", "3", 0));
    world.publish(message("a", "4", 0));
    world.publish(message("a", "5", 1));
    assert_eq!(world.queue("c"), ["3", "4", "5"]);
    let (epoch, ..) = world.connect(command);
    world.acknowledge("c", epoch, &[(0, AckKind::PubAck)]);
    assert_eq!(world.queue("c"), ["4", "5"]);
    world.disconnect_sent("c", epoch, false, 3);
    assert_eq!(world.queue("c"), ["5"], "QoS 0 is not sent twice");
}

/// [MQTT-4.3.3-10]
#[test]
fn qos_2_message_is_queued_once_until_its_identifier_is_released() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    let (epoch, ..) = world.connect(connect("publisher"));
    let command = |epoch, id| {
        let Command::Publish(publish) = publish(message("a", "1", 2)) else { unreachable!() };
        Command::Publish(PublishCommand { epoch: Some(epoch), packet_id: Some(id), ..publish })
    };
    let once = Outcome::Published { matched: 1, duplicate: false };
    let again = Outcome::Published { matched: 0, duplicate: true };
    assert_eq!(world.apply(command(epoch, 9)), once);
    assert_eq!(world.apply(command(epoch, 9)), again);
    world.disconnect("publisher", epoch, false);
    assert_eq!(world.apply(command(epoch, 10)), Outcome::Superseded);
    let (epoch, ..) = world.connect(connect("publisher"));
    assert_eq!(world.apply(command(epoch, 9)), again);
    let release = Command::Release { client_id: "publisher".into(), epoch, packet_id: 9 };
    assert_eq!(world.apply(release.clone()), Outcome::Released { existed: true });
    assert_eq!(world.apply(release), Outcome::Released { existed: false });
    assert_eq!(world.apply(command(epoch, 9)), once);
    assert_eq!(world.queue("c").len(), 2);
}

/// Promise 6: what a connection proposed is void once its client's next one has the session.
#[test]
fn a_message_of_a_connection_that_lost_its_session_is_not_taken_whatever_its_qos() {
    let mut world = World::new();
    world.sleeper("c", &["#"]);
    let (old, ..) = world.connect(connect("publisher"));
    let (new, ..) = world.connect(ConnectCommand {
        owner: Owner { node: OTHER.node, incarnation: OTHER.incarnation, connection: ConnectionId(7) },
        ..connect("publisher")
    });
    let of = |epoch, payload: &str, qos| {
        let mut message = message("a", payload, qos);
        message.retain = true;
        message.publisher_id = "publisher".into();
        let Command::Publish(publish) = publish(message) else { unreachable!() };
        Command::Publish(PublishCommand { epoch: Some(epoch), ..publish })
    };
    assert_eq!(world.apply(of(new, "new", 1)), Outcome::Published { matched: 1, duplicate: false });
    for qos in 0..3 {
        assert_eq!(world.apply(of(old, "old", qos)), Outcome::Superseded);
    }
    assert_eq!(world.queue("c"), ["new"]);
    let topic = TopicName::try_from("a").unwrap();
    assert_eq!(&world.state.retained(&topic, Millis(world.now)).unwrap().payload[..], b"new");
}

#[test]
fn what_the_log_gives_to_live_subscribers_is_an_effect_on_every_node_and_groups_are_for_the_node_named() {
    let mut world = World::new();
    let group = TopicFilter::try_from("$share/g/a").unwrap();
    let live = Live::AtApply { groups: vec![(group.clone(), NODE.node)] };
    let Command::Publish(publish) = publish(message("a", "1", 2)) else { unreachable!() };
    let publish = PublishCommand { live, ..publish };
    for (node, groups) in [(NODE.node, vec![group]), (OTHER.node, vec![])] {
        world.state.only_effects_for(node);
        world.apply(Command::Publish(publish.clone()));
        let given = world.effects.iter().filter_map(|effect| match effect {
            Effect::DeliverLive { groups, .. } => Some(groups.clone()),
            _ => None,
        });
        assert_eq!(given.collect::<Vec<_>>(), [groups]);
    }
}

#[test]
fn of_one_mark_only_the_first_is_delivered_even_by_a_state_that_was_loaded() {
    let mut world = World::new();
    world.sleeper("c", &["a"]);
    let once = Outcome::Published { matched: 1, duplicate: false };
    assert_eq!(world.apply(relayed("a", 1, LoopCheck::FirstOfMark)), once);
    assert_eq!(world.apply(relayed("a", 1, LoopCheck::FirstOfMark)), Outcome::KnownMark);
    assert_eq!(world.apply(relayed("a", 2, LoopCheck::FirstOfMark)), once);
    assert_eq!(world.apply(relayed("a", 3, LoopCheck::Never)), Outcome::KnownMark);
    assert_eq!(world.apply(relayed("a", 1, LoopCheck::Always)), once, "published here, not relayed");
    assert_eq!(world.queue("c").len(), 3);
    world.state = State::load(LogIndex(world.index), world.state.full_records()).unwrap();
    assert_eq!(world.apply(relayed("a", 2, LoopCheck::FirstOfMark)), Outcome::KnownMark);
    assert_eq!(world.apply(relayed("a", 4, LoopCheck::FirstOfMark)), once);
}

/// [MQTT-4.3.2-2], [MQTT-4.3.3-2]
#[test]
fn acknowledgements_remove_their_entries_and_nothing_else() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 2));
    for (payload, qos) in [("1", 1), ("2", 2), ("3", 1), ("4", 2)] {
        world.publish(message("a", payload, qos));
    }
    let ids: Vec<_> = world.session("c").queue().iter_from(0).map(Entry::packet_id).collect();
    assert_eq!(ids, [1, 2, 3, 4]);
    world.acknowledge(
        "c",
        epoch,
        &[(2, AckKind::PubAck), (1, AckKind::PubRec), (2, AckKind::PubComp), (77, AckKind::PubAck)],
    );
    assert_eq!(world.queue("c").len(), 4, "none of these fits");
    world.acknowledge("c", epoch, &[(3, AckKind::PubAck), (2, AckKind::PubRec)]);
    assert_eq!(world.queue("c"), ["1", "released", "4"]);
    assert_eq!(world.state.totals().messages, 2);
    world.acknowledge("c", epoch, &[(2, AckKind::PubComp), (4, AckKind::PubRecError), (1, AckKind::PubAck)]);
    assert!(world.queue("c").is_empty());
    assert_eq!(world.state.totals().messages, 0);
}

/// [MQTT-3.3.1-5] to [MQTT-3.3.1-11]
#[test]
fn subscribing_queues_retained_messages_in_order_of_topics() {
    let mut world = World::new();
    for (topic, payload, qos) in [("a/2", "2", 1), ("a/1", "1", 2), ("a/0", "0", 0), ("a/3", "3", 1), ("a", "root", 1)]
    {
        world.publish(Message { retain: true, ..message(topic, payload, qos) });
    }
    world.publish(Message { retain: true, ..message("a/3", "", 1) });
    let (epoch, ..) = world.connect(connect("c"));
    assert!(!world.subscribe("c", epoch, sub("a/#", 2)));
    assert_eq!(world.queue("c"), ["root", "1", "2"]);
    assert!(world.session("c").queue().iter_from(0).all(|entry| entry.options().retain));
    let handling = |retain_handling| Subscription { retain_handling, ..sub("a/#", 2) };
    assert!(world.subscribe("c", epoch, handling(RetainHandling::SendIfNew)));
    assert!(world.subscribe("c", epoch, handling(RetainHandling::DoNotSend)));
    world.subscribe("c", epoch, sub("$share/g/a/#", 2));
    world.subscribe("c", epoch, sub("a/+", 0));
    assert_eq!(world.queue("c").len(), 3);
    assert!(world.subscribe("c", epoch, handling(RetainHandling::SendAtSubscribe)));
    assert_eq!(world.queue("c").len(), 6);
}

#[test]
fn retained_messages_are_read_page_by_page() {
    let mut world = World::new();
    for topic in ["a/1", "a/2", "a/3", "b"] {
        world.publish(Message { retain: true, ..message(topic, topic, 0) });
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        after = world.state.retained_matches(&sub("a/+", 0).filter, after.as_ref(), 2, &mut found);
        if after.is_none() {
            break;
        }
    }
    let topics: Vec<_> = found.iter().map(|message| message.topic.as_str()).collect();
    assert_eq!(topics, ["a/1", "a/2", "a/3"]);
    assert_eq!(world.state.retained_matches(&sub("$share/g/#", 0).filter, None, 9, &mut found), None);
    assert_eq!(found.len(), 3);
}

#[test]
fn retained_message_expires() {
    let mut world = World::new();
    let expiring = |seconds| Message { retain: true, expiry_seconds: Some(seconds), ..message("a", "1", 1) };
    world.publish(expiring(10));
    world.publish(expiring(20));
    world.wait(10);
    assert_eq!(world.state.totals().retained, 1);
    world.now += 10_000;
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 1));
    assert!(world.queue("c").is_empty(), "before the tick");
    world.wait(0);
    assert_eq!(world.state.totals().retained, 0);
}

#[test]
fn unsubscribing_keeps_what_is_queued() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    world.subscribe("c", epoch, sub("a", 1));
    world.publish(message("a", "1", 1));
    let filters = vec![sub("a", 1).filter, sub("b", 1).filter];
    let outcome = world.apply(Command::Unsubscribe { client_id: "c".into(), epoch, filters });
    assert_eq!(outcome, Outcome::Unsubscribed { existed: vec![true, false] });
    assert_eq!(world.publish(message("a", "2", 1)), 0);
    assert_eq!(world.queue("c"), ["1"]);
}

#[test]
fn reading_finds_what_publishing_finds() {
    let mut world = World::new();
    world.sleeper("c", &["a/#", "$share/g/a/b"]);
    world.sleeper("d", &["a/b"]);
    let mut found = Vec::new();
    world.state.for_each_durable_match("a/b", |m| found.push((m.session.client_id().to_string(), m.group.is_some())));
    assert_eq!(found, [("d".into(), false), ("c".into(), false), ("c".into(), true)]);
    assert!(world.state.matches_durable("a/b") && !world.state.matches_durable("b"));
}

/// The filters whose routes changed since the version; `None`: any may have.
fn rerouted(world: &World, since: &mut u64) -> Option<Vec<String>> {
    let mut filters = Vec::new();
    let told = world.state.subscriptions_since(*since, &mut filters);
    *since = world.state.subscriptions_version();
    told.then(|| filters.iter().map(|filter| filter.as_str().to_owned()).collect())
}

#[test]
fn every_change_of_routes_names_its_filters() {
    let mut world = World::new();
    let since = &mut world.state.subscriptions_version();
    let some = |filters: &[&str]| Some(filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>());
    let (epoch, ..) = world.connect(connect("c"));
    assert_eq!(rerouted(&world, since), some(&[]));
    world.subscribe("c", epoch, sub("a", 1));
    assert_eq!(rerouted(&world, since), some(&["a"]));
    world.publish(message("a", "1", 1));
    world.acknowledge("c", epoch, &[(1, AckKind::PubAck)]);
    assert_eq!(rerouted(&world, since), some(&[]));
    world.disconnect("c", epoch, true);
    assert_eq!(rerouted(&world, since), some(&["a"]), "it is connected nowhere");
    world.connect(connect("c"));
    assert_eq!(rerouted(&world, since), some(&["a"]), "it is connected again");
    for number in 0..crate::recent_changes::FILTERS_MAX {
        world.sleeper(&format!("d{number}"), &["b"]);
    }
    assert_eq!(rerouted(&world, since), None, "more than is remembered");
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_a_clients_own_retained_messages_away() {
    let mut world = World::new();
    let (epoch, ..) = world.connect(connect("c"));
    for (topic, publisher) in [("a/own", "c"), ("a/foreign", "other")] {
        let message = message(topic, publisher, 1);
        world.publish(Message { retain: true, publisher_id: publisher.into(), ..message });
    }
    world.subscribe("c", epoch, Subscription { no_local: true, ..sub("a/#", 1) });
    assert_eq!(world.queue("c"), ["other"]);
    world.subscribe("c", epoch, sub("a/own", 1));
    assert_eq!(world.queue("c"), ["other", "c"]);
}
