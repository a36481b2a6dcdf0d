//! The words after `mosquorum bench`.
//! Always true: nothing is read or connected here; every number is within its bounds.
use crate::config::{BridgeTls, HostPort, TlsVersion};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use std::{ffi::OsString, path::PathBuf, time::Duration};

/// What a message carries for the checks: see `stamp`.
pub const PAYLOAD_MIN: usize = 16;
/// The packet identifiers that a connection has.
const WINDOW_MAX: u64 = 65_535;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Pairs of one publisher and one subscriber.
    P2p,
    Fanout,
    Fanin,
    /// Many publishers, one shared subscription.
    Shared,
    /// Connections, subscribed once and then idle.
    Connect,
    /// Retained messages: set all, replay all.
    Retained,
    /// Messages for offline sessions: enqueue, drain.
    Durable,
    /// A steady load over the loss of a node.
    Failover,
    /// No sockets, one thread: for counting instructions.
    Inside,
}

impl Scenario {
    const ALL: [(&str, Self); 9] = [
        ("p2p", Self::P2p),
        ("fanout", Self::Fanout),
        ("fanin", Self::Fanin),
        ("shared", Self::Shared),
        ("connect", Self::Connect),
        ("retained", Self::Retained),
        ("durable", Self::Durable),
        ("failover", Self::Failover),
        ("inside", Self::Inside),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }

    /// Publishers, subscribers, messages of each publisher.
    fn numbers(self) -> (u32, u32, u64) {
        match self {
            Self::P2p => (10, 10, 0),
            Self::Fanout => (1, 100, 0),
            Self::Fanin => (50, 1, 0),
            Self::Shared => (50, 5, 0),
            Self::Connect => (0, 1000, 0),
            Self::Retained => (1, 1, 100_000),
            Self::Durable => (10, 10, 10_000),
            Self::Failover => (3, 3, 0),
            Self::Inside => (1, 3, 10_000),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub scenario: Scenario,
    /// Of publishers, in turn.
    pub addresses: Vec<HostPort>,
    /// Of subscribers, in turn.
    pub subscriber_addresses: Vec<HostPort>,
    pub version: ProtocolVersion,
    pub qos: QoS,
    /// Bytes.
    pub payload: usize,
    pub publishers: u32,
    pub subscribers: u32,
    /// Messages of each publisher, where the scenario counts them.
    pub messages: u64,
    /// Messages of a publisher that are under way at most.
    pub window: u64,
    /// Messages per second of all publishers together; `None`: as fast as the window allows.
    pub rate: Option<u32>,
    pub duration: Duration,
    pub warm_up: Duration,
    /// Subscribers have sessions that outlive their connections.
    pub durable: bool,
    pub tls: Option<Box<BridgeTls>>,
    pub user_name: Option<String>,
    pub password: Option<String>,
    pub broker_pids: Vec<u32>,
    /// Killed (SIGKILL) when the warm-up is over.
    pub kill_pid: Option<u32>,
    pub json: bool,
    pub quiet: bool,
    pub threads: Option<usize>,
}

/// `Ok(None)`: help is wanted.
/// # Errors
/// One line for the operator.
pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    let name = words.next().ok_or("Error: bench needs a scenario. Try bench --help.")?;
    if name == "-h" || name == "--help" {
        return Ok(None);
    }
    let found = Scenario::ALL.iter().find(|(known, _)| *known == name);
    let (_, scenario) = found.ok_or_else(|| format!("Error: Unknown scenario '{name}'. Try bench --help."))?;
    let mut raw = Raw::new(*scenario);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--json" => raw.options.json = true,
            "-q" | "--quiet" => raw.options.quiet = true,
            "--durable" => raw.options.durable = true,
            "--tls" => raw.tls = true,
            "--insecure" => raw.insecure = true,
            _ => {
                let value = words.next().ok_or_else(|| format!("Error: {word} needs a value. Try bench --help."))?;
                raw.take(&word, &value)?;
            }
        }
    }
    raw.finish().map(Some)
}

/// What the words gave so far.
struct Raw {
    options: Options,
    window: Option<u64>,
    tls: bool,
    insecure: bool,
    cafile: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Raw {
    fn new(scenario: Scenario) -> Self {
        let (publishers, subscribers, messages) = scenario.numbers();
        let failover = scenario == Scenario::Failover;
        let options = Options {
            scenario,
            addresses: Vec::new(),
            subscriber_addresses: Vec::new(),
            version: ProtocolVersion::V311,
            qos: if matches!(scenario, Scenario::Durable | Scenario::Failover | Scenario::Retained) {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            },
            payload: 64,
            publishers,
            subscribers,
            messages,
            window: 0,
            rate: failover.then_some(1000),
            duration: Duration::from_secs(if failover { 30 } else { 10 }),
            warm_up: Duration::from_secs(if failover { 3 } else { 1 }),
            durable: failover,
            tls: None,
            user_name: None,
            password: None,
            broker_pids: Vec::new(),
            kill_pid: None,
            json: false,
            quiet: false,
            threads: None,
        };
        Self { options, window: None, tls: false, insecure: false, cafile: None, certificate: None, key: None }
    }

    fn take(&mut self, word: &str, value: &str) -> Result<(), String> {
        let options = &mut self.options;
        match word {
            "-a" | "--address" => options.addresses.push(address(word, value)?),
            "--subscriber-address" => options.subscriber_addresses.push(address(word, value)?),
            "--qos" => options.qos = QoS::try_from(number(word, value, 0, 2)? as u8).unwrap_or_default(),
            "--protocol" => {
                options.version = match value {
                    "3.1" | "31" => ProtocolVersion::V31,
                    "3.1.1" | "311" | "4" => ProtocolVersion::V311,
                    "5" | "5.0" => ProtocolVersion::V5,
                    _ => return Err(format!("Error: --protocol {value}: expected 3.1, 3.1.1 or 5.")),
                }
            }
            "--payload" => options.payload = number(word, value, PAYLOAD_MIN as u64, 268_000_000)? as usize,
            "--publishers" => options.publishers = number(word, value, 1, 100_000)? as u32,
            "--subscribers" | "--connections" => options.subscribers = number(word, value, 1, 10_000_000)? as u32,
            "--pairs" => {
                options.publishers = number(word, value, 1, 100_000)? as u32;
                options.subscribers = options.publishers;
            }
            "--messages" => options.messages = number(word, value, 1, u64::from(u32::MAX))?,
            "--window" => self.window = Some(number(word, value, 1, WINDOW_MAX)?),
            "--rate" => options.rate = Some(number(word, value, 1, 100_000_000)? as u32),
            "--seconds" => options.duration = seconds(word, value)?,
            "--warm-up" => options.warm_up = seconds(word, value)?,
            "--threads" => options.threads = Some(number(word, value, 1, 1024)? as usize),
            "--cafile" => self.cafile = Some(value.into()),
            "--cert" => self.certificate = Some(value.into()),
            "--key" => self.key = Some(value.into()),
            "-u" | "--username" => options.user_name = Some(value.to_owned()),
            "-P" | "--password" => options.password = Some(value.to_owned()),
            "--broker-pid" => options.broker_pids.push(number(word, value, 1, i32::MAX as u64)? as u32),
            "--kill-pid" => options.kill_pid = Some(number(word, value, 2, i32::MAX as u64)? as u32),
            _ => return Err(format!("Error: Unknown option '{word}'. Try bench --help.")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, String> {
        let mut options = self.options;
        if options.addresses.is_empty() {
            options.addresses.push(HostPort { host: "127.0.0.1".to_owned(), port: 1883 });
        }
        if options.subscriber_addresses.is_empty() {
            options.subscriber_addresses.clone_from(&options.addresses);
            // With several nodes a publisher and its subscriber are on different ones.
            options.subscriber_addresses.rotate_left(1);
        }
        match options.scenario {
            Scenario::P2p | Scenario::Durable | Scenario::Failover => options.subscribers = options.publishers,
            Scenario::Fanout | Scenario::Retained => options.publishers = 1,
            _ => {}
        }
        if options.scenario == Scenario::Durable && options.qos == QoS::AtMostOnce {
            return Err("Error: bench durable needs --qos 1 or 2.".to_owned());
        }
        if options.scenario == Scenario::Inside && options.qos == QoS::ExactlyOnce {
            return Err("Error: bench inside needs --qos 0 or 1.".to_owned());
        }
        if options.scenario == Scenario::Failover && options.qos != QoS::AtLeastOnce {
            return Err("Error: bench failover needs --qos 1.".to_owned());
        }
        if options.kill_pid.is_some() && options.scenario != Scenario::Failover {
            return Err("Error: --kill-pid belongs to bench failover.".to_owned());
        }
        let default = match (options.scenario, options.rate) {
            (Scenario::Durable | Scenario::Retained, _) => 200,
            (_, None) => 100,
            // An open loop is not held back before packet identifiers become scarce.
            (_, Some(_)) => 10_000,
        };
        options.window = self.window.unwrap_or(default);
        let identity = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("Error: --cert and --key belong together.".to_owned()),
        };
        if self.tls || self.insecure || self.cafile.is_some() || identity.is_some() {
            options.tls = Some(Box::new(BridgeTls {
                os_certs: self.cafile.is_none(),
                cafile: self.cafile,
                capath: None,
                identity,
                insecure: self.insecure,
                alpn: None,
                min_version: TlsVersion::V12,
                ciphers: None,
                ciphers_tls13: None,
            }));
        }
        Ok(options)
    }
}

fn address(word: &str, value: &str) -> Result<HostPort, String> {
    value.parse().map_err(|cause| format!("Error: {word}: {cause}."))
}

fn number(word: &str, value: &str, min: u64, max: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("Error: {word} {value}: expected a number from {min} to {max}."))
}

fn seconds(word: &str, value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds: &f64| (0.0..=1e6).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("Error: {word} {value}: expected seconds, 0 to 1000000."))?;
    Ok(Duration::from_secs_f64(seconds))
}

pub const HELP: &str = "\
Usage: mosquorum bench SCENARIO [OPTIONS]
Loads any MQTT broker and prints what it measured; order, losses and duplicates are checked in every scenario.

 p2p        pairs of one publisher and one subscriber (--pairs 10)
 fanout     one publisher, many subscribers (--subscribers 100)
 fanin      many publishers, few subscribers to all of them (--publishers 50 --subscribers 1)
 shared     many publishers, one shared subscription (--publishers 50 --subscribers 5)
 connect    connections per second and memory of an idle one (--connections 1000)
 retained   sets retained messages and replays them to a new subscriber (--messages 100000)
 durable    messages for offline sessions, then their delivery (--pairs 10 --messages 10000 each)
 failover   a steady load on several nodes, one of which you kill; the longest pauses (--pairs 3 --rate 1000)
 inside     a publish to three subscribers inside this process, one thread: for counting instructions

 -a, --address HOST:PORT       repeat for several nodes, clients are spread over them; default 127.0.0.1:1883
     --subscriber-address H:P  where subscribers connect; default: the next of --address
     --qos 0|1|2               default 0; 1 in retained, durable and failover (which knows 1 alone)
     --protocol 3.1|3.1.1|5    default 3.1.1
     --payload BYTES           default 64, at least 16
     --window N                messages of a publisher under way at most (default 100; durable, retained 200)
     --rate N                  messages per second of all publishers, whatever the broker does; latency counts
                               from the time at which a message was due. Default: as fast as the window allows
     --seconds S  --warm-up S  default 10 and 1; the warm-up is not measured
     --durable                 subscribers of p2p, fanin and fanout have durable sessions
     --tls | --cafile FILE     TLS, with the system's or this CA; --insecure skips the name; --cert, --key
 -u, --username NAME  -P, --password TEXT
     --broker-pid PID          repeat for several nodes: their CPU seconds and memory, on this machine only
     --kill-pid PID            failover: SIGKILL this process when the warm-up is over
     --threads N               of the load generator
     --json                    the result as JSON on stdout
 -q, --quiet                   no progress line
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Option<Options>, String> {
        parse(words.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    #[test]
    fn every_scenario_has_defaults_that_run() {
        for (name, scenario) in Scenario::ALL {
            let options = parsed(name).unwrap().unwrap();
            assert_eq!((options.scenario, options.scenario.name()), (scenario, name));
            assert!(options.window > 0 && options.subscribers > 0 && options.addresses.len() == 1);
        }
    }

    #[test]
    fn subscribers_are_on_the_next_node() {
        let options = parsed("p2p -a a:1 -a b:2 --pairs 3").unwrap().unwrap();
        let hosts = |list: &[HostPort]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(hosts(&options.addresses), ["a:1", "b:2"]);
        assert_eq!(hosts(&options.subscriber_addresses), ["b:2", "a:1"]);
        assert_eq!((options.publishers, options.subscribers), (3, 3));
    }

    #[test]
    fn wrong_words_are_one_line() {
        for (words, expected) in [
            ("", "Error: bench needs a scenario"),
            ("nothing", "Error: Unknown scenario 'nothing'"),
            ("p2p --qos 3", "Error: --qos 3: expected a number from 0 to 2"),
            ("p2p --payload 15", "Error: --payload 15: expected a number from 16"),
            ("p2p --rate", "Error: --rate needs a value"),
            ("p2p --speed 1", "Error: Unknown option '--speed'"),
            ("p2p --address nowhere", "Error: --address: "),
            ("p2p --cert a", "Error: --cert and --key belong together"),
            ("p2p --kill-pid 5", "Error: --kill-pid belongs to bench failover"),
            ("durable --qos 0", "Error: bench durable needs --qos 1 or 2"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{words}: {error}");
        }
    }
}
