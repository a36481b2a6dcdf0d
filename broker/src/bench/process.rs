//! What the kernel says about the broker's processes.
use crate::kernel::Status;
use std::fs;

/// User and system time so far, seconds, of all of them.
#[must_use]
pub(super) fn cpu_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Fields are counted after the name, which may contain anything: utime and stime are the 12th and 13th of these.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
    };
    pids.iter().map(ticks).sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Resident memory, bytes, of all of them.
#[must_use]
pub(super) fn resident_bytes(pids: &[u32]) -> u64 {
    let resident = |pid: &u32| Status::of(pid).and_then(|status| status.number("VmRSS")).unwrap_or(0);
    pids.iter().map(resident).sum()
}

/// As many descriptors as the process may have: a connection needs one.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What it was is enough for small runs, and large ones will say that descriptors ran out.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_dead_one_has_nothing() {
        assert!(resident_bytes(&[std::process::id()]) > 100_000);
        assert!((cpu_seconds(&[u32::MAX]), resident_bytes(&[u32::MAX])) == (0.0, 0));
    }
}
