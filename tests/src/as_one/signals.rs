//! The signals that mean something to a broker.
use rustix::process::Signal;
use std::io;
use tokio::signal::unix::{self, SignalKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGTERM, SIGINT
    End,
    /// SIGHUP
    Reload,
    /// SIGUSR1
    Checkpoint,
    /// SIGUSR2
    Tree,
}

impl Told {
    /// What the nodes are told.
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

    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.reload.recv() => Told::Reload,
            _ = self.checkpoint.recv() => Told::Checkpoint,
            _ = self.tree.recv() => Told::Tree,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }
}
