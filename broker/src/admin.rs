//! The local admin socket: one line in; lines of progress, then one answer out. `mosquorum cluster ...` is its client.
//! Always true: only this machine's users who may open the socket's file get in (mode 0600); an answer says whether the
//! node sees a majority; a change that was asked for goes on when who asked is gone.
//! An answer: any number of lines `progress <text>`, then `ok` or `error`, followed by `no-majority` if there is none, and
//! the text below.
use crate::{
    broker::Broker,
    cluster_status,
    drain::{self, Pace},
    offline,
};
use mosquorum_cluster::AdminRequest;
use std::{
    io::{self, BufRead, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as ClientStream},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

const REQUEST_BYTES_MAX: u64 = 4096;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Without news. A membership change may have to copy the state first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// A node that does not say how it is for so long does not work.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer that is longer is no node's.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const PROGRESS: &str = "progress ";
const NO_MAJORITY: &str = "no-majority";

pub fn open(path: &Path) -> io::Result<UnixListener> {
    if path.exists() && ClientStream::connect(path).is_err() {
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
                // Who asked may stop waiting: what was begun goes on.
                tokio::spawn(async move {
                    let _ = answer(&broker, stream).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(broker: &Arc<Broker>, mut stream: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut line)).await.map_err(io::Error::other)??;
    let words: Vec<&str> = line.split_whitespace().collect();
    let (result, majority) = match words.as_slice() {
        ["status", how @ ..] if matches!(how, [] | ["json"]) => {
            let survey = broker.consensus.survey().await;
            let offline = offline::list(broker);
            let text = if how.is_empty() { cluster_status::table } else { cluster_status::json };
            (Ok(text(&survey, &offline)), survey.status.majority)
        }
        words => {
            let result = with_progress(broker, &mut write, change(broker, words)).await;
            (result, broker.consensus.status().majority)
        }
    };
    let (word, text) = match result {
        Ok(text) => ("ok", text),
        Err(text) => ("error", text),
    };
    let note = if majority { String::new() } else { format!(" {NO_MAJORITY}") };
    write.write_all(format!("{word}{note}\n{text}\n").as_bytes()).await
}

async fn change(broker: &Arc<Broker>, words: &[&str]) -> Result<String, String> {
    let request = match words {
        ["drain"] => return drain::run(broker, Pace::default()).await,
        ["drain", "cancel"] => return Ok(drain::cancel(broker)),
        ["drain", rate] => match rate.parse() {
            Ok(rate) => return drain::run(broker, Pace::PerSecond(rate)).await,
            Err(_) => return Err(format!("drain needs a number of clients per second, not {rate:?}")),
        },
        ["add", name, address] => AdminRequest::Add { name: (*name).to_owned(), address: (*address).to_owned() },
        ["remove", name, seconds] => AdminRequest::Remove { name: (*name).to_owned(), hand_over: seconds_of(seconds)? },
        ["accept-time"] => AdminRequest::AcceptTime,
        ["transfer-leader"] => AdminRequest::TransferLeader { to: None },
        ["transfer-leader", to] => AdminRequest::TransferLeader { to: Some((*to).to_owned()) },
        ["resize", voters, seconds] => AdminRequest::Resize {
            voters: voters.parse().map_err(|_| format!("resize needs a number of voters, not {voters:?}"))?,
            hand_over: seconds_of(seconds)?,
        },
        words => return Err(format!("unknown request {:?}", words.join(" "))),
    };
    broker.consensus.admin(request).await.map_err(|error| error.to_string())
}

fn seconds_of(word: &str) -> Result<Duration, String> {
    let seconds = word.parse().map_err(|_| format!("a number of seconds is expected, not {word:?}"))?;
    Ok(Duration::from_secs(seconds))
}

/// Reports how far a change is, each second in which that is something new. Who asked may be gone: the change goes on.
async fn with_progress(
    broker: &Arc<Broker>,
    write: &mut (impl AsyncWrite + Unpin),
    change: impl Future<Output = Result<String, String>>,
) -> Result<String, String> {
    let mut change = std::pin::pin!(change);
    let mut reported = Vec::new();
    loop {
        let look = async {
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            cluster_status::progress(&broker.consensus.survey().await)
        };
        let lines = tokio::select! {
            biased;
            result = &mut change => return result,
            lines = look => lines,
        };
        for line in lines.iter().filter(|line| !reported.contains(*line)) {
            let _ = write.write_all(format!("{PROGRESS}{line}\n").as_bytes()).await;
        }
        reported = lines;
    }
}

/// What a node answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    pub result: Result<String, String>,
    /// The node sees a majority of its cluster.
    pub majority: bool,
}

/// The client's side: sends one request, shows progress as it comes, and returns the answer.
/// # Errors
/// When there is none in time, or none that a node would give.
pub fn request(mut stream: ClientStream, request: &str, progress: &mut dyn FnMut(&str)) -> io::Result<Answered> {
    let timeout = if request.starts_with("status") { STATUS_TIMEOUT } else { ANSWER_TIMEOUT };
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    read_answer(io::BufReader::new(stream.take(ANSWER_BYTES_MAX)), progress).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", timeout.as_secs()))
        }
        _ => error,
    })
}

fn read_answer(mut from: impl BufRead, progress: &mut dyn FnMut(&str)) -> io::Result<Answered> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let line = line.trim_end();
        if let Some(text) = line.strip_prefix(PROGRESS) {
            progress(text);
            continue;
        }
        let mut text = String::new();
        from.read_to_string(&mut text)?;
        let text = text.trim_end().to_owned();
        let (word, note) = line.split_once(' ').unwrap_or((line, ""));
        let result = match word {
            "ok" => Ok(text),
            "error" => Err(text),
            "" => return Err(io::Error::other("the node closed the connection without an answer")),
            _ => return Err(io::Error::other(format!("it is no node that answers: {line:?}"))),
        };
        return Ok(Answered { result, majority: note != NO_MAJORITY });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Answered>, Vec<String>) {
        let mut reported = Vec::new();
        let answered = read_answer(text.as_bytes(), &mut |line| reported.push(line.to_owned()));
        (answered.ok(), reported)
    }

    #[test]
    fn an_answer_is_progress_an_outcome_and_a_text() {
        let good = Answered { result: Ok("b left".to_owned()), majority: true };
        let reported = vec!["7 are left".to_owned(), "3 are left".to_owned()];
        assert_eq!(read("progress 7 are left\nprogress 3 are left\nok\nb left\n"), (Some(good), reported));
        let table = Answered { result: Ok("a\nb".to_owned()), majority: false };
        assert_eq!(read("ok no-majority\na\nb\n"), (Some(table), Vec::new()));
        let refused = Answered { result: Err("why".to_owned()), majority: false };
        assert_eq!(read("error no-majority\nwhy\n"), (Some(refused), Vec::new()));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in ["", "progress x\n", "SSH-2.0\n", "okay\nx\n"] {
            assert_eq!(read(text).0, None, "{text:?}");
        }
    }
}
