//! `ciphers` and `ciphers_tls1.3`: OpenSSL's names for what rustls can do.
//! Always true: the order of the list is the server's order of preference; a list that leaves nothing is an error.
//!
//! rustls has the nine suites below and no others: no DHE, no RSA key exchange, no CBC. Names of those are left out with
//! a warning. Of OpenSSL's language for lists, `:`, `!`, `-`, `+` between words, and the usual words are understood.
use rustls::{CipherSuite, SupportedCipherSuite, crypto::ring::cipher_suite as suites};

/// One suite of TLS 1.2 with every word that selects it, its own name first.
struct Tls12 {
    suite: SupportedCipherSuite,
    words: [&'static str; 6],
}

/// What selects all of [`TLS12`].
const ANY: [&str; 8] = ["DEFAULT", "ALL", "HIGH", "TLSv1.2", "ECDHE", "EECDH", "kECDHE", "kEECDH"];

/// In rustls' order, which is that of OpenSSL.
const TLS12: [Tls12; 6] = [
    Tls12 {
        suite: suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        words: ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDSA", "aECDSA", "AESGCM", "AES256", "AES"],
    },
    Tls12 {
        suite: suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        words: ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA", "aECDSA", "AESGCM", "AES128", "AES"],
    },
    Tls12 {
        suite: suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        words: ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDSA", "aECDSA", "CHACHA20", "CHACHA20", "CHACHA20"],
    },
    Tls12 {
        suite: suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        words: ["ECDHE-RSA-AES256-GCM-SHA384", "aRSA", "RSA", "AESGCM", "AES256", "AES"],
    },
    Tls12 {
        suite: suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        words: ["ECDHE-RSA-AES128-GCM-SHA256", "aRSA", "RSA", "AESGCM", "AES128", "AES"],
    },
    Tls12 {
        suite: suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        words: ["ECDHE-RSA-CHACHA20-POLY1305", "aRSA", "RSA", "CHACHA20", "CHACHA20", "CHACHA20"],
    },
];

const TLS13: [(&str, SupportedCipherSuite); 3] = [
    ("TLS_AES_256_GCM_SHA384", suites::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suites::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", suites::TLS13_AES_128_GCM_SHA256),
];

/// What a list amounts to.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub suites: Vec<SupportedCipherSuite>,
    /// Words that mean nothing here.
    pub unknown: Vec<String>,
}

impl Tls12 {
    fn answers_to(&self, word: &str) -> bool {
        self.words.contains(&word) || ANY.contains(&word) || iana_name(self.suite) == Some(word)
    }
}

/// `ciphers`; all without it.
pub(super) fn tls12(list: Option<&str>) -> Selection {
    let Some(list) = list else {
        return Selection { suites: TLS12.iter().map(|entry| entry.suite).collect(), unknown: Vec::new() };
    };
    let mut selection = Selection::default();
    let mut never = Vec::new();
    for word in words(list) {
        let (sign, names) = match word.as_bytes()[0] {
            sign @ (b'!' | b'-' | b'+' | b'@') => (sign, &word[1..]),
            _ => (b' ', word),
        };
        let named: Vec<&Tls12> =
            TLS12.iter().filter(|entry| names.split('+').all(|name| entry.answers_to(name))).collect();
        match sign {
            b'@' => {}
            b' ' if named.is_empty() => selection.unknown.push(word.to_owned()),
            b' ' => add(&mut selection.suites, named.iter().map(|entry| entry.suite)),
            b'+' => {
                let (last, first): (Vec<_>, Vec<_>) = selection.suites.iter().partition(|suite| has(&named, suite));
                selection.suites = [first, last].concat();
            }
            sign => {
                selection.suites.retain(|suite| !has(&named, suite));
                if sign == b'!' {
                    never.extend(named);
                }
            }
        }
    }
    selection.suites.retain(|suite| !has(&never, suite));
    selection
}

fn has(named: &[&Tls12], suite: &SupportedCipherSuite) -> bool {
    named.iter().any(|entry| entry.suite == *suite)
}

/// `ciphers_tls1.3`; all without it.
pub(super) fn tls13(list: Option<&str>) -> Selection {
    let Some(list) = list else {
        return Selection { suites: TLS13.iter().map(|(_, suite)| *suite).collect(), unknown: Vec::new() };
    };
    let mut selection = Selection::default();
    for word in words(list) {
        match TLS13.iter().find(|(name, _)| *name == word) {
            Some((_, suite)) => add(&mut selection.suites, [*suite]),
            None => selection.unknown.push(word.to_owned()),
        }
    }
    selection
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty())
}

fn add(suites: &mut Vec<SupportedCipherSuite>, more: impl IntoIterator<Item = SupportedCipherSuite>) {
    for suite in more {
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
}

fn iana_name(suite: SupportedCipherSuite) -> Option<&'static str> {
    suite.suite().as_str()
}

/// The name that OpenSSL, and so Mosquitto's log, gives a suite.
pub(super) fn openssl_name(suite: CipherSuite) -> &'static str {
    let tls12 = TLS12.iter().map(|entry| (entry.words[0], entry.suite));
    let named = tls12.chain(TLS13).find(|(_, ours)| ours.suite() == suite);
    named.map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(selection: &Selection) -> Vec<&'static str> {
        selection.suites.iter().map(|suite| openssl_name(suite.suite())).collect()
    }

    #[test]
    fn without_a_list_everything_is_offered() {
        assert_eq!(tls12(None).suites.len(), 6);
        assert_eq!(tls13(None).suites.len(), 3);
    }

    #[test]
    fn names_keep_their_order_and_unknown_ones_are_reported() {
        let list = "ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES256-SHA:TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,ECDHE-RSA-CHACHA20-POLY1305";
        let selection = tls12(Some(list));
        assert_eq!(names(&selection), ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"]);
        assert_eq!(selection.unknown, ["DHE-RSA-AES256-SHA"]);
        let selection = tls13(Some("TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256"));
        assert_eq!(names(&selection), ["TLS_AES_128_GCM_SHA256"]);
        assert_eq!(selection.unknown, ["TLS_AES_128_CCM_SHA256"]);
    }

    #[test]
    fn usual_words_select_and_exclude() {
        assert_eq!(tls12(Some("HIGH:!aNULL:!MD5:@STRENGTH")).suites.len(), 6);
        assert_eq!(
            names(&tls12(Some("EECDH+AESGCM:!AES128"))),
            ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(
            names(&tls12(Some("!ECDSA:ALL:-CHACHA20:+AES256"))),
            ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
    }

    #[test]
    fn a_list_without_a_usable_name_selects_nothing() {
        assert!(tls12(Some("invalid")).suites.is_empty());
        assert!(tls12(Some("!ALL")).suites.is_empty());
        assert!(tls13(Some("invalid")).suites.is_empty());
    }
}
