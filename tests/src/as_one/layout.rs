//! Where the nodes' files lie and their ports are.
//! Always true: with `persistence true` the nodes find their data again, at the same addresses, in
//! `<persistence_file>.nodes`; otherwise each run begins with nothing and leaves nothing. As with a broker, removing
//! `persistence_file` is to begin anew.
use super::{
    Failure, NODES,
    arguments::Serve,
    configuration::{Front, Plan},
};
use crate::cluster::Loopback;
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub(super) struct Layout {
    nodes: Vec<NodePlace>,
    fronts: Vec<(Front, Vec<SocketAddr>)>,
    /// The file that stands for the data, and the folder that has it.
    kept: Option<(PathBuf, PathBuf)>,
    pid_file: Option<PathBuf>,
    loopback: Loopback,
    _temporary: Temporary,
}

pub(super) struct NodePlace {
    pub(super) data: PathBuf,
    pub(super) configuration: Option<PathBuf>,
    pub(super) admin_socket: PathBuf,
    folder: PathBuf,
    listeners: Vec<SocketAddr>,
}

const TEMPORARY: &str = "as-one-";

/// Folders of programs that were killed.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A folder that goes with the program; in memory if it can be, since nothing in it is to outlive anything.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        remove_leftovers(&folder);
        let path = folder.join(format!("{TEMPORARY}{}", std::process::id()));
        make_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Layout {
    pub(super) fn make(serve: &Serve, plan: &Plan) -> Result<Self, Failure> {
        let temporary = Temporary::new()?;
        let kept = plan.persistence.then(|| kept_places(plan));
        let data = match &kept {
            Some((file, folder)) => {
                if folder.exists() && !file.exists() {
                    fs::rename(folder, aside(folder))?;
                }
                make_folder(folder)?;
                folder.clone()
            }
            None => temporary.0.clone(),
        };
        let loopback = reserve(&data)?;
        let mut nodes = Vec::new();
        for node in 0..NODES {
            let data = fs::canonicalize(&data)?.join(format!("node-{node}"));
            let folder = temporary.0.join(format!("configuration-{node}"));
            make_folder(&data)?;
            make_folder(&folder)?;
            let port = |front: usize| 10_000 + 100 * node as u16 + front as u16;
            let listeners: Vec<SocketAddr> =
                (0..plan.fronts.len()).map(|front| (loopback.address(), port(front)).into()).collect();
            let configuration = plan.write(&folder, &listeners)?;
            let admin_socket = temporary.0.join(format!("{node}.sock"));
            nodes.push(NodePlace { data, configuration, admin_socket, folder, listeners });
        }
        let fronts = if plan.fronts.is_empty() { local_only(serve)? } else { configured(plan, &nodes) };
        if let Some(path) = &plan.pid_file {
            fs::write(path, std::process::id().to_string())?;
        }
        Ok(Self { nodes, fronts, kept, pid_file: plan.pid_file.clone(), loopback, _temporary: temporary })
    }

    /// Where clients connect, and where each node takes them.
    pub(super) fn fronts(&self) -> &[(Front, Vec<SocketAddr>)] {
        &self.fronts
    }

    pub(super) fn node(&self, node: usize) -> &NodePlace {
        &self.nodes[node]
    }

    pub(super) fn cluster_address(&self, node: usize) -> SocketAddr {
        (self.loopback.address(), 7883 + node as u16).into()
    }

    pub(super) fn health_address(&self, node: usize) -> SocketAddr {
        (self.loopback.address(), 9883 + node as u16).into()
    }

    /// The port of a node for `-p`, one for each front, when no file says where to listen.
    pub(super) fn ports(&self, node: usize) -> Vec<u16> {
        if !self.nodes[node].listeners.is_empty() {
            return Vec::new();
        }
        let mut ports: Vec<u16> = self.fronts.iter().map(|(_, addresses)| addresses[node].port()).collect();
        ports.dedup();
        ports
    }

    pub(super) fn write_configuration(&self, plan: &Plan) -> io::Result<()> {
        for node in &self.nodes {
            if plan.fronts.len() == node.listeners.len() {
                plan.write(&node.folder, &node.listeners)?;
            }
        }
        Ok(())
    }

    /// As if the operator's file were gone.
    pub(super) fn forget_configuration(&self) -> Result<(), Failure> {
        for path in self.nodes.iter().filter_map(|node| node.configuration.as_ref()) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// What a broker that stops or writes a checkpoint leaves.
    pub(super) fn finish(&self, well: bool) -> io::Result<()> {
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
        match &self.kept {
            Some((file, folder)) if well => fs::write(file, format!("{}\n", folder.display())),
            _ => Ok(()),
        }
    }
}

fn kept_places(plan: &Plan) -> (PathBuf, PathBuf) {
    let location = std::env::var_os("MOSQUITTO_PERSISTENCE_LOCATION").map(PathBuf::from);
    let location = location.or_else(|| plan.persistence_location.clone()).unwrap_or_else(|| PathBuf::from("."));
    let name = plan.persistence_file.clone().unwrap_or_else(|| "mosquitto.db".to_owned());
    (location.join(&name), location.join(format!("{name}.nodes")))
}

/// A name beside `folder` that nothing has.
fn aside(folder: &Path) -> PathBuf {
    let name = |number: u32| folder.with_extension(format!("nodes.{number}"));
    (1..).map(name).find(|path| !path.exists()).unwrap_or_default()
}

/// A broker that gives up root must be able to write in it.
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

/// The address that the nodes had before, since that is how they know each other.
fn reserve(data: &Path) -> io::Result<Loopback> {
    let file = data.join("address");
    if let Some(address) = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<Ipv4Addr>().ok()) {
        return Loopback::reserve_at(address);
    }
    let loopback = Loopback::reserve()?;
    fs::write(file, loopback.address().to_string())?;
    Ok(loopback)
}

fn configured(plan: &Plan, nodes: &[NodePlace]) -> Vec<(Front, Vec<SocketAddr>)> {
    let addresses = |front: usize| nodes.iter().map(|node| node.listeners[front]).collect();
    plan.fronts.iter().enumerate().map(|(index, front)| (front.clone(), addresses(index))).collect()
}

/// What the nodes do with `-p`, or without anything: both loopback addresses.
fn local_only(serve: &Serve) -> io::Result<Vec<(Front, Vec<SocketAddr>)>> {
    let ports: &[u16] = if serve.ports.is_empty() { &[1883] } else { &serve.ports };
    let mut fronts = Vec::new();
    for port in ports {
        let taken: Vec<TcpListener> =
            (0..NODES).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<_>>()?;
        let addresses: Vec<SocketAddr> = taken.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        for host in ["127.0.0.1", "::1"] {
            let front = Front { host: Some(host.to_owned()), port: *port, proxy: false };
            fronts.push((front, addresses.clone()));
        }
    }
    Ok(fronts)
}
