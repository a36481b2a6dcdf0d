//! Sends what OpenTelemetry's instruments have collected, together with our histograms, which no instrument can be filled
//! from: their counts by bucket exist already.
//! Always true: counts are cumulative since the start of the process.
use super::{
    collector::{Signal, Variables},
    figures::FigureSource,
};
use crate::metrics::model::{Kind, Value};
use mosquorum_cluster::metrics::{BOUNDS_MICROS, HistogramValues};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    metrics::v1::{AggregationTemporality, Histogram, HistogramDataPoint, Metric, metric::Data},
};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tonic::{
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::Channel,
};

pub(super) struct Exporter {
    client: MetricsServiceClient<Channel>,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    shared: Arc<FigureSource>,
    started_nanos: u64,
}

impl Exporter {
    /// To be called on the runtime.
    pub(super) fn new<F: Fn(&str) -> Option<String>>(
        variables: &Variables<F>,
        shared: Arc<FigureSource>,
    ) -> Result<Self, String> {
        let client = MetricsServiceClient::new(variables.channel(Signal::Metrics)?);
        Ok(Self { client, headers: variables.headers(Signal::Metrics), shared, started_nanos: now_nanos() })
    }

    fn histograms(&self) -> Vec<Metric> {
        let (Some(reading), now) = (self.shared.reading(), now_nanos()) else { return Vec::new() };
        let families = reading.families.iter().filter(|family| family.metric.kind == Kind::Histogram);
        let each = families.map(|family| {
            let values = family.samples.iter().filter_map(|sample| match &sample.value {
                Value::Histogram(values) => Some(point(values, self.started_nanos, now)),
                _ => None,
            });
            Metric {
                name: family.metric.name.to_owned(),
                description: family.metric.help.to_owned(),
                unit: "s".to_owned(),
                metadata: Vec::new(),
                data: Some(Data::Histogram(Histogram {
                    data_points: values.collect(),
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                })),
            }
        });
        each.collect()
    }
}

fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn point(values: &HistogramValues, start_time_unix_nano: u64, time_unix_nano: u64) -> HistogramDataPoint {
    HistogramDataPoint {
        start_time_unix_nano,
        time_unix_nano,
        count: values.counts.iter().sum(),
        sum: Some(values.sum_micros as f64 / 1e6),
        bucket_counts: values.counts.to_vec(),
        explicit_bounds: BOUNDS_MICROS.iter().map(|bound| *bound as f64 / 1e6).collect(),
        ..HistogramDataPoint::default()
    }
}

impl PushMetricExporter for Exporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut all = ExportMetricsServiceRequest::from(metrics);
        if let Some(scope) = all.resource_metrics.first_mut().and_then(|resource| resource.scope_metrics.first_mut()) {
            scope.metrics.extend(self.histograms());
        }
        let mut request = tonic::Request::new(all);
        for (name, value) in &self.headers {
            request.metadata_mut().append(name.clone(), value.clone());
        }
        let sent = self.client.clone().export(request).await;
        sent.map(drop).map_err(|status| OTelSdkError::InternalFailure(status.to_string()))
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_one_count_more_than_bounds_and_their_sum() {
        let mut values = HistogramValues::default();
        for micros in [50, 150, 60_000_000] {
            values.observe(Duration::from_micros(micros));
        }
        let point = point(&values, 1, 2);
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!((point.count, point.bucket_counts[0], point.bucket_counts[1]), (3, 1, 1));
        assert_eq!((point.bucket_counts.last(), point.explicit_bounds[0]), (Some(&1), 0.0001));
        assert_eq!(point.sum, Some(60.0002));
    }
}
