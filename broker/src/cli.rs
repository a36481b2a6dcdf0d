//! The command line: Mosquitto's flags, ours, and the `cluster` commands.
//! Always true: nothing is read or printed here; the same words always give the same [`Command`].
use crate::bench;
use crate::config::{HostPort, Sources};
use crate::find_node::Named;
use crate::logging::lines::{MOSQUITTO_VERSION, VERSION};
use std::ffi::{OsStr, OsString};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

/// Most `-p` flags, as in Mosquitto.
const PORTS_MAX: usize = 10;
const DRAIN_SECONDS: u16 = 10;
/// The admin socket waits a little longer for its answer.
const DRAIN_SECONDS_MAX: u16 = 240;
const WAIT_SECONDS_MAX: u32 = 86_400;

/// What the process was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Run(Run),
    /// Print this to stdout and exit with 0 (`--help`, `--version`, `--options`).
    Print(String),
    Cluster(ClusterCommand),
    /// `mosquorum drain`: hand the clients of a node over to others.
    Drain {
        wish: DrainWish,
        named: Named,
        json: bool,
    },
    /// `mosquorum recover`: a survivor of a lost majority becomes a cluster of its own.
    Recover {
        config_file: PathBuf,
        force: bool,
        json: bool,
    },
    /// `mosquorum healthcheck`: whether a node is ready, by its health listener.
    HealthCheck {
        url: Option<String>,
        config_file: Option<PathBuf>,
        /// `--wait SECONDS`: how long it may take to become ready.
        wait: Duration,
        json: bool,
    },
    Bench(Box<bench::Options>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainWish {
    /// At so many clients per second, if that is said.
    Begin(Option<NonZeroU32>),
    Cancel,
}

/// Serve, or check the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Run {
    /// `-c`
    pub config_file: Option<PathBuf>,
    /// `-d`
    pub daemon: bool,
    /// `-p`, at most 10.
    pub ports: Vec<u16>,
    /// `-q` (which wins) is `Some(false)`, `-v` is `Some(true)`.
    pub log_all: Option<bool>,
    /// `--test-config`: check and exit; without `-c` an error of the caller.
    pub test_config: bool,
    /// `--tls-keylog`
    pub tls_keylog: Option<PathBuf>,
    /// `--local-cluster N`: that many nodes in child processes, for trying out.
    pub local_cluster: Option<NonZeroU16>,
}

impl Run {
    /// Where the settings come from: these flags, the file and the environment of this process.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let sources = Sources {
            file: self.config_file.clone(),
            environment: Vec::new(),
            ports: self.ports.clone(),
            log_all: self.log_all,
        };
        sources.with_process_environment()
    }
}

/// `mosquorum cluster ...`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterCommand {
    pub action: ClusterAction,
    pub named: Named,
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterAction {
    Status,
    /// A node's name and how it is reached.
    Add {
        name: String,
        address: HostPort,
    },
    Remove {
        name: String,
        /// Its clients go elsewhere within this time before it leaves.
        drain_seconds: u16,
    },
    /// To this node, or to the one that fits best.
    TransferLeader {
        name: Option<String>,
    },
    /// After an outage of all nodes: the time goes on with the leader's clock.
    AcceptTime,
    /// To this many voters, an odd number.
    Resize {
        voters: NonZeroU16,
        drain_seconds: u16,
    },
}

/// Why the words make no sense; print it to stderr as one line and exit with 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CliError(String);

fn fail<T>(text: impl Into<String>) -> Result<T, CliError> {
    Err(CliError(text.into()))
}

/// The word after an option that needs one.
fn after(option: &str, what: &str, words: &mut impl Iterator<Item = OsString>) -> Result<OsString, CliError> {
    words.next().ok_or_else(|| CliError(format!("Error: {option} argument given, but no {what} specified.")))
}

fn unknown<T>(word: &OsStr, help: &str) -> Result<T, CliError> {
    fail(format!("Error: Unknown option '{}'. Try {help}.", word.to_string_lossy()))
}

/// Takes the words of the process apart; the first is its own name.
/// # Errors
/// One line for stderr.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let mut words = words.into_iter();
    let program = words.next().map(PathBuf::from).unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut words = words.peekable();
    if words.next_if(|word| word == "cluster").is_some() {
        return cluster(words);
    }
    if words.next_if(|word| word == "drain").is_some() {
        return drain(words);
    }
    if words.next_if(|word| word == "recover").is_some() {
        return recover(words);
    }
    if words.next_if(|word| word == "healthcheck").is_some() {
        return health_check(words);
    }
    if words.next_if(|word| word == "bench").is_some() {
        let options = bench::options::parse(words).map_err(CliError)?;
        return Ok(options.map_or_else(|| Command::Print(bench::HELP.to_owned()), |it| Command::Bench(Box::new(it))));
    }
    let mut run = Run::default();
    while let Some(word) = words.next() {
        match word.to_str().unwrap_or_default() {
            "-h" | "--help" => return Ok(Command::Print(help(&program))),
            "--version" => return Ok(Command::Print(version())),
            "--options" => return Ok(Command::Print(crate::config::options::print())),
            "--options=markdown" => return Ok(Command::Print(crate::config::options::reference::markdown())),
            "--options=man" => return Ok(Command::Print(crate::config::options::reference::man())),
            "--metrics=markdown" => return Ok(Command::Print(crate::metrics::reference::markdown())),
            "-d" | "--daemon" => run.daemon = true,
            "-q" | "--quiet" => run.log_all = Some(false),
            "-v" | "--verbose" => run.log_all = run.log_all.or(Some(true)),
            "--test-config" => run.test_config = true,
            "-c" | "--config-file" => run.config_file = Some(after("-c", "config file", &mut words)?.into()),
            "--tls-keylog" => run.tls_keylog = Some(after("--tls-keylog", "file", &mut words)?.into()),
            "-p" | "--port" => run.ports.push(port_of(&after("-p", "port", &mut words)?, run.ports.len())?),
            "--local-cluster" => {
                let nodes = words.next().and_then(|word| word.to_str()?.parse().ok());
                match nodes {
                    Some(nodes) => run.local_cluster = Some(nodes),
                    None => return fail("Error: --local-cluster needs a number of nodes."),
                }
            }
            _ => return unknown(&word, "--help"),
        }
    }
    Ok(Command::Run(run))
}

fn port_of(word: &OsString, before: usize) -> Result<u16, CliError> {
    let text = word.to_string_lossy();
    let port = text.parse().unwrap_or(0);
    if port == 0 {
        return fail(format!("Error: Invalid port specified ({text}). Expected 1 to 65535."));
    }
    if before == PORTS_MAX {
        return fail(format!("Error: Only {PORTS_MAX} ports can be specified on the command line."));
    }
    Ok(port)
}

fn cluster(words: impl Iterator<Item = OsString>) -> Result<Command, CliError> {
    let (mut named, mut json, mut drain_seconds) = (Named::default(), false, None);
    let mut plain = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Command::Print(CLUSTER_HELP.to_owned())),
            Some("--json") => json = true,
            Some("--drain") => {
                let seconds = words.next().and_then(|word| word.to_str()?.parse().ok());
                drain_seconds = seconds.filter(|seconds| *seconds <= DRAIN_SECONDS_MAX);
                if drain_seconds.is_none() {
                    return fail(format!("Error: --drain needs 0 to {DRAIN_SECONDS_MAX} seconds."));
                }
            }
            Some("--socket") => named.socket = Some(after("--socket", "path", &mut words)?.into()),
            Some("-c" | "--config-file") => named.config_file = Some(after("-c", "config file", &mut words)?.into()),
            Some(text) if !text.starts_with('-') => plain.push(text.to_owned()),
            _ => return unknown(&word, "cluster --help"),
        }
    }
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let action = action(&plain, drain_seconds)?;
    Ok(Command::Cluster(ClusterCommand { action, named, json }))
}

fn drain(mut words: impl Iterator<Item = OsString>) -> Result<Command, CliError> {
    let (mut wish, mut named, mut json) = (DrainWish::Begin(None), Named::default(), false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Command::Print(DRAIN_HELP.to_owned())),
            Some("--rate") => match words.next().and_then(|word| word.to_str()?.parse().ok()) {
                Some(clients) => wish = DrainWish::Begin(Some(clients)),
                None => return fail("Error: --rate needs a number of clients per second."),
            },
            Some("--cancel") => wish = DrainWish::Cancel,
            Some("--json") => json = true,
            Some("--socket") => named.socket = Some(after("--socket", "path", &mut words)?.into()),
            Some("-c" | "--config-file") => named.config_file = Some(after("-c", "config file", &mut words)?.into()),
            _ => return unknown(&word, "drain --help"),
        }
    }
    Ok(Command::Drain { wish, named, json })
}

fn recover(mut words: impl Iterator<Item = OsString>) -> Result<Command, CliError> {
    let (mut config_file, mut force, mut json) = (None, false, false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Command::Print(RECOVER_HELP.to_owned())),
            Some("--force-new-cluster") => force = true,
            Some("--json") => json = true,
            Some("-c" | "--config-file") => config_file = Some(after("-c", "config file", &mut words)?.into()),
            _ => return unknown(&word, "recover --help"),
        }
    }
    match config_file {
        Some(config_file) => Ok(Command::Recover { config_file, force, json }),
        None => fail("Error: recover needs the node's configuration file. Try recover --help."),
    }
}

fn health_check(mut words: impl Iterator<Item = OsString>) -> Result<Command, CliError> {
    let (mut url, mut config_file, mut wait, mut json) = (None, None, Duration::ZERO, false);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-h" | "--help") => return Ok(Command::Print(HEALTH_CHECK_HELP.to_owned())),
            Some("--url") => match words.next().and_then(|url| url.into_string().ok()) {
                Some(text) => url = Some(text),
                None => return fail("Error: --url argument given, but no URL specified."),
            },
            Some("--wait") => {
                let seconds = words.next().and_then(|word| word.to_str()?.parse::<u32>().ok());
                match seconds.filter(|seconds| *seconds <= WAIT_SECONDS_MAX) {
                    Some(seconds) => wait = Duration::from_secs(seconds.into()),
                    None => return fail(format!("Error: --wait needs 0 to {WAIT_SECONDS_MAX} seconds.")),
                }
            }
            Some("--json") => json = true,
            Some("-c" | "--config-file") => config_file = Some(after("-c", "config file", &mut words)?.into()),
            _ => return unknown(&word, "healthcheck --help"),
        }
    }
    Ok(Command::HealthCheck { url, config_file, wait, json })
}

fn action(words: &[&str], drain: Option<u16>) -> Result<ClusterAction, CliError> {
    if drain.is_some() && !matches!(words, ["remove" | "resize", ..]) {
        return fail("Error: --drain is for cluster remove and cluster resize.");
    }
    let drain_seconds = drain.unwrap_or(DRAIN_SECONDS);
    Ok(match words {
        ["status"] => ClusterAction::Status,
        ["add", name, address] => match address.parse() {
            Ok(address) => ClusterAction::Add { name: (*name).to_owned(), address },
            Err(cause) => return fail(format!("Error: cluster add: {cause}.")),
        },
        ["remove", name] => ClusterAction::Remove { name: (*name).to_owned(), drain_seconds },
        ["transfer-leader"] => ClusterAction::TransferLeader { name: None },
        ["transfer-leader", name] => ClusterAction::TransferLeader { name: Some((*name).to_owned()) },
        ["accept-time"] => ClusterAction::AcceptTime,
        ["resize", voters] => match voters.parse::<NonZeroU16>() {
            Ok(voters) if voters.get() % 2 == 1 => ClusterAction::Resize { voters, drain_seconds },
            _ => return fail("Error: cluster resize needs an odd number of nodes."),
        },
        [] => return fail("Error: cluster needs a command. Try cluster --help."),
        ["accept-time" | "add" | "remove" | "resize" | "status" | "transfer-leader", ..] => {
            let command = words[0];
            return fail(format!("Error: cluster {command}: wrong number of words. Try cluster --help."));
        }
        [other, ..] => {
            return fail(format!("Error: Unknown cluster command '{other}'. Try cluster --help."));
        }
    })
}

fn version() -> String {
    format!("mosquorum {VERSION}\nBehaves as mosquitto version {MOSQUITTO_VERSION}.\nLicence Apache-2.0 OR MIT.\n")
}

fn help(program: &str) -> String {
    let program = if program.is_empty() { "mosquorum" } else { program };
    format!(
        "mosquorum version {VERSION}, an MQTT v5.0/v3.1.1/v3.1 broker that may be a cluster.\n\n\
Usage: {program} [-c config_file] [-d] [-h] [-p port] [-v]\n\
       {program} cluster status|add|remove|transfer-leader|resize|accept-time ...\n\
       {program} drain [--rate N | --cancel]\n\
       {program} recover -c config_file [--force-new-cluster]\n\
       {program} healthcheck [--url URL | -c config_file] [--wait SECONDS]\n\
       {program} bench p2p|fanout|fanin|shared|connect|retained|durable|failover ...\n{HELP}"
    )
}

const HELP: &str = "
 -c, --config-file FILE  mosquitto.conf to read; without it only this machine can connect.
 -d, --daemon            go to the background after starting.
 -h, --help              show this.
 -p, --port PORT         listen on this port, this machine only; may be repeated, at most
                         10 times; ignored when the file has a listener.
 -q, --quiet             log nothing, whatever the file and -v say.
 -v, --verbose           log everything, whatever the file says.
     --test-config       check the configuration file and exit.
     --tls-keylog FILE   write TLS secrets to a file, for debugging only.
     --local-cluster N   run N nodes on this machine, to try a cluster out.
     --options           list every option of the configuration file and what becomes of it.
     --version           show the version.

Options of the file can also be set by the environment: MOSQUORUM_<OPTION>, such as
MOSQUORUM_MAX_PACKET_SIZE=1000000; commas separate the values of log_dest, log_type and
cluster_peer.

Exit codes: 0 after a normal end, 1 when it cannot start, 3 for a wrong configuration or flag.
Of cluster commands: 0 done, 1 not done, 2 no majority (status still prints what it knows), 3 wrong words.
";

const DRAIN_HELP: &str = "\
Usage: mosquorum drain [--rate N | --cancel] [--socket PATH | -c FILE] [--json]

Has a node hand over what it does, before it is stopped: leadership and bridges go to other nodes, new
clients are refused, and those connected are sent to other nodes. MQTT 5.0 clients are told where
(reason 0x9C, Server Reference). Returns when all are gone; the node then waits to be stopped.

 --rate N                clients per second; 500 if nothing is said.
 --cancel                the node goes on: clients and bridges may come again.
 --socket PATH           cluster_admin_socket of the node; looked for in the usual places if nothing is said.
 -c FILE                 take it from this configuration file.
 --json                  answer as JSON.
";

const RECOVER_HELP: &str = "\
Usage: mosquorum recover -c FILE [--force-new-cluster] [--json]

For a stopped node of a cluster whose majority is lost for good. Says what the node has and what may be
lost; changes nothing of the cluster unless told to.

 -c FILE                 the node's configuration file.
 --force-new-cluster     make this node the only member of a new cluster that has what the node has.
                         Members of the old cluster must never be started again with their old data.
 --json                  answer as JSON.
";

const HEALTH_CHECK_HELP: &str = "\
Usage: mosquorum healthcheck [--url URL | -c FILE] [--wait SECONDS] [--json]

Asks a node's health_listener whether clients can be sent to it. Exit code 0 if it is ready (or, at
/livez, alive), else 1 with the reasons.

 --url URL               what to ask; /readyz at the health_listener of the environment or of the
                         configuration in its usual place, else at 127.0.0.1:9883, if nothing is said.
 -c FILE                 take the address from this configuration file.
 --wait SECONDS          ask again until it is so, at most for this long.
 --json                  answer as JSON.
";

const CLUSTER_HELP: &str = "\
Usage: mosquorum cluster COMMAND [--socket PATH | -c FILE] [--json]

 status                  members, leader, and how far each node is.
 add NAME HOST:PORT      let a node of this name join: at once if it runs and found no cluster, or else
                         when it is started. It votes once it has caught up. A node that the members list
                         (cluster_peer, cluster_allow) joins by itself.
 remove NAME             take a node out for good; its clients go to other nodes before that.
 transfer-leader [NAME]  make NAME, or the node that is furthest, the leader.
 resize N                go to N voters, an odd number; the nodes of the last names leave in this way.
 accept-time             after all nodes were down: let time go on with the leader's clock although no
                         majority of clocks agrees with it. Sessions and messages expire by it.

 --drain SECONDS         time for clients of nodes that leave, 10 if nothing is said; who is left then
                         is disconnected.
 --socket PATH           cluster_admin_socket of the node to ask; if nothing is said, looked for in this
                         folder, by the configurations in their usual places, and beside their data.
 -c FILE                 take it from this configuration file.
 --json                  answer as JSON on stdout, errors too; progress is on stderr.

Exit codes: 0 done, 1 not done, 2 no majority, 3 wrong words.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, String> {
        let words = std::iter::once("mosquorum").chain(words.split(' ').filter(|word| !word.is_empty()));
        parse(words.map(OsString::from)).map_err(|error| error.to_string())
    }

    fn socket(path: &str) -> Named {
        Named { socket: Some(path.into()), ..Named::default() }
    }

    #[test]
    fn mosquittos_flags_are_understood() {
        let command = parsed("-c a.conf -d -p 1883 --port 1884 -v --tls-keylog keys --test-config");
        let expected = Run {
            config_file: Some("a.conf".into()),
            daemon: true,
            ports: vec![1883, 1884],
            log_all: Some(true),
            test_config: true,
            tls_keylog: Some("keys".into()),
            local_cluster: None,
        };
        assert_eq!(command, Ok(Command::Run(expected)));
        for words in ["-q -v", "-v -q"] {
            let run = Run { log_all: Some(false), ..Run::default() };
            assert_eq!(parsed(words), Ok(Command::Run(run)));
        }
    }

    #[test]
    fn wrong_flags_are_one_line_in_mosquittos_words() {
        for (words, expected) in [
            ("-p 0", "Error: Invalid port specified (0)."),
            ("-p 65536", "Error: Invalid port specified (65536)."),
            ("-p", "Error: -p argument given, but no port specified."),
            ("-c", "Error: -c argument given, but no config file specified."),
            ("--tls-keylog", "Error: --tls-keylog argument given, but no file specified."),
            ("--unknown", "Error: Unknown option '--unknown'."),
            (&"-p 1 ".repeat(11), "Error: Only 10 ports can be specified on the command line."),
            ("--local-cluster 0", "Error: --local-cluster needs a number of nodes."),
            ("cluster", "Error: cluster needs a command."),
            ("cluster stop", "Error: Unknown cluster command 'stop'."),
            ("cluster resize 2", "Error: cluster resize needs an odd number of nodes."),
            ("cluster resize 3 --drain 241", "Error: --drain needs 0 to 240 seconds."),
            ("cluster status --drain 2", "Error: --drain is for cluster remove"),
            ("cluster add b", "Error: cluster add: wrong number of words."),
            ("cluster add b nowhere", "Error: cluster add: 'nowhere' is not HOST:PORT"),
            ("cluster status --jsn", "Error: Unknown option '--jsn'."),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{words}: {error}");
        }
    }

    #[test]
    fn cluster_commands_are_understood() {
        let address = HostPort { host: "h".to_owned(), port: 7883 };
        for (words, action) in [
            ("status", ClusterAction::Status),
            ("add b h:7883", ClusterAction::Add { name: "b".to_owned(), address }),
            ("remove b", ClusterAction::Remove { name: "b".to_owned(), drain_seconds: 10 }),
            ("transfer-leader", ClusterAction::TransferLeader { name: None }),
            ("accept-time", ClusterAction::AcceptTime),
            ("resize 5", ClusterAction::Resize { voters: NonZeroU16::new(5).unwrap(), drain_seconds: 10 }),
            ("resize 3 --drain 0", ClusterAction::Resize { voters: NonZeroU16::new(3).unwrap(), drain_seconds: 0 }),
        ] {
            let expected = ClusterCommand { action, named: socket("s"), json: true };
            let command = parsed(&format!("cluster {words} --socket s --json"));
            assert_eq!(command, Ok(Command::Cluster(expected)), "{words}");
        }
    }

    #[test]
    fn a_drain_has_a_rate() {
        let drain = |rate: Option<u32>| {
            let wish = DrainWish::Begin(rate.and_then(NonZeroU32::new));
            Ok(Command::Drain { wish, named: socket("s"), json: false })
        };
        let cancel = Command::Drain { wish: DrainWish::Cancel, named: socket("s"), json: true };
        assert_eq!(parsed("drain --cancel --socket s --json"), Ok(cancel));
        assert_eq!(parsed("drain --socket s"), drain(None));
        assert_eq!(parsed("drain --rate 20 --socket s"), drain(Some(20)));
        assert!(parsed("drain --rate 0").is_err_and(|text| text.contains("clients per second")));
        assert!(parsed("drain soon").is_err_and(|text| text.contains("Unknown option 'soon'")));
    }

    #[test]
    fn a_recovery_is_forced_only_in_so_many_words() {
        let recover = |force| Ok(Command::Recover { config_file: "a.conf".into(), force, json: false });
        assert_eq!(parsed("recover -c a.conf"), recover(false));
        assert_eq!(parsed("recover -c a.conf --force-new-cluster"), recover(true));
        assert!(parsed("recover --force-new-cluster").is_err_and(|text| text.contains("configuration file")));
        assert!(parsed("recover -c a.conf --force").is_err_and(|text| text.contains("Unknown option '--force'")));
    }

    #[test]
    fn a_health_check_asks_a_url_or_what_a_file_says() {
        let within = |url: Option<&str>, file: Option<&str>, seconds| {
            let (url, config_file) = (url.map(str::to_owned), file.map(PathBuf::from));
            Ok(Command::HealthCheck { url, config_file, wait: Duration::from_secs(seconds), json: false })
        };
        let asked = |url, file| within(url, file, 0);
        assert_eq!(parsed("healthcheck --wait 60 -c a.conf"), within(None, Some("a.conf"), 60));
        for wrong in ["healthcheck --wait", "healthcheck --wait soon", "healthcheck --wait 86401"] {
            assert!(parsed(wrong).is_err_and(|text| text == "Error: --wait needs 0 to 86400 seconds."), "{wrong}");
        }
        assert_eq!(parsed("healthcheck"), asked(None, None));
        assert_eq!(parsed("healthcheck --url http://h:1/livez"), asked(Some("http://h:1/livez"), None));
        assert_eq!(parsed("healthcheck -c a.conf"), asked(None, Some("a.conf")));
        assert!(parsed("healthcheck --url").is_err_and(|text| text.contains("no URL")));
        assert!(parsed("healthcheck now").is_err_and(|text| text.contains("Unknown option 'now'")));
    }

    #[test]
    fn help_names_the_program_as_it_was_called() {
        let Ok(Command::Print(text)) = parse(["/usr/sbin/mosquitto", "-h"].map(OsString::from)) else {
            panic!("help is printed");
        };
        assert!(text.contains("Usage: mosquitto [-c config_file] [-d] [-h] [-p port] [-v]"));
    }
}
