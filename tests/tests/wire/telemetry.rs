//! OpenTelemetry: what a collector gets of a message that is followed, and of the figures.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, Publish, PublishProperties, QoS};
use mosquorum_tests::{
    client::{Connection, TIMEOUT, message},
    cluster::{Cluster, ClusterOptions, TestFolder, binary::is_stand_in},
    otlp::Collector,
    skip::skip,
    target::TestResult,
};
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, metric::Data};
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
    let deadline = Instant::now() + TIMEOUT;
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
    for name in
        ["mosquorum_commit_duration_seconds", "mosquorum_fsync_duration_seconds", "mosquorum_apply_duration_seconds"]
    {
        let point = histogram(&collector, name).await;
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
        assert!(point.count > 0 && point.sum.is_some_and(|sum| sum > 0.0), "{name}: {point:?}");
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{name}");
    }
    Ok(())
}

/// The last one that counted anything.
async fn histogram(collector: &Collector, name: &str) -> HistogramDataPoint {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let metrics = collector.metrics();
        let found = metrics.iter().rev().find(|metric| metric.name == name).and_then(|metric| metric.data.clone());
        if let Some(Data::Histogram(histogram)) = found
            && let Some(point) = histogram.data_points.into_iter().find(|point| point.count > 0)
        {
            return point;
        }
        assert!(Instant::now() < deadline, "no {name}: {:?}", metrics.iter().map(|m| &m.name).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn exporting(mut options: ClusterOptions, endpoint: &str, certificate: &str) -> ClusterOptions {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ] {
        options.environment.push((name.to_owned(), value.to_owned()));
    }
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_over_a_bridge_and_collectors_are_reached_by_tls() -> TestResult {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which knows no traces");
        return Ok(());
    }
    let folder = TestFolder::new("collector")?;
    let authority = folder.path().join("collector.pem");
    let (collector, address) = Collector::start_tls(&authority).await?;
    let (endpoint, authority) = (format!("https://{address}"), authority.display().to_string());
    let hub = Cluster::start(exporting(ClusterOptions::new("trace-hub", 1), &endpoint, &authority)).await?;
    let site = exporting(ClusterOptions::new("trace-site", 1), &endpoint, &authority)
        .with_listener("connection link")
        .with_listener(&format!("address {}", hub.address(0)))
        .with_listener("bridge_protocol_version mqttv50")
        .with_listener("restart_timeout 1")
        .with_listener("topic followed/# out 1");
    let site = Cluster::start(site).await?;
    let connect = |name: &str| Connect::new(ProtocolVersion::V5, name);
    let (mut subscriber, _) = Connection::connected(hub.address(0), connect("reader")).await?;
    subscriber.subscribe_to("followed/#", QoS::AtLeastOnce).await?;
    let (mut publisher, _) = Connection::connected(site.address(0), connect("publisher")).await?;
    publisher.publish(traced("sampled", "01")).await?;
    let carried = traceparent(&subscriber.receive().await?);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let spans = collector.spans();
        assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
        let child = |name: &str, parent: &str| {
            let found = spans.iter().find(|span| span.name == name && hex(&span.parent_span_id) == parent);
            found.map(|span| hex(&span.span_id))
        };
        // publish at the site -> bridge -> publish at the hub -> deliver.
        let remote = child("publish", PARENT).and_then(|id| child("bridge", &id)).and_then(|id| child("publish", &id));
        if let Some(remote) = remote
            && child("deliver", &remote).is_some()
        {
            assert_eq!(carried, format!("00-{TRACE}-{remote}-01"));
            break;
        }
        assert!(Instant::now() < deadline, "{spans:?}\n{}", site.log_tail(0, 30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while collector.metrics().is_empty() {
        assert!(Instant::now() < deadline, "no metrics come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
