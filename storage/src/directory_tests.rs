use proptest::prelude::*;

use super::*;
use crate::fs::{CrashMode, MemoryFs, OpenMode, RealFs};

fn dir() -> &'static Path {
    Path::new("data")
}

fn open(fs: &MemoryFs) -> Result<DataDirectory, DirectoryError> {
    DataDirectory::open(Arc::new(fs.clone()), dir())
}

#[test]
fn a_directory_is_bound_once_and_each_start_has_its_number() {
    let fs = MemoryFs::new();
    let mut directory = open(&fs).unwrap();
    assert_eq!(directory.identity(), None);
    let identity = directory.initialise([0xAB; 16], 7, "node-1", 1).unwrap().clone();
    assert_eq!((identity.boots, identity.node_name.as_str()), (1, "node-1"));
    assert!(matches!(
        directory.initialise([1; 16], 8, "other", 1),
        Err(DirectoryError::AlreadyInitialised { node_id: 7, .. })
    ));
    drop(directory);
    for boots in 2..5 {
        let directory = open(&fs).unwrap();
        assert_eq!(directory.identity(), Some(&Identity { boots, ..identity.clone() }));
        fs.crash(CrashMode::LoseAll);
    }
}

#[test]
fn a_crash_at_any_operation_keeps_the_identity_and_never_repeats_a_boot_number() {
    for seed in 0..20 {
        for stop in 1..30 {
            let fs = MemoryFs::new();
            fs.stop_at_operation(stop);
            let bound = open(&fs).and_then(|mut d| d.initialise([1; 16], 7, "n", 1).cloned()).is_ok();
            fs.crash(CrashMode::Subset { seed: seed * 101 + stop });
            let mut seen = 0;
            for run in 0..6 {
                fs.stop_at_operation(1 + (seed * 7 + stop * 3 + run * 5) % 12);
                match open(&fs).map(|d| d.identity().cloned()) {
                    Ok(Some(identity)) => {
                        assert!(identity.boots > seen, "seed {seed} stop {stop}: {} again", identity.boots);
                        seen = identity.boots;
                    }
                    Ok(None) => assert!(!bound, "seed {seed} stop {stop}: the identity is gone"),
                    Err(error) => assert!(matches!(error, DirectoryError::Io { .. }), "{error}"),
                }
                fs.crash(CrashMode::Subset { seed: seed * 31 + run });
            }
        }
    }
}

#[test]
fn a_foreign_directory_is_named_and_left_alone() {
    let fs = MemoryFs::new();
    fs.create_dir_all(&dir().join("lost+found")).unwrap();
    drop(open(&fs).unwrap());
    fs.open(&dir().join("holiday.jpg"), OpenMode::CreateNew).unwrap();
    let error = open(&fs).map(drop).unwrap_err();
    assert!(matches!(&error, DirectoryError::Foreign { found, .. } if found == "holiday.jpg"), "{error}");
    assert_eq!(fs.list(dir()).unwrap(), ["holiday.jpg", "lock", "lost+found"]);
}

#[test]
fn a_damaged_or_newer_identity_is_refused() {
    let fs = MemoryFs::new();
    open(&fs).unwrap().initialise([1; 16], 7, "n", 1).unwrap();
    let path = dir().join("identity");
    let len = crate::fs::read_file(&fs, &path, 1000).unwrap().len() as u64;
    for at in 0..len - 1 {
        fs.flip(&path, at, 1).unwrap();
        let error = open(&fs).map(drop).unwrap_err();
        assert!(matches!(error, DirectoryError::Damaged { .. } | DirectoryError::NewerFormat { .. }), "{at}: {error}");
        fs.flip(&path, at, 1).unwrap();
    }
    let text = String::from_utf8(crate::fs::read_file(&fs, &path, 1000).unwrap()).unwrap();
    let newer = text.replace("format 1", "format 2");
    crate::fs::write_file_atomically(&fs, &path, newer.as_bytes()).unwrap();
    assert!(matches!(open(&fs), Err(DirectoryError::NewerFormat { found: 2, supported: 1, .. })));
}

#[test]
fn a_second_user_is_told_the_process_of_the_first() {
    let path = std::env::temp_dir().join(format!("mosquorum-directory-test-{}", std::process::id()));
    let first = DataDirectory::open(Arc::new(RealFs), &path).unwrap();
    let error = DataDirectory::open(Arc::new(RealFs), &path).map(drop).unwrap_err();
    let ours = std::process::id();
    assert!(matches!(error, DirectoryError::InUse { pid: Some(pid), .. } if pid == ours), "{error}");
    drop(first);
    DataDirectory::open(Arc::new(RealFs), &path).unwrap();
    std::fs::remove_dir_all(path).unwrap();
}

proptest! {
    #[test]
    fn any_name_survives(name: String, node_id: u64, boots: u64) {
        let identity = Identity { cluster_id: [5; 16], node_id, node_name: name, shards: 1, boots };
        let parsed = Identity::parse(dir(), identity.encode().as_bytes()).unwrap();
        prop_assert_eq!(parsed, identity);
    }

    #[test]
    fn any_content_gives_an_answer(content: Vec<u8>) {
        let _ = Identity::parse(dir(), &content);
    }
}
