//! What the kernel says about this process.
//! Always true: figures that cannot be read are left out.
use super::{model::Reading, table};
use crate::kernel::Status;
use std::{
    fs,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(super) fn read(reading: &mut Reading) {
    if let Some(status) = Status::of("self") {
        let number = |name| status.number(name).unwrap_or(0);
        reading.family(&table::PROCESS_RESIDENT_MEMORY_BYTES).whole(number("VmRSS"));
        reading.family(&table::PROCESS_VIRTUAL_MEMORY_BYTES).whole(number("VmSize"));
        reading.family(&table::PROCESS_THREADS).whole(number("Threads"));
    }
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    reading.family(&table::PROCESS_CPU_SECONDS_TOTAL).real(cpu);
    if let Some(open) = open_files() {
        reading.family(&table::PROCESS_OPEN_FDS).whole(open);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        reading.family(&table::PROCESS_MAX_FDS).whole(limit);
    }
    reading.family(&table::PROCESS_START_TIME_SECONDS).real(started());
}

/// When this process (more exactly, its first reading) began.
fn started() -> f64 {
    static STARTED: OnceLock<Duration> = OnceLock::new();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    STARTED.get_or_init(|| now().saturating_sub(age().unwrap_or_default())).as_secs_f64()
}

/// How long this process runs: its start in ticks after boot is field 22 of its stat line.
fn age() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let since_boot = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::new(up.tv_sec.try_into().ok()?, up.tv_nsec.try_into().ok()?);
    up.checked_sub(since_boot)
}

/// Newer kernels tell the number as the folder's size; older ones have it counted.
fn open_files() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        open => Some(open),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_started_a_while_ago() {
        let mut reading = Reading::default();
        read(&mut reading);
        assert_eq!(reading.families.len(), 7);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let age = now - started();
        assert!((0.0..86_400.0).contains(&age), "{age} s");
    }
}
