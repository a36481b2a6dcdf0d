//! What the test build can be made to do wrong (`MOSQUORUM_PLANT`, names separated by commas), and clocks that lie
//! (`MOSQUORUM_CLOCK_FILE`): proof that the checkers see it.
use parking_lot::Mutex;
use std::{path::PathBuf, sync::OnceLock, time::Duration};

/// Whether a test asked for this fault.
#[must_use]
pub fn planted(fault: &str) -> bool {
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("MOSQUORUM_PLANT").unwrap_or_default()).split(',').any(|p| p == fault)
}

/// How the clocks lie: milliseconds added to the wall's, and parts per million by which the monotonic one runs too fast.
#[derive(Debug, Clone, Copy, Default)]
struct Lie {
    offset_ms: i64,
    ppm: i64,
}

struct Lies {
    path: Option<PathBuf>,
    lie: Lie,
    read_at: Option<Duration>,
    /// The monotonic clock as last asked, and what was added to it until then.
    last: Duration,
    gained_nanos: i128,
}

/// The file is read again after so long.
const READ_AGAIN: Duration = Duration::from_millis(20);

static LIES: Mutex<Option<Lies>> = Mutex::new(None);

impl Lies {
    /// The lie of now, `None` without a file that says one.
    fn at<R>(now: Duration, use_it: impl FnOnce(&mut Lies) -> R) -> R {
        let mut lies = LIES.lock();
        let lies = lies.get_or_insert_with(|| Lies {
            path: std::env::var_os("MOSQUORUM_CLOCK_FILE").map(PathBuf::from),
            lie: Lie::default(),
            read_at: None,
            last: now,
            gained_nanos: 0,
        });
        if let Some(path) = &lies.path
            && lies.read_at.is_none_or(|at| now.saturating_sub(at) >= READ_AGAIN)
        {
            lies.read_at = Some(now);
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let mut numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
            if let (Some(offset_ms), Some(ppm)) = (numbers.next(), numbers.next()) {
                lies.lie = Lie { offset_ms, ppm };
            }
        }
        use_it(lies)
    }
}

/// The monotonic clock as it runs on this node.
pub(crate) fn skewed(now: Duration) -> Duration {
    Lies::at(now, |lies| {
        let passed = now.saturating_sub(lies.last).as_nanos() as i128;
        lies.last = now.max(lies.last);
        lies.gained_nanos += passed * i128::from(lies.lie.ppm) / 1_000_000;
        let nanos = now.as_nanos() as i128 + lies.gained_nanos;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    })
}

/// The wall's clock as this node sees it, in milliseconds.
pub(crate) fn moved(wall: u64) -> u64 {
    Lies::at(crate::machine_clock::raw(), |lies| wall.saturating_add_signed(lies.lie.offset_ms))
}
