//! Which node of this machine a command is for: its admin socket, its health listener.
//! Always true: what is named is taken and nothing else is tried; otherwise the usual places are tried in order, and an
//! error names each of them with what was found there.
use crate::config::{Settings, Sources};
use std::{
    io,
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// Of the Debian package, of Mosquitto's image and ours, of Mosquitto's package.
const CONFIGURATIONS: [&str; 4] = [
    "/etc/mosquorum/mosquitto.conf",
    "/etc/mosquorum/mosquorum.conf",
    "/mosquitto/config/mosquitto.conf",
    "/etc/mosquitto/mosquitto.conf",
];
/// Where the configurations above put their data, for those who may not read them.
const SOCKETS: [&str; 3] =
    ["/var/lib/mosquorum/mosquorum.sock", "/mosquitto/data/mosquorum.sock", "/var/lib/mosquitto/mosquorum.sock"];
const SOCKET_HERE: &str = "mosquorum.sock";

/// What the caller named.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct Named {
    /// cluster_admin_socket of the node; if nothing is said, looked for in this
    /// folder, by the configurations in their usual places, and beside their data
    #[arg(long, global = true, value_name = "PATH", value_hint = clap::ValueHint::FilePath, verbatim_doc_comment)]
    pub socket: Option<PathBuf>,
    /// take it from this configuration file
    #[arg(short, long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config_file: Option<PathBuf>,
}

/// Where nodes are looked for, in this order.
#[derive(Debug, Clone, Default)]
struct Places {
    /// Of the working directory and of `MOSQUORUM_CLUSTER_ADMIN_SOCKET`.
    first: Vec<PathBuf>,
    configurations: Vec<PathBuf>,
    /// After those of the configurations.
    last: Vec<PathBuf>,
}

impl Places {
    fn usual() -> Self {
        let named = std::env::var_os("MOSQUORUM_CLUSTER_ADMIN_SOCKET").filter(|path| !path.is_empty());
        Self {
            first: named.map(PathBuf::from).into_iter().chain([PathBuf::from(SOCKET_HERE)]).collect(),
            configurations: CONFIGURATIONS.iter().map(PathBuf::from).collect(),
            last: SOCKETS.iter().map(PathBuf::from).collect(),
        }
    }
}

/// A place where no node was found.
struct Tried {
    place: PathBuf,
    why: String,
    denied: bool,
}

/// A connection to the node's admin socket.
/// # Errors
/// One line that names what was tried.
pub fn connect(named: &Named) -> Result<UnixStream, String> {
    connect_in(named, &Places::usual())
}

fn connect_in(named: &Named, places: &Places) -> Result<UnixStream, String> {
    let to = |socket: &Path| {
        UnixStream::connect(socket)
            .map_err(|error| format!("Error: no answer from a node at {}: {}", socket.display(), plain(&error)))
    };
    if let Some(socket) = &named.socket {
        return to(socket);
    }
    if let Some(file) = &named.config_file {
        let settings = load(Some(file)).map_err(|error| error.to_string())?;
        let none = || {
            format!(
                "Error: {} has no admin socket: it has neither cluster_listener nor cluster_admin_socket",
                file.display()
            )
        };
        return to(&settings.cluster.admin_socket.ok_or_else(none)?);
    }
    let mut tried: Vec<Tried> = Vec::new();
    let attempt = |tried: &mut Vec<Tried>, socket: &Path| {
        if tried.iter().any(|known| known.place == socket) {
            return None;
        }
        match UnixStream::connect(socket) {
            Ok(stream) => Some(stream),
            Err(error) => {
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                tried.push(Tried { place: socket.to_owned(), why: plain(&error), denied });
                None
            }
        }
    };
    for socket in &places.first {
        if let Some(stream) = attempt(&mut tried, socket) {
            return Ok(stream);
        }
    }
    for file in &places.configurations {
        match configured_socket(file) {
            Ok(socket) => {
                if let Some(stream) = attempt(&mut tried, &socket) {
                    return Ok(stream);
                }
            }
            Err(nothing) => tried.push(nothing),
        }
    }
    for socket in &places.last {
        if let Some(stream) = attempt(&mut tried, socket) {
            return Ok(stream);
        }
    }
    Err(nothing_found(&tried))
}

fn configured_socket(file: &Path) -> Result<PathBuf, Tried> {
    let nothing = |why: String, denied: bool| Tried { place: file.to_owned(), why, denied };
    if let Err(error) = std::fs::File::open(file) {
        return Err(nothing(plain(&error), error.kind() == io::ErrorKind::PermissionDenied));
    }
    let settings = load(Some(file)).map_err(|error| {
        let text = error.to_string().replace('\n', " ");
        nothing(text.strip_prefix("Error: ").unwrap_or(&text).to_owned(), false)
    })?;
    settings.cluster.admin_socket.ok_or_else(|| nothing("has no admin socket".to_owned(), false))
}

fn nothing_found(tried: &[Tried]) -> String {
    let places: Vec<String> = tried.iter().map(|tried| format!("{}: {}", tried.place.display(), tried.why)).collect();
    let hint =
        if tried.iter().any(|tried| tried.denied) { "ask as root or as the broker's user, or name" } else { "name" };
    format!(
        "Error: no node of this machine was found; {hint} its socket with --socket PATH or its configuration with -c \
         FILE. Tried {}",
        places.join("; ")
    )
}

/// As the system has it, without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused, no process listens".to_owned(),
        _ => error.to_string(),
    }
}

/// Settings as a node would have them that is started here with this file.
fn load(file: Option<&Path>) -> Result<Settings, crate::config::ConfigError> {
    let sources = Sources { file: file.map(Path::to_owned), ..Sources::default() };
    Settings::load(&sources.with_process_environment())
}

/// The node's health listener: that of the configuration named, else of the environment, else of the first usual
/// configuration that has one.
/// # Errors
/// When the configuration that was named cannot be used.
pub fn health_listener(config_file: Option<&Path>) -> Result<Option<SocketAddr>, String> {
    if config_file.is_some() {
        return load(config_file).map(|settings| settings.health_listener).map_err(|error| error.to_string());
    }
    let usual = CONFIGURATIONS.iter().map(|file| Some(Path::new(*file)));
    let found = std::iter::once(None).chain(usual).filter(|file| file.is_none_or(Path::exists));
    Ok(found.filter_map(|file| load(file).ok()?.health_listener).next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A folder of its own, gone at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mosquorum-find-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn configuration(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, text).expect("written");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_node_is_found_by_the_first_configuration_whose_socket_answers() {
        let folder = Folder::new("first");
        let socket = folder.0.join("b.sock");
        let listening = UnixListener::bind(&socket).expect("a socket");
        listening.set_nonblocking(true).expect("a socket");
        let admin = |name: &str| format!("cluster_admin_socket {}\n", folder.0.join(name).display());
        let places = Places {
            first: vec![folder.0.join("here.sock")],
            configurations: vec![
                folder.0.join("missing.conf"),
                folder.configuration("broken.conf", "no_such_option 1\n"),
                folder.configuration("alone.conf", "listener 1883\n"),
                folder.configuration("stopped.conf", &admin("a.sock")),
                folder.configuration("running.conf", &admin("b.sock")),
            ],
            last: vec![folder.0.join("c.sock")],
        };
        connect_in(&Named::default(), &places).expect("it is found");
        listening.accept().expect("by its socket");
        // Without a configuration, in the folder of the data.
        let data = Places { last: vec![socket.clone()], ..Places::default() };
        connect_in(&Named::default(), &data).expect("it is found");
        listening.accept().expect("by its socket");
        drop(listening);
        let error = connect_in(&Named::default(), &places).expect_err("nobody listens");
        for part in [
            "here.sock: no such file",
            "missing.conf: no such file",
            "broken.conf: ",
            "alone.conf: has no admin socket",
            "a.sock: no such file",
            "b.sock: connection refused",
            "c.sock: no such file",
            "--socket PATH",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn what_is_named_is_taken_and_nothing_else_is_tried() {
        let folder = Folder::new("named");
        let running = folder.0.join("running.sock");
        let _listening = UnixListener::bind(&running).expect("a socket");
        let places = Places { first: vec![running], ..Places::default() };
        let socket = Named { socket: Some(folder.0.join("other.sock")), ..Named::default() };
        let error = connect_in(&socket, &places).expect_err("not there");
        assert!(error.contains("other.sock: no such file"), "{error}");
        let alone = folder.configuration("alone.conf", "listener 1883\n");
        let file = Named { config_file: Some(alone), ..Named::default() };
        let error = connect_in(&file, &places).expect_err("it has none");
        assert!(error.contains("alone.conf has no admin socket"), "{error}");
    }
}
