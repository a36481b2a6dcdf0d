use super::*;
use crate::fs::write_file_atomically;

fn content(fs: &MemoryFs, path: &str) -> Option<Vec<u8>> {
    crate::fs::read_file(fs, Path::new(path), 1 << 20).ok()
}

#[test]
fn unsynced_bytes_are_lost_and_synced_bytes_stay() {
    let fs = MemoryFs::new();
    let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync_data().unwrap();
    fs.sync_dir(Path::new(".")).unwrap();
    file.write_at(b"two", 3).unwrap();
    assert_eq!(content(&fs, "a").unwrap(), b"onetwo");
    fs.crash(CrashMode::LoseAll);
    assert_eq!(content(&fs, "a").unwrap(), b"one");
    assert!(file.write_at(b"x", 0).is_err(), "a handle from before the crash must be dead");
}

#[test]
fn a_name_is_lost_without_sync_of_its_directory() {
    let fs = MemoryFs::new();
    let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    file.write_at(b"one", 0).unwrap();
    file.sync_data().unwrap();
    fs.crash(CrashMode::LoseAll);
    assert_eq!(content(&fs, "a"), None);
}

#[test]
fn files_below_a_lost_directory_are_lost() {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("d")).unwrap();
    write_file_atomically(&fs, Path::new("d/a"), b"one").unwrap();
    fs.crash(CrashMode::LoseAll);
    assert!(!fs.exists(Path::new("d/a")).unwrap());
}

#[test]
fn an_atomic_write_leaves_old_or_new_at_every_operation() {
    for seed in 0..50 {
        for stop in 1.. {
            let fs = MemoryFs::new();
            write_file_atomically(&fs, Path::new("a"), &[1; 2000]).unwrap();
            fs.stop_at_operation(stop);
            let finished = write_file_atomically(&fs, Path::new("a"), &[2; 3000]).is_ok();
            fs.crash(CrashMode::Subset { seed });
            let found = content(&fs, "a").expect("the file exists");
            let new = found == [2; 3000];
            assert!(new || found == [1; 2000], "seed {seed} stop {stop}");
            if finished {
                assert!(new, "seed {seed}: acknowledged and lost");
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_makes_pages_clean_and_is_counted_when_retried() {
    let fs = MemoryFs::new();
    let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    fs.sync_dir(Path::new(".")).unwrap();
    file.write_at(b"one", 0).unwrap();
    fs.fail_sync(1);
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok(), "the kernel forgets the failure");
    assert_eq!(fs.syncs_after_failure(), 1);
    fs.crash(CrashMode::LoseAll);
    assert_eq!(content(&fs, "a").unwrap(), b"", "and the bytes never reached the disk");
}

#[test]
fn space_can_run_out() {
    let fs = MemoryFs::new();
    let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    fs.limit_space(Some(10));
    file.write_at(&[0; 10], 0).unwrap();
    assert_eq!(file.write_at(&[0; 1], 10).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[1; 10], 0).unwrap();
}

#[test]
fn a_lock_is_exclusive_until_dropped() {
    let fs = MemoryFs::new();
    let LockOutcome::Held(guard) = fs.try_lock(Path::new("lock")).unwrap() else { panic!("free") };
    assert!(matches!(fs.try_lock(Path::new("lock")).unwrap(), LockOutcome::Busy { pid: Some(_) }));
    drop(guard);
    assert!(matches!(fs.try_lock(Path::new("lock")).unwrap(), LockOutcome::Held(_)));
}

#[test]
fn a_volatile_file_system_keeps_one_copy_and_frees_what_is_removed() {
    let fs = MemoryFs::volatile();
    let path = Path::new("a");
    for round in 0..10 {
        write_file_atomically(&fs, path, &[round; 1000]).unwrap();
        assert_eq!(fs.bytes(), 1000);
    }
    let open = fs.open(path, OpenMode::Read).unwrap();
    fs.remove_file(path).unwrap();
    assert_eq!(fs.bytes(), 1000, "a handle is still open");
    drop(open);
    assert_eq!(fs.bytes(), 0);
}
