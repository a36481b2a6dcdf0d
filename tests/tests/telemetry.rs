//! OpenTelemetry: what a collector gets of a message that is followed, and of the figures.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, Publish, PublishProperties, QoS};
use mosquorum_tests::{
    client::{Connection, PATIENCE, message},
    cluster::{Cluster, ClusterOptions, binary::is_stand_in},
    otlp::Collector,
    skip::skip,
    target::TestResult,
};
use std::time::{Duration, Instant};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(text: &str, flags: &str) -> Publish {
    let mut publish = message("followed/a", text.to_owned(), QoS::AtLeastOnce);
    let properties =
        vec![("before".into(), "kept".into()), ("traceparent".into(), format!("00-{TRACE}-{PARENT}-{flags}").into())];
    publish.properties = Some(Box::new(PublishProperties { user_properties: properties, ..Default::default() }));
    publish
}

fn traceparent(publish: &Publish) -> String {
    let properties = publish.properties.as_ref().expect("properties");
    let found = properties.user_properties.iter().find(|(name, _)| name.as_str() == "traceparent");
    found.map(|(_, value)| value.to_string()).expect("a traceparent")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_message_is_followed_over_commit_to_delivery_and_others_are_not_touched() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which knows no traces");
        return Ok(());
    }
    let (collector, address) = Collector::start().await?;
    let mut options = ClusterOptions::new("telemetry", 3);
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200".to_owned()),
    ] {
        options.environment.push((name.to_owned(), value));
    }
    let cluster = Cluster::start(options).await?;
    let mut durable = Connect::new(ProtocolVersion::V5, "durable");
    durable.session_expiry_interval = Some(3600);
    let (mut subscriber, _) = Connection::connected(cluster.address(1), durable).await?;
    subscriber.subscribe_to("followed/#", QoS::AtLeastOnce).await?;
    let (mut publisher, _) =
        Connection::connected(cluster.address(0), Connect::new(ProtocolVersion::V5, "publisher")).await?;
    publisher.publish(traced("not sampled", "00")).await?;
    publisher.publish(traced("sampled", "01")).await?;
    let first = subscriber.receive().await?;
    assert_eq!(traceparent(&first), format!("00-{TRACE}-{PARENT}-00"));
    let second = subscriber.receive().await?;
    let carried = traceparent(&second);
    let deadline = Instant::now() + PATIENCE;
    let spans = loop {
        let spans = collector.spans();
        if spans.len() >= 3 {
            break spans;
        }
        assert!(Instant::now() < deadline, "{spans:?}\n{}", cluster.log_tail(0, 30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let span = |name: &str| {
        let mut found = spans.iter().filter(|span| span.name == name);
        let one = found.next().unwrap_or_else(|| panic!("no span {name} in {spans:?}"));
        assert!(found.next().is_none(), "two spans {name}");
        assert_eq!(hex(&one.trace_id), TRACE, "{name}");
        one
    };
    let publish = span("publish");
    assert_eq!(hex(&publish.parent_span_id), PARENT);
    assert_eq!(carried, format!("00-{TRACE}-{}-01", hex(&publish.span_id)));
    for name in ["commit", "deliver"] {
        assert_eq!(span(name).parent_span_id, publish.span_id, "{name}");
    }
    assert_eq!(spans.len(), 3, "{spans:?}");
    while !collector.metrics().iter().any(|metric| metric.name == "mosquorum_publishes_received_total") {
        assert!(Instant::now() < deadline, "no metrics come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
