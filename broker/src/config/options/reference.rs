//! The option table as pages: Markdown for the documentation, roff for mosquorum.conf(5).
use super::{OptionSpec, Scope, Support, all};
use std::fmt::Write;

/// Heading, what it is about, and which rows stand below it.
type Chapter = (&'static str, &'static str, fn(&OptionSpec) -> bool);

const CHAPTERS: [Chapter; 7] = [
    ("Structure of the file", "Lines that begin something: a listener, a bridge, another file.", |spec| {
        spec.scope == Scope::Structure || spec.name == "connection"
    }),
    ("The whole broker", "They may stand anywhere in the file.", |spec| spec.scope == Scope::Global && !spec.ours),
    (
        "Security",
        "They may stand anywhere and hold for all listeners; with `per_listener_settings true` they hold for the \
         listener above them.",
        |spec| spec.scope == Scope::Security,
    ),
    ("Listeners", "They hold for the listener above them, or else for the default listener.", |spec| {
        matches!(spec.scope, Scope::Listener(_))
    }),
    ("Bridges", "They hold for the `connection` above them.", |spec| {
        spec.scope == Scope::Bridge && spec.name != "connection"
    }),
    ("Cluster and operation", "Not in Mosquitto. They may stand anywhere in the file.", |spec| {
        spec.scope == Scope::Global && spec.ours
    }),
    ("Plugins", "Mosquitto's own password-file and acl-file plugins are known by their paths.", |spec| {
        spec.scope == Scope::Plugin
    }),
];

const INTRODUCTION: [&str; 4] = [
    "The file has one option per line, as Mosquitto's has. A line that begins with `#` is a comment.",
    "Later sources win: defaults, the file with all that `include_dir` names, the environment (`MOSQUORUM_` and the \
     name in capitals, for options that may stand anywhere), then the command line.",
    "A switch takes `true` or `false`, also `1` or `0`. A number may be decimal, hexadecimal (`0x`) or octal (`0`). \
     A text has at most 65,535 bytes.",
    "SIGHUP reads the file again. An option that is read at the start only keeps its value then, and the log says so.",
];

/// What becomes of an option that is not simply supported.
fn remark(spec: &OptionSpec) -> Option<(&'static str, &'static str)> {
    match spec.state {
        Support::Supported => None,
        Support::Accepted(note) => Some(("Accepted", note)),
        Support::Refused(reason) => Some(("Refused", reason)),
    }
}

/// `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("# Configuration reference\n\n");
    text.push_str("Made from the option table by `mosquorum --options=markdown`; a test keeps it up to date.\n\n");
    for paragraph in INTRODUCTION {
        let _ = writeln!(text, "{paragraph}\n");
    }
    for (heading, about, belongs) in CHAPTERS {
        let _ = writeln!(text, "## {heading}\n\n{about}\n");
        text.push_str("| option | value | default | SIGHUP | meaning |\n|---|---|---|---|---|\n");
        for spec in all().filter(|spec| belongs(spec)) {
            let default = if spec.default.is_empty() { String::new() } else { format!("`{}`", spec.default) };
            let reload = if spec.reload { "yes" } else { "no" };
            let remark = remark(spec).map_or(String::new(), |(what, why)| format!(" **{what}**: {why}."));
            let ours = if spec.ours && spec.scope != Scope::Global { " Not in Mosquitto." } else { "" };
            let (name, values, meaning) = (spec.name, spec.values, spec.meaning);
            let _ = writeln!(text, "| `{name}` | {values} | {default} | {reload} | {meaning}{ours}{remark} |");
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// mosquorum.conf(5).
#[must_use]
pub fn man() -> String {
    let mut text = String::from(".TH MOSQUORUM.CONF 5 \"\" mosquorum\n.SH NAME\n");
    text.push_str("mosquorum.conf, mosquitto.conf \\- configuration of mosquorum\n.SH DESCRIPTION\n");
    for paragraph in INTRODUCTION {
        let _ = writeln!(text, ".PP\n{}", roff(paragraph));
    }
    for (heading, about, belongs) in CHAPTERS {
        let _ = writeln!(text, ".SH {}\n{}", heading.to_uppercase(), roff(about));
        for spec in all().filter(|spec| belongs(spec)) {
            let _ = writeln!(text, ".TP\n.B {}\n{}.", roff(spec.name), roff(spec.values));
            let _ = writeln!(text, "{}", roff(spec.meaning));
            if !spec.default.is_empty() {
                let _ = writeln!(text, "Default: {}.", roff(spec.default));
            }
            if !spec.reload {
                text.push_str("Read at the start only.\n");
            }
            if let Some((what, why)) = remark(spec) {
                let _ = writeln!(text, "{what}: {}.", roff(why));
            }
        }
    }
    text.push_str(".SH SEE ALSO\n.BR mosquorum (8),\n.BR mosquorum_passwd (1)\n");
    text
}

/// Text in which nothing is a request: no leading dot or quote, no backslash; Markdown's code marks become bold.
fn roff(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut bold = false;
    for character in text.chars() {
        match character {
            '`' => {
                out.push_str(if bold { "\\fR" } else { "\\fB" });
                bold = !bold;
            }
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            other => out.push(other),
        }
    }
    if out.starts_with(['.', '\'']) { format!("\\&{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_stands_in_one_chapter_and_says_what_it_takes_and_means() {
        for spec in all() {
            let chapters = CHAPTERS.iter().filter(|(_, _, belongs)| belongs(spec)).count();
            assert_eq!(chapters, 1, "{}", spec.name);
            assert!(!spec.values.is_empty() && !spec.meaning.is_empty(), "{}", spec.name);
            let text = format!("{}{}", spec.values, spec.meaning);
            assert!(!text.contains(['|', '\n']), "{}: it would break a table", spec.name);
            assert_eq!(text.matches('`').count() % 2, 0, "{}: code marks come in pairs", spec.name);
        }
    }

    #[test]
    fn the_pages_in_the_repository_are_those_of_the_table() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        for (page, form, made) in
            [("docs/configuration.md", "markdown", markdown()), ("deploy/man/mosquorum.conf.5", "man", man())]
        {
            let written = std::fs::read_to_string(format!("{root}/{page}")).expect("the page exists");
            assert!(written == made, "run `mosquorum --options={form} > {page}`");
        }
    }

    #[test]
    fn the_manual_page_has_no_request_by_accident() {
        for line in man().lines().filter(|line| line.starts_with(['.', '\''])) {
            let request = line.split(' ').next().unwrap_or_default();
            assert!([".TH", ".SH", ".PP", ".TP", ".B", ".BR"].contains(&request), "{line}");
        }
    }
}
