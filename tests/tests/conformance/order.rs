//! Packets of one connection take effect in their order (MQTT 5.0 section 4.6 and what clients rely on): a message sees the
//! client's own subscriptions that were made before it, and none that is made or ended behind it.
use mosquorum_proto::mqtt::{
    Ack, Packet, ProtocolVersion, Publish, QoS, SubAck, Subscribe, Subscription, TopicFilter, Unsubscribe,
};
use mosquorum_tests::{
    client::{Connection, Result, message, topic_filter},
    cluster::{Cluster, ClusterOptions},
    on_both,
    target::{Target, TestResult},
};

/// Packets that go out in one write.
struct Burst<'c> {
    client: &'c mut Connection,
}

impl Burst<'_> {
    fn subscribe(&mut self, filter: &str, qos: QoS) -> &mut Self {
        let packet_id = self.client.next_packet_id();
        let subscriptions = vec![Subscription::new(topic_filter(filter), qos)];
        self.client.queue(&Packet::Subscribe(Subscribe::new(packet_id, subscriptions)));
        self
    }

    fn unsubscribe(&mut self, filter: &str) -> &mut Self {
        let packet_id = self.client.next_packet_id();
        let filters: Vec<TopicFilter> = vec![topic_filter(filter)];
        self.client.queue(&Packet::Unsubscribe(Unsubscribe::new(packet_id, filters)));
        self
    }

    fn publish(&mut self, topic: &str, payload: &'static str, qos: QoS, retain: bool) -> &mut Self {
        let mut publish = message(topic, payload, qos);
        publish.retain = retain;
        if qos != QoS::AtMostOnce {
            publish.packet_id = self.client.next_packet_id();
        }
        self.client.queue(&Packet::Publish(publish));
        self
    }

    /// Ends with a message to itself, and says what came until then: messages (with `+` those that are retained), `SUBACK`
    /// and `UNSUBACK`.
    async fn outcome(&mut self, fence: &str) -> Result<Vec<String>> {
        self.subscribe(fence, QoS::AtLeastOnce).publish(fence, "fence", QoS::AtLeastOnce, false);
        self.client.flush().await?;
        let mut came = Vec::new();
        loop {
            match self.client.recv().await? {
                Packet::Publish(publish) => {
                    answer(self.client, &publish).await?;
                    if publish.payload == "fence" {
                        return Ok(came);
                    }
                    let payload = String::from_utf8_lossy(&publish.payload);
                    came.push(if publish.retain { format!("+{payload}") } else { payload.into_owned() });
                }
                Packet::PubRec(ack) => self.client.send(&Packet::PubRel(Ack::new(ack.packet_id))).await?,
                Packet::PubRel(ack) => self.client.send(&Packet::PubComp(Ack::new(ack.packet_id))).await?,
                Packet::SubAck(SubAck { .. }) => came.push("SUBACK".to_owned()),
                Packet::UnsubAck(_) => came.push("UNSUBACK".to_owned()),
                _ => {}
            }
        }
    }
}

async fn answer(client: &mut Connection, publish: &Publish) -> Result<()> {
    match publish.qos {
        QoS::AtMostOnce => Ok(()),
        QoS::AtLeastOnce => client.send(&Packet::PubAck(Ack::new(publish.packet_id))).await,
        QoS::ExactlyOnce => client.send(&Packet::PubRec(Ack::new(publish.packet_id))).await,
    }
}

/// A client for each kind of session and QoS of what it publishes.
async fn clients(target: Target, name: &str) -> Result<Vec<(Connection, QoS, String)>> {
    let mut clients = Vec::new();
    for durable in [false, true] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let name = target.unique(&format!("{name}-{durable}-{}", qos as u8));
            let packet = if durable { Target::durable_packet } else { Target::connect_packet };
            let connect = packet(&target, ProtocolVersion::V5, &name);
            clients.push((Connection::connected(target.b, connect).await?.0, qos, name));
        }
    }
    Ok(clients)
}

fn messages(came: Vec<String>) -> Vec<String> {
    came.into_iter().filter(|what| !what.ends_with("ACK")).collect()
}

async fn a_message_sees_the_subscriptions_before_it_and_not_the_ends_behind_it(target: Target) -> TestResult {
    for (mut client, qos, topic) in clients(target, "ends").await? {
        let fence = format!("{topic}/fence");
        for round in 0..5 {
            let came = Burst { client: &mut client }
                .subscribe(&topic, QoS::ExactlyOnce)
                .publish(&topic, "x", qos, false)
                .unsubscribe(&topic)
                .publish(&topic, "y", qos, false)
                .outcome(&fence)
                .await?;
            assert_eq!(messages(came), ["x"], "{topic}, round {round}");
        }
    }
    Ok(())
}

async fn a_subscription_sees_the_messages_behind_it_and_not_those_before_it(target: Target) -> TestResult {
    for (mut client, qos, topic) in clients(target, "begins").await? {
        let fence = format!("{topic}/fence");
        for round in 0..5 {
            let came = Burst { client: &mut client }
                .publish(&topic, "a", qos, false)
                .subscribe(&topic, QoS::ExactlyOnce)
                .publish(&topic, "b", qos, false)
                .unsubscribe(&topic)
                .outcome(&fence)
                .await?;
            assert_eq!(messages(came), ["b"], "{topic}, round {round}");
        }
    }
    Ok(())
}

/// Live before the end of the subscription, retained behind the next one, never the other way round and never twice.
async fn a_retained_message_of_ones_own_comes_live_and_then_at_the_next_subscription(target: Target) -> TestResult {
    for (mut client, qos, topic) in clients(target, "retained").await? {
        let fence = format!("{topic}/fence");
        for round in 0..5 {
            let came = Burst { client: &mut client }
                .subscribe(&topic, QoS::ExactlyOnce)
                .publish(&topic, "r", qos, true)
                .unsubscribe(&topic)
                .subscribe(&topic, QoS::ExactlyOnce)
                .publish(&topic, "", qos, true)
                .unsubscribe(&topic)
                .outcome(&fence)
                .await?;
            assert_eq!(messages(came), ["r", "+r", ""], "{topic}, round {round}");
        }
    }
    Ok(())
}

/// An answer says that the packets before it have been dealt with.
async fn answers_to_subscribe_and_unsubscribe_come_in_their_order(target: Target) -> TestResult {
    for (mut client, _, topic) in clients(target, "answers").await? {
        let came = Burst { client: &mut client }
            .subscribe(&topic, QoS::AtLeastOnce)
            .unsubscribe(&topic)
            .subscribe(&topic, QoS::AtLeastOnce)
            .outcome(&format!("{topic}/fence"))
            .await?;
        assert_eq!(came, ["SUBACK", "UNSUBACK", "SUBACK", "SUBACK"], "{topic}");
    }
    Ok(())
}

/// What was acknowledged before SUBSCRIBE was sent comes as a retained message with the subscription's identifier
/// [MQTT-3.3.4-3], and not as a live one as well, however far the subscriber's node is behind.
async fn a_retained_message_of_before_a_subscription_comes_once_with_its_identifier(target: Target) -> TestResult {
    let mut publisher = target.at_a("publisher").await?;
    let mut subscriber = target.at_b("subscriber").await?;
    for round in 0..50 {
        let topic = target.unique(&format!("acknowledged/{round}"));
        let mut kept = message(&topic, "kept", QoS::AtLeastOnce);
        kept.retain = true;
        publisher.publish(kept).await?;
        let subscription = Subscription::new(topic_filter(&topic), QoS::AtLeastOnce);
        let mut subscribe = Subscribe::new(subscriber.next_packet_id(), vec![subscription]);
        subscribe.subscription_identifier = Some(7);
        subscriber.subscribe_with(subscribe).await?;
        publisher.publish(message(&topic, "later", QoS::AtLeastOnce)).await?;
        for (payload, retain) in [("kept", true), ("later", false)] {
            let publish = subscriber.receive().await?;
            let identifiers = publish.properties.map(|properties| properties.subscription_identifiers);
            let came = (String::from_utf8_lossy(&publish.payload).into_owned(), publish.retain, identifiers);
            assert_eq!(came, (payload.to_owned(), retain, Some(vec![7])), "round {round}");
        }
    }
    Ok(())
}

on_both!(
    a_message_sees_the_subscriptions_before_it_and_not_the_ends_behind_it,
    a_subscription_sees_the_messages_behind_it_and_not_those_before_it,
    a_retained_message_of_ones_own_comes_live_and_then_at_the_next_subscription,
    answers_to_subscribe_and_unsubscribe_come_in_their_order,
    a_retained_message_of_before_a_subscription_comes_once_with_its_identifier,
);

/// One node alone whose log is on disk: answers come later than what they answer.
#[tokio::test]
async fn on_a_persistent_node_packets_take_effect_in_their_order() -> TestResult {
    let cluster = Cluster::start(ClusterOptions::new("in-order", 1).persistent()).await?;
    let target = Target::of(&cluster);
    a_message_sees_the_subscriptions_before_it_and_not_the_ends_behind_it(target).await?;
    a_subscription_sees_the_messages_behind_it_and_not_those_before_it(target).await?;
    a_retained_message_of_ones_own_comes_live_and_then_at_the_next_subscription(target).await?;
    answers_to_subscribe_and_unsubscribe_come_in_their_order(target).await
}
