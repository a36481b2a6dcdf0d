//! Access rules with Eclipse Mosquitto as the oracle: operations, identities and hostile names. What it denies, we deny.
use mosquorum_proto::mqtt::{Connect, Packet, ProtocolVersion, Publish, QoS, RetainHandling, Subscription, Utf8, Will};
use mosquorum_tests::{
    client::{self, Connection, message, topic_filter, topic_name},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    skip::skip,
    target::{Failure, TestResult},
};
use std::{collections::BTreeMap, path::Path};

const ORACLE: &str = "/usr/sbin/mosquitto";

const RULES: &str = "\
topic read anon/#
topic write anon/w
topic read $SYS/#
user alice
topic readwrite alice/#
topic deny alice/secret
topic read shared/a
user bob
topic write c/plain/data
topic read u/alice/in
user root
topic readwrite #
topic readwrite $SYS/#
pattern readwrite c/%c/data
pattern read u/%u/#
pattern write u/%u/in
pattern deny c/%c/data/no
";

/// Client identifier and user name.
const IDENTITIES: [(&str, Option<&str>); 12] = [
    ("plain", None),
    ("plain", Some("alice")),
    ("plain", Some("bob")),
    ("other", Some("nobody")),
    ("+", Some("alice")),
    ("#", Some("alice")),
    ("plain", Some("+")),
    ("plain", Some("#")),
    ("a/b", Some("a/b")),
    ("%c", Some("%u")),
    ("$SYS", Some("$SYS")),
    ("plain", Some("alice/#")),
];

const TOPICS: [&str; 16] = [
    "anon/x",
    "anon/w",
    "alice/x",
    "alice/secret",
    "shared/a",
    "c/plain/data",
    "c/other/data",
    "c/a/b/data",
    "c/%c/data",
    "u/alice/in",
    "u/alice/out",
    "u/bob/in",
    "u/a/b/in",
    "u/%u/in",
    "elsewhere",
    "$SYS/mine",
];

/// Filters beyond the topics themselves.
const FILTERS: [&str; 9] = [
    "#",
    "+/+/data",
    "c/+/data",
    "u/#",
    "alice/+",
    "$SYS/mine",
    "$share/g/alice/secret",
    "$share/g/alice/x",
    "$share/g/#",
];

/// What was possible, by operation, identity and topic.
type Seen = BTreeMap<String, bool>;

struct Matrix<'a> {
    cluster: &'a Cluster,
    /// May do everything: one that sees everything, one that publishes.
    root: Connection,
    publisher: Connection,
    seen: Seen,
    number: u32,
}

fn connect(client_id: &str, user: Option<&str>) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V311, client_id);
    connect.user_name = user.map(Utf8::from);
    connect
}

impl<'a> Matrix<'a> {
    async fn new(cluster: &'a Cluster) -> Result<Self, Failure> {
        let (mut root, _) = Connection::connected(cluster.address(0), connect("root", Some("root"))).await?;
        root.subscribe_to("#", QoS::AtMostOnce).await?;
        root.subscribe_to("$SYS/mine", QoS::AtMostOnce).await?;
        let (publisher, _) = Connection::connected(cluster.address(0), connect("root-publisher", Some("root"))).await?;
        Ok(Self { cluster, root, publisher, seen: Seen::new(), number: 0 })
    }

    async fn join(&self, connect: Connect) -> Result<Connection, Failure> {
        Ok(Connection::connected(self.cluster.address(0), connect).await?.0)
    }

    fn fresh(&mut self) -> String {
        self.number += 1;
        format!("payload-{}", self.number)
    }

    /// Whether root gets this payload before one of its own that it sends now.
    async fn reached_root(&mut self, payload: &str) -> Result<bool, Failure> {
        let sentinel = self.fresh();
        self.publisher.publish(message("sentinel", sentinel.clone(), QoS::AtLeastOnce)).await?;
        let mut reached = false;
        loop {
            let got = self.root.receive().await?.payload;
            reached |= got.as_ref() == payload.as_bytes();
            if got.as_ref() == sentinel.as_bytes() {
                return Ok(reached);
            }
        }
    }

    fn note(&mut self, operation: &str, (client, user): (&str, Option<&str>), topic: &str, possible: bool) {
        self.seen.insert(format!("{operation} by {client} as {user:?}: {topic}"), possible);
    }

    async fn writes(&mut self, who: (&str, Option<&str>), topic: &str) -> TestResult {
        let mut client = self.join(connect(who.0, who.1)).await?;
        for (operation, qos, retain) in [
            ("publish QoS 0", QoS::AtMostOnce, false),
            ("publish QoS 1", QoS::AtLeastOnce, false),
            ("publish QoS 2", QoS::ExactlyOnce, false),
            ("publish retained", QoS::AtLeastOnce, true),
        ] {
            let payload = self.fresh();
            let mut publish = message(topic, payload.clone(), qos);
            publish.retain = retain;
            // A broker may end the connection of who may not publish.
            let alive = client.publish(publish).await.is_ok() && settled(&mut client).await.is_ok();
            let possible = self.reached_root(&payload).await?;
            self.note(operation, who, topic, possible);
            if retain {
                let kept = self.retained(topic).await?.is_some_and(|kept| kept == payload);
                self.note("keep retained", who, topic, kept);
                self.clear(topic).await?;
            }
            if !alive {
                client = self.join(connect(who.0, who.1)).await?;
            }
        }
        drop(client);
        for (operation, retain) in [("will", false), ("retained will", true)] {
            let payload = self.fresh();
            let will = |topic: &str, payload: &str| Will {
                topic: topic_name(topic),
                payload: payload.to_owned().into(),
                qos: QoS::AtLeastOnce,
                retain,
                delay_interval_seconds: 0,
                properties: None,
            };
            let mut dying = connect(who.0, who.1);
            dying.will = Some(will(topic, &payload));
            let possible = match Connection::connected(self.cluster.address(0), dying).await {
                Err(_) => false,
                Ok((dying, _)) => {
                    die(dying).await;
                    // A will of root's own, sent the same way, comes after it.
                    let last = self.fresh();
                    let mut another = connect("root-dying", Some("root"));
                    another.will = Some(will("sentinel", &last));
                    die(self.join(another).await?).await;
                    let mut possible = false;
                    loop {
                        let got = self.root.receive().await?.payload;
                        possible |= got.as_ref() == payload.as_bytes();
                        if got.as_ref() == last.as_bytes() {
                            break possible;
                        }
                    }
                }
            };
            self.note(operation, who, topic, possible);
            if retain {
                self.clear(topic).await?;
                self.clear("sentinel").await?;
            }
        }
        Ok(())
    }

    async fn retained(&mut self, topic: &str) -> Result<Option<String>, Failure> {
        let mut reader = self.join(connect("root-reader", Some("root"))).await?;
        reader.subscribe_to(topic, QoS::AtMostOnce).await?;
        Ok(settled(&mut reader).await?.pop().map(|publish| String::from_utf8_lossy(&publish.payload).into_owned()))
    }

    async fn clear(&mut self, topic: &str) -> TestResult {
        // Mosquitto ends the connection of who writes there.
        if topic.starts_with("$SYS") {
            return Ok(());
        }
        let mut nothing = message(topic, "", QoS::AtLeastOnce);
        nothing.retain = true;
        self.publisher.publish(nothing).await?;
        Ok(())
    }

    /// Which of the topics a subscription to `filter` brings: live, kept for later, and retained.
    async fn reads(&mut self, who: (&str, Option<&str>), filter: &str) -> TestResult {
        let subscription = Subscription {
            filter: topic_filter(filter),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        };
        let mut kept = connect(who.0, who.1);
        kept.clean_start = false;
        let mut client = self.join(kept.clone()).await?;
        let granted = client.subscribe(vec![subscription]).await.is_ok();
        let mut client = Some(client);
        for (operation, away) in [("receive", false), ("receive what waited", true)] {
            if away && let Some(client) = client.take() {
                client.disconnect().await?;
                // Both know of its end when another connection of the same name is there, and gone.
                self.join(connect("root-pause", Some("root"))).await?.disconnect().await?;
            }
            let mut payloads = BTreeMap::new();
            for topic in TOPICS.into_iter().filter(|topic| !topic.starts_with("$SYS")) {
                let payload = self.fresh();
                self.publisher.publish(message(topic, payload.clone(), QoS::AtLeastOnce)).await?;
                payloads.insert(payload, topic);
            }
            let mut here = match client.take() {
                Some(client) => client,
                None => self.join(kept.clone()).await?,
            };
            let got = settled(&mut here).await?;
            client = Some(here);
            for (payload, topic) in payloads {
                let possible = granted && got.iter().any(|publish| publish.payload.as_ref() == payload.as_bytes());
                self.note(&format!("{operation} through {filter}"), who, topic, possible);
            }
        }
        if let Some(mut client) = client {
            let unsubscribed = client.unsubscribe(filter).await.is_ok();
            self.note("unsubscribe", who, filter, unsubscribed);
        }
        // Forget the session.
        self.join(connect(who.0, who.1)).await?.disconnect().await?;
        Ok(())
    }
}

/// What has come once the broker has answered twice: the first answer may overtake what other connections have left.
async fn settled(client: &mut Connection) -> client::Result<Vec<Publish>> {
    let mut got = Vec::new();
    for _ in 0..2 {
        client.send(&Packet::PingReq).await?;
        loop {
            match client.recv().await? {
                Packet::PingResp => break,
                Packet::Publish(publish) => {
                    if let (QoS::AtLeastOnce, id) = (publish.qos, publish.packet_id) {
                        let [high, low] = id.to_be_bytes();
                        client.send_raw(&[0x40, 2, high, low]).await?;
                    }
                    got.push(publish);
                }
                _ => {}
            }
        }
    }
    Ok(got)
}

/// Breaks the protocol, so that the broker ends the connection and sends its will before it closes.
async fn die(mut client: Connection) {
    let _ = client.send_raw(&[0x00, 0x00]).await;
    let _ = client.recv_until_closed().await;
}

async fn observe(program: Option<&Path>) -> Result<Seen, Failure> {
    let mut options = ClusterOptions::new("acl-matrix", 1);
    options.binary = program.map(Path::to_path_buf);
    let mut cluster = Cluster::prepare(options.with("max_queued_messages 0").with("max_inflight_messages 0"))?;
    let rules = cluster.folder().join("rules.acl");
    std::fs::write(&rules, RULES)?;
    let file = cluster.configuration_file(0);
    let text = std::fs::read_to_string(file)?;
    std::fs::write(file, format!("acl_file {}\n{text}", rules.display()))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, mosquorum_tests::client::TIMEOUT).await?;
    let mut matrix = Matrix::new(&cluster).await?;
    for who in IDENTITIES {
        for topic in TOPICS {
            matrix.writes(who, topic).await?;
        }
        for filter in FILTERS {
            matrix.reads(who, filter).await?;
        }
    }
    Ok(matrix.seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_mosquitto_denies_is_possible() -> TestResult {
    if is_stand_in() || !Path::new(ORACLE).exists() {
        skip("Eclipse Mosquitto is not there as the oracle");
        return Ok(());
    }
    let (ours, oracle) = tokio::join!(observe(None), observe(Some(Path::new(ORACLE))));
    let (Ok(ours), Ok(oracle)) = (ours, oracle) else { panic!("no matrix") };
    assert_eq!(ours.len(), oracle.len());
    let cells = |more: &Seen, less: &Seen| -> Vec<String> {
        more.iter().filter(|(cell, possible)| **possible && !less[*cell]).map(|(cell, _)| cell.clone()).collect()
    };
    let (wider, narrower) = (cells(&ours, &oracle), cells(&oracle, &ours));
    println!(
        "{} cells, {} possible, {} narrower than Mosquitto's: {narrower:#?}",
        ours.len(),
        ours.values().filter(|p| **p).count(),
        narrower.len()
    );
    assert!(wider.is_empty(), "possible here, denied by Mosquitto: {wider:#?}");
    Ok(())
}
