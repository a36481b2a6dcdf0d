//! Listening sockets: opens them, accepts, hands over.
//! Always true: the limits on open connections hold before anything is read; a place is free again as soon as the
//! connection's task has ended.
use crate::{
    broker::{Broker, Listener, Peer},
    config::{ListenAddress, ListenerProtocol, SocketDomain},
    connect,
    live::add,
    logging::lines,
    stream::Stream,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
    },
    time::Duration,
};
use tokio::net::{TcpListener, UnixListener};

const BACKLOG: i32 = 1024;

/// A socket that could not be opened, as the operator reads it.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("Error: cannot listen on {address}: {error}")]
    Bind { address: String, error: io::Error },
    #[error("Error: cannot listen on {host}: the name has no usable address")]
    NoAddress { host: String },
    #[error("Error: http_dir {}: it is not a folder that can be read", .0.display())]
    NoFolder(PathBuf),
}

pub enum Open {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// Opens the sockets of one listener: one, or two where IPv4 and IPv6 are wanted.
pub fn open(listener: &Listener) -> Result<Vec<Open>, ListenError> {
    let settings = listener.settings();
    if let Some(folder) = &settings.http_dir
        && std::fs::read_dir(folder).is_err()
    {
        return Err(ListenError::NoFolder(folder.clone()));
    }
    match &settings.address {
        ListenAddress::Unix(path) => open_unix(path).map(|open| vec![open]),
        ListenAddress::Tcp { port, host, interface, domain } => {
            let addresses = addresses(host.as_deref(), *port, *domain)?;
            let explicit = addresses.len() == 1 || host.is_some();
            let mut sockets = Vec::new();
            let mut failed = None;
            for address in addresses {
                match open_tcp(address, interface.as_deref()) {
                    Ok(socket) => {
                        match settings.protocol {
                            ListenerProtocol::Websockets => lines::opening_websockets_listener(*port),
                            ListenerProtocol::HttpApi => lines::opening_http_api_listener(*port),
                            ListenerProtocol::Mqtt => {
                                lines::opening_listener(if address.is_ipv4() { 4 } else { 6 }, *port);
                            }
                        }
                        sockets.push(Open::Tcp(socket));
                    }
                    // A machine without IPv6 is served by IPv4 alone.
                    Err(error) if !explicit && address.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse => {
                        let _ = error;
                    }
                    Err(error) => failed = Some(ListenError::Bind { address: address.to_string(), error }),
                }
            }
            match failed {
                Some(error) => Err(error),
                None => Ok(sockets),
            }
        }
    }
}

fn addresses(host: Option<&str>, port: u16, domain: Option<SocketDomain>) -> Result<Vec<SocketAddr>, ListenError> {
    let wanted = |address: &SocketAddr| match domain {
        Some(SocketDomain::Ipv4) => address.is_ipv4(),
        Some(SocketDomain::Ipv6) => address.is_ipv6(),
        None => true,
    };
    let all: Vec<SocketAddr> = match host {
        None => vec![
            SocketAddr::from((IpAddr::from(Ipv4Addr::UNSPECIFIED), port)),
            SocketAddr::from((IpAddr::from(Ipv6Addr::UNSPECIFIED), port)),
        ],
        Some(host) => (host, port)
            .to_socket_addrs()
            .map_err(|error| ListenError::Bind { address: format!("{host}:{port}"), error })?
            .collect(),
    };
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in all.into_iter().filter(wanted) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err(ListenError::NoAddress { host: host.unwrap_or("*").to_owned() });
    }
    Ok(found)
}

fn open_tcp(address: SocketAddr, interface: Option<&str>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn open_unix(path: &Path) -> Result<Open, ListenError> {
    let bind = || -> io::Result<UnixListener> {
        // A socket that nobody listens on is left over from an earlier run.
        if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        UnixListener::bind(path)
    };
    let listener = bind().map_err(|error| ListenError::Bind { address: path.display().to_string(), error })?;
    lines::opening_unix_listener(path);
    Ok(Open::Unix(listener, path.to_owned()))
}

/// A place among the open connections of the listener and of the node; free again when dropped.
struct Place {
    broker: Arc<Broker>,
    listener: Arc<Listener>,
}

impl Place {
    fn take(broker: &Arc<Broker>, listener: &Arc<Listener>) -> Option<Self> {
        let listener_max = listener.settings().max_connections.map_or(usize::MAX, |max| max.get());
        let global_max = broker.settings.load().limits.global_max_connections.map_or(usize::MAX, |max| max.get());
        if !raise(&listener.connections, listener_max) {
            return None;
        }
        if !raise(&broker.connections, global_max) {
            listener.connections.fetch_sub(1, AcqRel);
            return None;
        }
        Some(Self { broker: broker.clone(), listener: listener.clone() })
    }
}

fn raise(count: &AtomicUsize, max: usize) -> bool {
    count.fetch_update(AcqRel, Acquire, |count| (count < max).then_some(count + 1)).is_ok()
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.connections.fetch_sub(1, AcqRel);
        self.broker.connections.fetch_sub(1, AcqRel);
    }
}

/// Accepts until the task is dropped.
pub async fn accept(broker: Arc<Broker>, listener: Arc<Listener>, open: Open) {
    loop {
        let accepted = match &open {
            Open::Tcp(socket) => socket.accept().await.map(|(stream, from)| {
                let nodelay = stream.set_nodelay(true);
                let _ = nodelay;
                let address = match from.ip() {
                    IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
                    v4 => v4,
                };
                (Stream::Tcp(stream), Peer { address: address.to_string(), port: from.port() })
            }),
            Open::Unix(socket, _) => socket.accept().await.map(|(stream, _)| {
                let _ = stream.as_fd();
                (Stream::Unix(stream), Peer { address: String::new(), port: 0 })
            }),
        };
        match accepted {
            Ok((stream, peer)) => start(&broker, &listener, stream, peer),
            Err(error) => {
                // Out of descriptors or memory: those we have go on, the next one waits.
                crate::warning!("Unable to accept new connection: {error}.");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn start(broker: &Arc<Broker>, listener: &Arc<Listener>, stream: Stream, peer: Peer) {
    let settings = broker.settings.load();
    if let (Some(wrappers), Ok(client)) = (&*broker.tcp_wrappers.load(), peer.address.parse())
        && !wrappers.lets_in(client)
    {
        add(&broker.counters.clients_refused, 1);
        if settings.delivery.connection_messages {
            lines::connection_denied_by_wrappers(&peer.address);
        }
        return;
    }
    let Some(place) = Place::take(broker, listener) else {
        add(&broker.counters.clients_refused, 1);
        lines::connection_denied_too_many(&peer.address);
        return;
    };
    // Who it comes from is known later behind a balancer; requests over HTTP are not clients.
    let known = listener.settings();
    let is_client = known.proxy.is_none() && known.protocol != ListenerProtocol::HttpApi;
    if settings.delivery.connection_messages && is_client {
        lines::new_connection(&peer.address, peer.port, known.address.port());
    }
    let (broker, listener) = (broker.clone(), listener.clone());
    let begun = Box::pin(async move {
        let settings = broker.settings.load_full();
        let mut peer = peer;
        match crate::carrier::prepare(&settings, &listener, stream, &mut peer).await {
            Ok(prepared) if listener.settings().protocol == ListenerProtocol::HttpApi => {
                crate::http_api::serve(&broker, &listener, prepared.stream).await;
                None
            }
            Ok(prepared) => connect::begin(broker, listener, prepared, peer).await,
            Err(why) => {
                broker.log_end(&peer.address, &peer, &why);
                None
            }
        }
    });
    tokio::spawn(async move {
        let _place = place;
        if let Some(attended) = begun.await {
            attended.serve().await;
        }
    });
}
