//! A TCP connection that can be cut: between two nodes, in one direction of calls.
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::watch,
};

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    open: AtomicBool,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(super) fn start(handle: &Handle, target: SocketAddr) -> Arc<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let proxy = Arc::new(Self { address, open: AtomicBool::new(true), cuts: watch::channel(0).0 });
        let this = proxy.clone();
        handle.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            while let Ok((from, _)) = listener.accept().await {
                let mut cut = this.cuts.subscribe();
                if this.open.load(Ordering::SeqCst) {
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = cut.changed() => {}
                            _ = copy(from, target) => {}
                        }
                    });
                }
            }
        });
        proxy
    }

    /// Breaks what is connected; new connections come through only if `open`.
    pub(super) fn cut(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(super) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

async fn copy(mut from: TcpStream, target: SocketAddr) -> io::Result<()> {
    let mut to = TcpStream::connect(target).await?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut from, &mut to, 1 << 16, 1 << 16).await.map(drop)
}
