//! Where nodes listen: a loopback address that no other test has, or a network namespace for each node, whose links can
//! be cut (`cuts`).
//! Always true: namespaces and bridges carry our process id in their name; those of dead processes are removed first.
use super::cuts::Cuts;
use crate::{random::Random, skip::has_program};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// One node's addresses and the namespace that it runs in.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) client_address: SocketAddr,
    pub(super) cluster_address: SocketAddr,
    pub(super) health_address: SocketAddr,
    namespace: Option<String>,
}

impl Place {
    /// Words that put a program into the namespace; they replace themselves by it.
    pub(super) fn wrapper(&self) -> Vec<String> {
        self.namespace.iter().flat_map(|name| ["ip", "netns", "exec", name].map(String::from)).collect()
    }
}

/// A loopback address of our own: whoever holds its port 60001 has the address, so ports on it never collide, neither with
/// other tests nor with outgoing connections.
#[derive(Debug)]
pub(crate) struct Loopback {
    address: Ipv4Addr,
    _reservation: TcpListener,
}

impl Loopback {
    pub(crate) fn reserve() -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let mut random = Random::new(now).branch(u64::from(std::process::id()));
        for _ in 0..1000 {
            let byte = |random: &mut Random| random.between(1, 254) as u8;
            let address = Ipv4Addr::new(127, byte(&mut random), byte(&mut random), byte(&mut random));
            if let Ok(loopback) = Self::reserve_at(address) {
                return Ok(loopback);
            }
        }
        Err(io::Error::other("no free loopback address"))
    }

    pub(crate) fn reserve_at(address: Ipv4Addr) -> io::Result<Self> {
        Ok(Self { address, _reservation: TcpListener::bind((address, 60001))? })
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn places(&self, nodes: usize) -> Vec<Place> {
        places(self.address, nodes)
    }
}

pub(super) fn places(address: Ipv4Addr, nodes: usize) -> Vec<Place> {
    let place = |node: usize| Place {
        client_address: SocketAddr::new(IpAddr::V4(address), 1883 + node as u16),
        cluster_address: SocketAddr::new(IpAddr::V4(address), 7883 + node as u16),
        health_address: SocketAddr::new(IpAddr::V4(address), 9883 + node as u16),
        namespace: None,
    };
    (0..nodes).map(place).collect()
}

/// Why this machine cannot give every node a namespace; `None` if it can.
#[must_use]
pub fn why_no_namespaces() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    if let Some(missing) = ["ip", "nft"].into_iter().find(|program| !has_program(program)) {
        return Some(format!("network namespaces need the program {missing}"));
    }
    match Namespaces::create(1).and_then(|probe| probe.partition(&[0]).and_then(|_| probe.heal().map(|_| ()))) {
        Ok(()) => None,
        Err(error) => Some(format!("network namespaces cannot be made here: {error}")),
    }
}

/// A bridge in the root namespace and one namespace per node behind it.
#[derive(Debug)]
pub struct Namespaces {
    bridge: String,
    names: Vec<String>,
    subnet: (u8, u8),
    pub(super) cuts: Cuts,
}

/// Of a subnet, without ours.
const ADDRESSES: usize = 250;

static NEXT: AtomicU32 = AtomicU32::new(0);
static TURN: Mutex<()> = Mutex::new(());

impl Namespaces {
    /// # Errors
    /// When `ip` fails (not root, no bridge module).
    pub fn create(nodes: usize) -> io::Result<Self> {
        remove_leftovers();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Interface names have at most 15 characters.
        let stem = format!("mq{}x{number}", std::process::id());
        let mut namespaces = Self { bridge: stem.clone(), names: Vec::new(), subnet: (0, 0), cuts: Cuts::default() };
        namespaces.make_bridge(number)?;
        for _ in 0..nodes {
            namespaces.add()?;
        }
        Ok(namespaces)
    }

    /// One more namespace, with an address that none had before; its number.
    /// # Errors
    /// When `ip` fails or all addresses are used up.
    pub fn add(&mut self) -> io::Result<usize> {
        let node = self.names.len();
        if node >= ADDRESSES {
            return Err(io::Error::other("no address is left in the subnet"));
        }
        let name = format!("{}n{node}", self.bridge);
        let outer = format!("{}v{node}", self.bridge);
        run("ip", &["netns", "add", &name])?;
        self.names.push(name.clone());
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        run("ip", &["link", "set", &outer, "master", &self.bridge, "up"])?;
        let address = format!("{}/24", self.address(node));
        run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        Ok(node)
    }

    /// Takes a namespace away; its number and address are not used again.
    pub fn remove(&self, node: usize) {
        let _ = run("ip", &["netns", "del", &self.names[node]]);
    }

    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// This machine's own address on the bridge.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet.0, self.subnet.1, 254)
    }

    fn make_bridge(&mut self, number: u32) -> io::Result<()> {
        // Between looking for a free subnet and taking it, nobody of this process may do the same.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        run("ip", &["link", "add", &self.bridge, "type", "bridge"])?;
        let mut random = Random::new(u64::from(std::process::id())).branch(u64::from(number));
        for _ in 0..50 {
            self.subnet = (random.between(200, 250) as u8, random.between(0, 254) as u8);
            let routes = output("ip", &["route", "show", &format!("10.{}.{}.0/24", self.subnet.0, self.subnet.1)])?;
            if routes.trim().is_empty() {
                let address = format!("10.{}.{}.254/24", self.subnet.0, self.subnet.1);
                run("ip", &["addr", "add", &address, "dev", &self.bridge])?;
                return run("ip", &["link", "set", &self.bridge, "up"]);
            }
        }
        Err(io::Error::other("no free subnet"))
    }

    #[must_use]
    pub fn address(&self, node: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet.0, self.subnet.1, 1 + node as u8)
    }

    pub(super) fn places(&self) -> Vec<Place> {
        let place = |(node, name): (usize, &String)| Place {
            client_address: SocketAddr::new(self.address(node).into(), 1883),
            cluster_address: SocketAddr::new(self.address(node).into(), 7883),
            health_address: SocketAddr::new(self.address(node).into(), 9883),
            namespace: Some(name.clone()),
        };
        self.names.iter().enumerate().map(place).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.names.len()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = run("ip", &["netns", "del", name]);
        }
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}

/// Removes what runs that were killed left behind: `mq<pid>x...` of processes that do not exist any more.
fn remove_leftovers() {
    let dead = |name: &str| {
        let pid =
            name.strip_prefix("mq").and_then(|rest| rest.split_once('x')).and_then(|(pid, _)| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| std::fs::metadata(format!("/proc/{pid}")).is_err())
    };
    for line in output("ip", &["netns", "list"]).unwrap_or_default().lines() {
        if let Some(name) = line.split_whitespace().next().filter(|name| dead(name)) {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
    for line in output("ip", &["-o", "link", "show", "type", "bridge"]).unwrap_or_default().lines() {
        if let Some(name) = line.split(": ").nth(1).filter(|name| dead(name)) {
            let _ = run("ip", &["link", "del", name]);
        }
    }
}

pub(super) fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    output(program, arguments).map(|_| ())
}

pub(super) fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), why.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_differ() {
        let (one, two) = (Loopback::reserve().expect("an address"), Loopback::reserve().expect("an address"));
        assert_ne!(one.address, two.address);
    }
}
