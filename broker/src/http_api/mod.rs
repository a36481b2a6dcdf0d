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
    http::{self, Answer, Bytes, Limits, Method, Request, StatusCode, header},
    listener::Listener,
    logging::lines,
    stream::Stream,
};
use mosquorum_proto::mqtt::{TopicName, Utf8};
use serde_json::{Map, Value, json};
use std::{path::Path, sync::Arc, time::Duration};

/// Who asks, for access rules.
const CLIENT_ID: &str = "http-api";
/// A request comes within this, and each part of an answer is taken within it.
const TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 100;
const TEXT: &str = "text/plain";

fn limits(broker: &Broker) -> Limits {
    Limits {
        head_bytes_max: usize::from(broker.settings.load().packet_buffer_size_bytes),
        headers_max: HEADERS_MAX,
        head_timeout: TIMEOUT,
        write_timeout: TIMEOUT,
    }
}

/// Serves one connection. `source`: whose turn at the password check it takes.
pub async fn serve(broker: &Arc<Broker>, listener: &Listener, stream: Stream, source: Source) {
    let answered = async |request: Request| sealed(answer(broker, listener, &request, source).await);
    http::serve(stream, Bytes::new(), limits(broker), answered).await;
}

/// Serves a connection for WebSockets that asked for a file instead. `head`: its request, which has been read.
pub async fn serve_file(broker: &Arc<Broker>, folder: &Path, stream: Stream, head: Vec<u8>) {
    let answered = async |request: Request| {
        sealed(match request::decoded(request.uri().path()) {
            Some(path) => file(folder, &path).await,
            None => not_found(),
        })
    };
    http::serve(stream, head.into(), limits(broker), answered).await;
}

/// What a file is its name says, not what it looks like.
fn sealed(answer: Answer) -> Answer {
    http::with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn not_found() -> Answer {
    http::text(StatusCode::NOT_FOUND, TEXT, "Not found.\n")
}

/// For whoever shows a dashboard from elsewhere.
fn shown(text: String) -> Answer {
    http::with(http::text(StatusCode::OK, TEXT, text), header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
}

async fn answer(broker: &Arc<Broker>, listener: &Listener, request: &Request, source: Source) -> Answer {
    let Some(path) = request::decoded(request.uri().path()) else {
        return http::text(StatusCode::BAD_REQUEST, TEXT, "");
    };
    if request.method() != Method::GET {
        return http::text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Invalid HTTP Method\n");
    }
    match tokio::time::timeout(TIMEOUT, is_allowed(broker, listener, request, &path, source)).await {
        Ok(Authentication::Granted) => {}
        Ok(Authentication::NotAuthorized) => {
            let refused = http::text(StatusCode::UNAUTHORIZED, TEXT, "Not authorised\n");
            return http::with(refused, header::WWW_AUTHENTICATE, "Basic realm=\"Mosquitto API\"");
        }
        Ok(Authentication::Busy) | Err(_) => {
            return http::text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "Too many logins\n");
        }
    }
    match path.as_str() {
        "/api/v1/version" => shown(lines::MOSQUITTO_VERSION.to_owned()),
        "/api/v1/listeners" => shown(format!("{:#}\n", listeners(&broker.settings.load().listeners))),
        "/api/v1/systree" => shown(format!("{:#}\n", system_tree(broker))),
        path if path.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("/api/")) => not_found(),
        path => match &listener.settings().http_dir {
            Some(folder) => file(folder, path).await,
            None => not_found(),
        },
    }
}

/// As for MQTT clients: the user name must be let in, and may read the path as if it were a topic.
async fn is_allowed(
    broker: &Broker,
    listener: &Listener,
    request: &Request,
    path: &str,
    source: Source,
) -> Authentication {
    broker.reloading.over().await;
    let security = listener.security.load_full();
    let credentials = request::credentials(request.headers());
    let (user, password) = match &credentials {
        Some((user, password)) => (Some(user.as_str()), Some(password.as_bytes())),
        None => (None, None),
    };
    match security.authenticate(&broker.verifier, user, password, source).await {
        Authentication::Granted => {}
        refused => return refused,
    }
    let topic = TopicName::new(Utf8::from(path));
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

async fn file(folder: &Path, path: &str) -> Answer {
    let (folder, path) = (folder.to_owned(), path.to_owned());
    let opened = tokio::task::spawn_blocking(move || files::open(&folder, &path)).await;
    match opened {
        Ok(Some((file, bytes, kind))) => http::file(tokio::fs::File::from_std(file), bytes, kind),
        _ => not_found(),
    }
}
