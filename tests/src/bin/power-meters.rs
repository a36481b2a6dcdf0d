//! `power-meters SITE-BROKER...`: three households per site, one reading per second, until it is stopped.
use mosquorum_proto::mqtt::{Connect, ProtocolVersion};
use mosquorum_tests::{client::Connection, power};
use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const HOUSEHOLDS: u32 = 3;

#[tokio::main]
async fn main() {
    let sites: Vec<SocketAddr> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    if sites.is_empty() {
        eprintln!("usage: power-meters ADDRESS:PORT...");
        std::process::exit(2);
    }
    let meters = sites.iter().enumerate().map(|(index, site)| tokio::spawn(run(index as u32 * HOUSEHOLDS, *site)));
    for meter in meters.collect::<Vec<_>>() {
        let _ = meter.await;
    }
}

/// The households of one site; a broker that is away is tried again.
async fn run(first: u32, site: SocketAddr) {
    loop {
        let connect = Connect::new(ProtocolVersion::V5, format!("meters-{first}"));
        match Connection::connect(site, connect).await {
            Ok((connection, _)) => {
                if let Err(error) = measure(first, connection).await {
                    eprintln!("{site}: {error}");
                }
            }
            Err(error) => eprintln!("{site}: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn measure(first: u32, mut connection: Connection) -> mosquorum_tests::client::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        for household in first..first + HOUSEHOLDS {
            connection.publish(power::reading(household, second)).await?;
            connection.publish(power::private(household, second)).await?;
        }
    }
}
