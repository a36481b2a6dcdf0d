//! What the nodes print, as one broker would: until they serve they all say the same, so the first alone is shown.
//! Always true: each pipe has a thread, so whoever does not read our output stops nobody but the printing.
use std::{
    io::{self, BufRead, BufReader, Write},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::process::Child;

/// How long what is left in the pipes may take at the end.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Output {
    all: Arc<AtomicBool>,
    /// What the others said at their start; shown if it made them end.
    kept: Vec<Arc<Mutex<Vec<u8>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Output {
    /// Shows what a node prints from now on, or keeps it for later.
    pub(super) fn follow(&mut self, node: usize, child: &mut Child) -> io::Result<()> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        self.kept.push(Arc::clone(&kept));
        let stdout = child.stdout.take().map(|pipe| pipe.into_owned_fd()).transpose()?;
        let stderr = child.stderr.take().map(|pipe| pipe.into_owned_fd()).transpose()?;
        for (pipe, is_stdout) in [(stdout, true), (stderr, false)] {
            let Some(pipe) = pipe else { continue };
            let (all, kept) = (Arc::clone(&self.all), Arc::clone(&kept));
            self.threads.push(std::thread::Builder::new().stack_size(256 << 10).spawn(move || {
                let mut runs = false;
                pass_on(&pipe, is_stdout, |line| {
                    // That it runs may come behind its being ready.
                    let says_so = !runs && line.ends_with(b" running\n");
                    runs |= says_so;
                    let shown = node == 0 || (all.load(Ordering::Relaxed) && !says_so);
                    if !shown {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
                    }
                    shown
                });
            })?);
        }
        Ok(())
    }

    pub(super) fn show_all(&self) {
        self.all.store(true, Ordering::Relaxed);
    }

    /// Shows what a node said before it was shown.
    pub(super) fn show_one(&self, node: usize) {
        let text = std::mem::take(&mut *self.kept[node].lock().unwrap_or_else(PoisonError::into_inner));
        let _ = io::stderr().write_all(&text);
    }

    pub(super) fn finish(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn pass_on(pipe: &OwnedFd, is_stdout: bool, mut shown: impl FnMut(&[u8]) -> bool) {
    let Ok(pipe) = pipe.try_clone() else { return };
    let mut lines = BufReader::new(std::fs::File::from(pipe));
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        if shown(&line) {
            // Nobody may be there to read it.
            let _ = if is_stdout { io::stdout().write_all(&line) } else { io::stderr().write_all(&line) };
            let _ = io::stdout().flush();
        }
        line.clear();
    }
}
