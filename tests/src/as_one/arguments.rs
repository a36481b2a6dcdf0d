//! Mosquitto's command line, as far as it says where to listen.
use std::{ffi::OsString, path::PathBuf};

/// What the words ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Serve(Serve),
    /// `-d`
    Daemon,
    /// Whatever a broker answers without serving, wrong words among it.
    Other,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Serve {
    pub(super) config: Option<PathBuf>,
    pub(super) ports: Vec<u16>,
    /// Words that every node gets as they are.
    pub(super) rest: Vec<OsString>,
}

pub(super) fn parse(words: &[OsString]) -> Asked {
    let mut serve = Serve::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let understood = match word.to_str().unwrap_or_default() {
            "-d" | "--daemon" => return Asked::Daemon,
            "-q" | "--quiet" | "-v" | "--verbose" => {
                serve.rest.push(word.clone());
                true
            }
            "-c" | "--config-file" => words.next().map(|file| serve.config = Some(file.into())).is_some(),
            "-p" | "--port" => {
                let port = words.next().and_then(|port| port.to_str()?.parse().ok()).filter(|port| *port > 0);
                port.map(|port| serve.ports.push(port)).is_some() && serve.ports.len() <= 10
            }
            "--tls-keylog" => words.next().map(|file| serve.rest.extend([word.clone(), file.clone()])).is_some(),
            _ => false,
        };
        if !understood {
            return Asked::Other;
        }
    }
    Asked::Serve(serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Asked {
        parse(&words.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_says_where_to_listen_is_taken_and_the_rest_passed_on() {
        let expected = Serve {
            config: Some("a.conf".into()),
            ports: vec![1888, 1889],
            rest: ["-v", "--tls-keylog", "keys"].map(OsString::from).to_vec(),
        };
        assert_eq!(parsed("-v -c a.conf -p 1888 -p 1889 --tls-keylog keys"), Asked::Serve(expected));
    }

    #[test]
    fn what_does_not_serve_is_left_to_the_broker() {
        for words in ["--help", "-c", "-p 0", "-p x", "--test-config -c a.conf", "--nonsense"] {
            assert_eq!(parsed(words), Asked::Other, "{words}");
        }
        assert_eq!(parsed("-d -v"), Asked::Daemon);
    }
}
