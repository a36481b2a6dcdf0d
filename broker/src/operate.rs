//! Commands for nodes that run (`cluster`, `drain`, `healthcheck`) or are stopped (`recover`): what they ask, print and
//! exit with.
//! Always true: with `--json` stdout gets one JSON document, whatever happens, and stderr one for each line of progress; a
//! reader that has gone is no failure.
use crate::{
    admin,
    cli::{ClusterAction, ClusterCommand, DrainCommand, DrainWish, HealthCheckCommand, RecoverCommand, Run},
    config::Settings,
    find_node::{self, Named},
    health, recover,
};
use serde::Serialize;
use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

/// What was asked for was not done.
pub const EXIT_FAILED: u8 = 1;
/// The node answers, but its cluster has no majority.
const EXIT_NO_MAJORITY: u8 = 2;

#[derive(Serialize)]
struct DoneJson<'a> {
    ok: bool,
    message: &'a str,
}

#[derive(Serialize)]
struct FailedJson<'a> {
    ok: bool,
    error: &'a str,
    no_majority: bool,
}

#[derive(Serialize)]
struct ProgressJson<'a> {
    progress: &'a str,
}

/// Prints a text to stdout.
pub fn say(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Who read it has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("Error: stdout: {error}"), EXIT_FAILED),
    }
}

/// Prints a text to stderr.
pub fn fail(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "{text}");
    ExitCode::from(code)
}

/// As [`fail`], or as JSON on stdout.
pub fn fail_as(json: bool, text: &str, code: u8) -> ExitCode {
    if !json {
        return fail(text, code);
    }
    let error = text.strip_prefix("Error: ").unwrap_or(text);
    say(&as_json(&FailedJson { ok: false, error, no_majority: code == EXIT_NO_MAJORITY }));
    ExitCode::from(code)
}

fn done(json: bool, text: &str) -> ExitCode {
    if json { say(&as_json(&DoneJson { ok: true, message: text })) } else { say(text) }
}

fn as_json(of: &impl Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

pub fn cluster(command: ClusterCommand) -> ExitCode {
    let ClusterCommand { action, named, json } = command;
    let is_status = action == ClusterAction::Status;
    let request = match action {
        ClusterAction::Status if json => "status json".to_owned(),
        ClusterAction::Status => "status".to_owned(),
        ClusterAction::Add { name, address } => format!("add {name} {address}"),
        ClusterAction::Remove { name, drain_seconds } => format!("remove {name} {drain_seconds}"),
        ClusterAction::TransferLeader { name: Some(name) } => format!("transfer-leader {name}"),
        ClusterAction::TransferLeader { name: None } => "transfer-leader".to_owned(),
        ClusterAction::AcceptTime => "accept-time".to_owned(),
        ClusterAction::Resize { voters, drain_seconds } => format!("resize {voters} {drain_seconds}"),
    };
    let answered = match ask(&named, &request, json) {
        Ok(answered) => answered,
        Err(error) => return fail_as(json, &error, EXIT_FAILED),
    };
    match answered.result {
        // It is JSON itself, if that is wanted.
        Ok(text) if is_status => match say(&text) {
            ExitCode::SUCCESS if !answered.majority => ExitCode::from(EXIT_NO_MAJORITY),
            code => code,
        },
        Ok(text) => done(json, &text),
        Err(text) => {
            fail_as(json, &format!("Error: {text}"), if answered.majority { EXIT_FAILED } else { EXIT_NO_MAJORITY })
        }
    }
}

pub fn drain(command: &DrainCommand) -> ExitCode {
    let DrainCommand { wish, ref named, json } = *command;
    let request = match wish {
        DrainWish::Begin(None) => "drain".to_owned(),
        DrainWish::Begin(Some(rate)) => format!("drain {rate}"),
        DrainWish::Cancel => "drain cancel".to_owned(),
    };
    match ask(named, &request, json).map(|answered| answered.result) {
        Ok(Ok(text)) => done(json, &text),
        Ok(Err(text)) => fail_as(json, &format!("Error: {text}"), EXIT_FAILED),
        Err(error) => fail_as(json, &error, EXIT_FAILED),
    }
}

/// Sends a request to a node's admin socket; its progress goes to stderr.
fn ask(named: &Named, request: &str, json: bool) -> Result<admin::Answered, String> {
    let stream = find_node::connect(named)?;
    let mut progress = |text: &str| {
        let text = if json { as_json(&ProgressJson { progress: text }) } else { text.to_owned() };
        let _ = writeln!(io::stderr(), "{text}");
    };
    admin::request(stream, request, &mut progress).map_err(|error| format!("Error: the node does not answer: {error}"))
}

pub fn recover_node(command: RecoverCommand) -> ExitCode {
    let RecoverCommand { config_file, force, json } = command;
    let run = Run { config_file: Some(config_file), ..Run::default() };
    let settings = match Settings::load(&run.sources()) {
        Ok(settings) => settings,
        Err(error) => return fail_as(json, &error.to_string(), error.exit_code()),
    };
    match recover::run(&settings, force) {
        Ok(text) => done(json, &text),
        Err(text) => fail_as(json, &text, EXIT_FAILED),
    }
}

/// Without `--url` asks the listener of the configuration or of the environment, else the usual one.
pub fn health_check(command: HealthCheckCommand) -> ExitCode {
    let HealthCheckCommand { url, config_file, wait, json } = command;
    let own = |address: SocketAddr| match (address.ip().is_unspecified(), address.is_ipv4()) {
        (true, true) => format!("http://127.0.0.1:{}/readyz", address.port()),
        (true, false) => format!("http://[::1]:{}/readyz", address.port()),
        _ => format!("http://{address}/readyz"),
    };
    let url = match url {
        Some(url) => Ok(url),
        None => find_node::health_listener(config_file.as_deref())
            .map(|found| found.map_or(health::check::DEFAULT_URL.to_owned(), own)),
    };
    match url.and_then(|url| health::check::ask_within(&url, wait)) {
        Ok(text) => done(json, &text),
        Err(error) => fail_as(json, &error, EXIT_FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_whether_it_was_done_and_why_not() {
        assert_eq!(as_json(&DoneJson { ok: true, message: "b leads" }), r#"{"ok":true,"message":"b leads"}"#);
        let failed = FailedJson { ok: false, error: "no \"x\"", no_majority: true };
        assert_eq!(as_json(&failed), r#"{"ok":false,"error":"no \"x\"","no_majority":true}"#);
        assert_eq!(as_json(&ProgressJson { progress: "7 are left" }), r#"{"progress":"7 are left"}"#);
    }
}
