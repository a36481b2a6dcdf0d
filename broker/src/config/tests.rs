use super::*;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

mod effects;
mod ends;
mod errors;
mod reloads;

/// A folder with configuration files; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mosquorum-config-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
    fn sources(&self, text: impl AsRef<[u8]>) -> Sources {
        Sources { file: Some(self.file("a.conf", text)), ..Sources::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load(text: &str) -> Result<Settings, ConfigError> {
    Settings::load(&Folder::new().sources(text))
}

fn settings(text: &str) -> Settings {
    load(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    match load(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

fn with_environment(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let folder = Folder::new();
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Settings::load(&Sources { environment: variables.iter().map(owned).collect(), ..folder.sources(text) })
}

fn tcp(port: u16, host: Option<&str>) -> ListenAddress {
    ListenAddress::Tcp { port, host: host.map(str::to_owned), interface: None, domain: None }
}

fn addresses(settings: &Settings) -> Vec<ListenAddress> {
    settings.listeners.iter().map(|listener| listener.address.clone()).collect()
}

#[test]
fn every_option_of_mosquitto_is_in_the_table_once() {
    let names: Vec<&str> = options::all().filter(|spec| !spec.ours).map(|spec| spec.name).collect();
    assert_eq!(names.len(), 141);
    for spec in options::all() {
        let rows = options::all().filter(|other| other.name == spec.name);
        assert_eq!(rows.count(), 1, "{}", spec.name);
        assert!(options::find(spec.canonical()).is_some(), "{}", spec.name);
    }
    assert_eq!(options::print().lines().count(), 1 + options::all().count());
}

#[test]
fn without_a_file_only_this_machine_may_connect_anonymously() {
    let settings = Settings::load(&Sources::default()).unwrap();
    assert!(settings.local_only);
    let local = [tcp(1883, Some("127.0.0.1")), tcp(1883, Some("::1"))];
    assert_eq!(addresses(&settings), local);
    assert!(
        settings
            .listeners
            .iter()
            .all(|listener| { listener.security.allow_anonymous && listener.tls.is_none() && listener.max_qos == 2 })
    );
}

#[test]
fn ports_of_flags_are_used_until_the_file_has_a_listener() {
    let sources = Sources { ports: vec![1, 2], ..Sources::default() };
    let settings = Settings::load(&sources).unwrap();
    let hosts = [Some("127.0.0.1"), Some("::1")];
    let expected: Vec<_> = [1, 2].into_iter().flat_map(|port| hosts.map(|host| tcp(port, host))).collect();
    assert_eq!(addresses(&settings), expected);
    let folder = Folder::new();
    let sources = Sources { ports: vec![1], ..folder.sources("listener 5\n") };
    let settings = Settings::load(&sources).unwrap();
    assert_eq!(addresses(&settings), [tcp(5, None)]);
    assert!(settings.notes.iter().any(|note| note.text.contains("-p is ignored")));
}

#[test]
fn defaults_are_those_of_mosquitto() {
    let settings = settings("listener 1883\n");
    assert!(!settings.local_only && !settings.listeners[0].security.allow_anonymous);
    assert_eq!(settings.listeners[0].security.auto_id_prefix, "auto-");
    let limits = &settings.limits;
    assert_eq!(limits.max_inflight_messages, NonZeroU16::new(20));
    assert_eq!(limits.max_queued_messages, NonZeroUsize::new(1000));
    assert_eq!(limits.max_packet_size_bytes, 2_000_000);
    assert_eq!((limits.max_inflight_bytes, limits.max_keepalive_seconds), (None, None));
    assert_eq!((limits.global_max_clients, limits.memory_limit_bytes), (None, None));
    assert_eq!(settings.sys_interval, Some(Duration::from_secs(10)));
    assert_eq!(settings.persistence.path(), Path::new("mosquitto.db"));
    assert_eq!(settings.persistence.autosave, Autosave::Every(Duration::from_secs(1800)));
    assert!(!settings.persistence.enabled && settings.retain.available);
    assert!(settings.delivery.allow_duplicate_messages && settings.delivery.connection_messages);
    assert!(settings.log.destinations.stderr && !settings.log.destinations.stdout);
    assert_eq!(settings.log.types, LogTypes(15));
    assert_eq!(settings.process.user, "mosquitto");
    assert!(!settings.process.user_is_explicit && settings.cluster.links.is_none());
    assert_eq!(settings.cluster.admin_socket, None);
}

#[test]
fn lines_are_read_with_mosquittos_blanks_comments_and_line_ends() {
    let settings = settings(
        "# comment\r\n\r\n   \nlistener   0x75b   127.0.0.1 # loopback\r\n  max_keepalive 010 x\n\
         allow_anonymous true \t\r\npersistence_file  my file \nlog_dest   file  /tmp/a b \n",
    );
    assert_eq!(addresses(&settings), [tcp(1883, Some("127.0.0.1"))]);
    assert_eq!(settings.limits.max_keepalive_seconds, NonZeroU16::new(8));
    assert!(settings.listeners[0].security.allow_anonymous);
    assert_eq!(settings.persistence.file, "my file");
    assert_eq!(settings.log.destinations.file, Some("/tmp/a b".into()));
    assert!(!settings.log.destinations.stderr);
}

#[test]
fn options_belong_to_the_listener_above_them() {
    let settings = settings(
        "listener 1\nmax_qos 1\nmount_point a/\nwebsockets_origin x\nwebsockets_origin y\nprotocol websockets\n\
         listener 0 /tmp/s\nmax_topic_alias 0\naccept_protocol_versions 4, 5 # not 3\nlistener 2 h\n\
         socket_domain ipv6\nbind_interface lo\nmaximum_qos 0\nmax_connections -1\n",
    );
    let [first, second, third] = &settings.listeners[..] else {
        panic!("three listeners");
    };
    assert_eq!((first.max_qos, first.mount_point.as_deref()), (1, Some("a/")));
    assert_eq!(first.websockets_origins, ["x", "y"]);
    assert_eq!(first.protocol, ListenerProtocol::Websockets);
    assert_eq!(second.address, ListenAddress::Unix("/tmp/s".into()));
    assert_eq!((second.max_topic_alias, second.max_topic_alias_broker), (0, 10));
    let v4_and_v5 = ProtocolVersions { v3: false, v4: true, v5: true };
    assert_eq!(second.versions, v4_and_v5);
    let third_address = ListenAddress::Tcp {
        port: 2,
        host: Some("h".to_owned()),
        interface: Some("lo".to_owned()),
        domain: Some(SocketDomain::Ipv6),
    };
    assert_eq!((&third.address, third.max_qos), (&third_address, 0));
    assert_eq!(third.max_connections, None);
}

#[test]
fn the_old_port_and_bind_address_make_one_default_listener() {
    let settings = settings("max_connections 5\nport 1884\nbind_address h\nlistener 2\nport 1885\n");
    assert_eq!(addresses(&settings), [tcp(1885, Some("h")), tcp(2, None)]);
    assert_eq!(settings.listeners[0].max_connections, NonZeroUsize::new(5));
}

#[test]
fn options_without_any_listener_hold_for_the_loopback_ones() {
    let settings = settings("max_connections 5\nallow_anonymous false\n");
    assert!(settings.local_only && settings.listeners.len() == 2);
    for listener in &settings.listeners {
        assert_eq!(listener.max_connections, NonZeroUsize::new(5));
        assert!(!listener.security.allow_anonymous);
    }
}

#[test]
fn anonymous_access_is_decided_by_the_listener_then_by_the_whole_broker() {
    let text = |global: &str, first: &str, second: &str| {
        let line = |word: &str| match word {
            "" => String::new(),
            word => format!("listener_allow_anonymous {word}\n"),
        };
        let global = match global {
            "" => String::new(),
            word => format!("allow_anonymous {word}\n"),
        };
        format!("{global}listener 1\n{}listener 2\n{}", line(first), line(second))
    };
    for (global, first, second, expected) in [
        ("", "", "", [false, false]),
        ("", "true", "", [true, false]),
        ("true", "false", "", [false, true]),
        ("false", "", "true", [false, true]),
    ] {
        let settings = settings(&text(global, first, second));
        let found: Vec<bool> = settings.listeners.iter().map(|listener| listener.security.allow_anonymous).collect();
        assert_eq!(found, expected, "{global} {first} {second}");
    }
}

#[test]
fn with_per_listener_settings_each_listener_has_its_own_security() {
    let settings = settings(
        "per_listener_settings true\nlistener 1\nallow_anonymous true\nacl_file a\nauto_id_prefix x\n\
         listener 2\npassword_file p\nallow_zero_length_clientid false\n",
    );
    let [first, second] = &settings.listeners[..] else {
        panic!("two listeners");
    };
    let expected = SecuritySettings {
        allow_anonymous: true,
        allow_zero_length_clientid: true,
        auto_id_prefix: "x".to_owned(),
        password_file: None,
        acl_file: Some("a".into()),
    };
    assert_eq!(first.security, expected);
    let expected = SecuritySettings {
        allow_anonymous: false,
        allow_zero_length_clientid: false,
        auto_id_prefix: "auto-".to_owned(),
        password_file: Some("p".into()),
        acl_file: None,
    };
    assert_eq!(second.security, expected);
}

#[test]
fn the_bundled_plugins_are_the_files_they_are_given() {
    let settings = settings(
        "listener 1\nplugin /x/mosquitto_acl_file.so\nplugin_opt_acl_file a\nacl_file b\n\
         plugin_load pw lib/mosquitto_password_file.so\nplugin_opt_password_file p\n\
         auth_plugin_deny_special_chars false\nlistener 2\nplugin_use pw\n",
    );
    let files: Vec<_> = settings
        .listeners
        .iter()
        .map(|listener| (listener.security.acl_file.clone(), listener.security.password_file.clone()))
        .collect();
    let acl = Some(PathBuf::from("a"));
    assert_eq!(files, [(acl.clone(), None), (acl, Some("p".into()))]);
    assert!(settings.notes.iter().any(|note| note.text.contains("'b' is never asked")));
}

#[test]
fn tls_is_on_with_certificate_and_key() {
    let settings = settings(
        "listener 1\ncertfile c\nkeyfile k\ncafile ca\nrequire_certificate true\ntls_version tlsv1.3\n\
         use_identity_as_username true\ncrlfile crl\nciphers_tls1.3 X\ndhparamfile d\ntls_keyform pem\n",
    );
    let tls = settings.listeners[0].tls.as_ref().unwrap();
    assert_eq!((&tls.certfile, &tls.keyfile), (&"c".into(), &"k".into()));
    assert!(tls.require_certificate && tls.use_identity_as_username && !tls.use_subject_as_username);
    assert_eq!((tls.min_version, tls.ciphers_tls13.as_deref()), (TlsVersion::V13, Some("X")));
    assert!(settings.notes.iter().any(|note| note.text.contains("'dhparamfile'")));
}

#[test]
fn included_files_come_sorted_and_start_without_a_listener() {
    let folder = Folder::new();
    let include = folder.0.join("conf.d");
    folder.file("conf.d/b.conf", "listener 2\nmax_qos 0\n");
    folder.file("conf.d/A.conf", "listener 1\n");
    folder.file("conf.d/c.conf", "max_keepalive 5\n");
    folder.file("conf.d/ignored.txt", "nonsense\n");
    let text = format!("listener 9\ninclude_dir {}\nmax_qos 1\n", include.display());
    let settings = Settings::load(&folder.sources(&text)).unwrap();
    assert_eq!(addresses(&settings), [tcp(9, None), tcp(1, None), tcp(2, None)]);
    let levels: Vec<u8> = settings.listeners.iter().map(|listener| listener.max_qos).collect();
    assert_eq!(levels, [1, 2, 0]); // the line after include_dir belongs to the listener before it
    assert_eq!(settings.limits.max_keepalive_seconds, NonZeroU16::new(5));

    folder.file("conf.d/d.conf", "max_qos 1\n\nmax_packet_size 3\n");
    let error = Settings::load(&folder.sources(&text)).unwrap_err().to_string();
    let line = include.join("d.conf");
    let expected = format!("Error found at {}:3: Error: 'max_packet_size'", line.display());
    assert!(error.starts_with(&expected), "{error}");
    folder.file("conf.d/d.conf", "include_dir x\n");
    let error = Settings::load(&folder.sources(&text)).unwrap_err().to_string();
    assert!(error.contains("d.conf:1: Error: The include_dir option is only valid"), "{error}");
}

#[test]
fn the_environment_goes_over_the_file_and_flags_over_both() {
    let settings = with_environment(
        "listener 1\nmax_packet_size 100\nlog_dest stdout\npersistence_location a\n",
        &[
            ("MOSQUORUM_MAX_PACKET_SIZE", "200"),
            ("MOSQUORUM_LOG_DEST", "stderr,file /x"),
            ("MOSQUITTO_PERSISTENCE_LOCATION", "b"),
            ("MOSQUORUM_ALLOW_ANONYMOUS", "true"),
            ("MOSQUORUM_PERSISTENCE", ""),
            ("MOSQUORUM_SERVICE_PORT", "1883"),
            ("MOSQUORUM_PORT", "tcp://10.0.0.1:1883"),
            ("MOSQUORUM_TYPO", "1"),
            ("OTHER", "x"),
        ],
    )
    .unwrap();
    assert_eq!(settings.limits.max_packet_size_bytes, 200);
    assert!(settings.log.destinations.stderr && !settings.log.destinations.stdout);
    assert_eq!(settings.log.destinations.file, Some("/x".into()));
    assert_eq!(settings.persistence.location, Path::new("b"));
    assert!(settings.listeners[0].security.allow_anonymous);
    let ignored: Vec<&str> = settings
        .notes
        .iter()
        .filter(|note| note.text.contains("Environment variable"))
        .map(|note| note.text.as_str())
        .collect();
    assert!(ignored.len() == 1 && ignored[0].contains("MOSQUORUM_TYPO"), "{ignored:?}");

    let error = with_environment("", &[("MOSQUORUM_MAX_PACKET_SIZE", "x")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Error found at MOSQUORUM_MAX_PACKET_SIZE: Error: 'max_packet_size' value not a number."
    );
    let flags = Sources { log_all: Some(true), ..Folder::new().sources("log_type none\n") };
    assert!(Settings::load(&flags).is_err(), "the folder is gone");
    let folder = Folder::new();
    let flags = Sources { log_all: Some(true), ..folder.sources("log_type none\n") };
    assert_eq!(Settings::load(&flags).unwrap().log.types, LogTypes::ALL);
}

#[test]
fn log_types_add_up_and_none_starts_again() {
    let types = |text| settings(text).log.types;
    assert_eq!(types("log_type debug\nlog_type error\n"), LogTypes(16 | 8));
    assert_eq!(types("log_type all\nlog_type none\nlog_type subscribe\n"), LogTypes(32));
    assert_eq!(types("log_type all\n"), LogTypes::ALL);
}

#[test]
fn durations_and_limits_take_mosquittos_units() {
    let settings = settings(
        "persistent_client_expiration 2w\nretain_expiry_interval 3\nmax_inflight_messages 65535\n\
         max_queued_messages -1\nglobal_max_clients 0\nsys_interval 0\nautosave_interval 7\nautosave_on_changes 1\n",
    );
    let expiration = settings.delivery.persistent_client_expiration;
    assert_eq!(expiration, Some(Duration::from_secs(14 * 86_400)));
    assert_eq!(settings.limits.max_inflight_messages, None);
    assert_eq!(settings.limits.max_queued_messages, None);
    assert_eq!((settings.limits.global_max_clients, settings.sys_interval), (None, None));
    let Autosave::AfterChanges(changes) = settings.persistence.autosave else {
        panic!("autosave counts changes");
    };
    assert_eq!(changes.get(), 7);
}

#[test]
fn a_cluster_node_is_persistent_and_named_after_its_address() {
    let settings = settings(
        "listener 1\npersistence_location /data\ncluster_listener 7883 10.0.0.1 # peers\n\
         cluster_advertise broker-0.broker:7883\ncluster_peer broker-0.broker:7883\n\
         cluster_peer [fe80::1]:7883\ncluster_peer broker-0.broker:7883\ncluster_cafile ca\n\
         cluster_certfile c\ncluster_keyfile k\n",
    );
    let links = settings.cluster.links.as_ref().unwrap();
    assert!(settings.persistence.enabled);
    assert_eq!((links.port, links.bind), (7883, Some("10.0.0.1".parse().unwrap())));
    assert_eq!(settings.cluster.name, "broker-0.broker");
    let peers: Vec<String> = links.peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["broker-0.broker:7883", "[fe80::1]:7883"]);
    assert!(links.tls.is_some());
    assert_eq!(settings.cluster.commit_timeout, Duration::from_secs(10));
    assert_eq!(settings.cluster.admin_socket, Some("/data/mosquorum.sock".into()));
}

#[test]
fn a_node_that_lists_nobody_is_warned_that_it_waits_and_one_without_tls_what_that_means() {
    let said = |lines: &str| {
        let settings = settings(&format!("listener 1\ncluster_listener 7883\ncluster_advertise a:1\n{lines}\n"));
        settings.notes.iter().map(|note| note.text.clone()).collect::<Vec<_>>().join("\n")
    };
    let tls = "cluster_cafile ca\ncluster_certfile c\ncluster_keyfile k";
    let waits = said(&format!("{tls}\ncluster_peer a:1"));
    assert!(waits.contains("waits for 'mosquorum cluster add a a:1'"), "{waits}");
    assert!(said(&format!("{tls}\ncluster_new true")).contains("forms a cluster of its own"));
    let listed = said(&format!("{tls}\ncluster_peer b:1"));
    assert!(!listed.contains("cluster_"), "{listed}");
    assert!(said("cluster_insecure true").contains("whoever reaches the cluster_listener can join"));
}

#[test]
fn who_may_join_and_whose_certificates_are_revoked_is_set() {
    let settings = settings(
        "listener 1\ncluster_listener 7883\ncluster_cafile ca\ncluster_certfile c\ncluster_keyfile k\n\
         cluster_allow mq-*.example\ncluster_allow b # later\ncluster_crlfile revoked\n",
    );
    let links = settings.cluster.links.as_ref().unwrap();
    assert_eq!((links.allow.as_slice(), links.new), (["mq-*.example".to_owned(), "b".to_owned()].as_slice(), false));
    assert_eq!(links.tls.as_ref().unwrap().crlfile, Some("revoked".into()));
}
