//! Hands connections to the nodes in turn, byte by byte: what is inside, TLS and WebSockets among it, is the nodes' matter.
//! Always true: a node that cannot be reached is passed over; when a node closes a connection, so does the client's side.
use super::{NODES, configuration::Front};
use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
};

/// How long a client may still send to a node that is gone: closing at once could take back what the node said last.
const LINGER: Duration = Duration::from_millis(200);

pub(super) struct Balancer {
    /// Bound, not yet listening, and which front it is of.
    bound: Vec<(TcpSocket, usize)>,
    listeners: Vec<(TcpListener, usize)>,
    fronts: Vec<(Vec<SocketAddr>, bool)>,
    /// Whose turn it is.
    turn: usize,
}

impl Balancer {
    pub(super) async fn bind(fronts: &[(Front, Vec<SocketAddr>)]) -> io::Result<Self> {
        let mut balancer = Self { bound: Vec::new(), listeners: Vec::new(), fronts: Vec::new(), turn: 0 };
        for (index, (front, nodes)) in fronts.iter().enumerate() {
            for address in addresses(front).await? {
                match bind(address) {
                    Ok(socket) => balancer.bound.push((socket, index)),
                    // A machine without IPv6 has one address less.
                    Err(error) if address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {}
                    Err(error) => return Err(error),
                }
            }
            balancer.fronts.push((nodes.clone(), front.proxy));
        }
        Ok(balancer)
    }

    pub(super) fn listen(&mut self) -> io::Result<()> {
        for (socket, front) in self.bound.drain(..) {
            self.listeners.push((socket.listen(1024)?, front));
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.listeners.clear();
    }

    /// Takes a client and gives it to the node whose turn it is.
    pub(super) async fn hand_over_next(&mut self) {
        let (client, peer, front) = self.accept().await;
        let (nodes, proxy) = self.fronts[front].clone();
        self.turn = (self.turn + 1) % NODES;
        let first = self.turn;
        tokio::spawn(async move {
            for node in (0..NODES).map(|step| nodes[(first + step) % NODES]) {
                if let Ok(node) = TcpStream::connect(node).await {
                    return carry(client, node, proxy.then_some(peer)).await;
                }
            }
        });
    }

    async fn accept(&self) -> (TcpStream, SocketAddr, usize) {
        poll_fn(|context| {
            for (listener, front) in &self.listeners {
                if let Poll::Ready(Ok((stream, peer))) = listener.poll_accept(context) {
                    return Poll::Ready((stream, peer, *front));
                }
            }
            Poll::Pending
        })
        .await
    }
}

async fn addresses(front: &Front) -> io::Result<Vec<SocketAddr>> {
    match &front.host {
        Some(host) => Ok(lookup_host((host.as_str(), front.port)).await?.collect()),
        None => Ok(["0.0.0.0", "::"]
            .iter()
            .filter_map(|any| Some((any.parse::<IpAddr>().ok()?, front.port).into()))
            .collect()),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

async fn carry(mut client: TcpStream, mut node: TcpStream, announced: Option<SocketAddr>) {
    let _ = (client.set_nodelay(true), node.set_nodelay(true));
    if let (Some(peer), Ok(here)) = (announced, client.local_addr())
        && node.write_all(&proxy_header(peer, here)).await.is_err()
    {
        return;
    }
    {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_node, mut to_node) = node.split();
        let up = async {
            let _ = tokio::io::copy(&mut from_client, &mut to_node).await;
            let _ = to_node.shutdown().await;
            // The node has the last word.
            std::future::pending::<()>().await;
        };
        let down = async {
            let _ = tokio::io::copy(&mut from_node, &mut to_client).await;
            let _ = to_client.shutdown().await;
        };
        tokio::select! { () = up => {}, () = down => {} }
    }
    drop(node);
    let _ = tokio::time::timeout(LINGER, drain(&mut client)).await;
}

async fn drain(client: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 4096];
    while matches!(client.read(&mut bytes).await, Ok(1..)) {}
}

/// PROXY protocol v2: who the client is, and where it connected to.
fn proxy_header(peer: SocketAddr, here: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let mut addresses = Vec::new();
    let family = match (peer.ip(), here.ip()) {
        (IpAddr::V4(peer), IpAddr::V4(here)) => {
            addresses.extend_from_slice(&peer.octets());
            addresses.extend_from_slice(&here.octets());
            0x11
        }
        (peer, here) => {
            addresses.extend_from_slice(&v6(peer));
            addresses.extend_from_slice(&v6(here));
            0x21
        }
    };
    addresses.extend_from_slice(&peer.port().to_be_bytes());
    addresses.extend_from_slice(&here.port().to_be_bytes());
    header.push(family);
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_both_addresses() {
        let at = |text: &str| text.parse().expect("an address");
        let header = proxy_header(at("10.0.0.1:4096"), at("127.0.0.1:1883"));
        assert_eq!(header[12..], [0x21, 0x11, 0, 12, 10, 0, 0, 1, 127, 0, 0, 1, 0x10, 0, 0x07, 0x5b]);
        let header = proxy_header(at("[::1]:4096"), at("[::1]:1883"));
        assert_eq!((header[13], header[15], header.len()), (0x21, 36, 16 + 36));
    }
}
