//! How fast connections are made, and what one costs while nothing happens.
use super::{
    client::{Client, Error, Kind, Result, Role, Target},
    meter::Meter,
    options::Options,
    process,
    progress::Progress,
    report::Report,
    stamp::Clock,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// # Errors
/// When a connection or its subscription is refused.
pub(super) async fn run(options: &Options) -> Result<Report> {
    let target = Arc::new(Target::new(options).await?);
    let meter = Arc::new(Meter::new(Clock::start()));
    let progress = Progress::start(&meter, options.quiet);
    let pids = &options.broker_pids;
    let (resident_before, cpu_before, began) =
        (process::resident_bytes(pids), process::cpu_seconds(pids), Instant::now());
    let clients = connect_all(options, &target, &meter).await?;
    let took = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(pids) - cpu_before;
    // The broker may have to release what connecting took.
    sleep(options.warm_up).await;
    let (resident, cpu_idle) = (process::resident_bytes(pids), process::cpu_seconds(pids));
    sleep(options.duration).await;
    let cpu_idle = process::cpu_seconds(pids) - cpu_idle;
    drop(progress);
    let mut report = Report::default();
    let count = clients.len() as f64;
    report.count("connections", clients.len() as u64);
    report.add("connections_per_second", count / took, "/s");
    if !pids.is_empty() {
        report.add("cpu_microseconds_per_connection", cpu * 1e6 / count, "us");
        report.add("rss_mib", resident as f64 / f64::from(1 << 20), "MiB");
        report.add("rss_bytes_per_connection", resident.saturating_sub(resident_before) as f64 / count, "B");
        report.add("cpu_idle_percent", cpu_idle * 100.0 / options.duration.as_secs_f64(), "% of a core");
    }
    for client in clients {
        client.disconnect().await?;
    }
    Ok(report)
}

async fn connect_all(options: &Options, target: &Arc<Target>, meter: &Arc<Meter>) -> Result<Vec<Client>> {
    let (mut clients, mut under_way, mut next) = (Vec::new(), JoinSet::new(), 0);
    let count = options.subscribers as usize;
    while clients.len() < count {
        if next < count && under_way.len() < options.window as usize {
            let (target, qos, index) = (target.clone(), options.qos, next);
            under_way.spawn(async move {
                let name = format!("bench-connect-{index}");
                let mut client = target.connect(Role::Subscriber, index, &name, Kind::Clean).await?;
                client.subscribe(&format!("bench/connect/{index}"), qos).await?;
                client.shrink();
                Ok::<_, Error>(client)
            });
            next += 1;
        } else if let Some(Ok(client)) = under_way.join_next().await {
            clients.push(client?);
            meter.acknowledged.fetch_add(1, Relaxed);
        }
    }
    Ok(clients)
}
