//! What `deploy/` is made of: the chart as helm renders it, the unit, the Debian package.
//! Tools that are missing are named; in CI that is a failure.
use mosquorum_tests::{
    cluster::{
        Build, Cluster, ClusterOptions, TestFolder,
        binary::{self, is_stand_in},
        folder::workspace,
    },
    http,
    pods::{dockerfile::lint, tools, why_no_containers},
    skip::{has_program, skip},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a program and returns what it printed; its failure is the test's.
fn run(program: impl AsRef<Path>, words: &[&str]) -> String {
    let program = program.as_ref();
    let output = Command::new(program).args(words).current_dir(workspace()).output().expect("it runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {words:?}: {}\n{text}", program.display(), output.status);
    text
}

#[test]
fn the_chart_renders_what_was_reviewed_and_what_kubernetes_accepts() {
    if let Err(why) = tools::install() {
        return skip(&why);
    }
    println!("{}", run(workspace().join("deploy/helm/tests/check"), &[]));
}

#[test]
fn the_dockerfile_breaks_none_of_the_known_rules() {
    let text = std::fs::read_to_string(workspace().join("deploy/docker/Dockerfile")).expect("the file");
    assert_eq!(lint(&text), Vec::<String>::new());
}

#[test]
fn the_unit_is_valid_and_gives_the_broker_nothing_it_does_not_need() {
    if !has_program("systemd-analyze") {
        return skip("no systemd-analyze (package systemd)");
    }
    let folder = TestFolder::new("unit").expect("a folder");
    let unit = std::fs::read_to_string(workspace().join("deploy/systemd/mosquorum.service")).expect("the unit");
    // A program that is there: the one of the unit is only where the package is installed.
    let unit = unit.replace("ExecStart=/usr/sbin/mosquorum ", "ExecStart=/bin/true ");
    let path = folder.path().join("mosquorum.service");
    std::fs::write(&path, unit).expect("written");
    let path = path.display().to_string();
    let warnings = run("systemd-analyze", &["verify", "--man=no", &path]);
    let ours: Vec<&str> = warnings.lines().filter(|line| line.contains("mosquorum")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    // 0 is a unit that may do nothing, 10 one that may do all; ssh has 9.6.
    run("systemd-analyze", &["security", "--offline=yes", "--threshold=15", &path]);
}

/// The Debian package with the broker under test in it.
fn package(folder: &Path) -> PathBuf {
    let binary = binary::path(Build::Plain).expect("a broker").display().to_string();
    let output = folder.display().to_string();
    let build = workspace().join("deploy/debian/build");
    let path = run(build, &["--binary", &binary, "--output", &output]);
    PathBuf::from(path.lines().last().expect("the package's path"))
}

#[test]
fn the_debian_package_holds_program_unit_account_and_configuration() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto");
    }
    if let Some(missing) = ["dpkg-deb", "python3"].into_iter().find(|program| !has_program(program)) {
        return skip(&format!("no {missing}"));
    }
    let folder = TestFolder::new("package").expect("a folder");
    let package = package(folder.path()).display().to_string();
    let root = folder.path().join("root");
    run("dpkg-deb", &["--extract", &package, &root.display().to_string()]);
    for file in [
        "usr/lib/systemd/system/mosquorum.service",
        "usr/lib/sysusers.d/mosquorum.conf",
        "usr/lib/tmpfiles.d/mosquorum.conf",
        "etc/default/mosquorum",
        "etc/needrestart/conf.d/mosquorum.conf",
        "etc/mosquorum/mosquitto.conf",
        "usr/share/doc/mosquorum/copyright",
        "usr/share/doc/mosquorum/docs/operations.md",
        "usr/share/doc/mosquorum/docs/metrics.md",
        "usr/share/doc/mosquorum/deploy/README.md",
        "usr/share/doc/mosquorum/examples/alerts.yaml",
        "usr/share/doc/mosquorum/examples/dashboard.json",
        "usr/share/doc/mosquorum/examples/make-certificates.sh",
        "usr/share/man/man1/mosquorum_passwd.1.gz",
        "usr/share/man/man5/mosquorum.conf.5.gz",
        "usr/share/man/man8/mosquorum.8.gz",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    // What the program itself prints is what a shell finds.
    for program in ["mosquorum", "mosquorum_passwd"] {
        for (shell, file) in [
            ("bash", format!("bash-completion/completions/{program}")),
            ("zsh", format!("zsh/vendor-completions/_{program}")),
            ("fish", format!("fish/vendor_completions.d/{program}.fish")),
        ] {
            let packed = std::fs::read_to_string(root.join("usr/share").join(&file)).expect("the file");
            let printed = run(root.join("usr/sbin/mosquorum"), &["completions", shell, program]);
            assert_eq!(printed.trim_end(), packed.trim_end(), "{file}");
        }
    }
    let passwords = folder.path().join("passwords").display().to_string();
    run(root.join("usr/bin/mosquorum_passwd"), &["-c", "-b", &passwords, "somebody", "something"]);
    assert!(std::fs::read_to_string(passwords).expect("written").starts_with("somebody:$"));
    let version = run(root.join("usr/sbin/mosquorum"), &["--version"]);
    let fields = run("dpkg-deb", &["--field", &package]);
    let version = version.split_whitespace().nth(1).expect("a version");
    assert!(fields.contains(&format!("Version: {version}\n")), "{fields}");
    // What an administrator changed survives an upgrade.
    let conffiles = run("dpkg-deb", &["--info", &package, "conffiles"]);
    let kept = ["/etc/mosquorum/mosquitto.conf", "/etc/default/mosquorum", "/etc/needrestart/conf.d/mosquorum.conf"];
    assert_eq!(conffiles.lines().collect::<Vec<_>>(), kept);
}

#[test]
fn the_debian_package_installs_upgrades_and_goes_without_touching_data() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto");
    }
    if let Some(why) = why_no_containers() {
        return skip(&why);
    }
    if let Some(missing) = ["dpkg-deb", "python3", "useradd"].into_iter().find(|program| !has_program(program)) {
        return skip(&format!("no {missing}"));
    }
    let folder = TestFolder::new("package-check").expect("a folder");
    let package = package(folder.path()).display().to_string();
    run(workspace().join("deploy/debian/check"), &[&package]);
}

/// Every metric that a text names, without what a histogram adds to its name.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("mosquorum_") || word.starts_with("process_"));
    ours.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[tokio::test]
async fn every_metric_of_the_alerts_and_the_dashboard_is_exported_by_a_node() {
    if is_stand_in() {
        return skip("MOSQUORUM_BIN is Eclipse Mosquitto");
    }
    let cluster = Cluster::start(ClusterOptions::new("dashboard", 3)).await.expect("three nodes");
    let (_, scrape) = http::get(cluster.health_address(0), "/metrics").await.expect("a scrape");
    let known: BTreeSet<&str> =
        scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let files = workspace().join("deploy/helm/mosquorum/files");
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(files.join(file)).expect("the file");
        let used = metrics(&text);
        assert!(used.len() > 8, "{file}: {used:?}");
        let unknown: Vec<&String> = used.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
}

#[test]
fn the_runbook_says_what_to_do_about_every_alert() {
    let read = |file: &str| std::fs::read_to_string(workspace().join(file)).expect("the file");
    let (alerts, runbook) = (read("deploy/helm/mosquorum/files/alerts.yaml"), read("deploy/README.md"));
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 8);
    for name in names {
        assert!(runbook.contains(&format!("| {name} |")), "{name} is not in deploy/README.md");
    }
}
