//! Where nodes listen: a loopback address that no other test has, or a network namespace for each node, whose links can
//! be cut.
//! Always true: namespaces and bridges carry our process id in their name; those of dead processes are removed first.
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
    match Namespaces::create(1).and_then(|probe| probe.partition(&[0]).and_then(|()| probe.heal().map(|_| ()))) {
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
        let mut namespaces = Self { bridge: stem.clone(), names: Vec::new(), subnet: (0, 0) };
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

    /// Drops every packet between `nodes` and the other nodes, in both directions.
    /// # Errors
    /// When nft fails.
    pub fn partition(&self, nodes: &[usize]) -> io::Result<()> {
        let others: Vec<String> = (0..self.names.len())
            .filter(|node| !nodes.contains(node))
            .map(|node| self.address(node).to_string())
            .collect();
        // An address that nobody has keeps the set valid when there is no other node.
        let set = if others.is_empty() { "192.0.2.1".to_owned() } else { others.join(", ") };
        let rules = format!(
            "table inet mosquorum_cut {{\n chain from {{\n type filter hook input priority 0;\n ip saddr {{ {set} }} counter drop\n }}\n chain to {{\n type filter hook output priority 0;\n ip daddr {{ {set} }} counter drop\n }}\n}}\n"
        );
        for node in nodes {
            let mut child = Command::new("ip")
                .args(["netns", "exec", &self.names[*node], "nft", "-f", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                io::Write::write_all(&mut stdin, rules.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            if !output.status.success() {
                return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
            }
        }
        Ok(())
    }

    /// Lets every packet through again; returns how many were dropped.
    /// # Errors
    /// When nft fails.
    pub fn heal(&self) -> io::Result<u64> {
        let mut dropped = 0;
        for name in &self.names {
            let Ok(table) = output("ip", &["netns", "exec", name, "nft", "list", "table", "inet", "mosquorum_cut"])
            else {
                continue;
            };
            let mut words = table.split_whitespace();
            while words.any(|word| word == "packets") {
                dropped += words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
            }
            run("ip", &["netns", "exec", name, "nft", "delete", "table", "inet", "mosquorum_cut"])?;
        }
        Ok(dropped)
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

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    output(program, arguments).map(|_| ())
}

fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
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

    #[test]
    fn a_partition_cuts_nodes_from_each_other_but_not_from_us() {
        if let Some(why) = why_no_namespaces() {
            return crate::skip::skip(&why);
        }
        let namespaces = Namespaces::create(2).expect("namespaces");
        let places = namespaces.places();
        let listener = |place: &Place| {
            let mut command = Command::new("ip");
            let script = format!(
                "import socket,sys\ns=socket.create_server(('{}',1883))\nprint('up',flush=True)\nwhile 1: s.accept()",
                place.client_address.ip()
            );
            command.args(["netns", "exec", place.namespace.as_deref().expect("a name"), "python3", "-c", &script]);
            command.stdout(Stdio::piped()).spawn().expect("python runs")
        };
        if !has_program("python3") {
            return crate::skip::skip("no python3");
        }
        let mut server = listener(&places[1]);
        let mut line = String::new();
        let out = server.stdout.take().expect("piped");
        io::BufRead::read_line(&mut io::BufReader::new(out), &mut line).expect("a line");
        let reaches = |from: Option<&Place>| {
            let script = format!(
                "import socket; socket.create_connection(('{}',1883),timeout=0.7)",
                places[1].client_address.ip()
            );
            let mut words = from.map(Place::wrapper).unwrap_or_default();
            words.extend(["python3".into(), "-c".into(), script]);
            Command::new(&words[0]).args(&words[1..]).stderr(Stdio::null()).status().expect("python runs").success()
        };
        assert!(reaches(Some(&places[0])) && reaches(None));
        namespaces.partition(&[1]).expect("nft works");
        assert!(!reaches(Some(&places[0])) && reaches(None));
        assert!(namespaces.heal().expect("nft works") > 0, "dropped packets are counted");
        assert!(reaches(Some(&places[0])));
        let _ = server.kill();
        let _ = server.wait();
    }
}
