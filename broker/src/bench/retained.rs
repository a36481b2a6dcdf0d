//! Retained messages: how fast they are set (with QoS 1, so that the end is known), what each costs, how fast all are
//! replayed to new subscribers.
use super::{
    client::{Client, Error, Kind, Result, Role, Target},
    frames::Template,
    load::many,
    meter::Meter,
    options::Options,
    process,
    progress::Progress,
    publisher::{Publisher, Writer},
    report::Report,
    stamp::Clock,
    subscriber::{Seen, Subscriber},
};
use mosquorum_proto::mqtt::{ProtocolVersion, PublishParts, QoS, TopicName, Utf8};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::{Instant, sleep};

/// # Errors
/// When a client is refused or loses its connection.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let target = Arc::new(Target::new(options).await?);
    let meter = Arc::new(Meter::new(Clock::start()));
    let progress = Progress::start(&meter, options.quiet);
    let pids = &options.broker_pids;
    let (before, cpu_before, began) = (process::resident_bytes(pids), process::cpu_seconds(pids), Instant::now());
    publish_all(options, &target, &meter, set(options)).await?;
    let (took, cpu) = (began.elapsed().as_secs_f64(), process::cpu_seconds(pids) - cpu_before);
    sleep(options.warm_up).await;
    let resident = process::resident_bytes(pids);

    let name = |index| format!("bench-retained-subscriber-{index}");
    let readers = many(&target, Role::Subscriber, options.subscribers as usize, Kind::Clean, name).await?;
    let (cpu_before, began) = (process::cpu_seconds(pids), Instant::now());
    let replays = readers.into_iter().enumerate().map(|(index, reader)| {
        let (meter, messages, qos) = (meter.clone(), options.messages, options.qos);
        tokio::spawn(replay(reader, index, meter, messages, qos))
    });
    let (replays, mut came, mut last) = (replays.collect::<Vec<_>>(), 0, began);
    for replay in replays {
        let (count, ended) = replay.await.map_err(|_| Error::Closed)??;
        (came, last) = (came + count, last.max(ended));
    }
    let (replay_took, replay_cpu) = ((last - began).as_secs_f64(), process::cpu_seconds(pids) - cpu_before);
    publish_all(options, &target, &meter, clear(options.version)).await?;
    drop(progress);

    let mut report = Report::default();
    let count = options.messages as f64;
    report.count("retained_messages", options.messages);
    report.add("set_per_second", count / took, "/s");
    report.add("replayed_per_second", came as f64 / replay_took, "/s");
    report.count("replayed", came);
    report.count("missing", (options.messages * u64::from(options.subscribers)).saturating_sub(came));
    if !pids.is_empty() {
        report.add("set_cpu_seconds_per_million", cpu * 1e6 / count, "s");
        report.add("replay_cpu_seconds_per_million", replay_cpu * 1e6 / came.max(1) as f64, "s");
        report.add("rss_mib", resident as f64 / f64::from(1 << 20), "MiB");
        report.add("rss_bytes_per_message", resident.saturating_sub(before) as f64 / count, "B");
    }
    Ok(report)
}

fn topic(sequence: u32) -> String {
    format!("bench/retained/{}/{sequence}", sequence % 1000)
}

fn set(options: &Options) -> Writer {
    let (version, payload) = (options.version, options.payload);
    Box::new(move |id, stamp, out| {
        Template::new(&topic(stamp.sequence), version, QoS::AtLeastOnce, true, payload).write(id, stamp, out);
    })
}

/// An empty retained message takes the one that was there away.
fn clear(version: ProtocolVersion) -> Writer {
    Box::new(move |id, stamp, out| {
        let topic = TopicName::new(Utf8::from(topic(stamp.sequence))).expect("topics of ours have no wildcards");
        let mut bytes = bytes::BytesMut::new();
        let parts = PublishParts { retain: true, ..PublishParts::new(&topic, &[], QoS::AtLeastOnce, id) };
        parts.encode(version, &mut bytes);
        out.extend_from_slice(&bytes);
    })
}

async fn publish_all(options: &Options, target: &Target, meter: &Arc<Meter>, write: Writer) -> Result<()> {
    let client = target.connect(Role::Publisher, 0, "bench-retained-publisher", Kind::Clean).await?;
    let publisher = Publisher::finite(client, write, meter, 0, QoS::AtLeastOnce, options);
    let (_, client) = publisher.run().await?;
    client.disconnect().await
}

/// How many came, and when the last did.
async fn replay(
    mut reader: Client,
    index: usize,
    meter: Arc<Meter>,
    messages: u64,
    qos: QoS,
) -> Result<(u64, Instant)> {
    let seen = Arc::new(Mutex::new(Seen::new(false)));
    let mut work = Subscriber::new(index, seen.clone(), Arc::new([]), meter);
    reader.queue_subscribe("bench/retained/#", qos)?;
    let last = work.read_all(&mut reader, 0, messages).await?;
    reader.disconnect().await?;
    let came = seen.lock().distinct(0);
    Ok((came, last))
}
