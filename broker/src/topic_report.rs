//! SIGUSR2: the tree of subscriptions, and where retained messages are, as text for people.
//! Always true: the state is never locked for longer than one chunk of retained topics or of durable subscriptions takes, so
//! what comes and goes meanwhile may be in the text or not; a text that nobody reads holds up nothing but its own thread.
use crate::broker::Broker;
use mosquorum_cluster::{ids::Millis, state::SubscriptionWalk};
use mosquorum_proto::mqtt::{QoS, TopicFilter, Utf8};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release},
    },
};

/// Retained topics taken from the state at once.
const CHUNK: usize = 1000;

/// One level of a topic: who holds the filter that ends here, whether a retained message is here, and what is below.
#[derive(Default)]
struct Level {
    holders: Vec<(Utf8, QoS)>,
    retained: bool,
    below: BTreeMap<String, Level>,
}

/// A tree of topics.
#[derive(Default)]
pub struct Report {
    root: Level,
    subscriptions: usize,
    retained: usize,
}

impl Report {
    fn at(&mut self, topic: &str) -> &mut Level {
        let mut level = &mut self.root;
        for part in topic.split('/') {
            level = level.below.entry(part.to_owned()).or_default();
        }
        level
    }

    pub fn add_subscription(&mut self, filter: &str, client_id: Utf8, qos: QoS) {
        self.subscriptions += 1;
        self.at(filter).holders.push((client_id, qos));
    }

    pub fn add_retained(&mut self, topic: &str) {
        self.retained += 1;
        self.at(topic).retained = true;
    }

    /// One line per level, indented by its depth: the level, then `(client identifier, QoS)` of each subscription to the
    /// filter that ends here, then `[retained]`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Topics have few levels, but no depth of theirs may decide about the stack.
        let mut open = vec![(self.root.below.iter(), 0)];
        while let Some((levels, depth)) = open.last_mut() {
            let depth = *depth;
            let Some((name, level)) = levels.next() else {
                open.pop();
                continue;
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "{:indent$}{name}", "", indent = (depth + 2) * 2);
            for (client_id, qos) in &level.holders {
                let _ = write!(text, " ({}, {})", client_id.as_str(), *qos as u8);
            }
            text.push_str(if level.retained { " [retained]\n" } else { "\n" });
            open.push((level.below.iter(), depth + 1));
        }
        let _ = writeln!(text, "{} subscriptions, {} retained messages", self.subscriptions, self.retained);
        text
    }
}

fn gather(broker: &Broker) -> Report {
    let mut report = Report::default();
    for (filter, client_id, qos) in broker.router.live_subscriptions() {
        report.add_subscription(&filter, client_id, qos);
    }
    let mut durable: Vec<(Utf8, TopicFilter, QoS)> = Vec::new();
    let mut walk = SubscriptionWalk::default();
    loop {
        let more = broker.consensus.state().read().walk_subscriptions(&mut walk, |session, filter, record| {
            durable.push((session.client_id().clone(), filter.clone(), record.qos));
        });
        if !more {
            break;
        }
    }
    durable.sort_unstable();
    durable.dedup_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1));
    for (client_id, filter, qos) in durable {
        report.add_subscription(filter.as_str(), client_id, qos);
    }
    for filter in ["#", "$SYS/#"] {
        let Ok(filter) = TopicFilter::new(Utf8::from(filter)) else { continue };
        let (mut cursor, mut messages) = (None, Vec::new());
        loop {
            cursor = broker.retained(&filter, cursor, CHUNK, Millis(0), &mut messages);
            messages.drain(..).for_each(|message| report.add_retained(message.topic.as_str()));
            if cursor.is_none() {
                break;
            }
        }
    }
    report
}

/// One report at a time.
static UNDERWAY: AtomicBool = AtomicBool::new(false);

/// Prints to stdout, in a thread of its own.
pub fn print(broker: &Arc<Broker>) {
    if UNDERWAY.swap(true, AcqRel) {
        return;
    }
    let broker = broker.clone();
    let printing = std::thread::Builder::new().name("report".to_owned()).spawn(move || {
        let text = gather(&broker).text();
        drop(broker);
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        UNDERWAY.store(false, Release);
    });
    if let Err(error) = printing {
        UNDERWAY.store(false, Release);
        crate::error!("Error: cannot print the subscription tree: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_each_level_once_with_its_holders_and_retained_messages() {
        let mut report = Report::default();
        report.add_subscription("a/+/c", Utf8::from("one"), QoS::AtLeastOnce);
        report.add_subscription("a/+/c", Utf8::from("two"), QoS::AtMostOnce);
        report.add_subscription("$share/g/a", Utf8::from("three"), QoS::ExactlyOnce);
        report.add_retained("a/b");
        let expected = "    $share\n      g\n        a (three, 2)\n    a\n      +\n        c (one, 1) (two, 0)\n      \
                        b [retained]\n3 subscriptions, 1 retained messages\n";
        assert_eq!(report.text(), expected);
    }
}
