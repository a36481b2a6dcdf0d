//! The steps of a traced message.
//! Always true: without a tracer each costs one look.
use super::traceparent;
use mosquorum_cluster::state::Message;
use mosquorum_proto::mqtt::{Publish, PublishProperties, QoS};
use opentelemetry::{
    Context, KeyValue,
    trace::{Span, SpanBuilder, SpanContext, SpanKind, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// From now on steps are recorded.
pub(super) fn trace_with(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// A client published a message: if it is sampled, what comes later belongs to this step.
pub fn published(properties: &mut PublishProperties, topic: &str, qos: QoS, client_id: &str) {
    let Some(tracer) = TRACER.get() else { return };
    let Some(parent) = traceparent::sampled(properties) else { return };
    let mut span = start(tracer, "publish", SpanKind::Server, SystemTime::now(), parent, topic, qos);
    span.set_attribute(KeyValue::new("messaging.client.id", client_id.to_owned()));
    traceparent::replace(properties, span.span_context());
    span.end();
}

/// A message that came so long ago is durable on a majority.
pub fn committed(message: &Message, waited: Duration) {
    let Some((tracer, parent)) = followed(message) else { return };
    let began = SystemTime::now().checked_sub(waited).unwrap_or_else(SystemTime::now);
    start(tracer, "commit", SpanKind::Internal, began, parent, message.topic.as_str(), message.qos).end();
}

/// A message is on its way to a client.
pub fn delivered(message: &Message, client_id: &str) {
    let Some((tracer, parent)) = followed(message) else { return };
    let now = SystemTime::now();
    let mut span = start(tracer, "deliver", SpanKind::Producer, now, parent, message.topic.as_str(), message.qos);
    span.set_attribute(KeyValue::new("messaging.client.id", client_id.to_owned()));
    span.end();
}

/// A message leaves over a bridge: what the remote does with it belongs to this step.
pub fn bridged(publish: &mut Publish, bridge: &str) {
    let (Some(tracer), Some(properties)) = (TRACER.get(), &mut publish.properties) else { return };
    let Some(parent) = traceparent::sampled(properties) else { return };
    let topic = publish.topic.as_ref().map_or("", |topic| topic.as_str());
    let mut span = start(tracer, "bridge", SpanKind::Producer, SystemTime::now(), parent, topic, publish.qos);
    span.set_attribute(KeyValue::new("mosquorum.bridge", bridge.to_owned()));
    traceparent::replace(properties, span.span_context());
    span.end();
}

fn followed(message: &Message) -> Option<(&'static SdkTracer, SpanContext)> {
    let tracer = TRACER.get()?;
    Some((tracer, traceparent::sampled(message.properties.as_deref()?)?))
}

fn start(
    tracer: &SdkTracer,
    name: &'static str,
    kind: SpanKind,
    began: SystemTime,
    parent: SpanContext,
    topic: &str,
    qos: QoS,
) -> opentelemetry_sdk::trace::Span {
    let attributes = [
        KeyValue::new("messaging.system", "mqtt"),
        KeyValue::new("messaging.destination.name", topic.to_owned()),
        KeyValue::new("mqtt.qos", qos as i64),
    ];
    let builder = SpanBuilder::from_name(name).with_kind(kind).with_start_time(began).with_attributes(attributes);
    tracer.build_with_context(builder, &Context::new().with_remote_span_context(parent))
}
