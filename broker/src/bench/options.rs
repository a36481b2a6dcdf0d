//! The words after `mosquorum bench`.
//! Always true: nothing is read or connected here; every number is within its bounds.
use crate::{
    cli::numbers::{fractional_seconds, from_to},
    config::{BridgeTls, HostPort, TlsVersion},
};
use clap::{
    Args, ValueEnum, ValueHint,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use mosquorum_proto::mqtt::{ProtocolVersion, QoS};
use std::{path::PathBuf, time::Duration};

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
    const ALL: [Self; 9] = [
        Self::P2p,
        Self::Fanout,
        Self::Fanin,
        Self::Shared,
        Self::Connect,
        Self::Retained,
        Self::Durable,
        Self::Failover,
        Self::Inside,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P2p => "p2p",
            Self::Fanout => "fanout",
            Self::Fanin => "fanin",
            Self::Shared => "shared",
            Self::Connect => "connect",
            Self::Retained => "retained",
            Self::Durable => "durable",
            Self::Failover => "failover",
            Self::Inside => "inside",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::P2p => "pairs of one publisher and one subscriber (--pairs 10)",
            Self::Fanout => "one publisher, many subscribers (--subscribers 100)",
            Self::Fanin => "many publishers, few subscribers to all of them (--publishers 50 --subscribers 1)",
            Self::Shared => "many publishers, one shared subscription (--publishers 50 --subscribers 5)",
            Self::Connect => "connections per second and memory of an idle one (--connections 1000)",
            Self::Retained => "sets retained messages and replays them to a new subscriber (--messages 100000)",
            Self::Durable => "messages for offline sessions, then their delivery (--pairs 10 --messages 10000 each)",
            Self::Failover => {
                "a steady load on nodes, one of which you kill; the longest pauses (--pairs 3 --rate 1000)"
            }
            Self::Inside => "a publish to three subscribers inside this process, one thread: for counting instructions",
        }
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

impl ValueEnum for Scenario {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.about()))
    }
}

fn scenarios() -> String {
    let rows = Scenario::ALL.iter().map(|scenario| format!("\n  {:<9} {}", scenario.name(), scenario.about()));
    format!("Scenarios:{}", rows.collect::<String>())
}

/// Load any MQTT broker and print what was measured; order, losses and duplicates are checked in every scenario
#[derive(Debug, Clone, Args)]
#[command(after_help = scenarios())]
pub struct Words {
    /// one of those below
    #[arg(value_enum, hide_possible_values = true)]
    scenario: Scenario,
    /// repeat for several nodes, clients are spread over them; default
    /// 127.0.0.1:1883
    #[arg(short = 'a', long = "address", value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
    #[arg(verbatim_doc_comment)]
    addresses: Vec<HostPort>,
    /// where subscribers connect; default: the next of --address
    #[arg(long = "subscriber-address", value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
    subscriber_addresses: Vec<HostPort>,
    /// 0, 1 or 2; default 0, but 1 in retained, durable and failover (which
    /// knows 1 alone)
    #[arg(long, value_name = "QOS", value_parser = from_to::<u8>(0, 2), verbatim_doc_comment)]
    qos: Option<u8>,
    /// version of MQTT: 3.1, 3.1.1 or 5
    #[arg(long, value_name = "VERSION", default_value = "3.1.1", value_parser = protocol(), hide_possible_values = true)]
    protocol: ProtocolVersion,
    /// payload of a message, at least 16
    #[arg(long, value_name = "BYTES", default_value = "64")]
    #[arg(value_parser = from_to::<usize>(PAYLOAD_MIN as u64, 268_000_000))]
    payload: usize,
    /// number of publishers; see the scenarios
    #[arg(long, value_name = "N", value_parser = from_to::<u32>(1, 100_000))]
    publishers: Option<u32>,
    /// number of subscribers; see the scenarios
    #[arg(long, visible_alias = "connections", value_name = "N", value_parser = from_to::<u32>(1, 10_000_000))]
    subscribers: Option<u32>,
    /// so many publishers and as many subscribers
    #[arg(long, value_name = "N", value_parser = from_to::<u32>(1, 100_000))]
    pairs: Option<u32>,
    /// of each publisher, in scenarios that count them
    #[arg(long, value_name = "N", value_parser = from_to::<u64>(1, u32::MAX.into()))]
    messages: Option<u64>,
    /// messages of a publisher under way at most; default 100, but 200 in
    /// durable and retained
    #[arg(long, value_name = "N", value_parser = from_to::<u64>(1, WINDOW_MAX), verbatim_doc_comment)]
    window: Option<u64>,
    /// messages per second of all publishers, whatever the broker does;
    /// latency counts from the time at which a message was due. Default: as
    /// fast as the window allows; failover 1000
    #[arg(long, value_name = "N", value_parser = from_to::<u32>(1, 100_000_000), verbatim_doc_comment)]
    rate: Option<u32>,
    /// how long is measured; default 10, failover 30
    #[arg(long, value_name = "S", value_parser = fractional_seconds)]
    seconds: Option<Duration>,
    /// before that, not measured; default 1, failover 3
    #[arg(long, value_name = "S", value_parser = fractional_seconds)]
    warm_up: Option<Duration>,
    /// subscribers of p2p, fanin and fanout have durable sessions
    #[arg(long)]
    durable: bool,
    /// TLS, with the system's CAs
    #[arg(long)]
    tls: bool,
    /// TLS, with this CA
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    cafile: Option<PathBuf>,
    /// TLS, whatever name the broker's certificate has
    #[arg(long)]
    insecure: bool,
    /// the client's certificate, with --key
    #[arg(long = "cert", value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,
    /// its key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    key: Option<PathBuf>,
    /// user name of all clients
    #[arg(short, long = "username", value_name = "NAME", allow_hyphen_values = true)]
    user_name: Option<String>,
    /// password of all clients
    #[arg(short = 'P', long, value_name = "TEXT", allow_hyphen_values = true)]
    password: Option<String>,
    /// repeat for several nodes: their CPU seconds and memory, on this
    /// machine only
    #[arg(long = "broker-pid", value_name = "PID", value_parser = from_to::<u32>(1, i32::MAX as u64))]
    #[arg(verbatim_doc_comment)]
    broker_pids: Vec<u32>,
    /// failover: SIGKILL this process when the warm-up is over
    #[arg(long, value_name = "PID", value_parser = from_to::<u32>(2, i32::MAX as u64))]
    kill_pid: Option<u32>,
    /// threads of the load generator
    #[arg(long, value_name = "N", value_parser = from_to::<usize>(1, 1024))]
    threads: Option<usize>,
    /// the result as JSON on stdout
    #[arg(long)]
    json: bool,
    /// no progress line
    #[arg(short, long)]
    quiet: bool,
}

fn protocol() -> impl TypedValueParser<Value = ProtocolVersion> {
    let names = [
        PossibleValue::new("3.1").alias("31"),
        PossibleValue::new("3.1.1").aliases(["311", "4"]),
        PossibleValue::new("5").alias("5.0"),
    ];
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "3.1" | "31" => ProtocolVersion::V31,
        "5" | "5.0" => ProtocolVersion::V5,
        _ => ProtocolVersion::V311,
    })
}

impl Words {
    /// What is to be done, with the defaults of its scenario.
    /// # Errors
    /// One line for the operator: words that do not fit together.
    pub fn options(self) -> Result<Options, String> {
        let (scenario, failover) = (self.scenario, self.scenario == Scenario::Failover);
        let (publishers, subscribers, messages) = scenario.numbers();
        let tls = self.tls()?;
        let acknowledged = matches!(scenario, Scenario::Durable | Scenario::Failover | Scenario::Retained);
        let mut options = Options {
            scenario,
            version: self.protocol,
            qos: QoS::try_from(self.qos.unwrap_or(acknowledged.into())).unwrap_or_default(),
            payload: self.payload,
            publishers: self.publishers.or(self.pairs).unwrap_or(publishers),
            subscribers: self.subscribers.or(self.pairs).unwrap_or(subscribers),
            messages: self.messages.unwrap_or(messages),
            window: 0,
            rate: self.rate.or(failover.then_some(1000)),
            duration: self.seconds.unwrap_or(Duration::from_secs(if failover { 30 } else { 10 })),
            warm_up: self.warm_up.unwrap_or(Duration::from_secs(if failover { 3 } else { 1 })),
            durable: self.durable || failover,
            addresses: self.addresses,
            subscriber_addresses: self.subscriber_addresses,
            tls,
            user_name: self.user_name,
            password: self.password,
            broker_pids: self.broker_pids,
            kill_pid: self.kill_pid,
            json: self.json,
            quiet: self.quiet,
            threads: self.threads,
        };
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
        let default = match (options.scenario, options.rate) {
            (Scenario::Durable | Scenario::Retained, _) => 200,
            (_, None) => 100,
            // An open loop is not held back before packet identifiers become scarce.
            (_, Some(_)) => 10_000,
        };
        options.window = self.window.unwrap_or(default);
        check(&options)?;
        Ok(options)
    }

    fn tls(&self) -> Result<Option<Box<BridgeTls>>, String> {
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            _ => return Err("Error: --cert and --key belong together.".to_owned()),
        };
        if !(self.tls || self.insecure || self.cafile.is_some() || identity.is_some()) {
            return Ok(None);
        }
        Ok(Some(Box::new(BridgeTls {
            os_certs: self.cafile.is_none(),
            cafile: self.cafile.clone(),
            capath: None,
            identity,
            insecure: self.insecure,
            alpn: None,
            min_version: TlsVersion::V12,
            ciphers: None,
            ciphers_tls13: None,
        })))
    }
}

/// Words that do not fit together.
fn check(options: &Options) -> Result<(), String> {
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Command};
    use std::ffi::OsString;

    fn parsed(words: &str) -> Result<Options, String> {
        let words = ["mosquorum", "bench"].into_iter().chain(words.split_whitespace());
        match cli::parse(words.map(OsString::from)) {
            Ok(Command::Bench(options)) => Ok(*options),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_scenario_has_defaults_that_run() {
        for scenario in Scenario::ALL {
            let options = parsed(scenario.name()).unwrap();
            assert_eq!(options.scenario, scenario);
            assert!(options.window > 0 && options.subscribers > 0 && options.addresses.len() == 1);
        }
    }

    #[test]
    fn subscribers_are_on_the_next_node() {
        let options = parsed("p2p -a a:1 -a b:2 --pairs 3").unwrap();
        let hosts = |list: &[HostPort]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(hosts(&options.addresses), ["a:1", "b:2"]);
        assert_eq!(hosts(&options.subscriber_addresses), ["b:2", "a:1"]);
        assert_eq!((options.publishers, options.subscribers), (3, 3));
    }

    #[test]
    fn wrong_words_are_one_line() {
        for (words, expected) in [
            ("", "Error: bench needs SCENARIO. Try bench --help."),
            ("nothing", "Error: bench: 'nothing' is none of p2p, fanout, "),
            ("p2p --qos 3", "Error: --qos: '3' is not a number from 0 to 2"),
            ("p2p --payload 15", "Error: --payload: '15' is not a number from 16"),
            ("p2p --protocol 6", "Error: --protocol: '6' is none of 3.1, 3.1.1, 5."),
            ("p2p --rate", "Error: --rate argument given, but no N specified"),
            ("p2p --speed 1", "Error: Unknown option '--speed'"),
            ("p2p --address nowhere", "Error: --address: 'nowhere' is not HOST:PORT"),
            ("p2p --seconds soon", "Error: --seconds: 'soon' is not a number of seconds"),
            ("p2p --cert a", "Error: --cert and --key belong together"),
            ("p2p --kill-pid 5", "Error: --kill-pid belongs to bench failover"),
            ("durable --qos 0", "Error: bench durable needs --qos 1 or 2"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{words}: {error}");
        }
    }

    #[test]
    fn names_of_versions_and_texts_that_look_like_options_are_taken() {
        for (name, version) in
            [("31", ProtocolVersion::V31), ("4", ProtocolVersion::V311), ("5.0", ProtocolVersion::V5)]
        {
            assert_eq!(parsed(&format!("p2p --protocol {name}")).unwrap().version, version);
        }
        let options = parsed("connect --connections 7 -u -a -P --json").unwrap();
        assert_eq!((options.subscribers, options.json), (7, false));
        assert_eq!((options.user_name.as_deref(), options.password.as_deref()), (Some("-a"), Some("--json")));
    }
}
