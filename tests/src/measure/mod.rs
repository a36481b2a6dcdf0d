//! The figures that belong to the promises: how long a lost leader is felt, what a checkpoint costs those who are being
//! served, how fast messages for offline sessions are made durable, who disturbs whom. Each starts its own cluster and
//! checks what came.
//! Not here: load against any broker by its address (`mosquorum bench`).
pub mod checkpoint;
pub mod dead_remote;
pub mod disturbers;
pub mod enqueue;
pub mod failover;
pub mod restart;

use crate::{
    client::{Connection, Result},
    costs::{self, processor_time},
};
use mosquorum_proto::mqtt::{Connect, ProtocolVersion, QoS};
use std::{net::SocketAddr, time::Duration};

/// Ends a measurement: a broker that did not do its part is a result too.
pub type Measured = std::result::Result<serde_json::Value, Box<dyn std::error::Error + Send + Sync>>;

/// A session that outlives its connection by an hour.
fn durable(name: &str) -> Connect {
    let mut connect = Connect::new(ProtocolVersion::V5, name);
    (connect.clean_start, connect.session_expiry_interval) = (false, Some(3600));
    connect.receive_maximum = Some(1000);
    connect
}

/// Makes a durable session with one subscription and leaves it alone.
async fn offline_session(address: SocketAddr, name: &str, filter: &str) -> Result<()> {
    let (mut client, _) = Connection::connected(address, durable(name)).await?;
    client.subscribe_to(filter, QoS::AtLeastOnce).await?;
    client.disconnect().await
}

/// The value below which `share` (0 to 1) of the sorted values lie.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

/// The middle one, to three digits; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let value = match sorted.len() % 2 {
        0 if sorted.is_empty() => 0.0,
        0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    };
    (value * 1000.0).round() / 1000.0
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// Resident memory of a process, MiB.
#[must_use]
pub fn resident_mib(process: Option<u32>) -> u64 {
    status_kib(process, "VmRSS:") / 1024
}

/// The most resident memory of a process since [`forget_peak`], KiB; 0 if it does not run.
#[must_use]
pub fn peak_kib(process: Option<u32>) -> u64 {
    status_kib(process, "VmHWM:")
}

/// Has the most resident memory of a process counted from now on; what is resident now, KiB.
/// # Errors
/// When the kernel does not let us.
pub fn forget_peak(process: Option<u32>) -> std::io::Result<u64> {
    let id = process.ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::write(format!("/proc/{id}/clear_refs"), "5")?;
    Ok(status_kib(process, "VmRSS:"))
}

fn status_kib(process: Option<u32>, field: &str) -> u64 {
    process.and_then(|id| costs::status_kib(id, field)).unwrap_or(0)
}

/// User and system time of a process so far, seconds.
fn cpu_seconds(process: Option<u32>) -> f64 {
    process.and_then(processor_time).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(quantile(&sorted, 0.5), Duration::from_millis(10));
        assert_eq!(quantile(&sorted, 0.99), Duration::from_millis(20));
        assert_eq!(quantile(&sorted, 1.0), Duration::from_millis(20));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
        assert_eq!((median([3.0, 1.0, 2.0].into_iter()), median([4.0, 1.0].into_iter())), (2.0, 2.5));
    }
}
