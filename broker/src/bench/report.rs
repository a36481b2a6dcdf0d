//! What a run found: a table for people, JSON for programs.
use super::options::Options;
use hdrhistogram::Histogram;
use mosquorum_proto::mqtt::ProtocolVersion;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// One line of the table, one member of the JSON object.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    key: &'static str,
    value: f64,
    /// Behind the number in the table.
    unit: &'static str,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Report(Vec<Figure>);

impl Report {
    pub(super) fn add(&mut self, key: &'static str, value: f64, unit: &'static str) {
        self.0.push(Figure { key, value, unit });
    }

    pub(super) fn count(&mut self, key: &'static str, value: u64) {
        self.add(key, value as f64, "");
    }

    /// Nothing if nobody said which processes they are.
    pub(super) fn cpu(&mut self, options: &Options, seconds: f64, messages: u64) {
        if !options.broker_pids.is_empty() {
            self.add("cpu_seconds", seconds, "s");
            if messages > 0 {
                self.add("cpu_seconds_per_million", seconds * 1e6 / messages as f64, "s");
            }
        }
    }

    pub(super) fn latencies(&mut self, all: &Histogram<u64>) {
        if all.is_empty() {
            return;
        }
        for (key, quantile) in [
            ("latency_p50_ms", 0.5),
            ("latency_p90_ms", 0.9),
            ("latency_p99_ms", 0.99),
            ("latency_p999_ms", 0.999),
            ("latency_max_ms", 1.0),
        ] {
            self.add(key, all.value_at_quantile(quantile) as f64 / 1000.0, "ms");
        }
    }

    #[must_use]
    pub(super) fn table(&self, options: &Options) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}", headline(options));
        for figure in &self.0 {
            let _ =
                writeln!(text, "  {:<28}{:>16} {}", figure.key.replace('_', " "), written(figure.value), figure.unit);
        }
        text
    }

    #[must_use]
    pub(super) fn json(&self, options: &Options) -> String {
        let mut object = Map::new();
        let settings = json!({
            "qos": u8::from(options.qos), "payload_bytes": options.payload, "publishers": options.publishers,
            "protocol": options.version.to_string(), "subscribers": options.subscribers, "window": options.window,
            "rate": options.rate, "durable": options.durable, "tls": options.tls.is_some(),
            "addresses": options.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        object.insert("scenario".to_owned(), options.scenario.name().into());
        object.insert("settings".to_owned(), settings);
        for figure in &self.0 {
            object.insert(figure.key.to_owned(), round(figure.value).into());
        }
        Value::Object(object).to_string()
    }
}

fn headline(options: &Options) -> String {
    let version = if options.version == ProtocolVersion::V5 { "5.0".to_owned() } else { options.version.to_string() };
    let pace = options.rate.map_or(format!("{} under way", options.window), |rate| format!("{rate} messages/s"));
    format!(
        "{}: {} publishers, {} subscribers, MQTT {version}, QoS {}, {} B, {pace}",
        options.scenario.name(),
        options.publishers,
        options.subscribers,
        u8::from(options.qos),
        options.payload
    )
}

/// Microseconds and hundredths of seconds matter, more does not.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// With thousands apart; decimals only below 1000.
fn written(value: f64) -> String {
    if value.fract() != 0.0 && value.abs() < 1000.0 {
        return format!("{:.3}", value);
    }
    let digits = format!("{:.0}", value);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (value, text) in
            [(0.0, "0"), (12.0, "12"), (1234567.4, "1,234,567"), (0.25, "0.250"), (100000.0, "100,000")]
        {
            assert_eq!(written(value), text);
        }
    }
}
