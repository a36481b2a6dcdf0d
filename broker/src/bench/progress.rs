//! A line on stderr while a run goes on: rewritten each second on a terminal, every ten seconds elsewhere.
use super::meter::Meter;
use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinHandle, time::interval};

/// Prints until it is dropped.
pub(super) struct Progress(Option<JoinHandle<()>>);

impl Progress {
    pub(super) fn start(meter: &Arc<Meter>, quiet: bool) -> Self {
        if quiet {
            return Self(None);
        }
        let meter = meter.clone();
        Self(Some(tokio::spawn(async move {
            let terminal = std::io::stderr().is_terminal();
            let every = Duration::from_secs(if terminal { 1 } else { 10 });
            let (mut ticks, mut before) = (interval(every), meter.counts());
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let now = meter.counts();
                let rate = |now: u64, before: u64| (now - before) as f64 / every.as_secs_f64();
                let text = format!(
                    "{:>6.0} s  published {:>10.0}/s  acknowledged {:>10.0}/s  delivered {:>10.0}/s",
                    meter.clock.now() as f64 / 1e9,
                    rate(now.published, before.published),
                    rate(now.acknowledged, before.acknowledged),
                    rate(now.delivered, before.delivered),
                );
                let mut stderr = std::io::stderr().lock();
                // Nothing depends on the line.
                let _ = if terminal { write!(stderr, "\r{text}") } else { writeln!(stderr, "{text}") };
                let _ = stderr.flush();
                before = now;
            }
        })))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
        }
    }
}
