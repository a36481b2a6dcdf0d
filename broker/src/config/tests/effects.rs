//! No option is parsed and ignored: each supported one changes the settings, and each setting is read by somebody.
use super::super::options::{self, OptionSpec, Scope, Support};
use super::super::raw::Raw;
use super::{Folder, Settings, Sources};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Surroundings in which options may have a meaning.
pub(super) const SURROUNDINGS: [&str; 6] = [
    "listener 1883\nlistener 1884\nallow_anonymous true\n",
    "listener 1883\ncertfile a\nkeyfile b\n",
    "listener 1883\nenable_proxy_protocol 2\n",
    "cluster_listener 7883\ncluster_insecure true\nlistener 1883\n",
    "cluster_listener 7883\ncluster_cafile a\ncluster_certfile b\ncluster_keyfile c\nlistener 1883\n",
    "",
];
/// The same for options of bridges.
pub(super) const BRIDGES: [&str; 2] = [
    "address h\ntopic # both 0\nremote_username u\nstart_type lazy\n",
    "address h\ntopic # both 0\nbridge_cafile a\nbridge_certfile b\nbridge_keyfile c\n",
];
/// Something for every kind of value.
pub(super) const VALUES: [&str; 21] = [
    "3",
    "true",
    "false",
    "1",
    "2",
    "77",
    "40000",
    "/tmp",
    "3d",
    "h:1",
    "1 2 3",
    "ipv4",
    "websockets",
    "tlsv1.3",
    "json",
    "mqttv50",
    "immediate",
    "lazy",
    "x in 0",
    "stdout",
    "user",
];

pub(super) fn without(text: &str, spec: &OptionSpec) -> String {
    let is_other = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        options::find(name).is_none_or(|other| other.canonical() != spec.canonical())
    };
    text.lines().filter(is_other).map(|line| format!("{line}\n")).collect()
}

/// What the settings say, without the text that they were made of.
pub(super) fn said(folder: &Folder, text: impl AsRef<[u8]>) -> Option<String> {
    let mut settings = Settings::load(&folder.sources(text)).ok()?;
    settings.raw = Raw::default();
    settings.sources = Sources::default();
    settings.notes.clear();
    // Which do not show themselves.
    let secrets: Vec<_> =
        settings.bridges.iter().filter_map(|bridge| Some(bridge.password.as_ref()?.0.clone())).collect();
    Some(format!("{settings:?} {secrets:?}"))
}

fn has_effect(folder: &Folder, spec: &OptionSpec) -> bool {
    let texts: Vec<Vec<String>> = match spec.scope {
        Scope::Bridge => BRIDGES
            .iter()
            .map(|lines| {
                let start = format!("listener 1883\nconnection b\n{}", without(lines, spec));
                let with = VALUES.iter().map(|value| format!("{start}{} {value}\n", spec.name));
                with.chain([start.clone()]).collect()
            })
            .collect(),
        _ => SURROUNDINGS
            .iter()
            .map(|lines| {
                let rest = without(lines, spec);
                let with = VALUES.iter().map(|value| match spec.scope {
                    // Below the listener.
                    Scope::Listener(_) => format!("{rest}{} {value}\n", spec.name),
                    _ => format!("{} {value}\n{rest}", spec.name),
                });
                with.chain([rest.clone()]).collect()
            })
            .collect(),
    };
    texts.iter().any(|texts| {
        let outcomes: Vec<_> = texts.iter().map(|text| said(folder, text)).collect();
        let different: BTreeSet<_> = outcomes.iter().flatten().collect();
        // The last has no line with it: what nothing can be without has an effect, too.
        different.len() > 1 || (different.len() == 1 && outcomes.last() == Some(&None))
    })
}

#[test]
fn every_supported_option_changes_the_settings() {
    let folder = Folder::new();
    let without_effect: Vec<&str> = options::all()
        .filter(|spec| spec.state == Support::Supported)
        // The file's structure has tests of its own.
        .filter(|spec| !matches!(spec.scope, Scope::Structure | Scope::Plugin) && spec.name != "connection")
        .filter(|spec| !has_effect(&folder, spec))
        .map(|spec| spec.name)
        .collect();
    assert_eq!(without_effect, [""; 0], "options without an effect on the settings");
}

#[test]
fn a_default_of_the_option_table_is_what_holds_when_nothing_is_written() {
    let folder = Folder::new();
    let mut compared = 0;
    for spec in options::all().filter(|spec| spec.state == Support::Supported && !spec.default.is_empty()) {
        // One line for each value of a list; a port has to belong to the default listener.
        let values: Vec<&str> = if spec.is_list() { spec.default.split(' ').collect() } else { vec![spec.default] };
        let lines: String = values.iter().map(|value| format!("{} {value}\n", spec.name)).collect();
        let surroundings = match spec.scope {
            Scope::Bridge => BRIDGES.map(|lines| format!("listener 1883\nconnection b\n{lines}")).to_vec(),
            Scope::Structure => vec!["bind_address 127.0.0.1\n".to_owned()],
            _ => SURROUNDINGS.map(str::to_owned).to_vec(),
        };
        for start in surroundings {
            let rest = without(&start, spec);
            let with = match spec.scope {
                Scope::Listener(_) | Scope::Bridge | Scope::Structure => format!("{rest}{lines}"),
                _ => format!("{lines}{rest}"),
            };
            if let (Some(without), Some(with)) = (said(&folder, &rest), said(&folder, with)) {
                assert_eq!(without, with, "{} {}", spec.name, spec.default);
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared} comparisons");
}

fn sources_below(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources_below(&path, into);
        } else {
            into.push(path);
        }
    }
}

/// Everything but the configuration itself and tests.
fn readers() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources_below(&here.join("src"), &mut files);
    sources_below(&here.join("../bridge/src"), &mut files);
    let is_reader = |file: &&PathBuf| {
        let path = file.to_string_lossy();
        // What settings say about themselves counts: `PersistenceSettings::path`.
        let is_configuration = path.contains("/config/") && !path.ends_with("/config/settings.rs");
        !is_configuration && !path.contains("tests")
    };
    files
        .iter()
        .filter(is_reader)
        .map(|file| {
            let text = fs::read_to_string(file).expect("a source");
            text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
        })
        .collect()
}

/// (structure, field) of every `pub struct` of the file.
fn fields(file: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("a source");
    let (mut found, mut structure) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            structure = rest.strip_suffix(" {").map(str::to_owned);
        } else if line == "}" {
            structure = None;
        } else if let (Some(structure), Some(rest)) = (&structure, line.strip_prefix("    pub "))
            && let Some((field, _)) = rest.split_once(':')
        {
            found.push((structure.clone(), field.to_owned()));
        }
    }
    found
}

fn is_read(field: &str, readers: &str) -> bool {
    let access = format!(".{field}");
    readers.match_indices(&access).any(|(at, _)| {
        let next = readers[at + access.len()..].chars().next().unwrap_or(' ');
        !next.is_alphanumeric() && next != '_' && next != '('
    })
}

#[test]
fn every_setting_is_read_outside_the_configuration() {
    let readers = readers();
    let all: Vec<_> = ["src/config/settings.rs", "src/config/bridge_settings.rs", "../bridge/src/settings.rs"]
        .into_iter()
        .flat_map(fields)
        .collect();
    assert!(all.len() > 100, "{} fields: the sources are not written as this test reads them", all.len());
    let unread: Vec<_> = all.iter().filter(|(_, field)| !is_read(field, &readers)).collect();
    assert!(unread.is_empty(), "settings that nobody reads: {unread:?}");
    assert!(!is_read("no_such_setting", &readers));
}
