//! SIGHUP.
use super::*;

/// Loads `before`, writes `after` into the same file, reloads.
fn reload(before: &str, after: &str) -> Result<(Settings, ReloadReport), ConfigError> {
    let folder = Folder::new();
    let settings = Settings::load(&folder.sources(before)).unwrap();
    folder.file("a.conf", after);
    settings.reload()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn reloadable_options_change_and_others_stay_and_are_named() {
    let (settings, report) = reload(
        "listener 1\nmax_qos 1\nmount_point a/\nmax_keepalive 1\npersistence_file a\nacl_file x\nsys_interval 5\n",
        "# moved\nlistener 1\nmax_qos 2\nmount_point b/\nmax_keepalive 2\npersistence_file b\nsys_interval 5\n",
    )
    .unwrap();
    assert_eq!(report.changed, names(&["acl_file", "max_keepalive", "max_qos"]));
    assert_eq!(report.needs_restart, names(&["mount_point", "persistence_file"]));
    let listener = &settings.listeners[0];
    assert_eq!((listener.max_qos, listener.mount_point.as_deref()), (2, Some("a/")));
    assert_eq!(listener.security.acl_file, None);
    assert_eq!(settings.limits.max_keepalive_seconds, NonZeroU16::new(2));
    assert_eq!(settings.persistence.file, "a");
}

#[test]
fn listeners_are_distinguished_by_address_and_keep_their_order() {
    let (settings, report) = reload(
        "listener 1\nlistener 1 h\nlistener 0 /s\nlistener 3\n",
        "listener 0 /s\nmax_qos 0\nlistener 1 h\nmax_qos 1\nlistener 1\nlistener 4\n",
    )
    .unwrap();
    let unix = ListenAddress::Unix("/s".into());
    let expected = [tcp(1, None), tcp(1, Some("h")), unix, tcp(3, None)];
    assert_eq!(addresses(&settings), expected);
    let levels: Vec<u8> = settings.listeners.iter().map(|listener| listener.max_qos).collect();
    assert_eq!(levels, [2, 1, 0, 2]);
    assert_eq!(report.needs_restart, names(&["listener 3 (removed)", "listener 4 (added)"]));
}

#[test]
fn a_broken_file_changes_nothing() {
    let error = reload("listener 1\n", "listener 1\nmax_qos 3\n").unwrap_err();
    assert!(error.to_string().contains("a.conf:2: Error: 'max_qos'"), "{error}");
    // Also where the value would not be applied.
    assert!(reload("listener 1\n", "listener 1\nlistener 2\nmax_qos 3\n").is_err());
    assert!(reload("persistence true\n", "persistence maybe\n").is_err());
}

#[test]
fn an_unchanged_file_reports_nothing() {
    let text = "listener 1\nlog_dest stdout\nlog_dest topic\nmax_qos 1\n";
    let (_, report) = reload(text, &format!("\n{text}")).unwrap();
    assert_eq!(report, ReloadReport::default());
}

#[test]
fn a_reload_can_be_reloaded() {
    let folder = Folder::new();
    let first = Settings::load(&folder.sources("listener 1\npersistence_file a\n")).unwrap();
    folder.file("a.conf", "listener 1\npersistence_file b\n");
    let (second, report) = first.reload().unwrap();
    assert_eq!(report.needs_restart, names(&["persistence_file"]));
    folder.file("a.conf", "listener 1\npersistence_file a\n");
    let (_, report) = second.reload().unwrap();
    assert_eq!(report, ReloadReport::default());
}
