//! The network between a bridge and its remote: a relay of TCP connections that can be cut in several ways.
use super::recorder::{Recorder, Tap};
use mosquorum_proto::mqtt::ProtocolVersion;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Open,
    /// Nothing passes and nobody is notified; what waited passes later.
    BlackHole,
    /// Connections are reset, new ones too.
    Reset,
    /// The remote's end is gone and the bridge is not notified.
    HalfOpen,
}

/// Listens on `address`; gone when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    mode: watch::Sender<Link>,
    watching: Watching,
    task: AbortHandle,
}

/// What is known of all that passes.
#[derive(Debug, Clone)]
struct Watching {
    bytes: Arc<AtomicU64>,
    connections: Arc<AtomicU32>,
    recorder: Arc<Recorder>,
    version: ProtocolVersion,
}

impl Proxy {
    /// # Errors
    /// When no port can be bound.
    pub(super) async fn start(remote: SocketAddr, version: ProtocolVersion) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, receiver) = watch::channel(Link::Open);
        let watching =
            Watching { bytes: Arc::default(), connections: Arc::default(), recorder: Arc::default(), version };
        let task = tokio::spawn(accept(listener, remote, receiver, watching.clone())).abort_handle();
        Ok(Self { address, mode, watching, task })
    }

    pub(super) fn set(&self, mode: Link) {
        self.mode.send_replace(mode);
    }

    /// Bytes that passed so far, both ways.
    #[must_use]
    pub(super) fn passed(&self) -> u64 {
        self.watching.bytes.load(Ordering::Relaxed)
    }

    #[must_use]
    pub(super) fn recorder(&self) -> &Recorder {
        &self.watching.recorder
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Link::Reset);
    }
}

async fn accept(listener: TcpListener, remote: SocketAddr, mode: watch::Receiver<Link>, watching: Watching) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(carry(near, remote, mode.clone(), watching.clone()));
    }
}

async fn carry(near: TcpStream, remote: SocketAddr, mut mode: watch::Receiver<Link>, watching: Watching) {
    if *mode.borrow() == Link::Reset {
        let _ = near.set_zero_linger();
        return;
    }
    if mode.wait_for(|mode| *mode == Link::Open).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(remote).await else { return };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let mut cut = mode.clone();
    let number = watching.connections.fetch_add(1, Ordering::Relaxed);
    let tap = watching.recorder.from_bridge(number);
    let mut there = Pump { from: near_in, to: far_out, mode: mode.clone(), bytes: watching.bytes.clone(), tap };
    let tap = watching.recorder.from_hub(number, watching.version);
    let mut back = Pump { from: far_in, to: near_out, mode, bytes: watching.bytes.clone(), tap };
    let cut = tokio::select! {
        () = there.run() => return,
        () = back.run() => return,
        cut = cut.wait_for(|mode| matches!(mode, Link::Reset | Link::HalfOpen)) => cut.map(|mode| *mode),
    };
    match cut {
        Ok(Link::HalfOpen) => {
            // The far end is closed; the near one may write for ever.
            drop(std::mem::replace(&mut back.from, there.from));
            drop(there.to);
            let mut buffer = vec![0; 16 * 1024];
            while back.from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        }
        _ => {
            let _ = there.from.as_ref().set_zero_linger();
            let _ = back.from.as_ref().set_zero_linger();
        }
    }
}

struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mode: watch::Receiver<Link>,
    bytes: Arc<AtomicU64>,
    tap: Tap,
}

impl Pump {
    /// Until one end closes.
    async fn run(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(n @ 1..) = self.from.read(&mut buffer).await else { return };
            if self.mode.wait_for(|mode| *mode != Link::BlackHole).await.is_err() {
                return;
            }
            if self.to.write_all(&buffer[..n]).await.is_err() {
                return;
            }
            self.tap.passed(&buffer[..n]);
            self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
}
