//! The metrics of `/metrics` as instruments of OpenTelemetry.
//! Always true: one reading serves all instruments of an export; durations are exported by `histograms`.
use crate::{
    broker::Broker,
    health,
    metrics::{
        self,
        model::{Kind, Labels, Reading, Value},
    },
};
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Instruments that are asked within this time are asked for one export.
const ONE_EXPORT: Duration = Duration::from_millis(500);

pub(super) struct FigureSource {
    broker: Weak<Broker>,
    last: Mutex<Option<(Instant, Arc<Reading>)>>,
}

impl FigureSource {
    pub(super) fn new(broker: &Arc<Broker>) -> Arc<Self> {
        Arc::new(Self { broker: Arc::downgrade(broker), last: Mutex::default() })
    }

    pub(super) fn reading(&self) -> Option<Arc<Reading>> {
        let mut last = self.last.lock();
        if let Some((at, reading)) = &*last
            && at.elapsed() < ONE_EXPORT
        {
            return Some(reading.clone());
        }
        let broker = self.broker.upgrade()?;
        let reading = Arc::new(metrics::read(Some(&broker), health::is_ready(&broker)));
        *last = Some((Instant::now(), reading.clone()));
        Some(reading)
    }

    /// Passes on each sample of a family.
    fn each(&self, name: &str, mut observe: impl FnMut(&Value, &[KeyValue])) {
        let Some(reading) = self.reading() else { return };
        let family = reading.families.iter().find(|family| family.metric.name == name);
        for sample in family.into_iter().flat_map(|family| &family.samples) {
            observe(&sample.value, &attributes(&sample.labels));
        }
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, text)| KeyValue::new(*name, text.clone())).collect()
}

fn real(value: &Value) -> f64 {
    match value {
        Value::Whole(value) => *value as f64,
        Value::Real(value) => *value,
        Value::Histogram(values) => values.sum_micros as f64 / 1e6,
    }
}

/// Registers an instrument for each family that there is.
pub(super) fn observe(provider: &SdkMeterProvider, shared: &Arc<FigureSource>) {
    let meter = provider.meter("mosquorum");
    let Some(reading) = shared.reading() else { return };
    for family in &reading.families {
        let (name, help, shared) = (family.metric.name, family.metric.help, shared.clone());
        match family.metric.kind {
            Kind::Gauge => {
                let gauge = meter.f64_observable_gauge(name).with_description(help);
                gauge
                    .with_callback(move |to| shared.each(name, |value, labels| to.observe(real(value), labels)))
                    .build();
            }
            Kind::Counter => {
                let counter = meter.f64_observable_counter(name).with_description(help);
                counter
                    .with_callback(move |to| shared.each(name, |value, labels| to.observe(real(value), labels)))
                    .build();
            }
            // Told by the exporter, with their buckets.
            Kind::Histogram => {}
        }
    }
}
