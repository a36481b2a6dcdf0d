//! What clients may not read (`acl_file`): it takes no room in their queues and no turn in their shared groups, wherever in
//! a cluster they are.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS, ReasonCode, Utf8, Will};
use mosquorum_tests::{
    client::{Connection, Result, TIMEOUT, message, topic_name},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::{Failure, TestResult},
};

/// Who gives no name may do everything, as may `wide`.
const RULES: &str = "topic readwrite #\nuser wide\ntopic readwrite #\nuser narrow\ntopic read pub/#\n";

/// A cluster whose nodes have these rules, and queues of 20.
async fn ruled(name: &str, nodes: usize, rules: &str) -> std::result::Result<Cluster, Failure> {
    let mut cluster = Cluster::prepare(ClusterOptions::new(name, nodes).with("max_queued_messages 20"))?;
    let file = cluster.folder().join("rules");
    std::fs::write(&file, rules)?;
    for node in 0..nodes {
        let configuration = cluster.configuration_file(node);
        let lines = std::fs::read_to_string(configuration)?;
        std::fs::write(configuration, format!("acl_file {}\n{lines}", file.display()))?;
        cluster.start_node(node)?;
    }
    cluster.wait_all_serving(TIMEOUT).await?;
    Ok(cluster)
}

fn user(id: &str, name: &str, durable: bool) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, id);
    connect.user_name = Some(Utf8::from(name));
    connect.clean_start = false;
    connect.session_expiry_interval = durable.then_some(3600);
    connect
}

async fn joined(cluster: &Cluster, node: usize, connect: Connect) -> Result<Connection> {
    Ok(Connection::connected(cluster.address(node % cluster.len()), connect).await?.0)
}

async fn publisher(cluster: &Cluster, node: usize) -> Result<Connection> {
    joined(cluster, node, Connect::new(ProtocolVersion::V5, "publisher")).await
}

/// A session that waits from now on.
async fn left(cluster: &Cluster, node: usize, id: &str, name: &str, filter: &str) -> TestResult {
    let mut connection = joined(cluster, node, user(id, name, true)).await?;
    connection.subscribe_to(filter, QoS::AtLeastOnce).await?;
    connection.disconnect().await?;
    Ok(())
}

async fn expect_topics(client: &mut Connection, topics: impl IntoIterator<Item = String>) -> TestResult {
    for topic in topics {
        assert_eq!(client.receive().await?.topic.as_ref().map(ToString::to_string), Some(topic));
    }
    client.expect_nothing().await?;
    Ok(())
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

async fn publish_all(publisher: &mut Connection, topics: &[String], qos: QoS) -> TestResult {
    for topic in topics {
        publisher.publish(message(topic, "x", qos)).await?;
    }
    Ok(())
}

/// As Mosquitto, which asks before it queues.
#[tokio::test]
async fn what_a_client_that_is_away_may_not_read_takes_no_room_in_its_queue() -> TestResult {
    for nodes in [1, 3] {
        let cluster = ruled("rights-queue", nodes, RULES).await?;
        left(&cluster, 1, "away", "narrow", "#").await?;
        let mut publisher = publisher(&cluster, 0).await?;
        publish_all(&mut publisher, &numbered("secret/", 60), QoS::AtLeastOnce).await?;
        publish_all(&mut publisher, &numbered("pub/", 5), QoS::AtLeastOnce).await?;
        let mut back = joined(&cluster, 2, user("away", "narrow", true)).await?;
        expect_topics(&mut back, numbered("pub/", 5)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn wills_that_a_client_may_not_read_take_no_room_in_its_queue() -> TestResult {
    let cluster = ruled("rights-wills", 1, RULES).await?;
    left(&cluster, 0, "away", "narrow", "#").await?;
    let mut observer = joined(&cluster, 0, user("observer", "wide", false)).await?;
    observer.subscribe_to("secret/#", QoS::AtLeastOnce).await?;
    for number in 0..25 {
        let mut connect = Connect::new(ProtocolVersion::V5, format!("mortal-{number}"));
        connect.will = Some(Will {
            topic: topic_name(&format!("secret/{number}")),
            payload: "gone".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            delay_interval_seconds: 0,
            properties: None,
        });
        drop(joined(&cluster, 0, connect).await?);
        observer.receive().await?;
    }
    publisher(&cluster, 0).await?.publish(message("pub/1", "x", QoS::AtLeastOnce)).await?;
    let mut back = joined(&cluster, 0, user("away", "narrow", true)).await?;
    expect_topics(&mut back, ["pub/1".to_owned()]).await
}

/// A right that is given by a reload counts from there on, for who is away too.
#[tokio::test]
async fn what_a_client_may_read_after_a_reload_is_queued() -> TestResult {
    for nodes in [1, 3] {
        let mut cluster = ruled("rights-reload", nodes, RULES).await?;
        left(&cluster, 1, "away", "narrow", "#").await?;
        std::fs::write(cluster.folder().join("rules"), format!("{RULES}topic read more/#\n"))?;
        // One node alone: what any node lets it read is queued, since it may come back there.
        assert!(cluster.signal(nodes - 1, rustix::process::Signal::HUP));
        // Who connects after the signal waits for the new rules; what comes behind its record in the log knows them.
        left(&cluster, nodes - 1, "other", "wide", "other").await?;
        publish_all(&mut publisher(&cluster, 0).await?, &numbered("more/", 3), QoS::AtLeastOnce).await?;
        let mut back = joined(&cluster, nodes - 1, user("away", "narrow", true)).await?;
        expect_topics(&mut back, numbered("more/", 3)).await?;
    }
    Ok(())
}

/// Mosquitto gives the member what it then does not deliver.
#[tokio::test]
async fn a_member_without_the_right_has_no_turn_in_its_shared_group() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto loses what it gives to such a member");
        return Ok(());
    }
    for nodes in [1, 3] {
        for durable in [true, false] {
            let cluster = ruled("rights-shared", nodes, RULES).await?;
            let mut members = Vec::new();
            for (node, name) in [(0, "narrow"), (1, "narrow"), (2, "wide")] {
                let mut member = joined(&cluster, node, user(&format!("{name}-{node}"), name, durable)).await?;
                member.subscribe_to("$share/g/jobs/#", QoS::AtLeastOnce).await?;
                members.push(member);
            }
            let mut publisher = publisher(&cluster, 0).await?;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce] {
                publish_all(&mut publisher, &numbered("jobs/", 9), qos).await?;
                let mut came = Vec::new();
                while came.len() < 9 {
                    came.push(members[2].receive().await?.topic.map(|topic| topic.to_string()).unwrap_or_default());
                }
                // Which nodes hand on what they have no reader for is not said.
                came.sort_unstable();
                assert_eq!(came, numbered("jobs/", 9), "{nodes} {durable} {qos:?}");
            }
            // Retained messages reach live members by every node's own apply.
            let mut retained = message("jobs/kept", "x", QoS::AtLeastOnce);
            retained.retain = true;
            assert_eq!(publisher.publish(retained).await?, ReasonCode::Success);
            expect_topics(&mut members[2], ["jobs/kept".to_owned()]).await?;
            for member in &mut members[..2] {
                member.expect_nothing().await?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_job_waits_for_the_member_that_may_read_it_while_another_one_is_there() -> TestResult {
    if is_stand_in() {
        skip("Mosquitto loses what it gives to such a member");
        return Ok(());
    }
    let cluster = ruled("rights-waits", 1, RULES).await?;
    left(&cluster, 0, "away", "wide", "$share/g/jobs/#").await?;
    let mut there = joined(&cluster, 0, user("there", "narrow", true)).await?;
    there.subscribe_to("$share/g/jobs/#", QoS::AtLeastOnce).await?;
    publish_all(&mut publisher(&cluster, 0).await?, &numbered("jobs/", 4), QoS::AtLeastOnce).await?;
    let mut back = joined(&cluster, 0, user("away", "wide", true)).await?;
    expect_topics(&mut back, numbered("jobs/", 4)).await
}
