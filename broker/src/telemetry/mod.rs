//! OpenTelemetry: traces and metrics by OTLP over gRPC, configured by the standard `OTEL_*` variables.
//! Always true: without an endpoint nothing is started; a trace is continued where a sampled message arrives and never
//! begun here, so what is not sampled costs a look at its properties; a collector that is slow or away costs spans, never
//! messages.
mod collector;
mod figures;
mod histograms;
pub mod hooks;
mod traceparent;

use crate::broker::Broker;
use collector::{Signal, Variables};
use figures::FigureSource;
use histograms::Exporter;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider, trace::SdkTracerProvider};
use std::{sync::Arc, time::Duration};

/// How long what is left may take to leave at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What was started; ends with [`Telemetry::stop`].
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// What the environment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    traces: bool,
    metrics: bool,
}

impl Wanted {
    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).is_some_and(|value| !value.trim().is_empty());
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let wants = |signal: &str| {
            let exporter = variable(&format!("OTEL_{signal}_EXPORTER"));
            let off = exporter.is_some_and(|exporter| exporter != "otlp" && !exporter.is_empty());
            let endpoint = set("OTEL_EXPORTER_OTLP_ENDPOINT") || set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"));
            endpoint && !off && !disabled
        };
        Self { traces: wants("TRACES"), metrics: wants("METRICS") }
    }
}

impl Telemetry {
    /// Starts what the environment asks for. To be called on the runtime.
    #[must_use]
    pub fn start(broker: &Arc<Broker>) -> Self {
        let wanted = Wanted::of(|name| std::env::var(name).ok());
        let variables = Variables(|name: &str| std::env::var(name).ok());
        let resource = resource(&broker.settings.load().cluster.name);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            crate::warning!("Warning: OpenTelemetry {what} are not exported: {error}.");
        };
        let mut this = Self { traces: None, metrics: None };
        if wanted.traces {
            let exporter = variables.channel(Signal::Traces).and_then(|channel| {
                SpanExporter::builder().with_tonic().with_channel(channel).build().map_err(|error| error.to_string())
            });
            match exporter {
                Ok(exporter) => {
                    let provider = SdkTracerProvider::builder()
                        .with_batch_exporter(exporter)
                        .with_resource(resource.clone())
                        .build();
                    hooks::trace_with(provider.tracer("mosquorum"));
                    this.traces = Some(provider);
                }
                Err(error) => failed("traces", &error),
            }
        }
        if wanted.metrics {
            let shared = FigureSource::new(broker);
            match Exporter::new(&variables, shared.clone()) {
                Ok(exporter) => {
                    let provider =
                        SdkMeterProvider::builder().with_periodic_exporter(exporter).with_resource(resource).build();
                    figures::observe(&provider, &shared);
                    this.metrics = Some(provider);
                }
                Err(error) => failed("metrics", &error),
            }
        }
        this
    }

    /// Sends what is left and ends.
    pub async fn stop(self) {
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(traces) = self.traces {
                let _ = traces.shutdown_with_timeout(STOP_TIMEOUT);
            }
            if let Some(metrics) = self.metrics {
                let _ = metrics.shutdown_with_timeout(STOP_TIMEOUT);
            }
        });
        let _ = tokio::time::timeout(2 * STOP_TIMEOUT, stopped).await;
    }
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before what we know ourselves.
fn resource(node: &str) -> Resource {
    let given = Resource::builder().build();
    let is_given =
        |key: &'static str| given.get(&key.into()).is_some_and(|value| !value.as_str().starts_with("unknown_"));
    let own = [
        ("service.name", "mosquorum".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", node.to_owned()),
    ];
    let missing = own.into_iter().filter(|(key, _)| !is_given(key));
    Resource::builder().with_attributes(missing.map(|(key, value)| KeyValue::new(key, value))).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_variables_say_what_is_exported() {
        let wanted = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            Wanted::of(|name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let (none, both) = (Wanted { traces: false, metrics: false }, Wanted { traces: true, metrics: true });
        assert_eq!(wanted(&[]), none);
        assert_eq!(wanted(&[endpoint]), both);
        assert_eq!(wanted(&[endpoint, ("OTEL_SDK_DISABLED", "true")]), none);
        assert_eq!(wanted(&[endpoint, ("OTEL_METRICS_EXPORTER", "none")]), Wanted { traces: true, metrics: false });
        let only = wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")]);
        assert_eq!(only, Wanted { traces: true, metrics: false });
    }
}
