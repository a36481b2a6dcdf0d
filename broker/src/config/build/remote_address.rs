//! The words of an `address` line.
//! Always true: what cannot be the name of a host is refused, not tried: whoever answers under such a name gets the password.
use crate::config::values::invalid;
use crate::config::{ConfigError, RemoteAddress};
use std::net::Ipv6Addr;

const DEFAULT_PORT: u16 = 1883;
const EXPECTED: &str = "HOST[:PORT], a blank before a comment, and an IPv6 address with its port as in [::1]:1883";

/// `HOST[:PORT]`, port 1883 by default. Letters or a comma behind the port are not read, as in Mosquitto.
/// # Errors
/// Anything that can be neither a host name nor an address, `#` in particular.
pub(super) fn parse(word: &str) -> Result<RemoteAddress, ConfigError> {
    let wrong = || invalid("address", word, EXPECTED);
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) => (host, self::port(port).ok_or_else(wrong)?),
        None => (word, DEFAULT_PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_valid = match bare.unwrap_or(host) {
        v6 if bare.is_some() || v6.contains(':') => is_ipv6(v6),
        name => is_name(name),
    };
    if is_valid { Ok(RemoteAddress { host: bare.unwrap_or(host).to_owned(), port }) } else { Err(wrong()) }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ',');
    let port = digits.parse().ok().filter(|port| *port > 0)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(port)
}

/// With the interface of a link-local one behind `%`.
fn is_ipv6(text: &str) -> bool {
    let (address, interface) = text.split_once('%').unwrap_or((text, "-"));
    address.parse::<Ipv6Addr>().is_ok() && !interface.is_empty() && is_plain(interface)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && is_plain(text)
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_a_port_of_their_own_or_the_usual_one() {
        for (word, host, port) in [
            ("broker", "broker", 1883),
            ("broker_1.example-site.org:8883", "broker_1.example-site.org", 8883),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:1884", "::1", 1884),
            ("fe80::1%eth0:1884", "fe80::1%eth0", 1884),
            ("::1:1884", "::1", 1884),
            ("broker:1883tcp", "broker", 1883),
            ("broker:1883,", "broker", 1883),
        ] {
            let found = parse(word).unwrap();
            assert_eq!((found.host.as_str(), found.port), (host, port), "{word}");
        }
    }

    #[test]
    fn what_can_be_no_host_is_refused() {
        let words = [
            "h:1#was",
            "h#was",
            "#",
            "//",
            "--",
            "h,",
            "(was",
            "localhost)",
            "*",
            "h:",
            "h:0",
            "h:65536",
            "h:+1",
            "h:x",
            ":1",
            "[::1",
            "[h]:1",
            "::1",
            "fe80::1%:1",
            "h/x:1",
            "\"h:1\"",
            "mqtt://h:1",
            "h:1:2",
        ];
        for word in words {
            let error = parse(word).map(|found| panic!("{word}: {found}")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("Error: Invalid 'address' value ({word}).")), "{error}");
        }
    }
}
