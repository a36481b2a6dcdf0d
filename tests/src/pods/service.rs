//! The clients' Service: one address that leads each new connection to a pod that is ready.
//! Always true: what is ready is known late, as with a real one: a pod that begins to stop is still handed connections
//! for a moment.
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

/// How late.
pub(super) const LAG: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Default)]
pub(super) struct Endpoints(Arc<Mutex<Vec<SocketAddr>>>);

impl Endpoints {
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn choose(&self, turn: usize) -> Option<SocketAddr> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(turn % all.len().max(1)).copied()
    }
}

#[derive(Debug)]
pub(super) struct Service {
    task: JoinHandle<()>,
}

impl Service {
    pub(super) async fn open(address: SocketAddr, endpoints: Endpoints) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let turn = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (endpoints, turn) = (endpoints.clone(), turn.clone());
                tokio::spawn(async move {
                    let turn = turn.fetch_add(1, Ordering::Relaxed);
                    if let Some(address) = endpoints.choose(turn) {
                        carry(client, address).await;
                    }
                });
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, address: SocketAddr) {
    let Ok(Ok(mut pod)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await else { return };
    let _ = (client.set_nodelay(true), pod.set_nodelay(true));
    if tokio::io::copy_bidirectional(&mut client, &mut pod).await.is_err() {
        // A real Service is no party to the connection: a reset reaches the client as one.
        let _ = (client.set_zero_linger(), pod.set_zero_linger());
    }
}
