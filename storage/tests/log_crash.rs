//! Power is cut at every operation on the disk; the log must hold everything that it acknowledged, and nothing else
//! than what it was asked. One seed gives one run; a failure prints it.

mod common;

use common::{Model, Random, open};
use mosquorum_storage::fs::{CrashMode, MemoryFs};

const STEPS: u64 = 60;

fn steps(model: &mut Model, fs: &MemoryFs, random: &mut Random, count: u64) {
    if let Ok((log, _)) = open(fs) {
        for _ in 0..count {
            model.step(&log, random);
        }
        log.run_pending();
    }
}

/// Run 1 goes on until `stop`, then the power is cut; run 2 must find everything, goes on and is cut too.
/// Returns whether run 1 came to its end before `stop`.
fn one_run(seed: u64, stop: u64, mode: CrashMode) -> Result<bool, String> {
    let fs = MemoryFs::new();
    let mut model = Model::new();
    let mut random = Random(seed);
    fs.stop_at_operation(stop);
    steps(&mut model, &fs, &mut random, STEPS);
    let complete = fs.operations() < stop;
    for mode in [mode, CrashMode::Subset { seed: seed ^ stop }, CrashMode::LoseAll] {
        fs.crash(mode);
        let (log, _) = open(&fs).map_err(|error| error.to_string())?;
        model.check(&log)?;
        for _ in 0..12 {
            model.step(&log, &mut random);
        }
        log.run_pending();
        model.step(&log, &mut random);
    }
    Ok(complete)
}

/// Every crash point of a few seeds; the first failure.
fn every_crash_point(seeds: std::ops::Range<u64>) -> Result<u64, String> {
    let mut points = 0;
    for seed in seeds {
        for stop in 1.. {
            let torn = (0..3).map(|tear| CrashMode::Subset { seed: seed * 1_000_003 + stop * 17 + tear });
            let mut complete = false;
            for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain(torn) {
                complete = one_run(seed, stop, mode)
                    .map_err(|error| format!("seed {seed}, stop {stop}, {mode:?}: {error}"))?;
                points += 1;
            }
            if complete {
                break;
            }
        }
    }
    Ok(points)
}

/// Many short runs, each cut anywhere, also while it recovers from the one before.
fn many_short_runs(seed: u64) -> Result<(), String> {
    let fs = MemoryFs::new();
    let mut model = Model::new();
    let mut random = Random(seed);
    for run in 0..12 {
        fs.stop_at_operation(1 + random.below(80));
        if let Ok((log, _)) = open(&fs) {
            model.check(&log).map_err(|error| format!("seed {seed}, run {run}: {error}"))?;
            for _ in 0..random.below(40) {
                model.step(&log, &mut random);
            }
            if random.below(4) == 0 {
                log.shutdown();
            }
        }
        let mode = match random.below(4) {
            0 => CrashMode::LoseAll,
            1 => CrashMode::KeepAll,
            _ => CrashMode::Subset { seed: random.next() },
        };
        fs.crash(mode);
    }
    let (log, _) = open(&fs).map_err(|error| format!("seed {seed}, at the end: {error}"))?;
    model.check(&log).map_err(|error| format!("seed {seed}, at the end: {error}"))
}

#[test]
fn every_acknowledged_entry_is_found_again_after_a_crash_at_any_operation() {
    let points = every_crash_point(0..3).unwrap_or_else(|error| panic!("{error}"));
    println!("{points} crash points");
    assert!(points > 1000);
}

#[test]
fn nothing_is_lost_or_resurrected_over_many_runs() {
    for seed in 0..800 {
        many_short_runs(seed).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let fs = MemoryFs::new();
        steps(&mut Model::new(), &fs, &mut Random(seed), STEPS);
        (fs.operations(), fs.syncs())
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}

/// Runs in a child process of the test below, with the bug planted; its verdict is its exit code.
#[cfg(feature = "test-faults")]
#[test]
#[ignore = "only with a planted bug"]
fn child_with_planted_bug() {
    every_crash_point(0..2).unwrap_or_else(|error| panic!("{error}"));
}

#[cfg(feature = "test-faults")]
#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let child = |plant: &str| {
        std::process::Command::new(std::env::current_exe().expect("a test knows its binary"))
            .args(["--exact", "child_with_planted_bug", "--ignored"])
            .env("MOSQUORUM_PLANT", plant)
            .output()
            .expect("the test binary starts")
    };
    let caught = child("ack-before-fsync");
    assert!(!caught.status.success(), "the planted bug was not caught");
    let text = String::from_utf8_lossy(&caught.stdout).into_owned() + &String::from_utf8_lossy(&caught.stderr);
    assert!(text.contains("acknowledged ones"), "{text}");
    assert!(child("nothing").status.success(), "the checker fails without a bug");
}
