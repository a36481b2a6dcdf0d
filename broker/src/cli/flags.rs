//! Mosquitto's flags and ours beside them: what starts the broker.
//! Always true: words, messages and exit codes are Mosquitto's where it has the flag. They are parsed here by hand: clap
//! answers in other words, and whoever starts a broker does not pay for it.
use super::{CliError, Command, Run};
use crate::{
    config::options,
    logging::lines::{MOSQUITTO_VERSION, VERSION},
    metrics,
};
use clap::{Arg, ArgAction, ValueHint};
use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

/// Most `-p` flags, as in Mosquitto.
const PORTS_MAX: usize = 10;
/// Where the explanations begin in a line of the help.
const COLUMN: usize = 25;

/// A flag as the help, the completions and the manual page tell of it.
struct Flag {
    short: Option<char>,
    long: &'static str,
    /// What its value is called; empty: it takes none.
    value: &'static str,
    help: &'static str,
}

const fn flag(short: Option<char>, long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { short, long, value, help }
}

const FLAGS: [Flag; 11] = [
    flag(Some('c'), "config-file", "FILE", "mosquitto.conf to read; without it only this machine can connect."),
    flag(Some('d'), "daemon", "", "go to the background after starting."),
    flag(Some('h'), "help", "", "show this."),
    flag(
        Some('p'),
        "port",
        "PORT",
        "listen on this port, this machine only; may be repeated, at most\n10 times; ignored when the file has a listener.",
    ),
    flag(Some('q'), "quiet", "", "log nothing, whatever the file and -v say."),
    flag(Some('v'), "verbose", "", "log everything, whatever the file says."),
    flag(None, "test-config", "", "check the configuration file and exit."),
    flag(None, "tls-keylog", "FILE", "write TLS secrets to a file, for debugging only."),
    flag(None, "local-cluster", "N", "run N nodes on this machine, to try a cluster out."),
    flag(None, "options", "", "list every option of the configuration file and what becomes of it."),
    flag(None, "version", "", "show the version."),
];

/// The words after the program's name.
pub(super) fn parse(program: &str, words: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let mut words = words.into_iter();
    let mut run = Run::default();
    while let Some(word) = words.next() {
        match word.to_str().unwrap_or_default() {
            "-h" | "--help" => return Ok(Command::Print(help(program))),
            "--version" => return Ok(Command::Print(version())),
            "--options" => return Ok(Command::Print(options::print())),
            "--options=markdown" => return Ok(Command::Print(options::reference::markdown())),
            "--options=man" => return Ok(Command::Print(options::reference::man())),
            "--metrics=markdown" => return Ok(Command::Print(metrics::reference::markdown())),
            "-d" | "--daemon" => run.daemon = true,
            "-q" | "--quiet" => run.log_all = Some(false),
            "-v" | "--verbose" => run.log_all = run.log_all.or(Some(true)),
            "--test-config" => run.test_config = true,
            "-c" | "--config-file" => run.config_file = Some(after("-c", "config file", &mut words)?.into()),
            "--tls-keylog" => run.tls_keylog = Some(after("--tls-keylog", "file", &mut words)?.into()),
            "-p" | "--port" => run.ports.push(port_of(&after("-p", "port", &mut words)?, run.ports.len())?),
            "--local-cluster" => {
                let nodes = words.next().and_then(|word| word.to_str()?.parse().ok());
                run.local_cluster = Some(nodes.ok_or_else(|| fail("--local-cluster needs a number of nodes."))?);
            }
            _ => return Err(unknown(&word)),
        }
    }
    Ok(Command::Run(run))
}

fn fail(text: impl std::fmt::Display) -> CliError {
    CliError(format!("Error: {text}"))
}

fn unknown(word: &OsStr) -> CliError {
    fail(format!("Unknown option '{}'. Try --help.", word.to_string_lossy()))
}

/// The word after an option that needs one.
fn after(option: &str, what: &str, words: &mut impl Iterator<Item = OsString>) -> Result<OsString, CliError> {
    words.next().ok_or_else(|| fail(format!("{option} argument given, but no {what} specified.")))
}

fn port_of(word: &OsString, before: usize) -> Result<u16, CliError> {
    let text = word.to_string_lossy();
    let port = text.parse().unwrap_or(0);
    if port == 0 {
        return Err(fail(format!("Invalid port specified ({text}). Expected 1 to 65535.")));
    }
    if before == PORTS_MAX {
        return Err(fail(format!("Only {PORTS_MAX} ports can be specified on the command line.")));
    }
    Ok(port)
}

fn version() -> String {
    format!("mosquorum {VERSION}\nBehaves as mosquitto version {MOSQUITTO_VERSION}.\nLicence Apache-2.0 OR MIT.\n")
}

fn help(program: &str) -> String {
    let program = if program.is_empty() { "mosquorum" } else { program };
    let mut text = format!(
        "mosquorum version {VERSION}, an MQTT v5.0/v3.1.1/v3.1 broker that may be a cluster.\n\n\
Usage: {program} [-c config_file] [-d] [-h] [-p port] [-v]\n\
       {program} cluster status|add|remove|transfer-leader|resize|accept-time ...\n\
       {program} drain [--rate N | --cancel]\n\
       {program} recover -c config_file [--force-new-cluster]\n\
       {program} healthcheck [--url URL | -c config_file] [--wait SECONDS]\n\
       {program} bench p2p|fanout|fanin|shared|connect|retained|durable|failover ...\n\
       {program} completions bash|zsh|fish [mosquorum_passwd]\n\n"
    );
    for Flag { short, long, value, help } in &FLAGS {
        let short = short.map_or("    ".to_owned(), |short| format!("-{short}, "));
        let left = format!(" {short}--{long} {value}");
        let help = help.replace('\n', &format!("\n{:COLUMN$}", ""));
        text.push_str(&format!("{left:COLUMN$}{help}\n"));
    }
    text.push_str(NOTES);
    text
}

const NOTES: &str = "
Options of the file can also be set by the environment: MOSQUORUM_<OPTION>, such as
MOSQUORUM_MAX_PACKET_SIZE=1000000; commas separate the values of log_dest, log_type and
cluster_peer.

Exit codes: 0 after a normal end, 1 when it cannot start, 3 for a wrong configuration or flag.
Of cluster commands: 0 done, 1 not done, 2 no majority (status still prints what it knows), 3 wrong words.
";

/// The flags as clap describes them, for completions and the manual page.
pub(super) fn description() -> impl Iterator<Item = Arg> {
    // clap knows of a help by itself.
    FLAGS.iter().filter(|flag| flag.long != "help").map(|flag| {
        let arg = Arg::new(flag.long).short(flag.short).long(flag.long).help(flag.help);
        match flag.value {
            "" => arg.action(ArgAction::SetTrue),
            "FILE" => arg.value_name("FILE").value_hint(ValueHint::FilePath),
            "PORT" => arg.value_name("PORT").action(ArgAction::Append),
            name => arg.value_name(name),
        }
    })
}

/// A path as a process has it in its first word.
pub(super) fn program(word: Option<&OsString>) -> String {
    let path = word.map(PathBuf::from).unwrap_or_default();
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, String> {
        parse("mosquorum", words.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
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
            ("--unknown", "Error: Unknown option '--unknown'. Try --help."),
            (&"-p 1 ".repeat(11), "Error: Only 10 ports can be specified on the command line."),
            ("--local-cluster 0", "Error: --local-cluster needs a number of nodes."),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{words}: {error}");
        }
    }

    #[test]
    fn help_names_the_program_as_it_was_called() {
        let text = help(&program(Some(&"/usr/sbin/mosquitto".into())));
        assert!(text.contains("Usage: mosquitto [-c config_file] [-d] [-h] [-p port] [-v]"));
    }

    #[test]
    fn every_flag_that_is_told_of_is_understood_and_explained() {
        let text = help("mosquorum");
        for Flag { short, long, value, help } in &FLAGS {
            let value = match *value {
                "" => "",
                "FILE" => "file",
                _ => "3",
            };
            let long_word = format!("--{long}");
            for word in short.map(|short| format!("-{short}")).iter().chain([&long_word]) {
                assert!(parsed(&format!("{word} {value}")).is_ok(), "{word}");
                assert!(text.contains(word), "{word}");
            }
            assert!(text.contains(help.lines().next().expect("one")), "{long}");
        }
    }
}
