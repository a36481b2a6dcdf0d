//! The commands beside the broker itself, by clap.
//! Always true: wrong words end in one line ([`wrong_words`]); an option that is given twice counts as it was given last.
use super::{
    CliError, Command,
    completions::{self, Program, Shell},
    numbers, wrong_words,
};
use crate::{bench::options::Words as BenchWords, config::HostPort, find_node::Named};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint, error::ErrorKind};
use std::{
    ffi::OsString,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

/// The admin socket waits a little longer for its answer.
const DRAIN_SECONDS_MAX: u64 = 240;
const WAIT_SECONDS_MAX: u32 = 86_400;
/// The first words that make the rest a command. Known without clap, which a broker that starts has no use for.
const NAMES: [&str; 6] = ["cluster", "drain", "recover", "healthcheck", "bench", "completions"];

/// An MQTT broker that may be a cluster
#[derive(Debug, Parser)]
#[command(name = "mosquorum", args_override_self = true, disable_help_subcommand = true)]
pub(super) struct Words {
    #[command(subcommand)]
    command: CommandWords,
}

#[derive(Debug, Subcommand)]
#[command(subcommand_value_name = "COMMAND")]
enum CommandWords {
    Cluster(ClusterCommand),
    Drain(DrainWords),
    Recover(RecoverCommand),
    #[command(name = "healthcheck")]
    HealthCheck(HealthCheckCommand),
    Bench(BenchWords),
    Completions(CompletionsWords),
}

/// Show and change the cluster of a node
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    subcommand_value_name = "COMMAND",
    after_help = "Exit codes: 0 done, 1 not done, 2 no majority (status still prints what it knows), 3 wrong words."
)]
pub struct ClusterCommand {
    #[command(subcommand)]
    pub action: ClusterAction,
    #[command(flatten)]
    pub named: Named,
    /// answer as JSON on stdout, errors too; progress is on stderr
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ClusterAction {
    /// Show members, leader, and how far each node is
    Status,
    /// Let a node of this name join
    #[command(after_help = "\
The node joins at once if it runs and found no cluster, or else when it is started. It votes once it
has caught up. A node that the members list (cluster_peer, cluster_allow) joins by itself.")]
    Add {
        /// the node's cluster_name
        name: String,
        /// how the other nodes reach it
        #[arg(value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
        address: HostPort,
    },
    /// Take a node out for good; its clients go to other nodes before that
    Remove {
        /// the node's cluster_name
        name: String,
        /// time for its clients to go elsewhere; who is left is disconnected
        #[arg(long = "drain", value_name = "SECONDS", default_value = "10")]
        #[arg(value_parser = numbers::from_to::<u16>(0, DRAIN_SECONDS_MAX))]
        drain_seconds: u16,
    },
    /// Make a node the leader
    TransferLeader {
        /// this one; the node that is furthest, if nothing is said
        name: Option<String>,
    },
    /// Go to another number of voters; the nodes of the last names leave
    Resize {
        /// an odd number of nodes
        #[arg(value_name = "N", value_parser = odd)]
        voters: NonZeroU16,
        /// time for their clients to go elsewhere; who is left is disconnected
        #[arg(long = "drain", value_name = "SECONDS", default_value = "10")]
        #[arg(value_parser = numbers::from_to::<u16>(0, DRAIN_SECONDS_MAX))]
        drain_seconds: u16,
    },
    /// After all nodes were down: let time go on with the leader's clock
    #[command(after_help = "\
For a cluster in which no majority of clocks agrees with the leader's. Sessions and messages expire
by the time that is accepted.")]
    AcceptTime,
}

/// Have a node hand over what it does, before it is stopped
#[derive(Debug, Args)]
#[command(after_help = "\
Leadership and bridges go to other nodes, new clients are refused, and those connected are sent to
other nodes. MQTT 5.0 clients are told where (reason 0x9C, Server Reference). Returns when all are
gone; the node then waits to be stopped.

Exit codes: 0 done, 1 not done, 3 wrong words.")]
struct DrainWords {
    /// clients per second; 500 if nothing is said
    #[arg(long, value_name = "N", value_parser = rate, conflicts_with = "cancel")]
    rate: Option<NonZeroU32>,
    /// the node goes on: clients and bridges may come again
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    named: Named,
    /// answer as JSON on stdout, errors too; progress is on stderr
    #[arg(long)]
    json: bool,
}

/// `mosquorum drain`: hand the clients of a node over to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainCommand {
    pub wish: DrainWish,
    pub named: Named,
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainWish {
    /// At so many clients per second, if that is said.
    Begin(Option<NonZeroU32>),
    Cancel,
}

/// Make a survivor of a lost majority a cluster of its own
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "\
For a stopped node of a cluster whose majority is lost for good. Says what the node has and what may be
lost; changes nothing of the cluster unless told to.

Exit codes: 0 done, 1 not done, 3 wrong words or configuration.")]
pub struct RecoverCommand {
    /// the node's configuration file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config_file: PathBuf,
    /// make this node the only member of a new cluster that has what it has;
    /// members of the old cluster must never be started again with their old data
    #[arg(long = "force-new-cluster", verbatim_doc_comment)]
    pub force: bool,
    /// answer as JSON on stdout, errors too
    #[arg(long)]
    pub json: bool,
}

/// Ask a node's health_listener whether clients can be sent to it
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "Exit codes: 0 it is ready (or, at /livez, alive), 1 it is not, with the reasons, 3 wrong words."
)]
pub struct HealthCheckCommand {
    /// what to ask; if nothing is said, /readyz at the health_listener of the
    /// environment or of the configuration in its usual place, else 127.0.0.1:9883
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, verbatim_doc_comment)]
    pub url: Option<String>,
    /// take the address from this configuration file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config_file: Option<PathBuf>,
    /// ask again until it is so, at most for this long
    #[arg(long, value_name = "SECONDS", default_value = "0", hide_default_value = true)]
    #[arg(value_parser = numbers::seconds_to(WAIT_SECONDS_MAX))]
    pub wait: Duration,
    /// answer as JSON on stdout, errors too
    #[arg(long)]
    pub json: bool,
}

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = completions::PLACES)]
struct CompletionsWords {
    /// bash, zsh or fish
    #[arg(value_enum, hide_possible_values = true)]
    shell: Shell,
    /// mosquorum or mosquorum_passwd
    #[arg(value_enum, hide_possible_values = true, default_value = "mosquorum")]
    program: Program,
}

fn odd(text: &str) -> Result<NonZeroU16, String> {
    let voters = text.parse::<NonZeroU16>().ok().filter(|voters| voters.get() % 2 == 1);
    voters.ok_or_else(|| format!("'{text}' is not an odd number of nodes"))
}

fn rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("'{text}' is not a number of clients per second"))
}

/// Whether the first word after the program's name makes it a command.
pub(super) fn is_one(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| NAMES.contains(&word))
}

/// The words after the program's name.
pub(super) fn parse(words: Vec<OsString>) -> Result<Command, CliError> {
    let all = std::iter::once(OsString::from("mosquorum")).chain(words.iter().cloned());
    let parsed = match Words::try_parse_from(all) {
        Ok(parsed) => parsed,
        Err(help) if help.kind() == ErrorKind::DisplayHelp => return Ok(Command::Print(help.render().to_string())),
        Err(error) => return Err(CliError(wrong_words::one_line(&error, &path(&words)))),
    };
    Ok(match parsed.command {
        CommandWords::Cluster(command) => Command::Cluster(command),
        CommandWords::Drain(DrainWords { rate, cancel, named, json }) => {
            let wish = if cancel { DrainWish::Cancel } else { DrainWish::Begin(rate) };
            Command::Drain(DrainCommand { wish, named, json })
        }
        CommandWords::Recover(command) => Command::Recover(command),
        CommandWords::HealthCheck(command) => Command::HealthCheck(command),
        CommandWords::Bench(words) => Command::Bench(Box::new(words.options().map_err(CliError)?)),
        CommandWords::Completions(CompletionsWords { shell, program }) => {
            Command::Print(completions::script(shell, program))
        }
    })
}

/// Which command the words name, such as `cluster add`: whose help has the answer.
fn path(words: &[OsString]) -> String {
    let whole = Words::command();
    let (mut at, mut names) = (&whole, Vec::new());
    for word in words {
        if let Some(next) = at.find_subcommand(word) {
            names.push(next.get_name());
            at = next;
        }
    }
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, String> {
        parse(words.split_whitespace().map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    fn help(words: &str) -> String {
        match parsed(words) {
            Ok(Command::Print(text)) => text,
            other => panic!("{words}: {other:?}"),
        }
    }

    /// Of a help: clap breaks no lines.
    const WIDTH: usize = 110;

    fn socket(path: &str) -> Named {
        Named { socket: Some(path.into()), ..Named::default() }
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_description() {
        let mut whole = Words::command();
        whole.clone().debug_assert();
        super::super::description::mosquorum().debug_assert();
        super::super::description::mosquorum_passwd().debug_assert();
        whole.build();
        let names: Vec<&str> = whole.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, NAMES);
    }

    #[test]
    fn the_help_of_every_command_tells_of_its_options_and_is_the_same_in_both_forms() {
        fn each(of: &clap::Command, path: &str, seen: &mut usize) {
            let text = help(&format!("{path} --help"));
            assert_eq!(help(&format!("{path} -h")), text);
            assert!(text.contains("Usage: mosquorum "), "{text}");
            let wide = text.lines().find(|line| line.len() > WIDTH);
            assert!(wide.is_none(), "{path}: {wide:?}");
            for arg in of.get_arguments() {
                *seen += 1;
                let name = match arg.get_long() {
                    Some(long) => format!("--{long}"),
                    None => arg.get_value_names().map_or(String::new(), |names| names.join(" ")),
                };
                assert!(!name.is_empty() && text.contains(&name), "{path}: {name}\n{text}");
                assert!(arg.get_help().is_some(), "{path}: {name} is not explained");
            }
            for sub in of.get_subcommands() {
                assert!(text.contains(sub.get_name()), "{path}: {}", sub.get_name());
                each(sub, &format!("{path} {}", sub.get_name()), seen);
            }
            let error = parsed(&format!("{path} --no-such-option")).unwrap_err();
            assert!(
                error.starts_with(&format!("Error: Unknown option '--no-such-option'. Try {path} --help.")),
                "{error}"
            );
        }
        let (mut whole, mut seen) = (Words::command(), 0);
        whole.build();
        whole.get_subcommands().for_each(|sub| each(sub, sub.get_name(), &mut seen));
        assert!(seen > 60, "{seen}");
    }

    #[test]
    fn wrong_words_are_one_line_that_says_where_to_look() {
        for (words, expected) in [
            ("cluster", "Error: cluster needs a command. Try cluster --help."),
            ("cluster --json", "Error: cluster needs a command. Try cluster --help."),
            ("cluster stop", "Error: Unknown cluster command 'stop'. Try cluster --help."),
            ("cluster resize", "Error: cluster resize needs N. Try cluster resize --help."),
            ("cluster resize 2", "Error: cluster resize: '2' is not an odd number of nodes. Try"),
            ("cluster resize 3 --drain 241", "Error: --drain: '241' is not a number from 0 to 240. Try"),
            ("cluster status --drain 2", "Error: Unknown option '--drain'. Try cluster status --help."),
            ("cluster status all", "Error: Unknown option 'all'. Try cluster status --help."),
            ("cluster add", "Error: cluster add needs NAME HOST:PORT. Try"),
            ("cluster add b", "Error: cluster add needs HOST:PORT. Try"),
            ("cluster add b nowhere", "Error: cluster add: 'nowhere' is not HOST:PORT"),
            ("cluster status --jsn", "Error: Unknown option '--jsn'. Try cluster status --help."),
            ("cluster status --json=yes", "Error: cluster status: unexpected value"),
            ("cluster status --socket", "Error: --socket argument given, but no PATH specified. Try"),
            ("drain --rate 0", "Error: --rate: '0' is not a number of clients per second. Try drain --help."),
            ("drain --rate 5 --cancel", "Error: --rate and --cancel cannot be used together. Try drain --help."),
            ("drain soon", "Error: Unknown option 'soon'. Try drain --help."),
            ("recover", "Error: recover needs --config-file FILE. Try recover --help."),
            ("recover -c a.conf --force", "Error: Unknown option '--force'. Try recover --help."),
            ("healthcheck --wait", "Error: --wait argument given, but no SECONDS specified. Try healthcheck --help."),
            ("healthcheck --wait soon", "Error: --wait: 'soon' is not a number of seconds from 0 to 86400. Try"),
            ("healthcheck --wait 86401", "Error: --wait: '86401' is not a number of seconds from 0 to 86400. Try"),
            ("healthcheck --url", "Error: --url argument given, but no URL specified. Try"),
            ("healthcheck now", "Error: Unknown option 'now'. Try healthcheck --help."),
            ("completions tcsh", "Error: completions: 'tcsh' is none of bash, zsh, fish. Try completions --help."),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{words}: {error}");
        }
    }

    #[test]
    fn words_that_are_no_unicode_are_an_error_and_a_path_like_others() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(vec![b'a', 0xff]);
        let words = |front: &[&str]| front.iter().map(OsString::from).chain([odd()]).collect::<Vec<_>>();
        let Ok(Command::Cluster(command)) = parse(words(&["cluster", "status", "--socket"])) else { panic!("a path") };
        assert_eq!(command.named.socket, Some(odd().into()));
        let error = parse(words(&["healthcheck", "--url"])).unwrap_err().to_string();
        assert!(error.starts_with("Error: healthcheck: invalid UTF-8"), "{error}");
    }

    #[test]
    fn cluster_commands_are_understood_with_their_options_on_either_side() {
        let address = HostPort { host: "h".to_owned(), port: 7883 };
        let voters = |count| NonZeroU16::new(count).unwrap();
        for (words, action) in [
            ("status", ClusterAction::Status),
            ("add b h:7883", ClusterAction::Add { name: "b".to_owned(), address }),
            ("remove b", ClusterAction::Remove { name: "b".to_owned(), drain_seconds: 10 }),
            ("transfer-leader", ClusterAction::TransferLeader { name: None }),
            ("transfer-leader b", ClusterAction::TransferLeader { name: Some("b".to_owned()) }),
            ("accept-time", ClusterAction::AcceptTime),
            ("resize 5", ClusterAction::Resize { voters: voters(5), drain_seconds: 10 }),
            ("resize 3 --drain 0", ClusterAction::Resize { voters: voters(3), drain_seconds: 0 }),
        ] {
            let expected = Ok(Command::Cluster(ClusterCommand { action, named: socket("s"), json: true }));
            assert_eq!(parsed(&format!("cluster {words} --socket s --json")), expected, "{words}");
            assert_eq!(parsed(&format!("cluster --json --socket s {words}")), expected, "{words}");
            assert_eq!(parsed(&format!("cluster --socket t {words} --socket=s --json --json")), expected, "{words}");
        }
    }

    #[test]
    fn a_drain_has_a_rate() {
        let drain = |rate: Option<u32>| {
            let wish = DrainWish::Begin(rate.and_then(NonZeroU32::new));
            Ok(Command::Drain(DrainCommand { wish, named: socket("s"), json: false }))
        };
        let cancel = Command::Drain(DrainCommand { wish: DrainWish::Cancel, named: socket("s"), json: true });
        assert_eq!(parsed("drain --cancel --socket s --json"), Ok(cancel));
        assert_eq!(parsed("drain --socket s"), drain(None));
        assert_eq!(parsed("drain --rate 20 --socket s"), drain(Some(20)));
    }

    #[test]
    fn a_recovery_is_forced_only_in_so_many_words() {
        let recover = |force| Ok(Command::Recover(RecoverCommand { config_file: "a.conf".into(), force, json: false }));
        assert_eq!(parsed("recover -c a.conf"), recover(false));
        assert_eq!(parsed("recover -c a.conf --force-new-cluster"), recover(true));
        assert!(parsed("recover --force-new-cluster").is_err());
        assert!(parsed("recover -c a.conf --force-new").is_err());
    }

    #[test]
    fn a_health_check_asks_a_url_or_what_a_file_says() {
        let asked = |url: Option<&str>, file: Option<&str>, seconds| {
            let (url, config_file) = (url.map(str::to_owned), file.map(PathBuf::from));
            let wait = Duration::from_secs(seconds);
            Ok(Command::HealthCheck(HealthCheckCommand { url, config_file, wait, json: false }))
        };
        assert_eq!(parsed("healthcheck"), asked(None, None, 0));
        assert_eq!(parsed("healthcheck --wait 60 -c a.conf"), asked(None, Some("a.conf"), 60));
        assert_eq!(parsed("healthcheck --url http://h:1/livez"), asked(Some("http://h:1/livez"), None, 0));
        assert_eq!(parsed("healthcheck --config-file a.conf"), asked(None, Some("a.conf"), 0));
    }

    #[test]
    fn completions_are_for_both_programs_and_know_flags_commands_and_their_options() {
        for shell in ["bash", "zsh", "fish"] {
            let broker = help(&format!("completions {shell}"));
            for word in ["tls-keylog", "healthcheck", "transfer-leader", "force-new-cluster", "failover"] {
                assert!(broker.contains(word), "{shell}: {word}");
            }
            let passwd = help(&format!("completions {shell} mosquorum_passwd"));
            assert!(passwd.contains("sha512-pbkdf2") && !passwd.contains("--help"), "{shell}");
        }
    }
}
