//! Messages for offline sessions: as fast as they are acknowledged, then as fast as they are delivered.
use super::{
    client::{Client, Error, Kind, Result, Role, Target},
    frames::Template,
    load::many,
    meter::Meter,
    options::Options,
    process,
    progress::Progress,
    publisher::Publisher,
    report::Report,
    stamp::Clock,
    subscriber::{Seen, Subscriber},
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::{task::JoinSet, time::Instant};

fn subscriber_name(index: usize) -> String {
    format!("bench-durable-subscriber-{index}")
}

fn topic(index: usize) -> String {
    format!("bench/durable/{index}")
}

/// # Errors
/// When a client is refused or loses its connection.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let target = Arc::new(Target::new(options).await?);
    let meter = Arc::new(Meter::new(Clock::start()));
    let count = options.subscribers as usize;
    for index in 0..count {
        target.forget(Role::Subscriber, index, &subscriber_name(index)).await?;
        let mut client = target.connect(Role::Subscriber, index, &subscriber_name(index), Kind::Durable).await?;
        client.subscribe(&topic(index), options.qos).await?;
        client.disconnect().await?;
    }
    let progress = Progress::start(&meter, options.quiet);
    let mut report = Report::default();
    let total = options.messages * u64::from(options.publishers);
    enqueue(options, &target, &meter, total, &mut report).await?;
    drain(options, &target, &meter, total, &mut report).await?;
    drop(progress);
    for index in 0..count {
        target.forget(Role::Subscriber, index, &subscriber_name(index)).await?;
    }
    Ok(report)
}

async fn enqueue(
    options: &Options,
    target: &Arc<Target>,
    meter: &Arc<Meter>,
    total: u64,
    report: &mut Report,
) -> Result<()> {
    let name = |index| format!("bench-durable-publisher-{index}");
    let clients = many(target, Role::Publisher, options.publishers as usize, Kind::Clean, name).await?;
    let (cpu, began) = (process::cpu_seconds(&options.broker_pids), Instant::now());
    let mut publishers = JoinSet::new();
    for (index, client) in clients.into_iter().enumerate() {
        let template = Template::new(&topic(index), options.version, options.qos, false, options.payload);
        let write = Box::new(move |id, stamp, out: &mut Vec<u8>| template.write(id, stamp, out));
        let publisher = Publisher::finite(client, write, meter, index as u32, options.qos, options);
        publishers.spawn(publisher.run());
    }
    let mut done = Vec::new();
    while let Some(ended) = publishers.join_next().await {
        done.push(ended.map_err(|_| Error::Closed)??.1);
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(&options.broker_pids) - cpu;
    for client in done {
        client.disconnect().await?;
    }
    report.add("enqueued_per_second", total as f64 / took, "/s");
    report.cpu(options, cpu, total);
    if !options.broker_pids.is_empty() {
        let resident = process::resident_bytes(&options.broker_pids);
        report.add("rss_mib", resident as f64 / f64::from(1 << 20), "MiB");
    }
    Ok(())
}

async fn drain(
    options: &Options,
    target: &Arc<Target>,
    meter: &Arc<Meter>,
    total: u64,
    report: &mut Report,
) -> Result<()> {
    let (cpu, began) = (process::cpu_seconds(&options.broker_pids), Instant::now());
    let mut sessions = JoinSet::new();
    for index in 0..options.subscribers as usize {
        let (target, meter, messages) = (target.clone(), meter.clone(), options.messages);
        sessions.spawn(async move {
            let client = target.connect(Role::Subscriber, index, &subscriber_name(index), Kind::Durable).await?;
            fetch(client, index, meter, messages).await
        });
    }
    let (mut distinct, mut duplicates, mut out_of_order, mut last) = (0, 0, 0, began);
    while let Some(ended) = sessions.join_next().await {
        let (seen, end) = ended.map_err(|_| Error::Closed)??;
        last = last.max(end);
        let seen = seen.lock();
        out_of_order += seen.out_of_order();
        if let Seen::All(order) = &*seen {
            distinct += (0..options.publishers).map(|stream| order.distinct(stream)).sum::<u64>();
            duplicates += order.duplicates;
        }
    }
    report.add("drained_per_second", distinct as f64 / (last - began).as_secs_f64(), "/s");
    if !options.broker_pids.is_empty() {
        let cpu = process::cpu_seconds(&options.broker_pids) - cpu;
        report.add("drain_cpu_seconds_per_million", cpu * 1e6 / distinct.max(1) as f64, "s");
    }
    report.count("acknowledged", total);
    report.count("delivered", distinct);
    report.count("missing", total.saturating_sub(distinct));
    report.count("duplicates", duplicates);
    report.count("out_of_order", out_of_order);
    Ok(())
}

/// What the session had, and when the last of it came.
async fn fetch(
    mut client: Client,
    index: usize,
    meter: Arc<Meter>,
    messages: u64,
) -> Result<(Arc<Mutex<Seen>>, Instant)> {
    let seen = Arc::new(Mutex::new(Seen::new(false)));
    let mut work = Subscriber::new(index, seen.clone(), Arc::new([]), meter);
    let last = work.read_all(&mut client, index as u32, messages).await?;
    client.flush().await?;
    client.disconnect().await?;
    Ok((seen, last))
}
