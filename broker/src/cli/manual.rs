//! The manual pages mosquorum(8) and mosquorum_passwd(1), and the completions, as they are kept in the repository: packages
//! take them from there, so nothing has to run to build one.
//! Always true: a page has no date and no version; what it says of words comes from [`description`].
use super::{
    completions::{Program, Shell, script},
    description,
};
use clap::Command;
use clap_mangen::Man;
use std::{fmt::Write, path::Path};

/// Writes the pages in place of comparing them.
const WRITE: &str = "MOSQUORUM_WRITE_PAGES";

/// How clap_mangen writes an apostrophe that typesetters do not turn.
const PRELUDE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
const SYNOPSIS: &str = "\
mosquorum [-c FILE] [-d] [-h] [-p PORT] [-q] [-v]
mosquorum COMMAND ...";
const DESCRIPTION: &str = "\
An MQTT broker for MQTT 5.0, 3.1.1 and 3.1 that may be a cluster. It reads the configuration, password and ACL files of
Eclipse Mosquitto 2.1 and takes its flags. Without a configuration file it serves this machine only.
.PP
Started with a command as its first word it is a tool for nodes that run
(\\fBcluster\\fR, \\fBdrain\\fR, \\fBhealthcheck\\fR) or are stopped (\\fBrecover\\fR), or a load generator (\\fBbench\\fR).
Commands find the node of their machine by themselves.
";
const REST: &str = "\
.SH EXIT STATUS
.TP
.B 0
after a normal end; a command has done what was asked
.TP
.B 1
the broker cannot start; a command has not done what was asked, and says why
.TP
.B 2
a \\fBcluster\\fR command found no majority; \\fBstatus\\fR still prints what it knows
.TP
.B 3
a wrong configuration, flag or word
.SH ENVIRONMENT
.TP
.BI MOSQUORUM_ OPTION
sets an option of the configuration file that may stand anywhere in it, such as MOSQUORUM_MAX_PACKET_SIZE=1000000;
commas separate the values of log_dest, log_type and cluster_peer
.TP
.B MOSQUORUM_CLUSTER_ADMIN_SOCKET
the admin socket that commands ask first
.TP
.B PUID, PGID, UMASK_SET
user, group and umask of a broker that root starts
.TP
.BI OTEL_ NAME
the standard variables of OpenTelemetry, for traces and metrics by OTLP
.SH SIGNALS
.TP
.B SIGHUP
reads the configuration again; a file with an error leaves the old settings in force
.TP
.B SIGUSR1
writes a checkpoint
.TP
.B SIGUSR2
prints the tree of subscriptions
.TP
.B SIGRTMIN
opens the log file again
.TP
.B SIGTERM, SIGINT
stop
.SH FILES
.TP
.I /etc/mosquorum/mosquitto.conf
the configuration of the Debian package
.TP
.I /var/lib/mosquorum
its data: never delete it while the node is a member of a cluster
.TP
.I /usr/share/doc/mosquorum
the runbook, the reference of metrics, alerts and a dashboard
.SH SEE ALSO
.BR mosquorum.conf (5),
.BR mosquorum_passwd (1)
";

const PASSWD_REST: &str = "\
.SH DESCRIPTION
Without \\fB\\-b\\fR the password is asked for, twice. The file is replaced whole, by a new one beside it, or stays as it
was; its owner and rights stay.
.SH EXIT STATUS
0 when it was done, 1 when it was not.
.SH SEE ALSO
.BR mosquorum (8),
.BR mosquorum.conf (5)
";

/// What a part of clap_mangen writes, without the lines that it puts in front of each part.
fn part(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes).expect("it fits into memory");
    let text = String::from_utf8(bytes).expect("text");
    let lines = text.lines().filter(|line| !PRELUDE.lines().any(|other| other == *line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The options of a command without their heading; those that it has from its parent, `--help` too, stand there.
fn options(of: &Command, parent: Option<&Command>) -> String {
    let known = parent.into_iter().flat_map(Command::get_arguments).map(|arg| arg.get_id().clone());
    let known: Vec<_> = known.filter(|id| of.get_arguments().any(|arg| arg.get_id() == id)).collect();
    let shown = known.iter().fold(of.clone(), |shown, id| shown.mut_arg(id, |arg| arg.hide(true)));
    let text = part(|to| Man::new(shown).render_options_section(to));
    text.split_once(".SH OPTIONS\n").map_or_else(String::new, |(_, options)| options.to_owned())
}

/// Text in which nothing is a request, and its lines stay lines.
fn plain(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") }
    });
    lines.collect()
}

/// Paragraphs are filled; those with an indented line are tables and stay as they are.
fn paragraphs(text: &str) -> String {
    let each = text.split("\n\n").map(|paragraph| match paragraph.contains("\n  ") {
        true => format!(".PP\n.nf\n{}.fi\n", plain(paragraph)),
        false => format!(".PP\n{}", plain(paragraph)),
    });
    each.collect()
}

fn command(of: &Command, parent: &Command, page: &mut String) {
    let values = of.get_positionals().map(|value| {
        let name = value.get_value_names().map_or(String::new(), |names| names.join(" "));
        if value.is_required_set() { format!(" {name}") } else { format!(" [{name}]") }
    });
    let path = of.get_bin_name().unwrap_or_default();
    let deeper = if of.has_subcommands() { " COMMAND" } else { "" };
    let heading = format!("{path}{}{deeper}", values.collect::<String>());
    let about = of.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, ".SS \"{}\"\n{}.\n", plain(&heading).trim_end(), plain(&about).trim_end());
    if let Some(more) = of.get_after_help() {
        page.push_str(&paragraphs(&more.to_string()));
    }
    page.push_str(&options(of, Some(parent)));
    for sub in of.get_subcommands() {
        command(sub, of, page);
    }
}

fn mosquorum() -> String {
    let mut of = description::mosquorum().override_usage(SYNOPSIS);
    of.build();
    let man = Man::new(of.clone());
    let mut page = format!("{PRELUDE}.TH MOSQUORUM 8 \"\" mosquorum\n");
    page.push_str(&part(|to| {
        man.render_name_section(to)?;
        man.render_synopsis_section(to)
    }));
    let _ = write!(page, ".SH DESCRIPTION\n{DESCRIPTION}.SH OPTIONS\n{}.SH COMMANDS\n", options(&of, None));
    for sub in of.get_subcommands() {
        command(sub, &of, &mut page);
    }
    page.push_str(REST);
    page
}

fn mosquorum_passwd() -> String {
    let of = description::mosquorum_passwd();
    let man = Man::new(of);
    let mut page = format!("{PRELUDE}.TH MOSQUORUM_PASSWD 1 \"\" mosquorum\n");
    page.push_str(&part(|to| {
        man.render_name_section(to)?;
        man.render_synopsis_section(to)?;
        man.render_options_section(to)
    }));
    page.push_str(PASSWD_REST);
    page
}

/// File below the repository, and its text.
fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("deploy/man/mosquorum.8", mosquorum()),
        ("deploy/man/mosquorum_passwd.1", mosquorum_passwd()),
        ("deploy/completions/mosquorum.bash", script(Shell::Bash, Program::Mosquorum)),
        ("deploy/completions/mosquorum.zsh", script(Shell::Zsh, Program::Mosquorum)),
        ("deploy/completions/mosquorum.fish", script(Shell::Fish, Program::Mosquorum)),
        ("deploy/completions/mosquorum_passwd.bash", script(Shell::Bash, Program::Passwd)),
        ("deploy/completions/mosquorum_passwd.zsh", script(Shell::Zsh, Program::Passwd)),
        ("deploy/completions/mosquorum_passwd.fish", script(Shell::Fish, Program::Passwd)),
    ]
}

#[test]
fn the_pages_in_the_repository_are_those_of_the_description() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    for (page, made) in pages() {
        let path = root.join(page);
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, &made).expect("written");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == made, "{page}: run `{WRITE}=1 cargo test -p mosquorum --lib cli::manual`");
    }
}
