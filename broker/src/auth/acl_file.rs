//! `acl_file`: `user`, `topic [read|write|readwrite|deny] filter` and `pattern ...` lines.
//! Always true: a file with any damaged line is refused as a whole; an empty one grants nothing.
use super::acl::{Acl, Grant, Rule};
use super::{AuthFileError, file};
use mosquorum_proto::mqtt::TopicFilter;
use std::path::Path;

/// Reads a file.
pub(super) fn load(path: &Path) -> Result<Acl, AuthFileError> {
    parse(&file::read(path, "acl_file")?, &path.display().to_string())
}

/// Reads the text of a file called `name`.
/// # Errors
/// The first damaged line.
pub fn parse(text: &str, name: &str) -> Result<Acl, AuthFileError> {
    let mut acl = Acl::default();
    let mut user: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.starts_with('#') || line.trim_start_matches(' ').is_empty() {
            continue;
        }
        let error =
            |what: String| AuthFileError::Damaged(format!("Error: {what} in acl_file \"{name}\" line {}.", index + 1));
        let (key, rest) = split(line);
        match key {
            "user" if rest.is_empty() => return Err(error("Missing username".to_owned())),
            "user" => user = Some(rest),
            "topic" => {
                let rule = rule(rest).map_err(error)?;
                let rules = match user {
                    None => &mut acl.anonymous,
                    Some(user) => acl.users.entry(user.into()).or_default(),
                };
                rules.push(rule);
            }
            "pattern" => {
                let rule = rule(rest).map_err(error)?;
                if !rule.filter.contains("%c") && !rule.filter.contains("%u") {
                    let filter = &rule.filter;
                    crate::warning!("Warning: ACL pattern '{filter}' does not contain '%c' or '%u'.");
                }
                acl.patterns.push(rule);
            }
            _ => {
                return Err(error(format!("Invalid line \"{line}\", expected user, topic or pattern,")));
            }
        }
    }
    Ok(acl)
}

/// The first word and what follows it, without blanks around either.
fn split(line: &str) -> (&str, &str) {
    let line = line.trim_start_matches(' ');
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word, rest.trim())
}

/// `[access] filter`
fn rule(text: &str) -> Result<Rule, String> {
    let (first, rest) = split(text);
    if first.is_empty() {
        return Err("Empty topic".to_owned());
    }
    let (grant, filter) = match (first, rest) {
        (filter, "") => (Grant::ReadWrite, filter),
        ("read", filter) => (Grant::Read, filter),
        ("write", filter) => (Grant::Write, filter),
        ("readwrite", filter) => (Grant::ReadWrite, filter),
        ("deny", filter) => (Grant::Deny, filter),
        (other, _) => {
            return Err(format!("Invalid topic access type \"{other}\", expected read, write, readwrite or deny,"));
        }
    };
    // `$share` stands for nothing here; the filter is what messages are compared with.
    if TopicFilter::try_from(filter).is_err() && !filter.starts_with("$share/") {
        return Err(format!("Invalid ACL topic \"{filter}\""));
    }
    Ok(Rule { grant, filter: filter.into() })
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
