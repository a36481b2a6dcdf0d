//! Shared subscriptions (MQTT 5.0 section 4.8.2).
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use mosquorum_tests::{
    client::{Connection, Result, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    on_both, on_one_node,
    skip::skip,
    target::{Target, TestResult},
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

async fn member(target: Target, at_a: bool, name: &str, topic: &str) -> Result<Connection> {
    let mut member = if at_a { target.at_a(name).await? } else { target.at_b(name).await? };
    member.subscribe_to(&format!("$share/crew/{topic}"), QoS::AtLeastOnce).await?;
    Ok(member)
}

/// Receives from all until `count` messages came; fails when one comes twice.
async fn collect(
    members: &mut [Connection],
    count: usize,
) -> std::result::Result<Vec<Vec<String>>, Box<dyn std::error::Error>> {
    let mut came = vec![Vec::new(); members.len()];
    let mut all = BTreeSet::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while all.len() < count {
        for (member, came) in members.iter_mut().zip(&mut came) {
            if let Some(packet) = member.recv_within(Duration::from_millis(5)).await? {
                member.put_back(packet);
                let payload = String::from_utf8_lossy(&member.receive().await?.payload).into_owned();
                assert!(all.insert(payload.clone()), "{payload} came to two members");
                came.push(payload);
            }
        }
        assert!(Instant::now() < deadline, "{} of {count} came", all.len());
    }
    Ok(came)
}

/// [MQTT-4.8.2-4]
async fn each_message_goes_to_one_member(target: Target) -> TestResult {
    let topic = target.unique("job");
    let mut members = [
        member(target, true, "m1", &topic).await?,
        member(target, false, "m2", &topic).await?,
        member(target, false, "m3", &topic).await?,
    ];
    let mut publisher = target.at_a("p").await?;
    for number in 0..30 {
        publisher.publish(message(&topic, number.to_string(), QoS::AtLeastOnce)).await?;
    }
    collect(&mut members, 30).await?;
    Ok(())
}

/// Mosquitto's order on one node: strictly in turn from the first subscriber.
async fn members_take_turns_from_the_first(target: Target) -> TestResult {
    let topic = target.unique("turn");
    let mut members = [member(target, true, "m1", &topic).await?, member(target, true, "m2", &topic).await?];
    let mut publisher = target.at_a("p").await?;
    for number in 0..6 {
        publisher.publish(message(&topic, number.to_string(), QoS::AtLeastOnce)).await?;
    }
    let came = collect(&mut members, 6).await?;
    assert_eq!(came, [["0", "2", "4"], ["1", "3", "5"]]);
    Ok(())
}

/// [MQTT-4.8.2-5]
async fn what_a_dead_member_did_not_acknowledge_goes_to_a_living_one(target: Target) -> TestResult {
    let topic = target.unique("dead");
    let mut dying = member(target, true, "dying", &topic).await?;
    target.publish(&topic, "work", false).await?;
    assert_eq!(dying.expect_publish().await?.payload, "work");
    let mut living = member(target, false, "living", &topic).await?;
    drop(dying);
    assert_eq!(living.receive().await?.payload, "work");
    Ok(())
}

/// [MQTT-4.8.2-5]: when the chosen member's session ends, another one gets what it did not acknowledge.
async fn what_an_expired_session_did_not_acknowledge_goes_to_a_living_member(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto drops it");
        return Ok(());
    }
    let topic = target.unique("expired");
    let mut connect = target.durable_packet(ProtocolVersion::V5, "mortal");
    connect.session_expiry_interval = Some(1);
    let (mut mortal, _) = Connection::connected(target.a, connect).await?;
    mortal.subscribe_to(&format!("$share/crew/{topic}"), QoS::AtLeastOnce).await?;
    target.publish(&topic, "sent", false).await?;
    assert_eq!(mortal.expect_publish().await?.payload, "sent");
    mortal.disconnect().await?;
    target.publish(&topic, "queued", false).await?;
    let mut living = member(target, false, "living", &topic).await?;
    let mut came = Vec::new();
    for _ in 0..2 {
        came.push(String::from_utf8_lossy(&living.receive().await?.payload).into_owned());
    }
    came.sort_unstable();
    assert_eq!(came, ["queued", "sent"]);
    Ok(())
}

/// `shared_offline_members`: by default a member that is away is passed over while another one is connected.
#[tokio::test]
async fn a_member_that_is_away_takes_its_turn_only_if_it_is_to() -> TestResult {
    if is_stand_in() {
        skip("the option is ours");
        return Ok(());
    }
    for (line, kept) in [("shared_offline_members false", 0), ("shared_offline_members true", 5)] {
        let cluster = Cluster::start(ClusterOptions::new("away", 1).with(line)).await?;
        let target = Target::of(&cluster);
        let away = target.durable_packet(ProtocolVersion::V5, "away");
        let (mut client, _) = Connection::connected(target.a, away.clone()).await?;
        client.subscribe_to("$share/crew/job", QoS::AtLeastOnce).await?;
        client.disconnect().await?;
        let mut present = member(target, true, "present", "job").await?;
        let mut publisher = target.at_a("p").await?;
        for number in 0..10 {
            publisher.publish(message("job", number.to_string(), QoS::AtLeastOnce)).await?;
        }
        for _ in 0..10 - kept {
            present.receive().await?;
        }
        let (mut client, _) = Connection::connected(target.a, away).await?;
        for _ in 0..kept {
            client.receive().await?;
        }
        client.expect_nothing().await?;
        present.expect_nothing().await?;
    }
    Ok(())
}

async fn groups_and_plain_subscriptions_do_not_disturb_each_other(target: Target) -> TestResult {
    let topic = target.unique("both");
    let mut crew = member(target, true, "crew", &topic).await?;
    let mut other = target.at_b("other").await?;
    other.subscribe_to(&format!("$share/other/{topic}"), QoS::AtLeastOnce).await?;
    let mut plain = target.at_b("plain").await?;
    plain.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    for payload in ["one", "two"] {
        target.publish(&topic, payload, false).await?;
        for client in [&mut crew, &mut other, &mut plain] {
            assert_eq!(client.receive().await?.payload, payload);
        }
    }
    Ok(())
}

/// QoS 0 waits for nobody, so it goes to a member that is connected, wherever that is.
async fn qos_0_reaches_the_durable_members_of_a_group(target: Target) -> TestResult {
    let topic = target.unique("durable-crew");
    let mut members = Vec::new();
    for (address, name) in [(target.b, "d1"), (target.c, "d2")] {
        let mut member = Connection::connected(address, target.durable_packet(ProtocolVersion::V5, name)).await?.0;
        member.subscribe_to(&format!("$share/crew/{topic}"), QoS::AtMostOnce).await?;
        members.push(member);
    }
    for (node, address) in [target.a, target.b, target.c].into_iter().enumerate() {
        let name = format!("p{node}");
        let mut publisher = Connection::connected(address, target.connect_packet(ProtocolVersion::V5, &name)).await?.0;
        for number in 0..10 {
            publisher.publish(message(&topic, format!("{name}-{number}"), QoS::AtMostOnce)).await?;
        }
        publisher.disconnect().await?;
    }
    let came = collect(&mut members, 30).await?;
    assert!(came.iter().all(|came| !came.is_empty()), "one member got everything: {came:?}");
    Ok(())
}

on_both!(
    qos_0_reaches_the_durable_members_of_a_group,
    each_message_goes_to_one_member,
    what_a_dead_member_did_not_acknowledge_goes_to_a_living_one,
    what_an_expired_session_did_not_acknowledge_goes_to_a_living_member,
    groups_and_plain_subscriptions_do_not_disturb_each_other,
);

mod alone {
    use super::*;
    on_one_node!(members_take_turns_from_the_first);
}
