//! `mosquorum healthcheck`: asks a health listener, for containers that have nothing else to ask with.
use super::http::REQUEST_BYTES_MAX;
use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Asked where neither `--url` nor a configuration file says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9883/readyz";
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks; `Ok` holds the answer's text if its status is 200.
/// # Errors
/// One line: what was answered, or why there is no answer.
pub fn ask(url: &str) -> Result<String, String> {
    let (authority, path) = split(url)?;
    let failed = |error: io::Error| format!("Error: no answer from {url}: {error}");
    let answer = exchange(&authority, &path).map_err(failed)?;
    let (status, body) = read(&answer).ok_or_else(|| format!("Error: {url} does not answer as HTTP"))?;
    let body = body.trim_end().replace('\n', "; ");
    if status == 200 { Ok(body) } else { Err(format!("Error: {url} answers {status}: {body}")) }
}

/// `host:port` and the path of a URL.
fn split(url: &str) -> Result<(String, String), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("Error: '{url}' is not http://HOST:PORT/PATH."))?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, "readyz"));
    if authority.is_empty() || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("Error: '{url}' is not http://HOST:PORT/PATH."));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    Ok((authority, format!("/{path}")))
}

fn exchange(authority: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes())?;
                let mut answer = Vec::new();
                stream.take(2 * REQUEST_BYTES_MAX as u64).read_to_end(&mut answer)?;
                return Ok(answer);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Status and body of an answer.
fn read(answer: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(answer).ok()? else { return None };
    Some((response.code?, String::from_utf8_lossy(&answer[length..]).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_address_and_path() {
        let both = |url: &str| split(url).ok();
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(both(DEFAULT_URL), pair("127.0.0.1:9883", "/readyz"));
        assert_eq!(both("http://[::1]:9883/livez"), pair("[::1]:9883", "/livez"));
        assert_eq!(both("http://node-1"), pair("node-1:80", "/readyz"));
        for wrong in ["https://x/", "http:///readyz", "127.0.0.1:9883", "http://x/a b", "http://x/a\r\nb"] {
            assert!(split(wrong).is_err_and(|text| text.contains("is not http://")), "{wrong}");
        }
    }

    #[test]
    fn an_answer_is_its_status_and_text() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n";
        assert_eq!(read(answer), Some((503, "no\n".to_owned())));
        assert_eq!(read(b"SSH-2.0-x\r\n"), None);
    }
}
