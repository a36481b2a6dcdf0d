//! The program: words and environment in, exit code out.
use crate::{
    admin, bench,
    cli::{self, ClusterAction, ClusterCommand, Command, DrainWish, Run},
    config::Settings,
    daemon, health, local_cluster,
    logging::{self, lines},
    node,
    process_user::{self, Plan, Surroundings},
    recover,
};
use std::{path::PathBuf, process::ExitCode};

/// Wrong words or a wrong configuration, as in Mosquitto.
const EXIT_INVALID: u8 = 3;
/// Anything else that keeps the broker from starting.
const EXIT_FAILED: u8 = 1;

/// What `main` of each binary is.
pub fn main() -> ExitCode {
    daemon::end_with_parent();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_INVALID);
        }
    };
    match command {
        Command::Print(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Command::Cluster(command) => cluster(command),
        Command::Drain { wish, socket, config_file } => {
            let request = match wish {
                DrainWish::Begin(None) => "drain".to_owned(),
                DrainWish::Begin(Some(rate)) => format!("drain {rate}"),
                DrainWish::Cancel => "drain cancel".to_owned(),
            };
            operate(socket.as_ref(), config_file.as_ref(), &request)
        }
        Command::Recover { config_file, force } => recover_node(config_file, force),
        Command::HealthCheck { url, config_file } => health_check(url, config_file),
        Command::Bench(options) => match bench::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, EXIT_FAILED),
        },
        Command::Run(run) => broker(&run),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("mqtt").build()
}

fn broker(run: &Run) -> ExitCode {
    logging::install_panic_hook();
    if let Some(count) = run.local_cluster {
        return local_cluster(usize::from(count.get()), run.log_all == Some(true));
    }
    let settings = match load(run) {
        Ok(settings) => settings,
        Err(code) => return ExitCode::from(code),
    };
    if run.test_config {
        lines::config_ok();
        return ExitCode::SUCCESS;
    }
    let around = Surroundings::of_this_process();
    let user = match process_user::plan(&settings.process, &around, &process_user::of_this_machine) {
        Ok(plan) => plan,
        Err(error) => return fail(&error, EXIT_INVALID),
    };
    if run.daemon && !daemon::is_detached() {
        return match daemon::detach() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("Error: cannot become a daemon: {error}"), EXIT_FAILED),
        };
    }
    if let Err(error) = process_user::become_it(&user).and_then(|()| process_user::set_umask()) {
        return fail(&error, EXIT_INVALID);
    }
    // Before there are other threads.
    if let Err(error) = crate::reloading::block_hangup() {
        return fail(&format!("Error: SIGHUP cannot be blocked: {error}"), EXIT_FAILED);
    }
    if let Err(error) = logging::start(&settings.log) {
        return fail(&error, EXIT_INVALID);
    }
    logging::forward_library_events();
    lines::starting();
    lines::config_loaded(settings.config_file.as_deref());
    if around.root && user == Plan::Stay {
        lines::running_as_root();
    }
    settings.notes.iter().for_each(crate::config::Note::log);
    if settings.local_only {
        lines::local_only();
    }
    if let Some(path) = &run.tls_keylog
        && let Err(error) = crate::carrier::tls::log_keys_to(path)
    {
        let text = format!("Error: Unable to open keylog file \"{}\": {error}", path.display());
        return fail(&text, EXIT_FAILED);
    }
    let result = match runtime() {
        Ok(runtime) => {
            let result = runtime.block_on(node::run(settings)).map_err(|error| error.to_string());
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result
        }
        Err(error) => Err(format!("Error: cannot start threads: {error}")),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::error!("{error}");
            ExitCode::from(EXIT_FAILED)
        }
    };
    logging::flush();
    code
}

fn load(run: &Run) -> Result<Settings, u8> {
    if let Some(all) = run.log_all {
        logging::set_types(if all { crate::config::LogTypes::ALL } else { crate::config::LogTypes::NONE });
    }
    if run.test_config && run.config_file.is_none() {
        lines::config_missing_for_test();
        return Err(EXIT_INVALID);
    }
    Settings::load(&run.sources()).map_err(|error| {
        eprintln!("{error}");
        error.exit_code()
    })
}

fn fail(text: &str, code: u8) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(code)
}

fn local_cluster(count: usize, verbose: bool) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("Error: cannot start threads: {error}"), EXIT_FAILED),
    };
    match runtime.block_on(local_cluster::run(count, verbose)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("Error: {error}"), EXIT_FAILED),
    }
}

fn cluster(command: ClusterCommand) -> ExitCode {
    let request = match command.action {
        ClusterAction::Status if command.json => "status json".to_owned(),
        ClusterAction::Status => "status".to_owned(),
        ClusterAction::Add { name, address } => format!("add {name} {address}"),
        ClusterAction::Remove { name, drain_seconds } => format!("remove {name} {drain_seconds}"),
        ClusterAction::TransferLeader { name: Some(name) } => format!("transfer-leader {name}"),
        ClusterAction::TransferLeader { name: None } => "transfer-leader".to_owned(),
        ClusterAction::AcceptTime => "accept-time".to_owned(),
        ClusterAction::Resize { voters, drain_seconds } => format!("resize {voters} {drain_seconds}"),
    };
    operate(command.socket.as_ref(), command.config_file.as_ref(), &request)
}

/// Sends a request to a node's admin socket and prints the answer.
fn operate(socket: Option<&PathBuf>, config_file: Option<&PathBuf>, request: &str) -> ExitCode {
    let socket = match admin_socket(socket, config_file) {
        Ok(socket) => socket,
        Err(error) => return fail(&error, EXIT_INVALID),
    };
    match admin::request(&socket, request) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

fn recover_node(config_file: PathBuf, force: bool) -> ExitCode {
    let run = Run { config_file: Some(config_file), ..Run::default() };
    let settings = match Settings::load(&run.sources()) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.to_string(), error.exit_code()),
    };
    match recover::run(&settings, force) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => fail(&text, EXIT_FAILED),
    }
}

/// Without `--url` asks the listener of the configuration file or of the environment, else the usual one.
fn health_check(url: Option<String>, config_file: Option<PathBuf>) -> ExitCode {
    let configured = |config_file: Option<PathBuf>| {
        let run = Run { config_file, ..Run::default() };
        let settings = Settings::load(&run.sources()).map_err(|error| error.to_string())?;
        let own = |address: std::net::SocketAddr| match (address.ip().is_unspecified(), address.is_ipv4()) {
            (true, true) => format!("http://127.0.0.1:{}/readyz", address.port()),
            (true, false) => format!("http://[::1]:{}/readyz", address.port()),
            _ => format!("http://{address}/readyz"),
        };
        Ok(settings.health_listener.map_or(health::check::DEFAULT_URL.to_owned(), own))
    };
    let answer = match url {
        Some(url) => health::check::ask(&url),
        None => configured(config_file).and_then(|url| health::check::ask(&url)),
    };
    match answer {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, EXIT_FAILED),
    }
}

/// `--socket`, else what the configuration names, else the default name here.
fn admin_socket(socket: Option<&PathBuf>, config_file: Option<&PathBuf>) -> Result<PathBuf, String> {
    if let Some(socket) = socket {
        return Ok(socket.clone());
    }
    let Some(file) = config_file else { return Ok(PathBuf::from("mosquorum.sock")) };
    let run = Run { config_file: Some(file.clone()), ..Run::default() };
    let settings = Settings::load(&run.sources()).map_err(|error| error.to_string())?;
    settings.cluster.admin_socket.ok_or_else(|| format!("Error: {} has no admin socket", file.display()))
}
