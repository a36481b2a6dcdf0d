//! `mosquorum bench`: a load generator for any MQTT broker.
//! Always true: a scenario checks what it delivers (order per publisher and topic, losses, duplicates); at a fixed rate
//! latency counts from the time at which a message was due, so a broker that stalls is charged for all that waited.
//! Not here: starting brokers, comparing them (`tests`).
mod client;
mod connect;
mod durable;
mod failover;
mod frames;
mod inside;
mod lane;
mod load;
mod meter;
pub mod options;
mod order;
mod process;
mod progress;
mod publisher;
mod report;
mod retained;
mod stamp;
mod subscriber;

pub use options::Options;

use client::Result;
use options::Scenario;
use report::Report;

/// Runs the scenario and prints what it found.
/// # Errors
/// One line for the operator: what went wrong, where.
pub fn run(options: &Options) -> std::result::Result<(), String> {
    process::raise_descriptor_limit();
    let mut builder = match options.scenario {
        Scenario::Inside => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = options.threads {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().thread_name("bench").build();
    let runtime = runtime.map_err(|error| format!("Error: cannot start threads: {error}"))?;
    let result = runtime.block_on(scenario(options));
    runtime.shutdown_background();
    let report = result.map_err(|error| format!("Error: bench {}: {error}.", options.scenario.name()))?;
    if options.json {
        println!("{}", report.json(options));
    } else {
        print!("{}", report.table(options));
    }
    Ok(())
}

async fn scenario(options: &Options) -> Result<Report> {
    match options.scenario {
        Scenario::P2p | Scenario::Fanout | Scenario::Fanin | Scenario::Shared => {
            load::Load::new(options).await?.run().await
        }
        Scenario::Inside => inside::run(options).await,
        Scenario::Connect => connect::run(options).await,
        Scenario::Retained => retained::run(options).await,
        Scenario::Durable => durable::run(options).await,
        Scenario::Failover => failover::run(options).await,
    }
}
