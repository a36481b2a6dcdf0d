//! The HTTP request that turns a connection into a WebSocket (RFC 6455 section 4.2).
//! Always true: no more than the allowed bytes of a request are read; the answer is exactly Mosquitto's; whoever comes
//! from a forbidden origin gets no answer at all.
//!
//! More lenient than the RFC, as Mosquitto is: HTTP/1.0 will do, which proxies speak that were not configured otherwise (nginx
//! without `proxy_http_version`), and so does a request without Sec-WebSocket-Version.
use super::super::prepared::TLS_HANDSHAKE;
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use std::{io, net::IpAddr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADERS_MAX: usize = 100;
/// Appended to the key (section 1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The second one is what clients of MQTT 3.1 ask for.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a request must keep to.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeRules<'a> {
    /// `packet_buffer_size`
    pub request_bytes_max: usize,
    /// `websockets_origin`; empty allows any. A request without the header passes: only browsers send it.
    pub origins: &'a [String],
    /// `http_dir`: a request that is none for a WebSocket may be one for a file.
    pub files: bool,
}

/// What is known from a request that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// First address of X-Forwarded-For: what a proxy says, or whoever pretends to be one.
    pub forwarded_for: Option<IpAddr>,
}

/// Why a connection did not become a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("connection closed by client")]
    Closed,
    #[error("the WebSocket request is longer than packet_buffer_size ({0} bytes)")]
    TooLong(usize),
    #[error("not a WebSocket request: {0}")]
    NotAnUpgrade(&'static str),
    #[error("the WebSocket request offers no sub-protocol mqtt")]
    NoProtocol,
    #[error("WebSocket version is not 13")]
    Version,
    #[error("non-matching http origin")]
    Origin,
    #[error("MQTT without WebSockets on a websockets listener")]
    PlainMqtt,
    #[error("TLS on a listener without")]
    Tls,
    /// Not an upgrade but a file is asked for, by this request.
    #[error("a request for a file")]
    File(Vec<u8>),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl UpgradeError {
    /// The status line of the answer, and more headers. `None`: no answer.
    fn answer(&self) -> Option<&'static str> {
        match self {
            Self::TooLong(_) => Some("431 Request Header Fields Too Large"),
            Self::NotAnUpgrade(_) | Self::NoProtocol => Some("400 Bad Request"),
            Self::Version => Some("426 Upgrade Required\r\nSec-WebSocket-Version: 13"),
            Self::Closed | Self::Origin | Self::PlainMqtt | Self::Tls | Self::File(_) | Self::Io(_) => None,
        }
    }
}

/// Reads the request and answers it. Bound it in time.
/// # Errors
/// When the client does not ask for MQTT over WebSockets; it has got its answer by then, if it deserves one.
pub async fn upgrade<S>(stream: &mut S, rules: UpgradeRules<'_>) -> Result<Upgraded, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let result = read_request(stream, rules).await;
    let answer = match &result {
        Ok(request) => format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
            request.accept, request.protocol
        ),
        Err(error) => match error.answer() {
            Some(status) => format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
            None => return result.map(|request| request.facts),
        },
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    result.map(|request| request.facts)
}

#[derive(Debug)]
struct Request {
    accept: String,
    protocol: &'static str,
    facts: Upgraded,
}

async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, rules: UpgradeRules<'_>) -> Result<Request, UpgradeError> {
    let mut head = Vec::with_capacity(rules.request_bytes_max.min(1024));
    loop {
        let before = head.len();
        let room = (rules.request_bytes_max + 1 - before) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Err(UpgradeError::Closed);
        }
        match head[0] {
            0x10 => return Err(UpgradeError::PlainMqtt),
            TLS_HANDSHAKE => return Err(UpgradeError::Tls),
            _ => {}
        }
        if head.len() > rules.request_bytes_max {
            return Err(UpgradeError::TooLong(rules.request_bytes_max));
        }
        // Only a line end can complete it.
        if head[before..].contains(&b'\n')
            && let Some(request) = parse(&head, rules)?
        {
            return Ok(request);
        }
    }
}

/// `None` while the request is not whole.
fn parse(head: &[u8], rules: UpgradeRules<'_>) -> Result<Option<Request>, UpgradeError> {
    let origins = rules.origins;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(UpgradeError::NotAnUpgrade("malformed HTTP")),
    };
    if length < head.len() {
        return Err(UpgradeError::NotAnUpgrade("something follows it"));
    }
    if request.method != Some("GET") {
        return Err(UpgradeError::NotAnUpgrade("its method is not GET"));
    }
    let headers = Headers(request.headers);
    if rules.files && headers.all("Upgrade").next().is_none() {
        return Err(UpgradeError::File(head.to_owned()));
    }
    if !headers.words("Upgrade").any(|word| word.eq_ignore_ascii_case("websocket"))
        || !headers.words("Connection").any(|word| word.eq_ignore_ascii_case("upgrade"))
    {
        let why = "it lacks 'Upgrade: websocket' or 'Connection: Upgrade', which a proxy must pass on";
        return Err(UpgradeError::NotAnUpgrade(why));
    }
    if let Some(origin) = headers.all("Origin").next()
        && !origins.is_empty()
        && !origins.iter().any(|allowed| allowed == origin)
    {
        return Err(UpgradeError::Origin);
    }
    if headers.all("Sec-WebSocket-Version").any(|version| version != "13") {
        return Err(UpgradeError::Version);
    }
    let Some(key) = headers.all("Sec-WebSocket-Key").next().filter(|key| !key.is_empty()) else {
        return Err(UpgradeError::NotAnUpgrade("no Sec-WebSocket-Key"));
    };
    let offered = headers.words("Sec-WebSocket-Protocol");
    let protocol = offered.filter_map(|word| PROTOCOLS.into_iter().find(|ours| *ours == word)).next();
    let forwarded_for = headers.words("X-Forwarded-For").next().and_then(|word| word.parse().ok());
    Ok(Some(Request {
        accept: accept_key(key),
        protocol: protocol.ok_or(UpgradeError::NoProtocol)?,
        facts: Upgraded { forwarded_for },
    }))
}

struct Headers<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'a> Headers<'a, '_> {
    /// Every value of that name; what is not text counts as empty.
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim())
    }

    /// The parts between commas.
    fn words(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.all(name).flat_map(|value| value.split(',')).map(str::trim)
    }
}

fn accept_key(key: &str) -> String {
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(ACCEPT_SUFFIX.as_bytes());
    STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: 1JaITHdgDZVd/4OE2AzTTA==\r\nSec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\
        X-Forwarded-For: 192.0.2.7, 10.0.0.1\r\nOrigin: example.org\r\n\r\n";

    async fn attempt(request: &str, bytes_max: usize, origins: &[&str]) -> (Result<Upgraded, UpgradeError>, String) {
        let (mut client, mut server) = tokio::io::duplex(1 << 16);
        client.write_all(request.as_bytes()).await.unwrap();
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let result =
            upgrade(&mut server, UpgradeRules { request_bytes_max: bytes_max, origins: &origins, files: false }).await;
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (result, answer)
    }

    #[tokio::test]
    async fn an_upgrade_is_answered_as_mosquitto_answers_it() {
        let (result, answer) = attempt(REQUEST, 4096, &["example.com", "example.org"]).await;
        assert_eq!(result.unwrap().forwarded_for, Some("192.0.2.7".parse().unwrap()));
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: Ako91O0lxiq8gN0+b9YCijMx8lk=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
        assert_eq!(answer, expected);
    }

    #[tokio::test]
    async fn a_client_of_3_1_may_ask_for_its_own_sub_protocol() {
        let (result, answer) = attempt(&REQUEST.replace("chat, mqtt", "mqttv3.1"), 4096, &[]).await;
        assert!(result.is_ok() && answer.ends_with("Sec-WebSocket-Protocol: mqttv3.1\r\n\r\n"));
    }

    #[tokio::test]
    async fn a_proxy_that_speaks_http_1_0_and_a_client_that_names_no_version_are_let_in_as_by_mosquitto() {
        let from_nginx = REQUEST.replace("HTTP/1.1", "HTTP/1.0").replace("keep-alive, Upgrade", "upgrade");
        for request in [from_nginx, REQUEST.replace("Sec-WebSocket-Version: 13\r\n", "")] {
            let (result, answer) = attempt(&request, 4096, &[]).await;
            assert!(
                result.is_ok() && answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
                "{request}\n{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_proxy_that_does_not_pass_the_upgrade_on_is_named_in_one_clear_line() {
        let request = REQUEST.replace("HTTP/1.1", "HTTP/1.0").replace("keep-alive, Upgrade", "close");
        let error = attempt(&request, 4096, &[]).await.0.unwrap_err().to_string();
        assert!(error.contains("'Connection: Upgrade', which a proxy must pass on"), "{error}");
    }

    #[tokio::test]
    async fn a_forbidden_origin_gets_no_answer() {
        let (result, answer) = attempt(REQUEST, 4096, &["example.com"]).await;
        assert!(matches!(result, Err(UpgradeError::Origin)) && answer.is_empty());
    }

    #[tokio::test]
    async fn the_request_is_bounded() {
        assert!(attempt(REQUEST, REQUEST.len(), &[]).await.0.is_ok());
        let (result, answer) = attempt(REQUEST, REQUEST.len() - 1, &[]).await;
        assert!(matches!(result, Err(UpgradeError::TooLong(_))) && answer.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test]
    async fn what_is_no_upgrade_to_mqtt_is_refused() {
        let cases = [
            (REQUEST.replace("chat, mqtt", "chat"), "400"),
            (REQUEST.replace("Version: 13", "Version: 8"), "426"),
            (REQUEST.replace("GET", "POST"), "400"),
            (REQUEST.replace("Upgrade: websocket", "Upgrade: h2c"), "400"),
            (REQUEST.replace("keep-alive, Upgrade", "close"), "400"),
            (REQUEST.replace("1JaITHdgDZVd/4OE2AzTTA==", ""), "400"),
            (format!("{REQUEST}more"), "400"),
            ("nonsense\r\n\r\n".to_owned(), "400"),
        ];
        for (request, status) in cases {
            let (result, answer) = attempt(&request, 4096, &[]).await;
            assert!(result.is_err(), "{request}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}\n{answer}");
        }
        assert!(matches!(attempt("\x10\x0e\0\x04MQTT", 4096, &[]).await.0, Err(UpgradeError::PlainMqtt)));
        assert!(matches!(attempt("\x16\x03\x01", 4096, &[]).await.0, Err(UpgradeError::Tls)));
    }
}
