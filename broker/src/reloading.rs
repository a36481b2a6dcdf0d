//! SIGHUP, and who connects meanwhile.
//! Always true: a client whose CONNECT is read after the signal was sent is judged by the new rules. A handler would say so
//! only when its thread gets a processor; so the signal is blocked, waits with the kernel from the moment it is sent, and
//! is asked for there by whoever reads a CONNECT.
//! Not here: the reload itself (`node`).
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use parking_lot::Mutex;
use std::{
    io,
    os::fd::AsFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{net::unix::pipe, sync::Notify};

/// So long a CONNECT waits; a reload takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a `signalfd_siginfo`.
const SIGNAL_BYTES: usize = 128;

/// Blocks SIGHUP in this thread and those that it starts: call it before there are any.
/// # Errors
/// The kernel's.
pub fn block_hangup() -> io::Result<()> {
    // A handler nobody runs: a signal that is to be ignored, as under nohup, would not wait.
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Default::default())?;
    Ok(hangup().thread_block()?)
}

fn hangup() -> SigSet {
    SigSet::from(Signal::SIGHUP)
}

struct Signals {
    waiting: SignalFd,
    /// The same, to be woken by.
    wake: pipe::Receiver,
}

#[derive(Default)]
pub struct Reloading {
    signals: OnceLock<Signals>,
    /// Whoever took the signal from the kernel has said so before somebody else finds none there.
    taking: Mutex<()>,
    wanted: AtomicBool,
    arrived: Notify,
    underway: AtomicBool,
    over: Notify,
}

impl Reloading {
    /// Listens for the signal from now on, if it does not yet.
    /// # Errors
    /// The kernel's.
    pub fn listen(&self) -> io::Result<()> {
        if self.signals.get().is_some() {
            return Ok(());
        }
        let waiting = SignalFd::with_flags(&hangup(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let wake = pipe::Receiver::from_owned_fd_unchecked(waiting.as_fd().try_clone_to_owned()?)?;
        self.signals.set(Signals { waiting, wake }).map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// Resolves when a reload is wanted.
    pub async fn wanted(&self) {
        let Some(signals) = self.signals.get() else { return std::future::pending().await };
        while !self.is_wanted() {
            tokio::select! {
                // Another thread took the signal.
                () = self.arrived.notified() => {}
                _ = signals.wake.readable() => {
                    // Otherwise it stays readable.
                    let _taking = self.taking.lock();
                    if signals.wake.try_read(&mut [0; SIGNAL_BYTES]).is_ok() {
                        self.wanted.store(true, SeqCst);
                    }
                }
            }
        }
    }

    /// Call before the settings are read again.
    pub fn begin(&self) {
        self.underway.store(true, SeqCst);
        self.wanted.store(false, SeqCst);
    }

    /// Call when the new ones are in place, or will not be.
    pub fn end(&self) {
        self.underway.store(false, SeqCst);
        self.over.notify_waiters();
    }

    fn is_wanted(&self) -> bool {
        let _taking = self.taking.lock();
        while let Some(Ok(Some(_))) = self.signals.get().map(|signals| signals.waiting.read_signal()) {
            self.wanted.store(true, SeqCst);
            self.arrived.notify_one();
        }
        self.wanted.load(SeqCst)
    }

    fn is_on(&self) -> bool {
        self.is_wanted() || self.underway.load(SeqCst)
    }

    /// Resolves when no reload is wanted or under way.
    pub async fn over(&self) {
        if !self.is_on() {
            return;
        }
        let over = async {
            loop {
                let mut next = std::pin::pin!(self.over.notified());
                next.as_mut().enable();
                if !self.is_on() {
                    return;
                }
                next.await;
            }
        };
        let _ = tokio::time::timeout(TIMEOUT, over).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;
    use std::task::{Context, Waker};

    #[tokio::test]
    async fn a_reload_is_wanted_as_soon_as_the_signal_was_sent_and_once() {
        block_hangup().unwrap();
        let reloading = Reloading::default();
        reloading.listen().unwrap();
        assert!(!reloading.is_on());
        raise(Signal::SIGHUP).unwrap();
        assert!(reloading.is_on(), "nobody ran in between");
        reloading.wanted().await;
        reloading.begin();
        reloading.end();
        assert!(!reloading.is_on());
        raise(Signal::SIGHUP).unwrap();
        reloading.wanted().await;
    }

    #[tokio::test]
    async fn a_connect_waits_for_a_reload_that_is_wanted_or_under_way() {
        let reloading = Reloading::default();
        reloading.over().await;
        reloading.wanted.store(true, SeqCst);
        let mut over = std::pin::pin!(reloading.over());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(over.as_mut().poll(&mut cx).is_pending());
        reloading.begin();
        assert!(over.as_mut().poll(&mut cx).is_pending());
        reloading.end();
        over.await;
    }
}
