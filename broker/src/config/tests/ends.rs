//! Where values end: each option with a comment, another word, tabs, capitals, CRLF, quotes and what else is put around it.
use super::super::options::{self, Extent, OptionSpec, Scope, Support};
use super::effects::{BRIDGES, SURROUNDINGS, VALUES, said, without};
use super::*;
use mosquorum_bridge::{RestartTimeout, StartType};

/// An option in surroundings in which it changes what the settings say.
struct Sample {
    spec: &'static OptionSpec,
    name: String,
    value: String,
    before: String,
    after: String,
}

impl Sample {
    fn text(&self, line: &[u8]) -> Vec<u8> {
        [self.before.as_bytes(), line, b"\n", self.after.as_bytes()].concat()
    }
    fn says(&self, folder: &Folder, line: impl AsRef<[u8]>) -> Option<String> {
        said(folder, self.text(line.as_ref()))
    }
    /// Neither a number of words nor the rest of the line.
    fn ends_in_a_word(&self) -> bool {
        self.spec.extent != Extent::Line
    }

    fn in_place(spec: &'static OptionSpec, surroundings: &str, value: &str) -> Self {
        let rest = without(surroundings, spec);
        let (before, after) = match spec.scope {
            Scope::Bridge => (format!("listener 1883\nconnection b\n{rest}"), String::new()),
            Scope::Listener(_) => (rest, String::new()),
            _ => (String::new(), rest),
        };
        Self { spec, name: spec.name.to_owned(), value: value.to_owned(), before, after }
    }

    /// What gives the file its structure, and plugins.
    fn structural(folder: &Folder) -> Vec<Self> {
        let include = folder.file("conf.d/a.conf", "max_keepalive 5\n");
        let include = include.parent().unwrap().display().to_string();
        let plugin = "plugin mosquitto_acl_file.so\n";
        let rows: [(&str, &str, &str, &str); 10] = [
            ("listener", "7 h", "", ""),
            ("port", "7", "", ""),
            ("bind_address", "h", "", ""),
            ("connection", "x", "", "address h\ntopic # both 0\n"),
            ("include_dir", &include, "", ""),
            ("plugin", "mosquitto_acl_file.so", "", "plugin_opt_acl_file a\n"),
            ("plugin_load", "x mosquitto_acl_file.so", "listener 7\n", "plugin_opt_acl_file a\nplugin_use x\n"),
            ("plugin_use", "x", "plugin_load x mosquitto_acl_file.so\nlistener 7\n", "plugin_opt_acl_file a\n"),
            ("plugin_opt_acl_file", "a", plugin, ""),
            ("auth_opt_acl_file", "a", plugin, ""),
        ];
        let of_row = |(name, value, before, after): (&str, &str, &str, &str)| {
            let spec = options::find(name).unwrap();
            let (name, value) = (name.to_owned(), value.to_owned());
            Self { spec, name, value, before: before.to_owned(), after: after.to_owned() }
        };
        rows.into_iter().map(of_row).collect()
    }

    fn all(folder: &Folder) -> Vec<Self> {
        let mut all = Self::structural(folder);
        let others = options::all().filter(|spec| spec.state == Support::Supported);
        let others = others.filter(|spec| all.iter().all(|sample| sample.spec.name != spec.name));
        let others: Vec<Self> = others.map(|spec| Self::with_effect(folder, spec)).collect();
        all.extend(others);
        all
    }

    fn with_effect(folder: &Folder, spec: &'static OptionSpec) -> Self {
        let surroundings: &[&str] = if spec.scope == Scope::Bridge { &BRIDGES } else { &SURROUNDINGS };
        let pairs = surroundings.iter().flat_map(|lines| VALUES.iter().map(move |value| (lines, value)));
        let mut samples = pairs.map(|(lines, value)| Self::in_place(spec, lines, value));
        let mut without: Option<(String, Option<String>)> = None;
        let mut has_effect = |sample: &Self| {
            let place = format!("{}{}", sample.before, sample.after);
            if without.as_ref().is_none_or(|(known, _)| *known != place) {
                without = Some((place, sample.says(folder, "")));
            }
            let with = sample.says(folder, format!("{} {}", sample.name, sample.value));
            with.is_some() && without.as_ref().is_some_and(|(_, without)| *without != with)
        };
        samples.find(|sample| has_effect(sample)).unwrap_or_else(|| panic!("no value for {}", spec.name))
    }
}

/// Lines that each option reads as if nothing were around its value, and lines that it does not.
fn forms(sample: &Sample) -> (Vec<String>, Vec<String>) {
    let (name, value) = (&sample.name, &sample.value);
    let tabs = value.replace(' ', "\t");
    let mut same = vec![format!("  {name}   {value}  \t"), format!("\t{name}\t {tabs}\t"), format!("{name} {value}\r")];
    let mut different = vec![format!("{name} # {value}"), format!("{name} #{value}"), name.clone()];
    let quoted = format!("{name} \"{value}\"");
    if sample.spec.extent == Extent::Topic {
        same.push(quoted)
    } else {
        different.push(quoted)
    }
    let comments = ["# was localhost before", "#was 127.0.0.1:1", "# \"quoted\"", "#"];
    for comment in comments.map(|comment| [format!("{name} {value} {comment}"), format!("{name} {value}\t{comment}")]) {
        if sample.ends_in_a_word() { same.extend(comment) } else { different.extend(comment) }
    }
    match sample.spec.extent {
        Extent::Words(1) | Extent::LogDest => same.push(format!("{name} {value} extra")),
        Extent::Word | Extent::Line => different.push(format!("{name} {value} extra")),
        // The next word has a meaning.
        Extent::Words(_) | Extent::Topic => {}
    }
    (same, different)
}

#[test]
fn every_option_ends_its_value_where_the_table_says() {
    let folder = Folder::new();
    for sample in Sample::all(&folder) {
        let plain = sample.says(&folder, format!("{} {}", sample.name, sample.value));
        assert!(plain.is_some(), "{} {}", sample.name, sample.value);
        let (same, different) = forms(&sample);
        for line in same {
            assert!(sample.says(&folder, &line) == plain, "{line:?} is read in another way");
        }
        for line in different {
            assert!(sample.says(&folder, &line) != plain, "{line:?} is read as if nothing were there");
        }
        let whole = String::from_utf8(sample.text(format!("{} {}", sample.name, sample.value).as_bytes())).unwrap();
        for text in [whole.replace('\n', "\r\n"), format!("\u{feff}{whole}"), whole.trim_end().to_owned()] {
            assert!(said(&folder, &text) == plain, "{text:?} is read in another way");
        }
        // A comment may be in another encoding, a value not.
        let latin = [sample.name.as_bytes(), b" ", sample.value.as_bytes(), b" # f\xfcr"].concat();
        let latin = sample.says(&folder, latin);
        assert!(latin == plain.filter(|_| sample.ends_in_a_word()), "{} and a comment in Latin-1", sample.name);
    }
}

#[test]
fn names_of_options_and_their_known_words_are_in_small_letters() {
    let folder = Folder::new();
    for sample in Sample::all(&folder) {
        let line = format!("{} {}", sample.name.to_ascii_uppercase(), sample.value);
        let error = Settings::load(&folder.sources(sample.text(line.as_bytes()))).unwrap_err().to_string();
        assert!(error.contains("Error: Unknown configuration variable"), "{error}");
        if ["true", "false"].contains(&sample.value.as_str()) && sample.ends_in_a_word() {
            let line = format!("{} {}", sample.name, sample.value.to_ascii_uppercase());
            assert_eq!(sample.says(&folder, &line), None, "{line}");
        }
    }
}

fn warnings(text: &str) -> Vec<String> {
    let notes = settings(text).notes.into_iter().filter(|note| note.level == Level::Warning);
    notes.map(|note| note.text).collect()
}

#[test]
fn words_that_are_not_read_are_reported_and_comments_are_not() {
    for text in ["log_type error # warning\n", "listener 1 # h\n", "max_keepalive 5 # s\n", "log_dest file /a\n"] {
        assert_eq!(warnings(text), [""; 0], "{text}");
    }
    for (text, expected) in [
        ("log_type error warning\n", "The value of 'log_type' ends before 'warning', which is not read ("),
        ("listener 1 h x # c\n", "The value of 'listener' ends before 'x', which is not read ("),
        ("max_keepalive 5 seconds\n", "The value of 'max_keepalive' ends before 'seconds', which is not read ("),
        ("connection b\naddress h\ntopic a out 0 \"\" r/ x\n", "The value of 'topic' ends before 'x'"),
        ("user a # b\n", "The value of 'user' goes to the end of its line, a comment there is a part of it ("),
        ("pid_file \"/a b\"\n", "The value of 'pid_file' goes to the end of its line, the quotes are a part of it ("),
    ] {
        let found = warnings(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        assert!(found[0].contains("a.conf:"), "{found:?}");
    }
    let folder = Folder::new();
    let environment = vec![("MOSQUORUM_MAX_KEEPALIVE".to_owned(), "5 s # c".to_owned())];
    let settings = Settings::load(&Sources { environment, ..folder.sources("") }).unwrap();
    assert_eq!(settings.limits.max_keepalive_seconds, NonZeroU16::new(5));
    assert!(settings.notes.iter().any(|note| note.text.contains("'MOSQUORUM_MAX_KEEPALIVE' ends before 's'")));
}

/// The one bridge of `lines`, and what is said about it.
fn bridge(lines: &str) -> (std::sync::Arc<BridgeConfig>, Vec<String>) {
    let address = if lines.starts_with("address") { "" } else { "address h\n" };
    let topic = if lines.contains("topic ") { "" } else { "topic a\n" };
    let settings = settings(&format!("connection b\n{address}{topic}remote_username u\n{lines}\n"));
    (settings.bridges[0].clone(), settings.notes.into_iter().map(|note| note.text).collect())
}

#[test]
fn a_password_ends_with_its_line_and_nothing_is_said_about_it() {
    for (line, expected) in [
        ("remote_password a # b", "a # b"),
        ("password #a", "#a"),
        ("remote_password \"a b\"", "\"a b\""),
        ("remote_password  a\u{a0} \t\r", "a\u{a0}"),
    ] {
        let (bridge, notes) = bridge(line);
        assert_eq!(bridge.password, Some(Secret(expected.to_owned())), "{line}");
        assert_eq!(notes, [""; 0]);
    }
}

#[test]
fn no_word_of_a_comment_becomes_an_address() {
    for line in [
        "address 127.0.0.1:1 # was localhost before",
        "addresses 127.0.0.1:1 #was localhost before",
        "address 127.0.0.1:1\t# was localhost before",
        "address\t127.0.0.1:1 \t#\tlocalhost",
        "address 127.0.0.1:1 # f\u{fc}r localhost\r",
    ] {
        let found: Vec<String> = bridge(line).0.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.1:1"], "{line}");
    }
    let two: Vec<String> = bridge("address a b:2 # c").0.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(two, ["a:1883", "b:2"]);
    for line in ["address # localhost", "address #", "address 127.0.0.1:1# was localhost", "address h // was localhost"]
    {
        let error = error(&format!("connection b\ntopic a\n{line}\n"));
        assert!(error.contains("'address' value"), "{error}");
    }
}

#[test]
fn a_hash_is_the_filter_of_a_topic_or_begins_a_comment_behind_it() {
    for (line, plain) in [
        ("topic # both 2 local/ remote/", "topic \"#\" both 2 local/ remote/"),
        ("topic # both 2 local/ remote/ # all of it", "topic # both 2 local/ remote/"),
        ("topic # # all of it", "topic # out 0"),
        ("topic a # was b", "topic a out 0"),
        ("topic a/# out # was b", "topic a/# out 0"),
        ("topic a/# Both 1 #local/ remote/", "topic a/# both 1"),
        ("topic a BOTH 1 \"\" # remote/", "topic a both 1"),
        ("topic \"a b/#\" IN 1qos l/ r/ and more", "topic \"a b/#\" in 1 l/ r/"),
        ("topic a in 0 # it's \"so", "topic a in 0"),
    ] {
        let (found, expected) = (bridge(line).0, bridge(plain).0);
        assert_eq!(found.settings.topics, expected.settings.topics, "{line}");
    }
    assert_eq!(bridge("topic # both 2 local/ remote/").0.settings.topics.lines()[0].local.as_str(), "local/#");
}

#[test]
fn what_mosquitto_raises_or_lowers_to_its_bounds_is_raised_or_lowered_and_noted() {
    let seconds = Duration::from_secs;
    let constant = |s| RestartTimeout::Constant(seconds(s));
    let jitter =
        |base, cap, stable| RestartTimeout::Jitter { base: seconds(base), cap: seconds(cap), stable: seconds(stable) };
    for (line, expected, noted) in [
        ("restart_timeout 10 # s", constant(10), 0),
        ("restart_timeout 10s", constant(10), 0),
        ("restart_timeout 010", constant(10), 0),
        ("restart_timeout 0", constant(1), 1),
        ("restart_timeout -5", constant(1), 1),
        ("restart_timeout 5000", constant(3600), 1),
        ("restart_timeout 99999999999", constant(3600), 1),
        ("restart_timeout 5 30 # s", jitter(5, 30, 10), 0),
        ("restart_timeout 5 9999 60 # s", jitter(5, 7200, 60), 1),
        ("restart_timeout 0 9999", jitter(1, 7200, 2), 2),
    ] {
        let (bridge, notes) = bridge(line);
        assert_eq!(bridge.settings.restart_timeout, expected, "{line}");
        assert_eq!(notes.iter().filter(|note| note.contains("is out of range")).count(), noted, "{notes:?}");
    }
    let (bridge, notes) =
        bridge("keepalive_interval 0\nstart_type lazy # c\nthreshold 0\nidle_timeout 0\nbridge_max_packet_size -1");
    assert_eq!((bridge.settings.keep_alive_seconds, bridge.settings.max_packet_size), (5, 0));
    assert_eq!(bridge.settings.start_type, StartType::Lazy { threshold: 1, idle_timeout: seconds(1) });
    assert_eq!(notes.iter().filter(|note| note.contains("is out of range")).count(), 4, "{notes:?}");
    let text = "The value 0 of 'keepalive_interval' is out of range, 5 is used (";
    assert!(notes.iter().any(|note| note.starts_with(text)), "{notes:?}");
}

#[test]
fn three_numbers_of_tcp_keepalive_may_be_followed_by_a_comment() {
    let expected = TcpKeepAlive { idle: Duration::from_secs(10), interval: Duration::from_secs(3), count: 2 };
    for line in ["bridge_tcp_keepalive 10 3 2 # idle", "bridge_tcp_keepalive 10\t3 2 probes"] {
        assert_eq!(bridge(line).0.tcp_keepalive, Some(expected), "{line}");
    }
}

#[test]
fn a_star_for_an_address_is_all_of_them() {
    assert_eq!(addresses(&settings("listener 1883 *\n")), [tcp(1883, None)]);
    assert_eq!(addresses(&settings("port 1883\nbind_address *\n")), [tcp(1883, None)]);
    let node = settings("listener 1\ncluster_listener 7883 *\ncluster_insecure true\n");
    assert_eq!(node.cluster.links.unwrap().bind, None);
    assert_eq!(bridge("bridge_bind_address *").0.bind_address, None);
    // The same listener, however it is written.
    let folder = Folder::new();
    let before = Settings::load(&folder.sources("listener 1883 *\nmax_qos 1\n")).unwrap();
    folder.file("a.conf", "listener 1883 # all\nmax_qos 0\n");
    let (after, report) = before.reload().unwrap();
    assert_eq!((after.listeners[0].max_qos, report.needs_restart), (0, vec!["listener".to_owned()]));
}

#[test]
fn what_is_not_utf_8_is_named() {
    let folder = Folder::new();
    let utf_16: Vec<u8> = "\u{feff}listener 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let error = Settings::load(&folder.sources(utf_16)).unwrap_err().to_string();
    assert!(
        error.ends_with("Error: Malformed UTF-8 in configuration: the file is UTF-16, save it as UTF-8."),
        "{error}"
    );
}
