//! A mosquitto.conf as one file per node: the same lines, but for where to listen.
//! Always true: what is not about listening or about files of the process stays as it is, broken lines among it, so that
//! the nodes judge it; the n-th listener of every node belongs to the n-th front.
use super::Failure;
use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Where clients of one listener connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Front {
    /// `None`: every address.
    pub(super) host: Option<String>,
    pub(super) port: u16,
    /// Nodes learn who the client is; not where the client itself is asked for that.
    pub(super) proxy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Line(String),
    Listener(usize),
    /// The old way: `port`, and a `bind_address` of its own if there is none.
    Port {
        front: usize,
        address: bool,
    },
    BindAddress,
    /// The n-th `include_dir`.
    Include(usize),
}

/// What the files say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// File name and contents; without one the nodes get none.
    file: Option<(String, Vec<Piece>)>,
    includes: Vec<Vec<(String, Vec<Piece>)>>,
    pub(super) fronts: Vec<Front>,
    pub(super) persistence: bool,
    pub(super) persistence_location: Option<PathBuf>,
    pub(super) persistence_file: Option<String>,
    pub(super) pid_file: Option<PathBuf>,
}

/// Reads the file and what it includes.
pub(super) fn read(file: Option<&Path>) -> Result<Plan, Failure> {
    let mut plan = Plan::default();
    if let Some(path) = file {
        let pieces = plan.take(&contents(path)?)?;
        plan.file = Some((name(path), pieces));
    }
    Ok(plan)
}

fn contents(path: &Path) -> Result<String, Failure> {
    let failed = |_| Failure { text: format!("Error: Unable to open config file '{}'.", path.display()), code: 3 };
    Ok(String::from_utf8_lossy(&std::fs::read(path).map_err(failed)?).into_owned())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Plan {
    fn take(&mut self, text: &str) -> Result<Vec<Piece>, Failure> {
        let lines: Vec<(&str, &str)> = text.lines().map(directive).collect();
        let has = |key: &str, range: &[(&str, &str)]| range.iter().any(|(k, _)| *k == key);
        let mut pieces = Vec::new();
        let mut in_listener = false;
        for (index, (line, (key, rest))) in text.lines().zip(&lines).enumerate() {
            let until =
                lines[index + 1..].iter().position(|(k, _)| *k == "listener").map_or(lines.len(), |n| index + 1 + n);
            let section = if in_listener || *key == "listener" { &lines[index + 1..until] } else { &lines[..until] };
            let own = has("enable_proxy_protocol", section) || section.contains(&("protocol", "http_api"));
            let piece = match *key {
                "listener" => {
                    in_listener = true;
                    self.listener(rest, !own)?
                }
                "port" => number(rest).map(|port| {
                    let host = lines.iter().find(|(k, _)| *k == "bind_address").map(|(_, host)| (*host).to_owned());
                    let address = host.is_none();
                    self.fronts.push(Front { host, port, proxy: !own && !in_listener });
                    Piece::Port { front: self.fronts.len() - 1, address }
                }),
                "bind_address" => Some(Piece::BindAddress),
                "bind_interface" | "socket_domain" => Some(Piece::Line("#".into())),
                "include_dir" => Some(self.include(rest)?),
                _ => self.note(key, rest),
            };
            pieces.push(piece.unwrap_or_else(|| Piece::Line(line.to_owned())));
        }
        Ok(pieces)
    }

    fn listener(&mut self, rest: &str, proxy: bool) -> Result<Option<Piece>, Failure> {
        let mut words = rest.split_whitespace();
        let port = words.next().and_then(number);
        if port == Some(0) || rest.starts_with('/') {
            return Err(Failure { text: "Error: Three nodes cannot share a Unix socket.".into(), code: 3 });
        }
        Ok(port.map(|port| {
            self.fronts.push(Front { host: words.next().map(str::to_owned), port, proxy });
            Piece::Listener(self.fronts.len() - 1)
        }))
    }

    fn include(&mut self, folder: &str) -> Result<Piece, Failure> {
        let number = self.includes.len();
        self.includes.push(Vec::new());
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        paths.sort();
        for path in paths {
            let pieces = self.take(&contents(&path)?)?;
            self.includes[number].push((name(&path), pieces));
        }
        Ok(Piece::Include(number))
    }

    /// Takes down what is about files of the process.
    fn note(&mut self, key: &str, rest: &str) -> Option<Piece> {
        match key {
            "persistence" => self.persistence = matches!(rest.to_ascii_lowercase().as_str(), "true" | "1"),
            "persistence_location" => self.persistence_location = Some(rest.into()),
            "persistence_file" => self.persistence_file = Some(rest.into()),
            "pid_file" => {
                self.pid_file = Some(rest.into());
                return Some(Piece::Line("#".into()));
            }
            _ => {}
        }
        None
    }

    /// Writes a node's files below `folder`, its n-th listener at `addresses[n]`; the path of the first file.
    pub(super) fn write(&self, folder: &Path, addresses: &[SocketAddr]) -> std::io::Result<Option<PathBuf>> {
        let Some((name, pieces)) = &self.file else { return Ok(None) };
        for (number, files) in self.includes.iter().enumerate() {
            let place = folder.join(format!("include-{number}"));
            std::fs::create_dir_all(&place)?;
            for (name, pieces) in files {
                std::fs::write(place.join(name), self.text(pieces, folder, addresses))?;
            }
        }
        let path = folder.join(name);
        std::fs::write(&path, self.text(pieces, folder, addresses))?;
        Ok(Some(path))
    }

    fn text(&self, pieces: &[Piece], folder: &Path, addresses: &[SocketAddr]) -> String {
        let mut text = String::new();
        for piece in pieces {
            let _ = match piece {
                Piece::Line(line) => writeln!(text, "{line}"),
                Piece::Listener(front) => {
                    let _ = writeln!(text, "listener {} {}", addresses[*front].port(), addresses[*front].ip());
                    self.proxy_line(*front, &mut text)
                }
                Piece::Port { front, address } => {
                    let _ = writeln!(text, "port {}", addresses[*front].port());
                    if *address {
                        let _ = writeln!(text, "bind_address {}", addresses[*front].ip());
                    }
                    self.proxy_line(*front, &mut text)
                }
                Piece::BindAddress => match addresses.first() {
                    Some(address) => writeln!(text, "bind_address {}", address.ip()),
                    None => Ok(()),
                },
                Piece::Include(number) => {
                    writeln!(text, "include_dir {}", folder.join(format!("include-{number}")).display())
                }
            };
        }
        text
    }

    fn proxy_line(&self, front: usize, text: &mut String) -> std::fmt::Result {
        if self.fronts[front].proxy { writeln!(text, "enable_proxy_protocol 2") } else { Ok(()) }
    }
}

/// The first word of a line and the rest; comments start in the first column.
fn directive(line: &str) -> (&str, &str) {
    if line.starts_with('#') {
        return ("", "");
    }
    let line = line.trim();
    let (key, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (key, rest.trim())
}

/// As C reads a number.
fn number(text: &str) -> Option<u16> {
    match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        (Some(hex), _) => u16::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => u16::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> (String, Plan) {
        let mut plan = Plan::default();
        let pieces = plan.take(text).unwrap_or_else(|failure| panic!("{}", failure.text));
        let addresses: Vec<SocketAddr> =
            (0..plan.fronts.len()).map(|n| SocketAddr::new([127, 9, 8, 7].into(), 10_000 + n as u16)).collect();
        (plan.text(&pieces, Path::new("/nodes"), &addresses), plan)
    }

    #[test]
    fn only_what_says_where_to_listen_changes() {
        let (text, plan) = rewritten(
            "max_keepalive 10\r\nlistener 1888\nprotocol websockets\n# listener 1\nlistener 0x761 localhost\n\
             enable_proxy_protocol 1\nlistener 80\nprotocol http_api\n",
        );
        assert_eq!(
            text,
            "max_keepalive 10\nlistener 10000 127.9.8.7\nenable_proxy_protocol 2\nprotocol websockets\n# listener 1\n\
             listener 10001 127.9.8.7\nenable_proxy_protocol 1\nlistener 10002 127.9.8.7\nprotocol http_api\n"
        );
        let hosts: Vec<_> = plan.fronts.iter().map(|front| (front.host.as_deref(), front.port, front.proxy)).collect();
        assert_eq!(hosts, [(None, 1888, true), (Some("localhost"), 1889, false), (None, 80, false)]);
    }

    #[test]
    fn the_old_words_for_a_listener_change_as_well() {
        let (text, plan) = rewritten("port 1888\nallow_anonymous true\n");
        let expected = "port 10000\nbind_address 127.9.8.7\nenable_proxy_protocol 2\nallow_anonymous true\n";
        assert_eq!((text.as_str(), plan.fronts[0].host.as_deref()), (expected, None));
        let (text, plan) = rewritten("bind_address 127.0.0.1\nport 1888\n");
        let expected = "bind_address 127.9.8.7\nport 10000\nenable_proxy_protocol 2\n";
        assert_eq!((text.as_str(), plan.fronts[0].host.as_deref()), (expected, Some("127.0.0.1")));
    }

    #[test]
    fn files_of_the_process_are_taken_down() {
        let (text, plan) = rewritten("persistence true\npersistence_file a.db\npid_file /run/a.pid\n");
        assert_eq!(text, "persistence true\npersistence_file a.db\n#\n");
        assert!(plan.persistence && plan.fronts.is_empty());
        assert_eq!(plan.persistence_file.as_deref(), Some("a.db"));
        assert_eq!(plan.pid_file.as_deref(), Some(Path::new("/run/a.pid")));
    }

    #[test]
    fn broken_lines_are_left_to_the_nodes_and_unix_sockets_refused() {
        assert_eq!(rewritten("listener nowhere\nnonsense\n").0, "listener nowhere\nnonsense\n");
        assert!(Plan::default().take("listener 0 /run/a.sock\n").is_err());
    }
}
