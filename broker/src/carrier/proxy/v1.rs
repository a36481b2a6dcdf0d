//! Version 1: one line of text.
use super::{Corrupt, Header};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the longest line, its end included.
pub(super) const LINE_MAX: usize = 107;

const BEGIN: &str = "PROXY ";

/// Whether these can be the first bytes of a line: who speaks something else need not be waited for.
pub(super) fn may_become_one(bytes: &[u8]) -> bool {
    BEGIN.bytes().zip(bytes).all(|(expected, byte)| expected == *byte)
}

/// Takes a whole line apart, with its end.
/// # Errors
/// [`Corrupt`]
pub(super) fn line(bytes: &[u8]) -> Result<Header, Corrupt> {
    let text = bytes.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(Corrupt)?;
    let text = text.strip_prefix(BEGIN).ok_or(Corrupt)?;
    let (family, rest) = text.split_once(' ').unwrap_or((text, ""));
    if family == "UNKNOWN" {
        return Ok(Header::default());
    }
    let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
    let [from, to, from_port, to_port] = words[..] else { return Err(Corrupt) };
    let both_are = |is: fn(&str) -> bool| if is(from) && is(to) { Ok(()) } else { Err(Corrupt) };
    match family {
        "TCP4" => both_are(|address| address.parse::<Ipv4Addr>().is_ok())?,
        "TCP6" => both_are(|address| address.parse::<Ipv6Addr>().is_ok())?,
        _ => return Err(Corrupt),
    }
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0).ok_or(Corrupt);
    port(to_port)?;
    Ok(Header { client: Some((from.to_owned(), port(from_port)?)), tls: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_client() {
        let client = |text: &str| line(text.as_bytes()).map(|header| header.client);
        assert_eq!(client("PROXY TCP6 2001:db8::1 ::1 7 8\r\n"), Ok(Some(("2001:db8::1".to_owned(), 7))));
        assert_eq!(client("PROXY UNKNOWN\r\n"), Ok(None));
    }

    #[test]
    fn a_line_that_is_not_exactly_right_is_corrupt() {
        for wrong in [
            "PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234",
            "PROXY TCP3 192.0.2.5 127.0.0.1 6275 1234\r\n",
            "PROXY TCP4 192.0.2.5 127.0.0.1 6275\r\n",
            "PROXY TCP4 192.0.2.5 127.0.0.1 6275 0\r\n",
            "PROXY TCP4 192.0.2.5 127.0.0.1 65536 1\r\n",
            "PROXY TCP4 192.0.2.256 127.0.0.1 1 1\r\n",
            "PROXY TCP6 192.0.2.5 127.0.0.1 1 1\r\n",
            "PROXY TCP4 192.0.2.5 127.0.0.1 1 1 1\r\n",
            "PROXY TCP4 \r\n",
            "GET / HTTP/1.1\r\n",
            "\r\n",
            "",
        ] {
            assert_eq!(line(wrong.as_bytes()), Err(Corrupt), "{wrong:?}");
        }
        assert_eq!(line(b"PROXY UNKNOWN \xff\r\n"), Err(Corrupt));
    }
}
