//! As much of HTTP/1.1 as probes and scrapers need: one GET or HEAD per connection, no body.
//! Always true: pure; nothing that a client sends makes it panic or keep more than [`REQUEST_BYTES_MAX`].

/// Bytes of a request line and its headers.
pub(super) const REQUEST_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Without the query.
    pub(super) path: String,
    /// HEAD: the answer goes without its body.
    pub(super) head: bool,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More has to come.
    Partial,
    Request(Request),
    /// Refused; nothing more is read.
    Bad(Reply),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Reply {
    #[must_use]
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// The bytes to send; the connection closes after them.
    #[must_use]
    pub(super) fn encode(&self, head: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let mut text = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{allow}Connection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        if !head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

/// Looks at everything received so far.
#[must_use]
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < REQUEST_BYTES_MAX => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Bad(Reply::text(431, "the request is too long\n"));
        }
        Err(error) => return Parsed::Bad(Reply::text(400, format!("{error}\n"))),
    }
    let head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Bad(Reply::text(405, "GET or HEAD\n")),
    };
    let target = request.path.unwrap_or("/");
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    Parsed::Request(Request { path, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_understood_whole_and_in_any_pieces() {
        let text = b"GET /readyz?verbose=1 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text[..length]), Parsed::Partial, "{length} bytes");
        }
        assert_eq!(parse(text), Parsed::Request(Request { path: "/readyz".to_owned(), head: false }));
        let head = parse(b"HEAD /livez HTTP/1.0\r\n\r\n");
        assert_eq!(head, Parsed::Request(Request { path: "/livez".to_owned(), head: true }));
    }

    #[test]
    fn what_is_no_short_get_is_refused() {
        let status = |bytes: &[u8]| match parse(bytes) {
            Parsed::Bad(reply) => reply.status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(b"POST /readyz HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"), 400);
        assert_eq!(status(&[b"GET /".as_slice(), &vec![b'a'; REQUEST_BYTES_MAX]].concat()), 431);
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), 431);
    }

    #[test]
    fn an_answer_tells_its_length_and_that_it_is_the_last() {
        let reply = Reply::text(503, "no majority\n");
        let text = String::from_utf8(reply.encode(false)).expect("text");
        assert!(text.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 12\r\n") && text.contains("\r\nConnection: close\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nno majority\n"), "{text}");
        assert!(reply.encode(true).ends_with(b"\r\n\r\n"));
    }
}
