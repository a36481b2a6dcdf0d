//! Which names may join, and who may say so.
//! Always true: a name that an operator removed, and no member has, does not join until it is added; otherwise one that is listed (hosts of
//! `cluster_peer`, `cluster_allow`), that is a member's (a lost disk comes back under its name), or that was added. Only
//! names for which the certificate is valid count; of the cluster's authority to be is not enough.
//! Pure: what is known is handed in.
use crate::{node::shared::NodeParts, raft::Engine, state::Word, transport::host_of};

/// Who says that it is whom.
pub(crate) struct Claim<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: &'a str,
    /// Those of name and host for which its certificate is valid.
    pub(crate) proven: &'a [String],
}

#[derive(Default)]
pub(crate) struct Rules {
    /// Of `cluster_peer`.
    hosts: Vec<String>,
    /// `cluster_allow`.
    patterns: Vec<String>,
    /// Names and hosts of members.
    members: Vec<String>,
    words: Vec<(String, Word)>,
}

impl Rules {
    pub(crate) fn of(shared: &NodeParts, engine: Option<&Engine>) -> Self {
        let members = engine.map(|engine| engine.view().members).unwrap_or_default();
        let names = members.into_iter().flat_map(|m| [host_of(&m.address).to_owned(), m.name]);
        let state = shared.state.read();
        Self {
            hosts: shared.settings.peers.iter().map(|peer| host_of(peer).to_owned()).collect(),
            patterns: shared.settings.allow.clone(),
            members: names.collect(),
            words: state.admissions().map(|(name, word)| (name.to_string(), word.clone())).collect(),
        }
    }

    /// Whether a new node may join.
    /// # Errors
    /// Why not, and what to do.
    pub(crate) fn judge(&self, claim: &Claim<'_>) -> Result<(), String> {
        let Claim { name, address, proven } = claim;
        let host = host_of(address);
        // One that is a member all the same joined after that.
        let is_removed = |wanted: &str| {
            let said = self.words.iter().any(|(name, word)| same(name, wanted) && *word == Word::Removed);
            said && !self.is_a_members(wanted)
        };
        if is_removed(name) || is_removed(host) {
            return Err(format!(
                "`{name}` was removed from the cluster: `mosquorum cluster add {name} {address}` on a member lets it in again"
            ));
        }
        if proven.iter().any(|proven| self.lists(proven) || self.is_a_members(proven) || self.was_added(proven)) {
            return Ok(());
        }
        Err(format!(
            "`{name}` ({address}) is on nobody's list: `mosquorum cluster add {name} {address}` on a member lets it in, or \
             its host as cluster_peer, or cluster_allow with its name, on the members"
        ))
    }

    /// Whether a node without a cluster, or one that left it, lets this one say where to join.
    pub(crate) fn may_invite(&self, proven: &[String]) -> bool {
        let nobody_is_listed = self.hosts.is_empty() && self.patterns.is_empty() && self.members.is_empty();
        nobody_is_listed || proven.iter().any(|proven| self.lists(proven) || self.is_a_members(proven))
    }

    fn lists(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| same(host, name)) || self.patterns.iter().any(|pattern| matches(pattern, name))
    }

    fn is_a_members(&self, name: &str) -> bool {
        self.members.iter().any(|member| same(member, name))
    }

    fn was_added(&self, wanted: &str) -> bool {
        self.words
            .iter()
            .any(|(name, word)| matches!(word, Word::Added { host } if same(name, wanted) || same(host, wanted)))
    }
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// `*` stands for any characters, or none.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase(), name.to_ascii_lowercase());
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let text = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        Rules {
            hosts: text(&["a.example", "b.example"]),
            patterns: text(&["mq-*.peers.example"]),
            members: text(&["node-1", "10.0.0.1", "node-4", "10.0.0.4"]),
            words: vec![
                ("node-3".into(), Word::Removed),
                ("node-4".into(), Word::Removed),
                ("node-5".into(), Word::Added { host: "e.example".into() }),
            ],
        }
    }

    fn judge(name: &str, address: &str, proven: &[&str]) -> Result<(), String> {
        let proven: Vec<String> = proven.iter().map(|&one| one.to_owned()).collect();
        rules().judge(&Claim { name, address, proven: &proven })
    }

    #[test]
    fn who_is_listed_a_member_or_added_may_join_and_nobody_else() {
        for (name, address, proven) in [
            ("any", "A.example:1", "A.example"),
            ("mq-7", "mq-7.peers.example:1", "mq-7.peers.example"),
            ("node-4", "10.9.9.9:1", "node-4"),
            ("node-5", "other:1", "node-5"),
            ("five", "e.example:1", "e.example"),
        ] {
            assert_eq!(judge(name, address, &[proven]), Ok(()), "{name}");
        }
        let why = judge("stranger", "c.example:1", &["stranger", "c.example"]).unwrap_err();
        assert!(why.contains("cluster add stranger c.example:1"), "{why}");
        // A certificate that is valid for neither name nor host says nothing.
        assert!(judge("node-4", "a.example:1", &[]).is_err());
    }

    #[test]
    fn a_removed_name_is_refused_until_it_is_added_again() {
        let why = judge("node-3", "a.example:1", &["node-3", "a.example"]).unwrap_err();
        assert!(why.contains("was removed") && why.contains("cluster add node-3 a.example:1"), "{why}");
        let mut rules = rules();
        rules.words = vec![("node-3".into(), Word::Added { host: "x".into() })];
        let proven = ["node-3".to_owned()];
        assert_eq!(rules.judge(&Claim { name: "node-3", address: "y:1", proven: &proven }), Ok(()));
    }

    #[test]
    fn a_node_without_a_cluster_is_invited_by_those_it_lists_or_if_it_lists_nobody_by_anybody() {
        let proven = |name: &str| vec![name.to_owned()];
        assert!(rules().may_invite(&proven("b.example")) && rules().may_invite(&proven("mq-0.peers.example")));
        assert!(!rules().may_invite(&proven("c.example")) && !rules().may_invite(&[]));
        assert!(Rules::default().may_invite(&proven("c.example")));
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, matched) in [
            ("mq-*.peers.ns.svc", "mq-12.peers.ns.svc", true),
            ("mq-*.peers.ns.svc", "mq-12.peers.ns.svc.evil", false),
            ("mq-*.peers.ns.svc", "xmq-1.peers.ns.svc", false),
            ("*", "anything", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, name), matched, "{pattern} {name}");
        }
    }
}
