//! The local admin socket: one line in, one answer out. `mosquorum cluster ...` is its client.
//! Always true: only this machine's users who may open the socket's file get in (mode 0600).
use crate::{
    broker::Broker,
    drain::{self, Pace},
    offline::{self, Offline},
};
use mosquorum_cluster::{AdminRequest, ClusterStatus};
use serde::Serialize;
use std::{
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

const REQUEST_BYTES_MAX: u64 = 4096;
/// A membership change may have to copy the state first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
    voter: bool,
    serving: bool,
    lag: Option<u64>,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    node: &'a str,
    id: u64,
    leader: Option<&'a str>,
    term: u64,
    commit: u64,
    applied: u64,
    snapshot: u64,
    members: Vec<MemberJson<'a>>,
    /// How many sessions are offline, and those of them that have most messages.
    offline: usize,
    offline_sessions: Vec<Offline>,
}

pub fn open(path: &Path) -> io::Result<UnixListener> {
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open the admin socket {}: {error}", path.display()))
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn serve(broker: Arc<Broker>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let broker = broker.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(ANSWER_TIMEOUT, answer(&broker, stream)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(broker: &Arc<Broker>, mut stream: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    let (read, mut write) = stream.split();
    BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let answer = match words.as_slice() {
        ["status", "json"] => Ok(status_json(&broker.consensus.status(), offline::list(broker))),
        ["status"] => {
            let (count, listed) = offline::list(broker);
            Ok(format!("{}\n{}", status_table(&broker.consensus.status()), offline::table(count, &listed)))
        }
        ["add", name, address] => {
            broker.consensus.admin(AdminRequest::Add { name: (*name).to_owned(), address: (*address).to_owned() }).await
        }
        ["remove", name, seconds] => match seconds_of(seconds) {
            Ok(hand_over) => broker.consensus.admin(AdminRequest::Remove { name: (*name).to_owned(), hand_over }).await,
            Err(error) => Err(error),
        },
        ["accept-time"] => broker.consensus.admin(AdminRequest::AcceptTime).await,
        ["transfer-leader"] => broker.consensus.admin(AdminRequest::TransferLeader { to: None }).await,
        ["transfer-leader", to] => {
            broker.consensus.admin(AdminRequest::TransferLeader { to: Some((*to).to_owned()) }).await
        }
        ["resize", voters, seconds] => match (voters.parse(), seconds_of(seconds)) {
            (Ok(voters), Ok(hand_over)) => broker.consensus.admin(AdminRequest::Resize { voters, hand_over }).await,
            (Err(_), _) => Err(format!("resize needs a number of voters, not {voters:?}")),
            (_, Err(error)) => Err(error),
        },
        ["drain"] => drain::run(broker, Pace::default()).await,
        ["drain", "cancel"] => Ok(drain::cancel(broker)),
        ["drain", rate] => match rate.parse() {
            Ok(rate) => drain::run(broker, Pace::PerSecond(rate)).await,
            Err(_) => Err(format!("drain needs a number of clients per second, not {rate:?}")),
        },
        _ => Err(format!("unknown request {:?}", line.trim())),
    };
    let text = match answer {
        Ok(text) => format!("ok\n{text}\n"),
        Err(text) => format!("error\n{text}\n"),
    };
    write.write_all(text.as_bytes()).await
}

fn seconds_of(word: &str) -> Result<Duration, String> {
    let seconds = word.parse().map_err(|_| format!("a number of seconds is expected, not {word:?}"))?;
    Ok(Duration::from_secs(seconds))
}

fn leader(status: &ClusterStatus) -> Option<&str> {
    let id = status.leader?;
    status.members.iter().find(|member| member.node == id).map(|member| member.name.as_str())
}

fn status_json(status: &ClusterStatus, (offline, offline_sessions): (usize, Vec<Offline>)) -> String {
    let members = status.members.iter().map(|member| MemberJson {
        id: member.node.0,
        name: &member.name,
        address: &member.address,
        voter: member.voter,
        serving: member.serving,
        lag: member.lag,
    });
    let json = StatusJson {
        node: &status.name,
        id: status.node.0,
        leader: leader(status),
        term: status.term,
        commit: status.commit.0,
        applied: status.applied.0,
        snapshot: status.snapshot.0,
        members: members.collect(),
        offline,
        offline_sessions,
    };
    serde_json::to_string(&json).unwrap_or_default()
}

fn status_table(status: &ClusterStatus) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "node {} (n{})   leader {}   term {}   commit {}   applied {}   snapshot {}\n",
        status.name,
        status.node.0,
        leader(status).unwrap_or("none"),
        status.term,
        status.commit.0,
        status.applied.0,
        status.snapshot.0
    );
    let _ = writeln!(text, "{:<20} {:>8} {:<8} {:<8} {:>10}  address", "name", "id", "role", "serving", "behind");
    for member in &status.members {
        let _ = writeln!(
            text,
            "{:<20} {:>8} {:<8} {:<8} {:>10}  {}",
            member.name,
            member.node.0,
            if member.voter { "voter" } else { "learner" },
            if member.serving { "yes" } else { "no" },
            member.lag.map_or("-".to_owned(), |lag| lag.to_string()),
            member.address
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// The client's side: sends one request and returns the answer, or the error's text.
pub fn request(socket: &Path, request: &str) -> Result<String, String> {
    let ask = || -> io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|error| format!("Error: no answer from a node at {}: {error}", socket.display()))?;
    match text.split_once('\n') {
        Some(("ok", answer)) => Ok(answer.trim_end().to_owned()),
        Some((_, error)) => Err(format!("Error: {}", error.trim_end())),
        None => Err("Error: the node closed the connection without an answer".to_owned()),
    }
}
