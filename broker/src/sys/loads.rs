//! `$SYS/broker/load/...`: how much per minute, averaged over 1, 5 and 15 minutes (exponentially weighted).
//! Always true: time comes in; the same readings give the same rates.
use super::topics::{dropped, messages_sent};
use crate::live::counters::CounterValues;

const MINUTES: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

type Read = fn(&CounterValues) -> u64;

const OF: [(&str, Read); 9] = [
    ("messages/received", |c| c.messages_received),
    ("messages/sent", messages_sent),
    ("publish/dropped", dropped),
    ("publish/received", |c| c.publish_received),
    ("publish/sent", |c| c.publish_sent),
    ("bytes/received", |c| c.bytes_received),
    ("bytes/sent", |c| c.bytes_sent),
    ("sockets", |c| c.sockets_opened),
    ("connections", |c| c.connects_received),
];

/// All rates so far.
#[derive(Debug, Default)]
pub(super) struct Loads {
    last: CounterValues,
    rates: [[f64; MINUTES.len()]; OF.len()],
}

impl Loads {
    /// Takes a new reading, `seconds` after the one before. Names below `$SYS/broker/load/`, and their texts.
    pub(super) fn update(&mut self, counts: &CounterValues, seconds: f64) -> Vec<(String, String)> {
        let mut texts = Vec::with_capacity(OF.len() * MINUTES.len());
        for ((name, read), rates) in OF.iter().zip(&mut self.rates) {
            let more = read(counts).saturating_sub(read(&self.last));
            for ((minutes, label), rate) in MINUTES.iter().zip(rates) {
                if seconds > 0.0 {
                    let per_minute = more as f64 * 60.0 / seconds;
                    let keep = (-seconds / (minutes * 60.0)).exp();
                    *rate = per_minute + keep * (*rate - per_minute);
                }
                texts.push((format!("{name}/{label}"), format!("{rate:.2}")));
            }
        }
        if seconds > 0.0 {
            self.last = *counts;
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(texts: &[(String, String)], wanted: &str) -> f64 {
        let found = texts.iter().find(|(name, _)| name == wanted).expect("a rate");
        found.1.parse().expect("a number")
    }

    #[test]
    fn a_steady_stream_is_seen_sooner_over_one_minute_than_over_fifteen() {
        let mut loads = Loads::default();
        let mut counts = CounterValues::default();
        assert_eq!(text(&loads.update(&counts, 0.0), "publish/received/1min"), 0.0);
        let mut texts = Vec::new();
        for _ in 0..30 {
            counts.publish_received += 10; // every 10 s: 60 per minute
            texts = loads.update(&counts, 10.0);
        }
        let (one, fifteen) = (text(&texts, "publish/received/1min"), text(&texts, "publish/received/15min"));
        assert!((one - 60.0).abs() < 1.0, "{one}");
        assert!(fifteen > 10.0 && fifteen < 30.0, "{fifteen}");
        assert_eq!(text(&texts, "sockets/1min"), 0.0);
    }
}
