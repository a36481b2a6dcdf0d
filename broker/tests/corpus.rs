//! The fuzzers' saved corpus, and mutations of it, without a fuzzer: nothing that bytes say makes the broker panic.
//! MOSQUORUM_FUZZ_RUNS sets the mutations per target, MOSQUORUM_FUZZ_SEED where they begin.
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::{fs, path::PathBuf};

const RUNS: u64 = 5_000;
const INPUT_BYTES_MAX: usize = 4096;

/// Xorshift: the same seed gives the same inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a readable file")).collect()
}

/// Bytes that mean something somewhere.
const SPECIAL: &[u8] =
    &[0, 1, 2, 4, 5, 0x10, 0x20, 0x22, 0x7f, 0x80, 0x82, 0xc0, 0xfe, 0xff, b'#', b'+', b'/', b'$', b' ', b'\n', b':'];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = SPECIAL[random.below(SPECIAL.len())],
            2 => bytes.insert(at, SPECIAL[random.below(SPECIAL.len())]),
            3 if at < bytes.len() => {
                bytes.drain(at..(at + 1 + random.below(8)).min(bytes.len()));
            }
            4 => bytes.truncate(at),
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.splice(at..at, other[from..].iter().copied());
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Says which input it was, if a target panics.
struct Witness<'a>(&'a str, &'a [u8]);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {:02x?}", self.0, self.1);
        }
    }
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let (runs, seed) = (number("MOSQUORUM_FUZZ_RUNS", RUNS), number("MOSQUORUM_FUZZ_SEED", 20_261_121));
    targets::quiet();
    println!("seed {seed}, {runs} mutations per target");
    let workers = targets::TARGETS.map(|(name, target)| {
        std::thread::spawn(move || {
            let seeds = corpus(name);
            assert!(!seeds.is_empty(), "{name} has no corpus");
            let run = |bytes: &[u8]| {
                let _witness = Witness(name, bytes);
                target(bytes);
            };
            seeds.iter().for_each(|bytes| run(bytes));
            let mut random = Random(seed | 1);
            for _ in 0..runs {
                run(&mutate(&mut random, &seeds));
            }
        })
    });
    let failed: Vec<_> = workers.into_iter().filter_map(|worker| worker.join().err()).collect();
    assert!(failed.is_empty(), "{} targets panicked", failed.len());
}
