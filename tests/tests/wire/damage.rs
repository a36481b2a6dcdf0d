//! Promise 11 on real files: torn tails, flipped bits, deleted folders, failed fsyncs and full disks, each with the
//! outcome that the promise names.
use mosquorum_tests::{
    backlog::{Backlog, eventually},
    client::TIMEOUT,
    cluster::{Cluster, ClusterOptions, Ended, binary::is_stand_in},
    damage::{contents, data_directory, files, flip, log_file, scribble, used_bytes},
    skip::{has_program, skip},
    target::{Failure, TestResult},
};
use std::{fs, path::Path, process::Command, time::Duration};

const MESSAGES: u64 = 200;

/// True (and a word why) when the broker under test is a stand-in.
fn skipped() -> bool {
    if is_stand_in() {
        skip("MOSQUORUM_BIN is Eclipse Mosquitto, which has other files");
    }
    is_stand_in()
}

/// Nodes with a backlog, all killed.
async fn killed(name: &str, nodes: usize) -> Result<(Cluster, Backlog), Failure> {
    let mut cluster = Cluster::start(ClusterOptions::new(name, nodes).persistent()).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 64).await?;
    backlog.publish(cluster.address(0), MESSAGES).await?;
    cluster.kill_all();
    Ok((cluster, backlog))
}

async fn starts_with_everything(mut cluster: Cluster, backlog: &Backlog) -> TestResult {
    for node in 0..cluster.len() {
        cluster.start_node(node)?;
    }
    cluster.wait_all_serving(TIMEOUT * 2).await?;
    Ok(backlog.fetch(cluster.address(cluster.len() - 1)).await?)
}

/// The node ends by itself, names `named` in its log, and has changed none of `untouched`'s files.
async fn refuses_to_start(cluster: &mut Cluster, named: &str, untouched: &Path) -> TestResult {
    let before = contents(untouched)?;
    cluster.start_node(0)?;
    let ended = cluster.wait_end(0, TIMEOUT).await?;
    assert!(matches!(ended, Ended::Exit(code) if code != 0), "{ended:?}");
    let log = cluster.log_tail(0, 20);
    assert!(log.contains(named), "{named:?} is not in\n{log}");
    let after = contents(untouched)?;
    for (path, bytes) in &before {
        // Opening a log may add to it; what was written stays.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let kept = after.get(path).is_some_and(|now| now.starts_with(&bytes[..used]));
        assert!(kept, "{} was changed", path.display());
    }
    Ok(())
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_nothing_acknowledged_is_lost() -> TestResult {
    if skipped() {
        return Ok(());
    }
    // Behind a hole, as sectors of a later write may survive without those before.
    let (cluster, backlog) = killed("torn", 1).await?;
    let log = log_file(&data_directory(&cluster, 0)?)?;
    scribble(&log, used_bytes(&log)? + 64, 100)?;
    starts_with_everything(cluster, &backlog).await?;
    // In the middle of the last record: an idle log ends with a record that acknowledges nothing.
    let mut cluster = Cluster::start(ClusterOptions::new("torn-last", 1).persistent()).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 64).await?;
    backlog.publish(cluster.address(0), MESSAGES).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.kill_all();
    let log = log_file(&data_directory(&cluster, 0)?)?;
    scribble(&log, used_bytes(&log)? - 4, 100)?;
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_node_alone_with_a_damaged_log_stops_and_changes_nothing() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (mut cluster, backlog) = killed("log-alone", 1).await?;
    let log = log_file(&data_directory(&cluster, 0)?)?;
    let middle = used_bytes(&log)? / 2;
    flip(&log, middle)?;
    let name = log.file_name().and_then(|name| name.to_str()).ok_or("a name")?.to_owned();
    let folder = log.parent().ok_or("a folder")?.to_owned();
    refuses_to_start(&mut cluster, &name, &folder).await?;
    flip(&log, middle)?;
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_node_alone_without_its_log_stops() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (mut cluster, backlog) = killed("no-log", 1).await?;
    let data = data_directory(&cluster, 0)?;
    let aside = cluster.folder().join("log-aside");
    fs::rename(data.join("log"), &aside)?;
    refuses_to_start(&mut cluster, "log", &data.join("state")).await?;
    let _ = fs::remove_dir_all(data.join("log"));
    fs::rename(&aside, data.join("log"))?;
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_deleted_state_store_is_rebuilt() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (cluster, backlog) = killed("no-state", 1).await?;
    fs::remove_dir_all(data_directory(&cluster, 0)?.join("state"))?;
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_damaged_state_store_is_rebuilt() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (mut cluster, backlog) = killed("state", 1).await?;
    // A checkpoint first, so that the store holds something.
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    cluster.signal(0, rustix::process::Signal::USR1);
    let data = data_directory(&cluster, 0)?;
    let filled =
        async || files(&data.join("state")).is_ok_and(|all| all.iter().any(|path| used_bytes(path).unwrap_or(0) > 100));
    assert!(eventually(TIMEOUT, filled).await);
    cluster.kill(0);
    for path in files(&data.join("state"))? {
        let used = used_bytes(&path)?;
        for offset in (0..used).step_by(97) {
            flip(&path, offset)?;
        }
    }
    starts_with_everything(cluster, &backlog).await
}

/// One that only reading its value shows.
#[tokio::test]
async fn a_state_store_with_a_damaged_value_is_rebuilt() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let mut cluster = Cluster::start(ClusterOptions::new("value", 1).persistent()).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 20_000).await?;
    backlog.publish(cluster.address(0), 5).await?;
    let blobs = data_directory(&cluster, 0)?.join("state").join("blobs");
    let written = async || files(&blobs).is_ok_and(|all| all.iter().any(|path| used_bytes(path).unwrap_or(0) > 10_000));
    assert!(eventually(TIMEOUT, written).await);
    cluster.kill_all();
    for path in files(&blobs)? {
        flip(&path, 10_000)?;
    }
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_node_alone_with_a_damaged_snapshot_stops_and_changes_nothing() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (mut cluster, backlog) = killed("snapshot-alone", 1).await?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    cluster.stop_node(0).await?;
    let mut snapshots: Vec<_> = fs::read_dir(cluster.data_folder(0))?.flatten().map(|entry| entry.path()).collect();
    snapshots.retain(|path| path.is_file());
    let snapshot = snapshots.pop().ok_or("a snapshot")?;
    let middle = fs::metadata(&snapshot)?.len() as usize / 2;
    flip(&snapshot, middle)?;
    let name = snapshot.file_name().and_then(|name| name.to_str()).ok_or("a name")?.to_owned();
    refuses_to_start(&mut cluster, &name, &snapshot).await?;
    flip(&snapshot, middle)?;
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_folder_of_somebody_else_is_refused_and_left_alone() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let mut cluster =
        Cluster::prepare(ClusterOptions::new("foreign", 1).persistent().with("persistence_file foreign.db"))?;
    let data = cluster.data_folder(0).join("foreign.db.d");
    fs::create_dir_all(&data)?;
    fs::write(data.join("precious.txt"), "not yours")?;
    refuses_to_start(&mut cluster, "precious.txt", &data).await
}

#[tokio::test]
async fn a_database_of_mosquitto_is_refused_and_left_alone() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let mut cluster =
        Cluster::prepare(ClusterOptions::new("mosquitto-db", 1).persistent().with("persistence_file old.db"))?;
    let mut bytes = b"\x00\xB5\x00mosquitto db".to_vec();
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 6]);
    fs::write(cluster.data_folder(0).join("old.db"), bytes)?;
    let folder = cluster.data_folder(0).to_owned();
    refuses_to_start(&mut cluster, "old.db", &folder).await
}

/// The node number of each member, by name, as node 0 reports it.
async fn numbers(cluster: &Cluster) -> Vec<(String, u64)> {
    let status = cluster.status(0).await.unwrap_or_default();
    let members = status["members"].as_array().cloned().unwrap_or_default();
    let number = |member: &serde_json::Value| Some((member["name"].as_str()?.to_owned(), member["id"].as_u64()?));
    let mut numbers: Vec<_> = members.iter().filter_map(number).collect();
    numbers.sort();
    numbers
}

async fn after_damage_of_one_of_three(
    name: &str,
    damage: impl FnOnce(&Path) -> TestResult,
    keeps_its_number: bool,
) -> TestResult {
    if skipped() {
        return Ok(());
    }
    let (mut cluster, mut backlog) = killed(name, 3).await?;
    for node in 0..3 {
        cluster.start_node(node)?;
    }
    cluster.wait_all_serving(TIMEOUT * 2).await?;
    let before = numbers(&cluster).await;
    assert_eq!(before.len(), 3);
    cluster.kill(2);
    damage(&data_directory(&cluster, 2)?)?;
    // The others go on meanwhile.
    backlog.publish(cluster.address(0), MESSAGES).await?;
    cluster.start_node(2)?;
    cluster.wait_serving(2, TIMEOUT * 2).await?;
    let settled = async || {
        let now = numbers(&cluster).await;
        now.len() == 3 && (now == before) == keeps_its_number
    };
    assert!(eventually(TIMEOUT, settled).await, "before {before:?}, now {:?}", numbers(&cluster).await);
    // The node that came back is a full voter: with it, another one may be missing.
    cluster.kill(1);
    backlog.publish(cluster.address(2), 10).await?;
    Ok(backlog.fetch(cluster.address(2)).await?)
}

#[tokio::test]
async fn a_cluster_node_with_a_damaged_log_rejoins_under_a_new_number() -> TestResult {
    let damage = |data: &Path| {
        let log = log_file(data)?;
        Ok(flip(&log, used_bytes(&log)? / 2)?)
    };
    after_damage_of_one_of_three("log-of-three", damage, false).await
}

#[tokio::test]
async fn a_cluster_node_without_its_log_rejoins_under_a_new_number() -> TestResult {
    after_damage_of_one_of_three("no-log-of-three", |data| Ok(fs::remove_dir_all(data.join("log"))?), false).await
}

#[tokio::test]
async fn a_cluster_node_without_its_state_store_keeps_its_number() -> TestResult {
    after_damage_of_one_of_three("no-state-of-three", |data| Ok(fs::remove_dir_all(data.join("state"))?), true).await
}

/// Injects EIO into every fdatasync and fsync after the first `after`.
fn failing_syncs(after: usize) -> Vec<String> {
    let inject = format!("inject=fdatasync,fsync:error=EIO:when={after}+");
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject, "--"]
        .map(String::from)
        .to_vec()
}

#[tokio::test]
async fn a_failed_fsync_stops_the_node_with_a_clear_line() -> TestResult {
    if skipped() {
        return Ok(());
    }
    if !has_program("strace") {
        skip("no strace");
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("eio", 1).persistent())?;
    cluster.start_node_under(0, &failing_syncs(60))?;
    cluster.wait_serving(0, TIMEOUT * 2).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 64).await?;
    assert!(backlog.publish_within(cluster.address(0), 10_000, Duration::from_secs(5)).await.is_err());
    cluster.wait_end(0, TIMEOUT).await?;
    let log = cluster.log_tail(0, 20).to_lowercase();
    assert!(log.contains("error") && (log.contains("sync") || log.contains("os error 5")), "{log}");
    starts_with_everything(cluster, &backlog).await
}

#[tokio::test]
async fn a_failed_fsync_on_one_of_three_leaves_the_others_serving() -> TestResult {
    if skipped() {
        return Ok(());
    }
    if !has_program("strace") {
        skip("no strace");
        return Ok(());
    }
    let mut cluster = Cluster::prepare(ClusterOptions::new("eio-of-three", 3))?;
    cluster.start_node(0)?;
    cluster.start_node(1)?;
    cluster.start_node_under(2, &failing_syncs(150))?;
    cluster.wait_all_serving(TIMEOUT * 2).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 64).await?;
    while cluster.runs(2) {
        backlog.publish(cluster.address(0), 50).await?;
    }
    backlog.publish(cluster.address(1), 50).await?;
    cluster.start_node(2)?;
    cluster.wait_serving(2, TIMEOUT * 2).await?;
    Ok(backlog.fetch(cluster.address(2)).await?)
}

/// A file system of 256 MiB of its own; unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(name: &str) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("mosquorum-small-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "mosquorum-test"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self(path)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

/// The one place where data lies on a tmpfs: what is tested is a full disk, and nothing is killed by power cut.
#[tokio::test]
async fn on_a_full_disk_nothing_new_is_acknowledged_and_nothing_acknowledged_is_lost() -> TestResult {
    if skipped() {
        return Ok(());
    }
    let disk = match SmallDisk::mount("full") {
        Ok(disk) => disk,
        Err(why) => {
            skip(&format!("a small file system cannot be mounted: {why}"));
            return Ok(());
        }
    };
    let mut options = ClusterOptions::new("full", 1).persistent().with("max_queued_messages 0");
    options.data = Some(disk.0.clone());
    let mut cluster = Cluster::start(options).await?;
    let mut backlog = Backlog::create(cluster.address(0), "away", 60_000).await?;
    // 256 MiB are full after five thousand messages of 60 kB at the latest.
    let filled = backlog.publish_within(cluster.address(0), 6000, Duration::from_secs(4)).await;
    assert!(filled.is_err(), "the disk never got full");
    // Room comes back: from a node that went on, or from one that stopped with a clear line and is started again.
    let bigger = Command::new("mount").args(["-o", "remount,size=1024m"]).arg(&disk.0).status()?;
    assert!(bigger.success());
    if !cluster.runs(0) {
        assert!(cluster.log_tail(0, 20).to_lowercase().contains("space"), "{}", cluster.log_tail(0, 20));
        cluster.start_node(0)?;
    }
    cluster.wait_serving(0, TIMEOUT * 2).await?;
    backlog.publish(cluster.address(0), 10).await?;
    let fetched = backlog.fetch(cluster.address(0)).await;
    drop(cluster);
    Ok(fetched?)
}
