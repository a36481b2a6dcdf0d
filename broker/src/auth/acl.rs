//! Rules about topics, by Mosquitto's ACL file.
//! Always true: what no rule grants is denied, unless there is no file at all; a name with `+`, `#` or `/` never widens a
//! pattern; `$SYS` cannot be written and `$share/...` is never published to, whatever the rules say; a topic that starts
//! with `$` needs a rule that does.
//! Not here: reading the file (`acl_file`). Bridges are not asked at all.
//!
//! The order of judging: denials for the user, grants for the user, then - if there are patterns and the names are
//! harmless - denials by pattern, grants by pattern.
use crate::logging::lines;
use mosquorum_proto::mqtt::{TopicFilter, TopicName, levels_match};
use ring::digest;
use std::collections::HashMap;
use std::sync::Arc;

/// What a client wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Receive a message.
    Read,
    /// Publish a message, the will included.
    Write,
    Subscribe,
    Unsubscribe,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Grant {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "readwrite",
            Self::Deny => "deny",
        }
    }

    fn covers(self, access: Access) -> bool {
        match self {
            Self::Deny => false,
            Self::ReadWrite => true,
            Self::Read => access == Access::Read,
            Self::Write => access == Access::Write,
        }
    }
}

/// One `topic` or `pattern` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) grant: Grant,
    pub(super) filter: Box<str>,
}

/// The rules of a file.
#[derive(Debug, Default)]
pub struct Acl {
    /// No file: everything is allowed.
    open: bool,
    /// `topic` lines before any `user` line: for clients without a user name, and only for these.
    pub(super) anonymous: Rules,
    pub(super) users: HashMap<Box<str>, Rules>,
    pub(super) patterns: Rules,
}

/// Rules that belong together; shared with every client they hold for.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Arc<Vec<Rule>>);

impl Rules {
    pub(super) fn push(&mut self, rule: Rule) {
        Arc::make_mut(&mut self.0).push(rule);
    }
}

impl Acl {
    /// Without a file: everything but the fixed rules about `$` topics is allowed.
    #[must_use]
    pub fn open() -> Self {
        Self { open: true, ..Self::default() }
    }

    /// Whether there are no rules at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The rights of one client, compiled once. An empty user name is a user name.
    #[must_use]
    pub fn for_client(&self, client_id: &str, username: Option<&str>) -> ClientAcl {
        if self.open {
            return ClientAcl { open: true, user: self.anonymous.clone(), patterns: Arc::default() };
        }
        let user = match username {
            None => self.anonymous.clone(),
            Some(username) => self.users.get(username).cloned().unwrap_or_default(),
        };
        let patterns = if self.patterns.0.is_empty() || is_dangerous(client_id, username) {
            Arc::default()
        } else {
            self.patterns.0.iter().filter_map(|rule| Pattern::new(rule, client_id, username)).collect()
        };
        ClientAcl { open: false, user, patterns }
    }

    /// Whether a message with this topic may be delivered to a client: what [`ClientAcl::may_read`] says, without making the
    /// client's rights first. For clients that are not connected here.
    #[must_use]
    pub fn may_read(&self, client_id: &str, username: Option<&str>, topic: &str) -> bool {
        if topic.starts_with('$') && !is_dollar_allowed(Access::Read, topic) {
            return false;
        }
        if self.open {
            return true;
        }
        let user = match username {
            None => Some(&self.anonymous),
            Some(username) => self.users.get(username),
        };
        let rules = user.into_iter().flat_map(|rules| rules.0.iter());
        let matches = |rule: &Rule| is_match(&rule.filter, topic);
        if let Some(answer) = judge_by(rules, matches, Access::Read, topic) {
            return answer;
        }
        if self.patterns.0.is_empty() || dangerous_name(client_id, username).is_some() {
            return false;
        }
        let matches = |rule: &Rule| is_filled_match(&rule.filter, topic, client_id, username);
        judge_by(self.patterns.0.iter(), matches, Access::Read, topic).unwrap_or(false)
    }

    /// A number that differs where the rules do, the same on every node. 0: no rules at all.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        if self.open {
            return 0;
        }
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut add = |text: &str| {
            // Lengths in front, so that parts cannot run into each other.
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        let mut users: Vec<_> = self.users.iter().collect();
        users.sort_unstable_by_key(|(name, _)| *name);
        let named = users.into_iter().map(|(name, rules)| (&**name, rules));
        for (of, rules) in [("", &self.anonymous), ("", &self.patterns)].into_iter().chain(named) {
            add(of);
            add(&rules.0.len().to_string());
            for rule in rules.0.iter() {
                add(rule.grant.name());
                add(&rule.filter);
            }
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finish().as_ref()[..8]);
        u64::from_be_bytes(first)
    }

    /// One question; a connection asks [`ClientAcl`] instead. `topic` is a Topic Name for `Read` and `Write`.
    #[must_use]
    pub fn check(&self, access: Access, client_id: &str, username: Option<&str>, topic: &str) -> bool {
        self.for_client(client_id, username).may(access, topic)
    }
}

/// Names that patterns must not be filled with; says so in the log, as Mosquitto does.
fn is_dangerous(client_id: &str, username: Option<&str>) -> bool {
    let dangerous = dangerous_name(client_id, username);
    if let Some((kind, name)) = dangerous {
        lines::acl_dangerous_name(kind, name);
    }
    dangerous.is_some()
}

fn dangerous_name<'a>(client_id: &'a str, username: Option<&'a str>) -> Option<(&'static str, &'a str)> {
    let names = [username.map(|name| ("username", name)), Some(("client id", client_id))];
    names.into_iter().flatten().find(|(_, name)| name.contains(['+', '#']))
}

/// The rights of one client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ClientAcl {
    open: bool,
    user: Rules,
    patterns: Arc<[Pattern]>,
}

impl ClientAcl {
    /// Whether a message with this topic may be delivered to the client.
    #[must_use]
    pub fn may_read(&self, topic: &TopicName) -> bool {
        self.may(Access::Read, topic.as_str())
    }

    /// Whether the client may publish to this topic.
    #[must_use]
    pub fn may_write(&self, topic: &TopicName) -> bool {
        self.may(Access::Write, topic.as_str())
    }

    /// Whether the client may subscribe. Mosquitto's ACL file has no rules for subscriptions: everyone may, and each
    /// message is judged by [`Self::may_read`]; a shared subscription is thereby judged by its messages' topics.
    #[must_use]
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        self.may(Access::Subscribe, filter.matched_part())
    }

    /// Whether the client may end a subscription: always.
    #[must_use]
    pub fn may_unsubscribe(&self, filter: &TopicFilter) -> bool {
        self.may(Access::Unsubscribe, filter.matched_part())
    }

    /// Whether `may_read` is true for every topic; then a delivery need not ask.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    fn may(&self, access: Access, topic: &str) -> bool {
        if matches!(access, Access::Subscribe | Access::Unsubscribe) {
            return true;
        }
        if topic.starts_with('$') && !is_dollar_allowed(access, topic) {
            return false;
        }
        if self.open {
            return true;
        }
        let matches = |rule: &Rule| is_match(&rule.filter, topic);
        if let Some(answer) = judge_by(self.user.0.iter(), matches, access, topic) {
            return answer;
        }
        let patterns = self.patterns.iter().map(|rule| (rule.grant, rule.dollar, &*rule.filter));
        judge(patterns, |filter| is_match(filter, topic), access, topic).unwrap_or(false)
    }
}

fn judge_by<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    matches: impl Fn(&Rule) -> bool,
    access: Access,
    topic: &str,
) -> Option<bool> {
    let rules = rules.map(|rule| (rule.grant, rule.filter.starts_with('$'), rule));
    judge(rules, matches, access, topic)
}

/// `None`: no rule says anything. Each rule is (grant, whether it was written with a leading `$`, what it matches).
fn judge<T>(
    rules: impl Iterator<Item = (Grant, bool, T)>,
    matches: impl Fn(T) -> bool,
    access: Access,
    topic: &str,
) -> Option<bool> {
    let dollar = topic.starts_with('$');
    let mut granted = None;
    for (grant, rule_dollar, filter) in rules {
        if dollar != rule_dollar {
            continue;
        }
        if grant == Grant::Deny {
            if matches(filter) {
                return Some(false);
            }
        } else if granted.is_none() && grant.covers(access) && matches(filter) {
            granted = Some(true); // a denial may follow
        }
    }
    granted
}

/// What holds without any file.
fn is_dollar_allowed(access: Access, topic: &str) -> bool {
    if topic.starts_with("$SYS") {
        access == Access::Read || is_match("$SYS/broker/connection/+/state", topic)
    } else {
        !topic.starts_with("$share")
    }
}

/// The caller has compared the leading `$`.
fn is_match(filter: &str, name: &str) -> bool {
    levels_match(filter.split('/'), name)
}

/// [`is_match`] of a `pattern` line with the client's names in it.
fn is_filled_match(filter: &str, name: &str, client_id: &str, username: Option<&str>) -> bool {
    can_be_filled(filter, client_id, username)
        && levels_match(filter.split('/').map(|level| filled(level, client_id, username)), name)
}

fn filled<'a>(level: &'a str, client_id: &'a str, username: Option<&'a str>) -> &'a str {
    match level {
        "%c" => client_id,
        "%u" => username.unwrap_or_default(),
        other => other,
    }
}

/// Whether the line can match anything for this client: a level is never empty, and never more than one level or a wildcard.
fn can_be_filled(filter: &str, client_id: &str, username: Option<&str>) -> bool {
    let is_level = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#']);
    filter.split('/').all(|level| match level {
        "%c" => is_level(client_id),
        "%u" => username.is_some_and(is_level),
        _ => true,
    }) && (username.is_some() || !filter.contains("%u"))
}

/// A `pattern` line with the client's names in it.
#[derive(Debug)]
struct Pattern {
    grant: Grant,
    filter: Box<str>,
    /// The line itself starts with `$`; a name that does changes nothing.
    dollar: bool,
}

impl Pattern {
    /// `None`: the line can match nothing for this client.
    fn new(rule: &Rule, client_id: &str, username: Option<&str>) -> Option<Self> {
        if !can_be_filled(&rule.filter, client_id, username) {
            return None;
        }
        let filter: Vec<&str> = rule.filter.split('/').map(|level| filled(level, client_id, username)).collect();
        let dollar = rule.filter.starts_with('$');
        Some(Self { grant: rule.grant, filter: filter.join("/").into(), dollar })
    }
}
