//! Three nodes as one broker: a program with Mosquitto's command line that starts a cluster and hands the connections
//! of the configured ports to its nodes in turn, so that whatever is written for one broker can be tried on three.
//! Always true: ports are bound at once and listened on from when every node is ready; the program ends with its nodes,
//! with their exit code, and they end with it.
//! Left out: Unix sockets and `-d` (refused); limits of connections and of memory are those of each node.
mod arguments;
mod balancer;
mod configuration;
mod layout;
mod nodes;
mod output;
mod signals;

use crate::http;
use arguments::{Asked, Serve};
use balancer::Balancer;
use layout::Layout;
use nodes::Nodes;
use signals::{Received, Signals};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// Enough for a quorum that survives one loss.
const NODES: usize = 3;
/// Until all nodes are ready.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why it could not run, and the exit code of a broker that could not.
struct Failure {
    text: String,
    code: u8,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { text: format!("Error: {error}."), code: 1 }
    }
}

/// The whole program, from its words (without its name) to its exit code.
#[must_use]
pub fn main(words: Vec<OsString>) -> ExitCode {
    let result = match arguments::parse(&words) {
        Asked::Serve(serve) => serve_until_the_end(&serve),
        Asked::Daemon => {
            Err(Failure { text: "Error: Three nodes as one broker stay in the foreground.".into(), code: 3 })
        }
        Asked::Other => {
            broker().and_then(|path| Ok(Command::new(path).args(&words).status()?.code().unwrap_or(1) as u8))
        }
    };
    ExitCode::from(result.unwrap_or_else(|failure| {
        eprintln!("{}", failure.text);
        failure.code
    }))
}

/// `MOSQUORUM_BIN`, else the broker beside this program.
fn broker() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("MOSQUORUM_BIN") {
        return Ok(PathBuf::from(path));
    }
    let path = std::env::current_exe()?.with_file_name("mosquorum");
    match path.exists() {
        true => Ok(path),
        false => Err(Failure { text: format!("Error: No broker at {}.", path.display()), code: 1 }),
    }
}

fn serve_until_the_end(serve: &Serve) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(serve, &broker()?));
    // What waits for an end of a pipe must not hold up ours.
    runtime.shutdown_background();
    result
}

async fn run(serve: &Serve, broker: &Path) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let plan = configuration::read(serve.config.as_deref())?;
    let layout = Layout::make(serve, &plan)?;
    layout.write_configuration(&plan)?;
    let mut balancer = Balancer::bind(layout.fronts()).await?;
    let mut nodes = Nodes::start(broker, serve, &layout)?;
    let code = tokio::select! {
        ready = wait_ready(&mut nodes, &layout) => match ready? {
            Some(code) => code,
            None => {
                nodes.show_all();
                balancer.listen()?;
                attend(&mut signals, &mut nodes, &mut balancer, serve, &layout).await?
            }
        },
        received = signals.next() => {
            nodes.signal(received.signal());
            nodes.end().await
        }
    };
    nodes.finish_output();
    layout.finish(code == 0)?;
    Ok(code)
}

/// Until every node says that clients can be sent to it; a code if one ended before.
async fn wait_ready(nodes: &mut Nodes, layout: &Layout) -> Result<Option<u8>, Failure> {
    let deadline = Instant::now() + TIMEOUT;
    for node in 0..NODES {
        while !matches!(http::get(layout.health_address(node), "/readyz").await, Ok((200, _))) {
            if nodes.ended().is_some() {
                return Ok(Some(nodes.end().await));
            }
            if Instant::now() > deadline {
                return Err(Failure { text: format!("Error: The nodes are not ready after {TIMEOUT:?}."), code: 1 });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(None)
}

/// Serves until a signal ends it or a node ends; the exit code.
async fn attend(
    signals: &mut Signals,
    nodes: &mut Nodes,
    balancer: &mut Balancer,
    serve: &Serve,
    layout: &Layout,
) -> Result<u8, Failure> {
    loop {
        // In this order: what a signal asks for holds for the next connection.
        tokio::select! {
            biased;
            received = signals.next() => {
                if received == Received::Reload {
                    // A file that cannot be read is the nodes' to report.
                    let plan = configuration::read(serve.config.as_deref());
                    plan.and_then(|plan| Ok(layout.write_configuration(&plan)?)).or_else(|_| layout.forget_configuration())?;
                }
                nodes.signal(received.signal());
                if received == Received::End {
                    balancer.close();
                    return Ok(nodes.end().await);
                }
            }
            () = nodes.any_end() => return Ok(nodes.end().await),
            () = balancer.hand_over_next() => {}
        }
    }
}
