//! Metrics as values, before any format.
//! Always true: names and labels are fixed in the code; how many samples there are depends on the configuration and the
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

/// All samples of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

/// One reading of everything.
#[derive(Debug, Default)]
pub struct Reading {
    pub families: Vec<Family>,
}

impl Reading {
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(name, help, Kind::Counter)
    }

    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> &mut Family {
        self.family(name, help, Kind::Gauge)
    }

    pub fn histogram(&mut self, name: &'static str, help: &'static str, values: HistogramValues) {
        let value = Value::Histogram(Box::new(values));
        self.family(name, help, Kind::Histogram).samples.push(Sample { labels: Vec::new(), value });
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: Kind) -> &mut Family {
        self.families.push(Family { name, help, kind, samples: Vec::new() });
        self.families.last_mut().expect("one was pushed above")
    }
}

impl Family {
    pub fn whole(&mut self, value: u64) {
        self.with([], value);
    }

    pub fn real(&mut self, value: f64) {
        self.samples.push(Sample { labels: Vec::new(), value: Value::Real(value) });
    }

    pub fn with<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: u64) {
        let labels = labels.map(|(name, text)| (name, text.to_owned())).to_vec();
        self.samples.push(Sample { labels, value: Value::Whole(value) });
    }
}
