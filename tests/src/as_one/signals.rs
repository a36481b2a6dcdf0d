//! The signals that mean something to a broker.
use rustix::process::Signal;
use std::io;
use tokio::signal::unix::{self, SignalKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// SIGTERM, SIGINT
    End,
    /// SIGHUP
    Reload,
    /// SIGUSR1
    Checkpoint,
    /// SIGUSR2
    Tree,
}

impl Received {
    /// The signal that the nodes get.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::End => Signal::TERM,
            Self::Reload => Signal::HUP,
            Self::Checkpoint => Signal::USR1,
            Self::Tree => Signal::USR2,
        }
    }
}

pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    reload: unix::Signal,
    checkpoint: unix::Signal,
    tree: unix::Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            reload: unix::signal(SignalKind::hangup())?,
            checkpoint: unix::signal(SignalKind::user_defined1())?,
            tree: unix::signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Received {
        tokio::select! {
            biased;
            _ = self.reload.recv() => Received::Reload,
            _ = self.checkpoint.recv() => Received::Checkpoint,
            _ = self.tree.recv() => Received::Tree,
            _ = self.terminate.recv() => Received::End,
            _ = self.interrupt.recv() => Received::End,
        }
    }
}
