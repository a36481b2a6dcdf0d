//! The text format of Prometheus, version 0.0.4.
//! Always true: pure; each name once, with HELP and TYPE before its samples; a family without samples is left out.
use super::model::{Family, Kind, Labels, Reading, Value};
use mosquorum_cluster::metrics::{BOUNDS_MICROS, HistogramValues};
use std::fmt::Write;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[must_use]
pub fn text(reading: &Reading) -> String {
    let mut out = String::with_capacity(16 << 10);
    reading.families.iter().filter(|family| !family.samples.is_empty()).for_each(|family| put(family, &mut out));
    out
}

// Writing to a String cannot fail.
fn put(family: &Family, out: &mut String) {
    let kind = match family.metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let (name, help) = (family.metric.name, family.metric.help);
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for sample in &family.samples {
        match &sample.value {
            Value::Histogram(values) => put_histogram(name, values, out),
            value => {
                out.push_str(name);
                put_labels(&sample.labels, out);
                let _ = match value {
                    Value::Whole(value) => writeln!(out, " {value}"),
                    Value::Real(value) => writeln!(out, " {value}"),
                    Value::Histogram(_) => Ok(()),
                };
            }
        }
    }
}

fn put_histogram(name: &str, values: &HistogramValues, out: &mut String) {
    let mut sum = 0;
    for (bucket, count) in values.counts.iter().enumerate() {
        sum += count;
        let _ = match BOUNDS_MICROS.get(bucket) {
            Some(bound) => writeln!(out, "{name}_bucket{{le=\"{}\"}} {sum}", *bound as f64 / 1e6),
            None => writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {sum}"),
        };
    }
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {sum}", values.sum_micros as f64 / 1e6);
}

fn put_labels(labels: &Labels, out: &mut String) {
    let mut open = '{';
    for (name, text) in labels {
        out.push(open);
        open = ',';
        let _ = write!(out, "{name}=\"");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::{super::model::Metric, *};
    use std::time::Duration;

    type Labels = &'static [(&'static str, &'static str)];

    const fn metric(name: &'static str, kind: Kind, labels: Labels, help: &'static str) -> Metric {
        Metric { name, kind, unit: "", labels, help }
    }

    static A: Metric = metric("a_total", Kind::Counter, &[("why", ""), ("where", "")], "As.");
    static B: Metric = metric("b_seconds", Kind::Gauge, &[], "Bs.");
    static C: Metric = metric("c_seconds", Kind::Histogram, &[], "Cs.");
    static NOTHING: Metric = metric("nothing", Kind::Gauge, &[], "Left out.");

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut reading = Reading::default();
        let family = reading.family(&A);
        family.with([("why", "full"), ("where", "a\\b\"c\nd")], 3);
        family.with([("why", "x"), ("where", "")], 0);
        reading.family(&B).real(0.25);
        reading.family(&NOTHING);
        let mut values = HistogramValues::default();
        for micros in [50, 150, 150, 9_000_000] {
            values.observe(Duration::from_micros(micros));
        }
        reading.histogram(&C, values);
        let text = text(&reading);
        let expected = "# HELP a_total As.\n# TYPE a_total counter\na_total{why=\"full\",where=\"a\\\\b\\\"c\\nd\"} 3\n\
            a_total{why=\"x\",where=\"\"} 0\n# HELP b_seconds Bs.\n# TYPE b_seconds gauge\nb_seconds 0.25\n\
            # HELP c_seconds Cs.\n# TYPE c_seconds histogram\nc_seconds_bucket{le=\"0.0001\"} 1\n\
            c_seconds_bucket{le=\"0.0002\"} 3\n";
        assert!(text.starts_with(expected), "{text}");
        let end =
            "c_seconds_bucket{le=\"5\"} 3\nc_seconds_bucket{le=\"+Inf\"} 4\nc_seconds_sum 9.00035\nc_seconds_count 4\n";
        assert!(text.ends_with(end), "{text}");
    }
}
