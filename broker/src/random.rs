//! Names that nobody else has: the only randomness of the broker's live side.
use std::hash::{BuildHasher, Hasher, RandomState};

/// 128 random bits in the form of a UUID, from the standard library's per-process keys and the kernel's randomness
/// behind them.
pub fn uuid() -> String {
    let (a, b) = (word(0x6d6f), word(0x7175));
    let a = (a & 0xffff_ffff_ffff_0fff) | 0x4000;
    let b = (b & 0x3fff_ffff_ffff_ffff) | 0x8000_0000_0000_0000;
    format!(
        "{:08X}-{:04X}-{:04X}-{:04X}-{:012X}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// Evenly distributed.
pub fn number() -> u64 {
    word(0x6272)
}

fn word(salt: u64) -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(salt);
    hasher.finish()
}
