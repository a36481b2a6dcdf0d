//! One HTTP request: its first line and who sends it. A body is never read.
use base64::{Engine, engine::general_purpose::STANDARD};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

const HEADERS_MAX: usize = 100;

/// What is asked, by whom.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    /// Decoded, without what follows a question mark.
    pub(super) path: String,
    /// User name and password.
    pub(super) credentials: Option<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadRequest {
    Closed,
    TooLong,
    Malformed,
}

impl From<io::Error> for BadRequest {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Reads until the end of the headers. Bound it in time.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S, bytes_max: usize) -> Result<Request, BadRequest> {
    let mut head = Vec::with_capacity(bytes_max.min(1024));
    loop {
        let before = head.len();
        let room = (bytes_max + 1 - before) as u64;
        if (&mut *stream).take(room).read_buf(&mut head).await? == 0 {
            return Err(BadRequest::Closed);
        }
        if head.len() > bytes_max {
            return Err(BadRequest::TooLong);
        }
        if head[before..].contains(&b'\n')
            && let Some(request) = parse(&head)?
        {
            return Ok(request);
        }
    }
}

/// `None` while the headers are not whole.
fn parse(head: &[u8]) -> Result<Option<Request>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadRequest::Malformed),
    }
    let target = request.path.unwrap_or_default();
    let path = decoded_path(target).ok_or(BadRequest::Malformed)?;
    let authorization = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Authorization"));
    Ok(Some(Request {
        method: request.method.unwrap_or_default().to_owned(),
        path,
        credentials: authorization.and_then(|header| credentials(header.value)),
    }))
}

/// The path of a target, without what follows a question mark.
pub(super) fn decoded_path(target: &str) -> Option<String> {
    decode(target.split(['?', '#']).next().unwrap_or_default())
}

/// Percent signs and two hexadecimal digits become the byte that they mean.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

fn credentials(header: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(header).ok()?;
    let (scheme, encoded) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_its_first_line_and_who_sends_it() {
        let mut stream = &b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dXNlcjpwYTpzcw==\r\n\r\n"[..];
        let expected = Request {
            method: "GET".to_owned(),
            path: "/a b".to_owned(),
            credentials: Some(("user".to_owned(), "pa:ss".to_owned())),
        };
        assert_eq!(read(&mut stream, 4096).await, Ok(expected));
    }

    #[tokio::test]
    async fn what_is_too_long_malformed_or_cut_is_told_apart() {
        let ask = |text: &'static [u8], max| async move { read(&mut &text[..], max).await };
        assert_eq!(ask(b"GET / HTTP/1.1\r\n\r\n", 10).await, Err(BadRequest::TooLong));
        assert_eq!(ask(b"GET /%4 HTTP/1.1\r\n\r\n", 99).await, Err(BadRequest::Malformed));
        assert_eq!(ask(b"GET /%+1 HTTP/1.1\r\n\r\n", 99).await, Err(BadRequest::Malformed));
        assert_eq!(ask(b"\x16\x03\r\n", 99).await, Err(BadRequest::Malformed));
        assert_eq!(ask(b"GET / HTTP/1.1\r\n", 99).await, Err(BadRequest::Closed));
    }

    #[test]
    fn broken_credentials_are_none() {
        for text in ["", "Basic", "Basic %", "Bearer dXNlcjpwYQ==", "Basic dXNlcg=="] {
            assert_eq!(credentials(text.as_bytes()), None, "{text}");
        }
    }
}
