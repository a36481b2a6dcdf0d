//! What is refused, in which words. Where Mosquitto has words for it, they are a part of ours.
use super::*;

/// Each text must be refused, with this in the one line.
fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let error = error(text);
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
        assert!(error.starts_with("Error found at "), "{text:?}: {error}");
    }
}

#[test]
fn an_error_is_one_line_that_says_where() {
    let folder = Folder::new();
    let sources = folder.sources("listener 1\n\nmax_packet_size 19\n");
    let error = Settings::load(&sources).unwrap_err();
    let file = sources.file.unwrap();
    let expected = format!("Error found at {}:3: Error: 'max_packet_size' must be >= 20.", file.display());
    assert_eq!((error.to_string(), error.exit_code()), (expected, EXIT_INVALID));
}

#[test]
fn a_missing_file_and_a_folder_are_refused_in_mosquittos_words() {
    let folder = Folder::new();
    let load = |path: &Path| {
        let sources = Sources { file: Some(path.to_owned()), ..Sources::default() };
        Settings::load(&sources).unwrap_err().to_string()
    };
    let missing = folder.0.join("missing.conf");
    let expected = format!("Error: Unable to open config file '{}'.", missing.display());
    assert_eq!(load(&missing), expected);
    let expected = format!("Error: Config file '{}' is a directory.", folder.0.display());
    assert_eq!(load(&folder.0), expected);
}

#[test]
fn a_file_or_folder_that_cannot_be_read_says_why() {
    let folder = Folder::new();
    // Behind a file, since nothing is forbidden to root.
    let behind = folder.file("file", "").join("x");
    let sources = Sources { file: Some(behind.clone()), ..Sources::default() };
    let error = Settings::load(&sources).unwrap_err().to_string();
    let (name, why) = (behind.display(), "Not a directory (os error 20)");
    assert_eq!(error, format!("Error: Unable to open config file '{name}': {why}."));
    let error = Settings::load(&folder.sources(format!("include_dir {name}\n"))).unwrap_err().to_string();
    assert!(error.ends_with(&format!("Error: Unable to open include_dir '{name}': {why}.")), "{error}");
}

#[test]
fn bytes_that_are_not_text_are_refused() {
    let folder = Folder::new();
    for bytes in [&b"user a\xffb\n"[..], b"user a\x01b\n", b"user a\0b\n"] {
        let error = Settings::load(&folder.sources(bytes)).unwrap_err();
        assert!(error.to_string().ends_with("Error: Malformed UTF-8 in configuration."));
    }
}

#[test]
fn words_and_numbers_are_checked() {
    refused(&[
        ("unknown_option unknown", "Error: Unknown configuration variable 'unknown_option'"),
        (" # indented", "Error: Unknown configuration variable '#'. A comment begins in the first column."),
        ("bind_address a b", "Error: Invalid 'bind_address' value, 'b' follows it. Expected one word."),
        ("user", "Error: Empty 'user' value in configuration."),
        ("user  ", "Error: Empty 'user' value in configuration."),
        ("pid_file /tmp/pid\npid_file /tmp/pid", "Error: Duplicate 'pid_file' value in configuration."),
        ("memory_limit", "Error: Empty 'memory_limit' value in configuration."),
        ("memory_limit -1", "Error: Invalid 'memory_limit' value (-1)."),
        ("allow_anonymous", "Error: Empty 'allow_anonymous' value in configuration."),
        ("allow_anonymous falst", "Error: Invalid 'allow_anonymous' value (falst). Expected true or false."),
        ("autosave_interval", "Error: Empty 'autosave_interval' value in configuration."),
        ("autosave_interval string", "Error: 'autosave_interval' value not a number."),
        ("autosave_interval 08", "Error: 'autosave_interval' value not a number."),
        ("autosave_interval 0x", "Error: 'autosave_interval' value not a number."),
        ("autosave_interval 99999999999", "Error: 'autosave_interval' value out of range."),
        ("autosave_interval 99999999999999999999", "Error: 'autosave_interval' value out of range."),
        ("maximum_qos 3", "Error: 'max_qos' must be between 0 and 2 inclusive."),
        ("maximum_qos -1", "Error: 'max_qos' must be between 0 and 2 inclusive."),
        ("max_inflight_messages 65536", "Error: 'max_inflight_messages' must be <= 65535."),
        ("max_packet_size 19\nmax_packet_size 100", "Error: 'max_packet_size' must be >= 20."),
        ("message_size_limit 556000000", "Error: Invalid 'message_size_limit' value (556000000)."),
        ("max_keepalive 65536", "Error: Invalid 'max_keepalive' value (65536)."),
        ("max_keepalive -1", "Error: Invalid 'max_keepalive' value (-1)."),
        ("websockets_headers_size 65536", "Error: Packet buffer size must be between 0 and 65535 inclusive."),
        ("packet_buffer_size -1", "Error: Packet buffer size must be between 0 and 65535 inclusive."),
        ("sys_interval -1", "Error: Invalid 'sys_interval' value (-1)."),
        ("health_listener 0", "Error: Invalid 'health_listener' value (0). Expected a port from 1 to 65535."),
        ("health_listener 1 localhost", "Error: Invalid 'health_listener' value (localhost). Expected an IP address"),
        ("health_listener 1\nhealth_listener 2", "Error: Duplicate 'health_listener' value in configuration."),
        ("shutdown_drain 3601", "Error: Invalid 'shutdown_drain' value (3601). Expected 0 to 3600 seconds."),
        ("server_reference a/b", "Error: Invalid 'server_reference' value (a/b). Expected a host name or none."),
        ("sys_interval 65536", "Error: Invalid 'sys_interval' value (65536)."),
        ("persistent_client_expiration 1x", "Error: Invalid 'persistent_client_expiration' duration"),
        ("persistent_client_expiration 0d", "Error: Invalid 'persistent_client_expiration' duration"),
        ("retain_expiry_interval 0", "Error: retain_expiry_interval must be >= 1."),
        (
            "auto_id_prefix 123456789012345678901234567890123456789012345678901",
            "Error: auto_id_prefix length must be <= 50.",
        ),
    ]);
}

#[test]
fn log_options_are_checked() {
    refused(&[
        ("log_type verbose", "Error: Invalid 'log_type' value (verbose)."),
        ("log_dest dlt", "Error: Invalid 'log_dest' value (dlt)."),
        ("log_dest file", "Error: Empty \"log_dest file\" value in configuration."),
        ("log_dest file a\nlog_dest file b", "Error: Duplicate \"log_dest file\" value."),
        ("log_facility 8", "Error: Invalid 'log_facility' value (8)."),
        ("log_timestamp_format %!", "Error: Invalid 'log_timestamp_format' value (%!)."),
        ("log_format xml", "Error: Invalid 'log_format' value (xml). Expected text or json."),
    ]);
}

#[test]
fn listener_options_need_their_listener_and_their_range() {
    refused(&[
        (
            "accept_protocol_versions 3",
            "Error: The 'accept_protocol_versions' option requires a listener to be defined first.",
        ),
        ("port 1883\naccept_protocol_versions 3", "Error: The 'accept_protocol_versions' option requires a listener"),
        ("listener 1\naccept_protocol_versions", "Error: Empty 'accept_protocol_versions' value in configuration."),
        ("listener 1\naccept_protocol_versions 3.1.1", "Error: Invalid 'accept_protocol_versions' value (3.1.1)."),
        ("listener", "Error: Empty 'listener port' value in configuration."),
        ("listener 100000", "Error: Invalid 'port' value (100000)."),
        ("port 0", "Error: Invalid 'port' value (0)."),
        ("listener 0", "Error: A listener with port 0 must provide a Unix socket path."),
        ("mount_point test/", "Error: The 'mount_point' option requires a listener to be defined first."),
        (
            "listener 1\nmount_point test/+/",
            "Error: Invalid 'mount_point' value (test/+/). Does it contain a wildcard character?",
        ),
        ("listener 1\nprotocol", "Error: Empty 'protocol' value in configuration."),
        ("listener 1\nprotocol test", "Error: Invalid 'protocol' value (test)."),
        ("listener 1\nsocket_domain ipx", "Error: Invalid 'socket_domain' value 'ipx' in configuration."),
        ("listener 1\nmax_topic_alias 65536", "Error: Invalid 'max_topic_alias' value in configuration."),
        ("listener 1\nmax_topic_alias_broker -1", "Error: Invalid 'max_topic_alias_broker' value in configuration."),
        ("listener 1\nlistener_auto_id_prefix", "Error: Empty 'listener_auto_id_prefix' value in configuration."),
        (
            "listener 1\nlistener_auto_id_prefix 123456789012345678901234567890123456789012345678901",
            "Error: 'listener_auto_id_prefix' length must be <= 50.",
        ),
        ("listener_allow_anonymous true", "Error: The 'listener_allow_anonymous' option requires a listener"),
        (
            "per_listener_settings true\nallow_anonymous true",
            "Error: The 'allow_anonymous' option requires a listener to be defined first.",
        ),
        (
            "allow_anonymous true\nper_listener_settings true",
            "Error: per_listener_settings must be set before any other security settings.",
        ),
        ("listener 1\ncertfile", "Error: Empty 'certfile' value in configuration."),
        ("listener 1\ncertfile c", "Error: Both certfile and keyfile must be provided to enable a TLS listener."),
        ("listener 1\ncafile c", "Error: cafile specified without certfile and keyfile."),
        ("listener 1\ncertfile c\nkeyfile k\ntls_version tlsv1.1", "Error: Unsupported tls_version \"tlsv1.1\"."),
    ]);
    let error = load("listener 1\ncertfile c\nkeyfile k\ntls_version x").unwrap_err();
    assert_eq!(error.exit_code(), EXIT_START);
}

#[test]
fn what_is_not_supported_says_so_and_why() {
    refused(&[
        ("psk_file a", "Error: The 'psk_file' option is not available: pre-shared keys need OpenSSL"),
        ("listener 1\npsk_hint a", "Error: The 'psk_hint' option is not available"),
        ("listener 1\ntls_engine a", "Error: The 'tls_engine' option is not available"),
        ("listener 1\nenable_proxy_protocol 3", "Error: enable_proxy_protocol must be 1 or 2."),
        (
            "listener 1\nenable_proxy_protocol 2\nuse_subject_as_username true",
            "Error: use_subject_as_username cannot be used with `enable_proxy_protocol 2`.",
        ),
        (
            "listener 1\nenable_proxy_protocol 2\ncertfile c\nkeyfile k",
            "Error: certfile and keyfile cannot be used with `enable_proxy_protocol 2`.",
        ),
        ("enable_control_api maybe", "Error: Invalid 'enable_control_api' value (maybe)."),
        ("plugin /x/dynsec.so", "Error: Plugin '/x/dynsec.so' cannot be loaded"),
    ]);
    settings("enable_control_api false\nretry_interval 20\nwebsockets_log_level 255\n");
}

#[test]
fn plugin_lines_are_checked_before_the_plugin_is_refused() {
    refused(&[
        (
            "plugin_opt_inval string",
            "Error: The 'plugin_opt_inval' option requires plugin/global_plugin/plugin_load to be defined first.",
        ),
        ("plugin c/auth_plugin.so\nplugin_opt_ string", "Error: Invalid 'plugin_opt_' config option."),
        ("plugin c/auth_plugin.so\nplugin_opt_test", "Error: Empty 'test' value in configuration."),
        ("plugin", "Error: Missing plugin path"),
        ("listener 1\nplugin_use x", "Error: Plugin 'x' not previously loaded."),
        ("plugin mosquitto_acl_file.so\nplugin_opt_file x", "acl-file: Error: Unknown option 'file'."),
        ("plugin mosquitto_password_file.so", "needs plugin_opt_password_file"),
    ]);
}

#[test]
fn bridges_are_checked() {
    for option in options::all().filter(|spec| spec.scope == options::Scope::Bridge) {
        if option.name != "connection" {
            let name = option.name;
            let expected = format!("Error: The '{name}' option requires a bridge to be defined first.");
            refused(&[(&format!("{name} value"), &expected)]);
        }
    }
    let bridge = "connection b\naddress localhost\ntopic dummy\n";
    refused(&[
        ("connection", "Error: Empty 'connection' value in configuration."),
        ("connection just-name", "Error: Invalid bridge configuration: no remote addresses defined."),
        ("connection a\naddress localhost", "Error: Invalid bridge configuration: no topics defined."),
        ("connection a\ntopic dummy", "Error: Invalid bridge configuration: no remote addresses defined."),
        ("connection a\ntopic \"missing quote", "Error: Missing closing quote in topic value (quote)."),
        ("connection a\nconnection a", "Error: Duplicate bridge name 'a'."),
        ("connection a\naddress b\naddresses c", "'address' only allowed once."),
        (&format!("{bridge}bridge_psk"), "Error: Empty 'bridge_psk' value in configuration."),
        (&format!("{bridge}bridge_psk x"), "Error: Invalid bridge configuration: missing bridge_identity."),
        (&format!("{bridge}bridge_identity x"), "Error: Invalid bridge configuration: missing bridge_psk."),
        (
            &format!("{bridge}bridge_identity x\nbridge_psk aa"),
            "Error: The 'bridge_psk' option is not available: pre-shared keys need OpenSSL",
        ),
        (&format!("{bridge}bridge_require_ocsp true"), "Error: The 'bridge_require_ocsp' option is not available"),
        (&format!("{bridge}topic a up"), "Error: Invalid bridge topic direction 'up', expected in, out or both."),
        (&format!("{bridge}topic a out 0 x/+/"), "Error: Invalid bridge topic local prefix 'x/+/'"),
        (&format!("{bridge}keepalive_interval 65536"), "Error: Invalid 'keepalive_interval' value (65536)."),
        (&format!("{bridge}keepalive_interval 60s"), "Error: 'keepalive_interval' value not a number."),
        (&format!("{bridge}restart_timeout soon"), "Error: 'restart_timeout' value not a number."),
        (&format!("{bridge}restart_timeout 30 5"), "Error: Invalid 'restart_timeout' value (30 5). Expected a second"),
        (
            &format!("{bridge}restart_timeout 3 5 -1"),
            "Error: Invalid 'restart_timeout' value (3 5 -1). Expected a third",
        ),
        (&format!("{bridge}bridge_tcp_keepalive 1 2"), "Error: Invalid 'bridge_tcp_keepalive' value (1 2)."),
        (&format!("{bridge}start_type x"), "Error: Invalid 'start_type' value (x). Expected automatic or lazy or once"),
        (&format!("{bridge}bridge_certfile x"), "Error: bridge_certfile and bridge_keyfile must both be given."),
        (&format!("{bridge}remote_password x"), "Error: remote_password needs remote_username."),
        (&format!("{bridge}bridge_protocol_version x"), "Error: Invalid 'bridge_protocol_version' value (x)."),
        (
            &format!("{bridge}cluster_listener 1\ncluster_insecure true"),
            "Error: A bridge in a cluster needs a remote_clientid, the same on every node.",
        ),
    ]);
}

#[test]
fn cluster_lines_are_checked() {
    refused(&[
        ("cluster_peer a:1", "Error: The 'cluster_peer' option requires a cluster_listener."),
        ("cluster_listener 0", "Error: Invalid 'cluster_listener' value (0)."),
        ("cluster_listener 1 host", "Error: Invalid 'cluster_listener' value (host). Expected an IP address"),
        ("cluster_listener 1", "needs cluster_cafile, cluster_certfile and cluster_keyfile, or cluster_insecure true"),
        ("cluster_listener 1\ncluster_insecure true\ncluster_cafile a", "Error: cluster_insecure cannot be used with"),
        (
            "cluster_listener 1\ncluster_insecure true\ncluster_peer a",
            "Error: Invalid 'cluster_peer' value (a). Expected HOST:PORT",
        ),
        ("cluster_listener 1\ncluster_insecure true\ncluster_peer fe80::1:1", "Expected HOST:PORT"),
        ("cluster_commit_timeout 0", "Error: Invalid 'cluster_commit_timeout' value (0)."),
        ("cluster_allow a-*", "Error: The 'cluster_allow' option requires a cluster_listener."),
        ("cluster_new true", "Error: The 'cluster_new' option requires a cluster_listener."),
        (
            "cluster_listener 1\ncluster_insecure true\ncluster_allow a-*:7883",
            "Error: Invalid 'cluster_allow' value (a-*:7883). Expected a name without a port",
        ),
        ("cluster_listener 1\ncluster_insecure true\ncluster_crlfile a", "Error: cluster_insecure cannot be used with"),
    ]);
}
