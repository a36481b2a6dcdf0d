//! The program: words and environment in, exit code out.
use crate::{
    bench,
    carrier::tls::check_curves,
    cli::{self, Command, Run},
    config::Settings,
    daemon, local_cluster,
    logging::{self, lines},
    node,
    operate::{self, EXIT_FAILED, fail},
    process_user::{self, Plan, Surroundings},
};
use std::process::ExitCode;

/// Wrong words or a wrong configuration, as in Mosquitto.
const EXIT_INVALID: u8 = 3;

/// What `main` of each binary is.
pub fn main() -> ExitCode {
    daemon::end_with_parent();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            let json = std::env::args_os().any(|word| word == "--json");
            return operate::fail_as(json, &error.to_string(), EXIT_INVALID);
        }
    };
    match command {
        Command::Print(text) => operate::say(&text),
        Command::Cluster(command) => operate::cluster(command),
        Command::Drain(command) => operate::drain(&command),
        Command::Recover(command) => operate::recover_node(command),
        Command::HealthCheck(command) => operate::health_check(command),
        Command::Bench(options) => match bench::run(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, EXIT_FAILED),
        },
        Command::Run(run) => broker(&run),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("mqtt").build();
    built.map_err(|error| format!("Error: cannot start threads: {error}"))
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
        // What it means, not how it was read.
        let said = |note: &&crate::config::Note| note.level != crate::config::Level::Info;
        settings.notes.iter().filter(said).for_each(crate::config::Note::log);
        if let Err(error) = check_curves(&settings) {
            return fail(&error, EXIT_FAILED);
        }
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
    if around.root && matches!(user, Plan::Stay | Plan::Group(_)) {
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
    let result = match check_curves(&settings).and_then(|()| runtime()) {
        Ok(runtime) => {
            let result = runtime.block_on(node::run(settings)).map_err(|error| (error.to_string(), error.exit_code()));
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result
        }
        Err(error) => Err((error, EXIT_FAILED)),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => {
            crate::error!("{error}");
            ExitCode::from(code)
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

fn local_cluster(count: usize, verbose: bool) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, EXIT_FAILED),
    };
    match runtime.block_on(local_cluster::run(count, verbose)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("Error: {error}"), EXIT_FAILED),
    }
}
