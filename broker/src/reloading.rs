//! SIGHUP, and who connects meanwhile.
//! Always true: a client whose CONNECT is read after the signal was delivered is judged by the new rules. The signal's
//! own handler says that a reload is wanted, since the task that does it runs later than a CONNECT may come.
//! Not here: the reload itself (`node`).
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};

/// So long a CONNECT waits; a reload takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Reloading {
    wanted: Arc<AtomicBool>,
    underway: AtomicBool,
    over: Notify,
}

impl Reloading {
    /// The signal to wait for. Its handler first raises our flag, then wakes who waits, so that [`Self::begin`], which
    /// lowers the flag, can not come before.
    /// # Errors
    /// The handlers could not be set.
    pub fn signal(&self) -> io::Result<Signal> {
        signal_hook::flag::register(signal_hook::consts::SIGHUP, self.wanted.clone())?;
        signal(SignalKind::hangup())
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

    fn is_on(&self) -> bool {
        self.wanted.load(SeqCst) || self.underway.load(SeqCst)
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
        let _ = tokio::time::timeout(PATIENCE, over).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

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
