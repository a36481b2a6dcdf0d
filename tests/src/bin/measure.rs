//! The figures of the promises, each on a cluster that it starts itself:
//! `MOSQUORUM_PROFILE=release cargo run --release -p mosquorum-tests --bin measure -- --help`.
use mosquorum_tests::{
    bridged::{self, BridgedOptions, HubKind, OutageOptions},
    measure::{
        Measured,
        checkpoint::{self, CheckpointOptions},
        dead_remote::{self, DeadRemoteOptions},
        disturbers::{self, DisturbersOptions},
        enqueue::{self, EnqueueOptions},
        failover::{self, FailoverOptions},
        restart::{self, RestartOptions},
    },
};
use std::{process::ExitCode, str::FromStr};

const HELP: &str = "\
measure: what the promises cost, on a cluster of processes that this starts (MOSQUORUM_PROFILE=release for real figures)
  failover    kill -9 of the leader under load until the next acknowledged publish through another node
      --kills N (20)  --rate N messages per second (1000)
  checkpoint  SIGUSR1 on a node with much state: latency before and during, memory, restoring from the file alone
      --megabytes N (500)  --rate N (10000)  --seconds N of the time before (10)  --durable
  enqueue     QoS 1 for offline durable sessions: PUBACKs per second, and everything fetched afterwards
      --nodes N (3)  --sessions N (10)  --messages N for each (10000)  --payload BYTES (64)  --window N (200)
  restart     many durable sessions that wait, all nodes killed and started again: until each serves
      --nodes N (1)  --sessions N (100000)  --orderly: ended by SIGTERM
  bridged     a cluster bridged to a hub: link cut, bridging node killed, hub restarted; what was lost, repeated, out of order
      --mosquitto as the hub  --version mqttv311|mqttv50 (mqttv311)  --inwards  --nodes N (3)  --qos1 N (100000)
      --qos2 N (20000)  --cuts N (20)  --kills N (5)  --restarts N (3)  --seed N (1)
  outage      messages of 200 bytes that wait for a bridge's hub and then leave: what was lost, how long, memory
      --nodes N (1)  --messages N (1000000)
  dead-remote latency of local traffic beside bridges whose remote is dead in several ways, against a node without bridges
      --rounds N (10)  --seconds N of a turn (3)  --rate N (5000)  --bridges N (4)
  disturbers  who disturbs whom: pauses of a flow of 1,000 QoS 1 messages per second beside each disturber, and costs of each node
      --single: one node instead of three  --seconds N of a row (8)  --only NAME,NAME  --retained N (200000)
      --reconnects N (18000)  --sleepers N (100000)
  --json      one line of JSON instead of a table
exit code: 0 measured, 1 failed, 3 usage";

struct Words {
    words: std::vec::IntoIter<String>,
    json: bool,
}

impl Words {
    fn number<T: FromStr>(&mut self, option: &str) -> Result<T, String> {
        let text = self.words.next().ok_or_else(|| format!("{option} needs a number"))?;
        text.parse().map_err(|_| format!("{option}: {text:?} is not a number"))
    }
}

async fn measured(words: &mut Words) -> Result<Measured, String> {
    let what = words.words.next().ok_or(HELP)?;
    match what.as_str() {
        "failover" => {
            let mut options = FailoverOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--kills" => options.kills = words.number(&option)?,
                    "--rate" => options.rate = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(failover::run(&options).await)
        }
        "checkpoint" => {
            let mut options = CheckpointOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--megabytes" => options.megabytes = words.number(&option)?,
                    "--rate" => options.rate = words.number(&option)?,
                    "--seconds" => options.seconds = words.number(&option)?,
                    "--durable" => options.durable = true,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(checkpoint::run(&options).await)
        }
        "enqueue" => {
            let mut options = EnqueueOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--nodes" => options.nodes = words.number(&option)?,
                    "--sessions" => options.sessions = words.number(&option)?,
                    "--messages" => options.messages = words.number(&option)?,
                    "--payload" => options.payload = words.number(&option)?,
                    "--window" => options.window = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(enqueue::run(&options).await)
        }
        "restart" => {
            let mut options = RestartOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--nodes" => options.nodes = words.number(&option)?,
                    "--sessions" => options.sessions = words.number(&option)?,
                    "--orderly" => options.orderly = true,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(restart::run(&options).await)
        }
        "outage" => {
            let mut options = OutageOptions { nodes: 1, messages: 1_000_000 };
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--nodes" => options.nodes = words.number(&option)?,
                    "--messages" => options.messages = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(bridged::outage(&options).await)
        }
        "dead-remote" => {
            let mut options = DeadRemoteOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--rounds" => options.rounds = words.number(&option)?,
                    "--seconds" => options.seconds = words.number(&option)?,
                    "--rate" => options.rate = words.number(&option)?,
                    "--bridges" => options.bridges = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(dead_remote::run(&options).await)
        }
        "disturbers" => {
            let mut options = DisturbersOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--single" => options.single = true,
                    "--seconds" => options.seconds = words.number(&option)?,
                    "--only" => options.only = Some(words.words.next().ok_or("--only needs names")?),
                    "--retained" => options.retained = words.number(&option)?,
                    "--reconnects" => options.reconnects = words.number(&option)?,
                    "--sleepers" => options.sleepers = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(disturbers::run(&options).await)
        }
        "bridged" => {
            let mut options = BridgedOptions::default();
            while let Some(option) = words.words.next() {
                match option.as_str() {
                    "--mosquitto" => options.hub = HubKind::Mosquitto,
                    "--inwards" => options.inwards = true,
                    "--version" => options.version = words.words.next().ok_or("--version needs a name")?,
                    "--nodes" => options.nodes = words.number(&option)?,
                    "--qos1" => options.qos1 = words.number(&option)?,
                    "--qos2" => options.qos2 = words.number(&option)?,
                    "--cuts" => options.cuts = words.number(&option)?,
                    "--kills" => options.kills = words.number(&option)?,
                    "--restarts" => options.restarts = words.number(&option)?,
                    "--seed" => options.seed = words.number(&option)?,
                    "--json" => words.json = true,
                    _ => return Err(HELP.into()),
                }
            }
            Ok(bridged::run(&options).await)
        }
        _ => Err(HELP.into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = Words { words: arguments.into_iter(), json: false };
    match measured(&mut words).await {
        Err(usage) => {
            eprintln!("{usage}");
            ExitCode::from(3)
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Ok(Ok(figures)) => {
            if words.json {
                println!("{figures}");
            } else if let Some(table) = disturbers::table(&figures) {
                print!("{table}");
            } else {
                for (name, value) in figures.as_object().into_iter().flatten() {
                    println!("{name:<26} {value}");
                }
            }
            ExitCode::SUCCESS
        }
    }
}
