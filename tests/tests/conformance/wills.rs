//! Wills (MQTT 5.0 section 3.1.2.5, 3.1.3.2).
use mosquorum_proto::mqtt::{Connect, Disconnect, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, Will};
use mosquorum_tests::{
    client::{Connection, Result, topic_name},
    cluster::binary::is_stand_in,
    on_both, on_one_node,
    skip::skip,
    target::{Target, TestResult},
};
use std::time::{Duration, Instant};

fn with_will(mut connect: Connect, topic: &str, delay_interval_seconds: u32) -> Connect {
    connect.will = Some(Will {
        topic: topic_name(topic),
        payload: "will".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval_seconds,
        properties: None,
    });
    connect
}

async fn observer(target: Target, topic: &str) -> Result<Connection> {
    let mut observer = target.at_b("observer").await?;
    observer.subscribe_to(topic, QoS::AtLeastOnce).await?;
    Ok(observer)
}

/// The next message is the fence: no will came before it.
async fn expect_only_fence(target: Target, observer: &mut Connection, topic: &str) -> TestResult {
    target.publish(topic, "fence", false).await?;
    assert_eq!(observer.receive().await?.payload, "fence");
    Ok(())
}

/// [MQTT-3.1.2-8]
async fn an_unclean_end_publishes_the_will_once(target: Target) -> TestResult {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let topic = target.unique(&format!("w{}", version.level()));
        let mut observer = observer(target, &topic).await?;
        let connect = with_will(target.connect_packet(version, "mortal"), &topic, 0);
        let (mortal, _) = Connection::connected(target.a, connect).await?;
        drop(mortal);
        assert_eq!(observer.receive().await?.payload, "will");
        expect_only_fence(target, &mut observer, &topic).await?;
        observer.disconnect().await?;
    }
    Ok(())
}

/// [MQTT-3.14.4-3]
async fn disconnect_discards_the_will(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 0);
    let (mortal, _) = Connection::connected(target.a, connect).await?;
    mortal.disconnect().await?;
    expect_only_fence(target, &mut observer, &topic).await
}

async fn publishes_at_disconnect(target: Target, reason: ReasonCode) -> TestResult {
    let topic = target.unique(&format!("w{}", reason as u8));
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 0);
    let (mut mortal, _) = Connection::connected(target.a, connect).await?;
    mortal.send(&Packet::Disconnect(Disconnect::new(reason))).await?;
    assert_eq!(observer.receive().await?.payload, "will");
    observer.disconnect().await?;
    Ok(())
}

/// Disconnect with Will Message (section 3.14.2.1).
async fn disconnect_with_reason_4_publishes_it(target: Target) -> TestResult {
    publishes_at_disconnect(target, ReasonCode::DisconnectWithWill).await
}

/// [MQTT-3.14.4-3] speaks of reason 0x00 alone.
async fn disconnect_with_any_other_reason_publishes_it_too(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto publishes it for reason 0x04 only");
        return Ok(());
    }
    publishes_at_disconnect(target, ReasonCode::UnspecifiedError).await?;
    publishes_at_disconnect(target, ReasonCode::AdministrativeAction).await
}

/// [MQTT-3.1.2-8]: the session ends before the delay has passed, at a takeover or while the will waits.
async fn clean_start_publishes_a_delayed_will_at_once(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto 2.1 drops it");
        return Ok(());
    }
    for takeover in [true, false] {
        let topic = target.unique(if takeover { "taken-over" } else { "waiting" });
        let mut observer = observer(target, &topic).await?;
        let connect = with_will(target.durable_packet(ProtocolVersion::V5, "mortal"), &topic, 600);
        let (earlier, _) = Connection::connected(target.a, connect.clone()).await?;
        let earlier = takeover.then_some(earlier);
        let mut clean = connect;
        (clean.will, clean.clean_start) = (None, true);
        let (later, _) = Connection::connected(target.c, clean).await?;
        assert_eq!(observer.receive().await?.payload, "will", "takeover: {takeover}");
        drop(earlier);
        later.disconnect().await?;
        observer.disconnect().await?;
    }
    Ok(())
}

/// [MQTT-3.1.2-8]
async fn the_end_of_a_session_without_expiry_publishes_a_delayed_will_at_once(target: Target) -> TestResult {
    if is_stand_in() {
        skip("Eclipse Mosquitto 2.1 waits for the delay");
        return Ok(());
    }
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 600);
    drop(Connection::connected(target.a, connect).await?);
    assert_eq!(observer.receive().await?.payload, "will");
    Ok(())
}

/// Will Delay Interval (section 3.1.3.2.2).
async fn a_delayed_will_comes_after_its_delay(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.durable_packet(ProtocolVersion::V5, "mortal"), &topic, 2);
    let (mortal, _) = Connection::connected(target.a, connect).await?;
    let began = Instant::now();
    drop(mortal);
    assert_eq!(observer.receive().await?.payload, "will");
    assert!(began.elapsed() >= Duration::from_secs(1), "after {:?}", began.elapsed());
    Ok(())
}

/// [MQTT-3.1.3-9]
async fn a_reconnect_within_the_delay_discards_it(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.durable_packet(ProtocolVersion::V5, "mortal"), &topic, 2);
    let (mortal, _) = Connection::connected(target.a, connect.clone()).await?;
    drop(mortal);
    let (mortal, _) = Connection::connected(target.c, connect).await?;
    assert_eq!(observer.recv_within(Duration::from_millis(3500)).await?, None);
    mortal.disconnect().await?;
    expect_only_fence(target, &mut observer, &topic).await
}

/// The end of the session comes before the delay (section 3.1.3.2.2).
async fn a_will_does_not_outlive_its_session(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let mut connect = with_will(target.durable_packet(ProtocolVersion::V5, "mortal"), &topic, 600);
    connect.session_expiry_interval = Some(1);
    let (mortal, _) = Connection::connected(target.a, connect).await?;
    drop(mortal);
    assert_eq!(observer.receive().await?.payload, "will");
    Ok(())
}

/// [MQTT-3.1.4-3]: a takeover is an unclean end of the earlier connection.
async fn a_takeover_publishes_the_will_without_delay(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 0);
    let (_earlier, _) = Connection::connected(target.a, connect.clone()).await?;
    let mut without = connect;
    without.will = None;
    let (_later, _) = Connection::connected(target.c, without).await?;
    assert_eq!(observer.receive().await?.payload, "will");
    Ok(())
}

async fn a_keep_alive_timeout_publishes_the_will(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let mut connect = with_will(target.connect_packet(ProtocolVersion::V311, "mortal"), &topic, 0);
    connect.keep_alive_seconds = 1;
    let (_silent, _) = Connection::connected(target.a, connect).await?;
    assert_eq!(observer.receive().await?.payload, "will");
    Ok(())
}

/// [MQTT-3.1.2-14] [MQTT-3.1.2-15]
async fn a_retained_will_is_retained(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let mut connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 0);
    if let Some(will) = &mut connect.will {
        will.retain = true;
    }
    drop(Connection::connected(target.a, connect).await?);
    assert!(!observer.receive().await?.retain);
    let mut later = target.at_b("later").await?;
    later.subscribe_to(&topic, QoS::AtLeastOnce).await?;
    let publish = later.receive().await?;
    assert!(publish.retain && publish.payload == "will");
    Ok(())
}

async fn will_properties_travel_with_it(target: Target) -> TestResult {
    let topic = target.unique("w");
    let mut observer = observer(target, &topic).await?;
    let mut connect = with_will(target.connect_packet(ProtocolVersion::V5, "mortal"), &topic, 0);
    if let Some(will) = &mut connect.will {
        will.properties = Some(Box::new(PublishProperties {
            content_type: Some("text/plain".into()),
            user_properties: vec![("k".into(), "v".into())],
            ..PublishProperties::default()
        }));
    }
    drop(Connection::connected(target.a, connect).await?);
    let properties = observer.receive().await?.properties.ok_or("properties")?;
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.user_properties, [("k".into(), "v".into())]);
    Ok(())
}

/// [MQTT-4.8.2-4], whoever of the group is durable, wherever they are.
async fn a_will_reaches_one_member_of_a_group(target: Target) -> TestResult {
    for first_is_durable in [true, false] {
        let topic = target.unique(if first_is_durable { "mixed" } else { "clean" });
        let fence = format!("{topic}/fence");
        let mut members = Vec::new();
        for (number, address) in [target.a, target.b, target.c].into_iter().enumerate() {
            let durable = first_is_durable && number == 0;
            let packet = if durable { Target::durable_packet } else { Target::connect_packet };
            let connect = packet(&target, ProtocolVersion::V5, &format!("{topic}-m{number}"));
            let (mut member, _) = Connection::connected(address, connect).await?;
            member.subscribe_to(&format!("$share/crew/{topic}"), QoS::AtLeastOnce).await?;
            member.subscribe_to(&fence, QoS::AtLeastOnce).await?;
            members.push(member);
        }
        let mut observer = observer(target, &topic).await?;
        let mut wills = Vec::new();
        for number in 0..6 {
            let name = format!("{topic}-will{number}");
            let mut connect = with_will(target.connect_packet(ProtocolVersion::V5, &name), &topic, 0);
            connect.will.iter_mut().for_each(|will| will.payload = name.clone().into());
            drop(Connection::connected([target.a, target.b, target.c][number % 3], connect).await?);
            assert_eq!(observer.receive().await?.payload, name);
            wills.push(name);
        }
        // Wills come in the order of the log, so another one says that there are no more.
        drop(
            Connection::connected(target.a, with_will(target.connect_packet(ProtocolVersion::V5, "end"), &fence, 0))
                .await?,
        );
        let mut came = Vec::new();
        for member in &mut members {
            loop {
                let publish = member.receive().await?;
                if publish.topic.as_ref().is_some_and(|topic| topic.as_str() == fence) {
                    break;
                }
                came.push(String::from_utf8_lossy(&publish.payload).into_owned());
            }
        }
        came.sort_unstable();
        assert_eq!(came, wills, "durable: {first_is_durable}");
        observer.disconnect().await?;
    }
    Ok(())
}

on_both!(
    a_will_reaches_one_member_of_a_group,
    an_unclean_end_publishes_the_will_once,
    disconnect_discards_the_will,
    disconnect_with_reason_4_publishes_it,
    disconnect_with_any_other_reason_publishes_it_too,
    clean_start_publishes_a_delayed_will_at_once,
    the_end_of_a_session_without_expiry_publishes_a_delayed_will_at_once,
    a_delayed_will_comes_after_its_delay,
    a_reconnect_within_the_delay_discards_it,
    a_will_does_not_outlive_its_session,
    a_takeover_publishes_the_will_without_delay,
    a_retained_will_is_retained,
    will_properties_travel_with_it,
);

mod alone {
    use super::*;
    on_one_node!(a_keep_alive_timeout_publishes_the_will);
}
