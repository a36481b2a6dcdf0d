//! What the kernel says about a process in `/proc/<process>/status`.

pub struct Status(String);

impl Status {
    /// `process`: its number, or "self"; `None` if there is none.
    pub fn of(process: impl std::fmt::Display) -> Option<Self> {
        std::fs::read_to_string(format!("/proc/{process}/status")).ok().map(Self)
    }

    /// A field's number, in bytes where the kernel gives kilobytes.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut words = value.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        Some(if words.next() == Some("kB") { number * 1024 } else { number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let status = Status("Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1000 kB\nThreads:\t7\nOdd\n".to_owned());
        let numbers = ["VmRSS", "VmSize", "Threads"].map(|name| status.number(name));
        assert_eq!(numbers, [Some(1_024_000), Some(2_097_152), Some(7)]);
        assert_eq!(status.number("Name").or(status.number("VmHWM")), None);
    }
}
