//! Metrics as values, before any format.
//! Always true: names and labels are those of the table (`table`); how many samples there are depends on the configuration and the
//! members of the cluster, never on clients or topics.
use mosquorum_cluster::metrics::HistogramValues;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows until the process ends.
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
    /// Durations.
    Histogram(Box<HistogramValues>),
}

pub type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    pub value: Value,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    /// Each with the values that it has, in words.
    pub labels: &'static [(&'static str, &'static str)],
    pub help: &'static str,
}

/// All samples of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub metric: &'static Metric,
    pub samples: Vec<Sample>,
}

/// One reading of everything.
#[derive(Debug, Default)]
pub struct Reading {
    pub families: Vec<Family>,
}

impl Reading {
    pub fn family(&mut self, metric: &'static Metric) -> &mut Family {
        self.families.push(Family { metric, samples: Vec::new() });
        self.families.last_mut().expect("one was pushed above")
    }

    pub fn histogram(&mut self, metric: &'static Metric, values: HistogramValues) {
        self.family(metric).sample([], Value::Histogram(Box::new(values)));
    }
}

impl Family {
    pub fn whole(&mut self, value: u64) {
        self.with([], value);
    }

    pub fn real(&mut self, value: f64) {
        self.sample([], Value::Real(value));
    }

    pub fn with<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: u64) {
        self.sample(labels, Value::Whole(value));
    }

    fn sample<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: Value) {
        let Metric { name, labels: known, .. } = self.metric;
        debug_assert!(labels.iter().map(|(label, _)| label).eq(known.iter().map(|(label, _)| label)), "{name}");
        let labels = labels.map(|(label, text)| (label, text.to_owned())).to_vec();
        self.samples.push(Sample { labels, value });
    }
}
