//! `mosquorum healthcheck`: asks a health listener, for containers that have nothing else to ask with.
use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

/// Asked where neither `--url` nor a configuration file says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9883/readyz";
const TIMEOUT: Duration = Duration::from_secs(3);
/// Of an answer: reasons not to be ready are lines.
const ANSWER_BYTES_MAX: u64 = 16 << 10;
/// Between two questions of one that waits.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks until the status is 200, for so long at most; once at least. `Ok` holds the answer's text.
/// # Errors
/// One line: what was answered last, or why there is no answer.
#[allow(clippy::disallowed_methods)] // a program of its own
pub fn ask_within(url: &str, timeout: Duration) -> Result<String, String> {
    let (authority, path) = split(url)?;
    let since = Instant::now();
    loop {
        let left = timeout.saturating_sub(since.elapsed());
        // Who does not wait gives one answer the usual time.
        let once = if timeout.is_zero() { TIMEOUT } else { left.clamp(PAUSE, TIMEOUT) };
        match ask(url, &authority, &path, once) {
            Err(_) if since.elapsed() + PAUSE < timeout => std::thread::sleep(PAUSE),
            Err(error) if !timeout.is_zero() => return Err(format!("{error} (waited {} s)", timeout.as_secs())),
            answer => return answer,
        }
    }
}

fn ask(url: &str, authority: &str, path: &str, timeout: Duration) -> Result<String, String> {
    let failed = |error: io::Error| format!("Error: no answer from {url}: {error}");
    let answer = exchange(authority, path, timeout).map_err(failed)?;
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

fn exchange(authority: &str, path: &str, timeout: Duration) -> io::Result<Vec<u8>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes())?;
                let mut answer = Vec::new();
                stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
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
    fn who_waits_asks_until_the_node_is_ready_and_no_longer_than_was_said() {
        let listening = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/readyz", listening.local_addr().expect("an address"));
        let answers = ["503 No\r\n\r\nstarting\n", "503 No\r\n\r\nno majority\n", "200 OK\r\n\r\nready\n"];
        let node = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listening.accept().expect("a question");
                let _ = stream.read(&mut [0; 1024]).expect("a question");
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).expect("an answer");
            }
        });
        let once = ask_within(&url, Duration::ZERO);
        assert!(once.is_err_and(|text| text.ends_with("answers 503: starting")));
        assert_eq!(ask_within(&url, Duration::from_secs(60)), Ok("ready".to_owned()));
        node.join().expect("it answered three times");
        // Nobody listens any more.
        let gone = ask_within(&url, Duration::from_millis(1));
        assert!(gone.is_err_and(|text| text.contains("no answer from") && text.ends_with("(waited 0 s)")));
    }

    #[test]
    fn an_answer_is_its_status_and_text() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n";
        assert_eq!(read(answer), Some((503, "no\n".to_owned())));
        assert_eq!(read(b"SSH-2.0-x\r\n"), None);
    }
}
