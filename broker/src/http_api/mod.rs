//! `protocol http_api`: what a broker shows of itself over HTTP, and the files of `http_dir`. Read-only.
//! Always true: a request that is not GET, or whose user may not read its path, changes and shows nothing; one request
//! per connection, bounded in bytes and time.
//! Not here: metrics and health (they have a listener of their own).
mod files;
mod request;

use crate::{
    auth::{Authentication, Source},
    broker::Broker,
    config::{ListenAddress, ListenerProtocol, ListenerSettings},
    listener::Listener,
    logging::lines,
    stream::Stream,
};
use mosquorum_proto::mqtt::{TopicName, Utf8};
use request::{BadRequest, Request};
use serde_json::{Map, Value, json};
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncWriteExt, BufReader};

/// Who asks, for access rules.
const CLIENT_ID: &str = "http-api";
/// A request comes within this, and each part of an answer is taken within it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file that are under way at once.
const PART: usize = 16 * 1024;

/// What is answered.
struct Answer {
    status: &'static str,
    headers: &'static str,
    body: Body,
}

enum Body {
    Text(String),
    File { file: tokio::fs::File, bytes: u64, kind: &'static str },
}

impl Answer {
    fn error(status: &'static str, text: &str) -> Self {
        Self { status, headers: "", body: Body::Text(text.to_owned()) }
    }
    fn not_found() -> Self {
        Self::error("404 Not Found", "Not found.\n")
    }
    /// For whoever shows a dashboard from elsewhere.
    fn shown(text: String) -> Self {
        Self { status: "200 OK", headers: "Access-Control-Allow-Origin: *\r\n", body: Body::Text(text) }
    }
}

/// Serves one connection. `source`: whose turn at the password check it takes.
pub async fn serve(broker: &Arc<Broker>, listener: &Listener, mut stream: Stream, source: Source) {
    let bytes_max = usize::from(broker.settings.load().packet_buffer_size_bytes);
    let asked = tokio::time::timeout(TIMEOUT, request::read(&mut stream, bytes_max)).await;
    let answer = match asked {
        Ok(Ok(request)) => answer(broker, listener, &request, source).await,
        Ok(Err(BadRequest::Closed)) | Err(_) => return,
        Ok(Err(BadRequest::TooLong)) => Answer::error("431 Request Header Fields Too Large", ""),
        Ok(Err(BadRequest::Malformed)) => Answer::error("400 Bad Request", ""),
    };
    let _ = send(&mut stream, answer).await;
    stream.shut_down().await;
}

async fn answer(broker: &Arc<Broker>, listener: &Listener, request: &Request, source: Source) -> Answer {
    if request.method != "GET" {
        return Answer::error("405 Method Not Allowed", "Invalid HTTP Method\n");
    }
    match tokio::time::timeout(TIMEOUT, is_allowed(broker, listener, request, source)).await {
        Ok(Authentication::Granted) => {}
        Ok(Authentication::NotAuthorized) => {
            let headers = "WWW-Authenticate: Basic realm=\"Mosquitto API\"\r\n";
            return Answer { status: "401 Unauthorized", headers, body: Body::Text("Not authorised\n".to_owned()) };
        }
        Ok(Authentication::Busy) | Err(_) => return Answer::error("503 Service Unavailable", "Too many logins\n"),
    }
    match request.path.as_str() {
        "/api/v1/version" => Answer::shown(lines::MOSQUITTO_VERSION.to_owned()),
        "/api/v1/listeners" => Answer::shown(format!("{:#}\n", listeners(&broker.settings.load().listeners))),
        "/api/v1/systree" => Answer::shown(format!("{:#}\n", system_tree(broker))),
        path if path.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("/api/")) => Answer::not_found(),
        path => match &listener.settings().http_dir {
            Some(folder) => file(folder, path).await,
            None => Answer::not_found(),
        },
    }
}

/// As for MQTT clients: the user name must be let in, and may read the path as if it were a topic.
async fn is_allowed(broker: &Broker, listener: &Listener, request: &Request, source: Source) -> Authentication {
    broker.reloading.over().await;
    let security = listener.security.load_full();
    let (user, password) = match &request.credentials {
        Some((user, password)) => (Some(user.as_str()), Some(password.as_bytes())),
        None => (None, None),
    };
    match security.authenticate(&broker.verifier, user, password, source).await {
        Authentication::Granted => {}
        refused => return refused,
    }
    let topic = TopicName::new(Utf8::from(request.path.as_str()));
    match topic.is_ok_and(|topic| security.rights(CLIENT_ID, user).may_read(&topic)) {
        true => Authentication::Granted,
        false => Authentication::NotAuthorized,
    }
}

fn listeners(all: &[ListenerSettings]) -> Value {
    let one = |listener: &ListenerSettings| {
        let mut shown = Map::new();
        match &listener.address {
            ListenAddress::Tcp { port, .. } => shown.insert("port".to_owned(), json!(port)),
            ListenAddress::Unix(path) => shown.insert("path".to_owned(), json!(path.display().to_string())),
        };
        let protocol = match listener.protocol {
            ListenerProtocol::Mqtt => "mqtt",
            ListenerProtocol::Websockets => "websockets",
            ListenerProtocol::HttpApi => "httpapi",
        };
        shown.insert("protocol".to_owned(), json!(protocol));
        shown.insert("tls".to_owned(), json!(listener.tls.is_some()));
        let mutual = listener.tls.as_ref().is_some_and(|tls| tls.require_certificate);
        shown.insert("mtls".to_owned(), json!(mutual));
        shown.insert("allow_anonymous".to_owned(), json!(listener.security.allow_anonymous));
        Value::Object(shown)
    };
    json!({ "listeners": all.iter().map(one).collect::<Vec<_>>() })
}

fn system_tree(broker: &Broker) -> Value {
    Value::Object(broker.sys.numbers().into_iter().map(|(topic, value)| (topic, json!(value))).collect())
}

/// Answers a request for a file, its path as it stands in the request.
pub async fn send_file(stream: &mut Stream, folder: &Path, path: &str) {
    let answer = match request::decoded_path(path) {
        Some(path) => file(folder, &path).await,
        None => Answer::not_found(),
    };
    let _ = send(stream, answer).await;
    stream.shut_down().await;
}

async fn file(folder: &Path, path: &str) -> Answer {
    let (folder, path) = (folder.to_owned(), path.to_owned());
    let opened = tokio::task::spawn_blocking(move || files::open(&folder, &path)).await;
    match opened {
        Ok(Some((file, bytes, kind))) => {
            let file = tokio::fs::File::from_std(file);
            Answer { status: "200 OK", headers: "", body: Body::File { file, bytes, kind } }
        }
        _ => Answer::not_found(),
    }
}

async fn send(stream: &mut Stream, answer: Answer) -> io::Result<()> {
    let Answer { status, headers, body } = answer;
    let (bytes, kind) = match &body {
        Body::Text(text) => (text.len() as u64, "text/plain"),
        Body::File { bytes, kind, .. } => (*bytes, *kind),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n{headers}\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    );
    within_timeout(stream.write_all(head.as_bytes())).await?;
    match body {
        Body::Text(text) => within_timeout(stream.write_all(text.as_bytes())).await?,
        Body::File { file, bytes, .. } => {
            let mut file = BufReader::with_capacity(PART, tokio::io::AsyncReadExt::take(file, bytes));
            loop {
                let part = tokio::io::AsyncBufReadExt::fill_buf(&mut file).await?;
                if part.is_empty() {
                    break;
                }
                within_timeout(stream.write_all(part)).await?;
                let length = part.len();
                tokio::io::AsyncBufReadExt::consume(&mut file, length);
            }
        }
    }
    within_timeout(stream.flush()).await
}

async fn within_timeout(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(TIMEOUT, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}
