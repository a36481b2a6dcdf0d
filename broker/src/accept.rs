//! Listening sockets: opens them, accepts connections, hands them over.
//! Always true: the limits on open connections hold before anything is read; a place is free again as soon as the
//! connection's task has ended; clients never have the last file descriptors.
use crate::{
    auth::Source,
    broker::Broker,
    carrier::{self, Carried},
    config::{ListenAddress, ListenerProtocol, SocketDomain},
    connect, descriptors, http_api,
    listener::{Listener, Peer},
    live::add,
    logging::lines,
    stream::Stream,
};
use rustix::fs::Mode;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    os::fd::AsRawFd,
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
    #[error("Error: {error}: cannot listen on {address}")]
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
            let mut addresses = addresses(host.as_deref(), *port, *domain)?;
            if let Some(interface) = interface {
                let on_machine = interface_addresses().map_err(|error| bind_error(interface, error))?;
                addresses = of_interface(addresses, interface, &on_machine)?;
            }
            let explicit = addresses.len() == 1 || host.is_some();
            let mut sockets = Vec::new();
            let mut failed = None;
            for address in addresses {
                match open_tcp(address) {
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
                    Err(error) => failed = Some(bind_error(&address.to_string(), error)),
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
        Some(host) => {
            (host, port).to_socket_addrs().map_err(|error| bind_error(&format!("{host}:{port}"), error))?.collect()
        }
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

fn bind_error(address: &str, error: io::Error) -> ListenError {
    ListenError::Bind { address: address.to_owned(), error }
}

/// Names and addresses of the machine's interfaces.
fn interface_addresses() -> io::Result<Vec<(String, SocketAddr)>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let known = all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
        let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6)));
        Some((interface.interface_name, v4.or_else(v6)?))
    });
    Ok(known.collect())
}

/// The addresses to listen on, with that of the interface in each family: bound to the interface itself, the listener could
/// not be reached from this machine, and root would be needed.
fn of_interface(
    wanted: Vec<SocketAddr>,
    interface: &str,
    on_machine: &[(String, SocketAddr)],
) -> Result<Vec<SocketAddr>, ListenError> {
    let own: Vec<SocketAddr> = on_machine.iter().filter(|(name, _)| name == interface).map(|(_, own)| *own).collect();
    if own.is_empty() {
        return Err(bind_error(interface, io::Error::other("there is no such interface with an address")));
    }
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in wanted {
        let mut usable = own.iter().filter(|own| own.is_ipv4() == address.is_ipv4());
        let chosen = match address.ip().is_unspecified() {
            true => usable.next(),
            false => usable.find(|own| own.ip() == address.ip()),
        };
        if let Some(mut chosen) = chosen.copied() {
            chosen.set_port(address.port());
            found.push(chosen);
        } else if !address.ip().is_unspecified() {
            let text = format!("{interface} does not have the address {}", address.ip());
            return Err(bind_error(interface, io::Error::other(text)));
        }
    }
    if found.is_empty() {
        return Err(bind_error(interface, io::Error::other("it has no address of this kind")));
    }
    Ok(found)
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
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
        // The group may connect, others may not, whatever the umask is.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o007));
        let bound = UnixListener::bind(path);
        rustix::process::umask(umask);
        bound
    };
    let listener = bind().map_err(|error| bind_error(&path.display().to_string(), error))?;
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
            Open::Unix(socket, _) => socket
                .accept()
                .await
                .map(|(stream, _)| (Stream::Unix(stream), Peer { address: String::new(), port: 0 })),
        };
        match accepted {
            Ok((stream, peer)) => start(&broker, &listener, stream, peer),
            Err(error) => {
                // Out of descriptors or memory: those we have go on, the next one waits.
                descriptors::not_accepted(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Of a connection that was just accepted; -1 of one that is wrapped already.
fn descriptor(stream: &Stream) -> i32 {
    match stream {
        Stream::Tcp(stream) => stream.as_raw_fd(),
        Stream::Unix(stream) => stream.as_raw_fd(),
        Stream::Other(_) => -1,
    }
}

fn start(broker: &Arc<Broker>, listener: &Arc<Listener>, stream: Stream, peer: Peer) {
    if descriptors::is_reserved(descriptor(&stream)) {
        return add(&broker.counters.clients_refused, 1);
    }
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
        match carrier::prepare(&settings, &listener, stream, &mut peer).await {
            Ok(Carried::Ready(prepared)) if listener.settings().protocol == ListenerProtocol::HttpApi => {
                let source = Source::of(&peer.address);
                // Boxed: connections of MQTT need not have room for it.
                Box::pin(http_api::serve(&broker, &listener, prepared.stream, source)).await;
                None
            }
            Ok(Carried::File { stream, head }) => {
                if let Some(folder) = &listener.settings().http_dir {
                    Box::pin(http_api::serve_file(&broker, folder, stream, head)).await;
                }
                None
            }
            Ok(Carried::Ready(prepared)) => connect::begin(broker, listener, prepared, peer).await,
            Err(why) => {
                broker.log_end(&peer.address, &peer, &why);
                None
            }
        }
    });
    tokio::spawn(async move {
        let _place = place;
        if let Some(active) = begun.await {
            active.serve().await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses_of(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_socket_that_cannot_be_opened_says_why_first_as_mosquitto_does() {
        let error = bind_error("127.0.0.1:1", io::Error::from_raw_os_error(13)).to_string();
        assert_eq!(error, "Error: Permission denied (os error 13): cannot listen on 127.0.0.1:1");
    }

    #[test]
    fn a_bound_interface_gives_its_own_address_of_each_family() {
        let machine: Vec<(String, SocketAddr)> =
            [("lo", "127.0.0.1:0"), ("eth0", "192.0.2.7:0"), ("eth0", "[fe80::7]:0")]
                .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
                .to_vec();
        let any = || addresses_of(&["0.0.0.0:1883", "[::]:1883"]);
        assert_eq!(of_interface(any(), "eth0", &machine).unwrap(), addresses_of(&["192.0.2.7:1883", "[fe80::7]:1883"]));
        assert_eq!(of_interface(any(), "lo", &machine).unwrap(), addresses_of(&["127.0.0.1:1883"]));
        let named =
            |address| of_interface(addresses_of(&[address]), "eth0", &machine).map_err(|error| error.to_string());
        assert_eq!(named("192.0.2.7:1883").unwrap(), addresses_of(&["192.0.2.7:1883"]));
        assert!(named("127.0.0.1:1883").unwrap_err().contains("does not have the address 127.0.0.1"));
        assert!(of_interface(any(), "eth1", &machine).unwrap_err().to_string().contains("no such interface"));
        assert!(interface_addresses().unwrap().iter().any(|(_, address)| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_unix_socket_is_open_to_its_group_and_to_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("mosquorum-socket-{}", std::process::id()));
        let _open = open_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
        std::fs::remove_file(&path).unwrap();
    }
}
