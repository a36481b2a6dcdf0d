//! `tcp_wrappers true`: /etc/hosts.allow and /etc/hosts.deny, as hosts_access(5) describes them, for the daemon names
//! `mosquitto` and `mosquorum`.
//! Always true: an entry in hosts.allow that matches lets in, else one in hosts.deny keeps out, else everybody comes in;
//! host names are never looked up, so rules for us that name hosts are an error when they are read, not a surprise later.
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

const ALLOW: &str = "/etc/hosts.allow";
const DENY: &str = "/etc/hosts.deny";
const DAEMONS: [&str; 3] = ["ALL", "mosquitto", "mosquorum"];

/// Both files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpWrappers {
    allow: Vec<Clients>,
    deny: Vec<Clients>,
}

/// A list of clients, without those after EXCEPT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Clients {
    patterns: Vec<Pattern>,
    except: Option<Box<Clients>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    All,
    /// The first bits of an address.
    Network(IpAddr, u32),
}

impl TcpWrappers {
    /// Reads both files; one that does not exist says nothing.
    /// # Errors
    /// One line: what in which file cannot be understood.
    pub fn load() -> Result<Self, String> {
        let read = |path: &str| match fs::read_to_string(Path::new(path)) {
            Ok(text) => parse(&text).map_err(|(line, what)| format!("Error: {path} line {line}: {what}.")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("Error: Unable to open {path}: {error}.")),
        };
        Ok(Self { allow: read(ALLOW)?, deny: read(DENY)? })
    }

    /// Whether a client with this address comes in.
    #[must_use]
    pub fn lets_in(&self, client: IpAddr) -> bool {
        let matches = |rules: &[Clients]| rules.iter().any(|clients| clients.matches(client));
        matches(&self.allow) || !matches(&self.deny)
    }
}

impl Clients {
    fn matches(&self, client: IpAddr) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(client))
            && !self.except.as_ref().is_some_and(|except| except.matches(client))
    }
}

impl Pattern {
    fn matches(&self, client: IpAddr) -> bool {
        match (self, client) {
            (Self::All, _) => true,
            (Self::Network(IpAddr::V4(network), bits), IpAddr::V4(client)) => {
                let kept = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                network.to_bits() & kept == client.to_bits() & kept
            }
            (Self::Network(IpAddr::V6(network), bits), IpAddr::V6(client)) => {
                let kept = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                network.to_bits() & kept == client.to_bits() & kept
            }
            (Self::Network(..), _) => false,
        }
    }
}

/// The rules for us, or the line and what is wrong with it.
fn parse(text: &str) -> Result<Vec<Clients>, (usize, String)> {
    let mut rules = Vec::new();
    let (mut whole, mut began) = (String::new(), 1);
    for (index, line) in text.lines().enumerate() {
        if whole.is_empty() {
            began = index + 1;
        }
        if let Some(line) = line.strip_suffix('\\') {
            whole.push_str(line);
            continue;
        }
        whole.push_str(line);
        let line = std::mem::take(&mut whole);
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        rules.extend(rule(&line).map_err(|what| (began, what))?);
    }
    Ok(rules)
}

/// `daemons : clients [: command]`; `None` if it is about other daemons.
fn rule(line: &str) -> Result<Option<Clients>, String> {
    let (daemons, rest) = split(line).ok_or("expected DAEMONS : CLIENTS")?;
    let names: Vec<&str> = words(daemons).collect();
    let (named, except) = match names.iter().position(|name| *name == "EXCEPT") {
        Some(at) => (&names[..at], &names[at + 1..]),
        None => (&names[..], &[][..]),
    };
    let ours = |names: &[&str]| names.iter().any(|name| DAEMONS.contains(name));
    if !ours(named) || ours(except) {
        return Ok(None);
    }
    let (list, command) = split(rest).unwrap_or((rest, ""));
    if !command.trim().is_empty() {
        return Err("options and commands behind the clients are not supported".to_owned());
    }
    clients(&words(list).collect::<Vec<_>>()).map(Some)
}

/// At the first colon outside brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let at = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '[') - i32::from(*c == ']');
        *c == ':' && depth == 0
    });
    at.map(|(at, _)| (&text[..at], &text[at + 1..]))
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split([' ', '\t', ',']).filter(|word| !word.is_empty())
}

fn clients(words: &[&str]) -> Result<Clients, String> {
    let (words, except) = match words.iter().position(|word| *word == "EXCEPT") {
        Some(at) => (&words[..at], Some(Box::new(clients(&words[at + 1..])?))),
        None => (words, None),
    };
    let patterns = words.iter().map(|word| pattern(word)).collect::<Result<_, _>>()?;
    Ok(Clients { patterns, except })
}

fn pattern(word: &str) -> Result<Pattern, String> {
    let unknown = || format!("'{word}' is no address or network; host names are not looked up");
    if word == "ALL" || word == "KNOWN" {
        return Ok(Pattern::All);
    }
    // Without a look-up a name has no dot in it only on this very machine.
    if word == "LOCAL" {
        return Ok(Pattern::Network(IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
    }
    if let Some(rest) = word.strip_prefix('[') {
        let (address, bits) = rest.split_once(']').ok_or_else(unknown)?;
        let address = address.parse().map_err(|_| unknown())?;
        let bits = match bits.strip_prefix('/') {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= 128).ok_or_else(unknown)?,
            None if bits.is_empty() => 128,
            None => return Err(unknown()),
        };
        return Ok(Pattern::Network(IpAddr::V6(address), bits));
    }
    if let Some(prefix) = word.strip_suffix('.') {
        let parts: Vec<u8> = prefix.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| unknown())?;
        let mut bytes = [0; 4];
        bytes.get_mut(..parts.len()).ok_or_else(unknown)?.copy_from_slice(&parts);
        return Ok(Pattern::Network(IpAddr::from(bytes), 8 * parts.len() as u32));
    }
    let (address, mask) = word.split_once('/').unwrap_or((word, "32"));
    let address: Ipv4Addr = address.parse().map_err(|_| unknown())?;
    let bits = match mask.parse::<Ipv4Addr>() {
        Ok(mask) if mask.to_bits().leading_ones() == mask.to_bits().count_ones() => mask.to_bits().count_ones(),
        Ok(_) => return Err(unknown()),
        Err(_) => mask.parse().ok().filter(|bits| *bits <= 32).ok_or_else(unknown)?,
    };
    Ok(Pattern::Network(IpAddr::V4(address), bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrappers(allow: &str, deny: &str) -> TcpWrappers {
        TcpWrappers { allow: parse(allow).expect("rules"), deny: parse(deny).expect("rules") }
    }

    fn lets_in(wrappers: &TcpWrappers, client: &str) -> bool {
        wrappers.lets_in(client.parse().expect("an address"))
    }

    #[test]
    fn what_is_allowed_comes_in_whatever_is_denied() {
        let rules = wrappers(
            "# comment\nsshd: ALL\nmosquitto: 10.1. 192.0.2.0/24 EXCEPT 192.0.2.7, 10.1.9.\nmosquitto : \\\n [2001:db8::]/32\n",
            "ALL: ALL\n",
        );
        for (client, expected) in [
            ("10.1.2.3", true),
            ("10.1.9.3", false),
            ("10.2.2.3", false),
            ("192.0.2.8", true),
            ("192.0.2.7", false),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
        ] {
            assert_eq!(lets_in(&rules, client), expected, "{client}");
        }
    }

    #[test]
    fn without_a_rule_everybody_comes_in() {
        let rules = wrappers("", "sshd: ALL\nALL EXCEPT mosquitto: ALL\nmosquorum: 198.51.100.0/255.255.255.0\n");
        assert!(lets_in(&rules, "192.0.2.1") && !lets_in(&rules, "198.51.100.9"));
        assert!(lets_in(&TcpWrappers::default(), "192.0.2.1"));
    }

    #[test]
    fn rules_that_need_names_or_commands_are_reported_with_their_line() {
        for (text, line) in [
            ("\nmosquitto: .example.org\n", 2),
            ("mosquitto: host\n", 1),
            ("mosquitto: 10.0.0.0/255.0.255.0\n", 1),
            ("mosquitto: [::1]/129\n", 1),
            ("mosquitto: 1.2.3.4.5.\n", 1),
            ("mosquitto: ALL: spawn x\n", 1),
            ("mosquitto\n", 1),
        ] {
            assert_eq!(parse(text).map_err(|(line, _)| line), Err(line), "{text}");
        }
        assert_eq!(parse("sshd: .example.org\n"), Ok(Vec::new()));
    }
}
