//! What a broker's process costs, read from outside: processor time, memory, descriptors, lines of its log.
//! Always true: looking needs nothing of the broker and no access to the cluster, so it goes on whatever is done to it.
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Costs of one process of a node up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Its number.
    pub process: u32,
    /// User and system time.
    pub processor: Duration,
    /// Memory of its own: the program and other files are not counted.
    pub memory_kib: u64,
    pub descriptors: u64,
    /// Lines of the node's log, over all its processes.
    pub log_lines: u64,
}

/// A node's process and log.
#[derive(Debug, Clone)]
pub struct NodeWatch {
    process: Arc<AtomicU32>,
    log: PathBuf,
    read: u64,
    lines: u64,
}

impl NodeWatch {
    /// `process`: the id of the one that runs now, 0 before the first.
    #[must_use]
    pub fn new(process: Arc<AtomicU32>, log: PathBuf) -> Self {
        Self { process, log, read: 0, lines: 0 }
    }

    /// The costs until now; `None` if nothing runs.
    pub fn look(&mut self) -> Option<Costs> {
        let process = self.process.load(Ordering::Relaxed);
        let (processor, memory_kib) = (processor_time(process)?, status_kib(process, "RssAnon:")?);
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
        Some(Costs { process, processor, memory_kib, descriptors, log_lines: self.log_lines() })
    }

    /// Lines that were written so far; only what is new is read.
    fn log_lines(&mut self) -> u64 {
        let mut fresh = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut fresh)
        });
        self.read += read.unwrap_or(0) as u64;
        self.lines += fresh.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.lines
    }
}

/// User and system time of a process so far; `None` if it is gone.
#[must_use]
pub fn processor_time(process: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Fields are counted after the name, which may contain anything: utime and stime are the 12th and 13th of these.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// A field of /proc/PID/status that is given in KiB; `None` if the process is gone.
pub(crate) fn status_kib(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_process_is_seen_with_its_log_and_its_end() {
        let path = std::env::temp_dir().join(format!("mosquorum-costs-{}", std::process::id()));
        let mut log = File::create(&path).expect("a file");
        log.write_all(b"one\ntwo\nhalf").expect("written");
        let process = Arc::new(AtomicU32::new(std::process::id()));
        let mut watch = NodeWatch::new(process.clone(), path.clone());
        let first = watch.look().expect("we run");
        assert!(first.memory_kib > 100 && first.descriptors > 3, "{first:?}");
        assert_eq!((first.process, first.log_lines), (std::process::id(), 2));
        let mut sum = 0_u64;
        while processor_time(std::process::id()).is_some_and(|time| time == first.processor) {
            sum = (0..100_000).fold(sum, |sum, number| sum.wrapping_mul(31) ^ number);
        }
        log.write_all(b" line\n").expect("written");
        assert_eq!(watch.look().expect("we run").log_lines, 3, "{sum}");
        process.store(0, Ordering::Relaxed);
        assert_eq!(watch.look(), None);
        std::fs::remove_file(path).expect("it is there");
    }
}
