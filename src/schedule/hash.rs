//! Where `H` puts a job: a hash that never changes, so that a job keeps its place in every version and on every cluster.
//!
//! The seed is FNV-1a with 64 bits over the UTF-8 bytes of the job's name. Each field mixes it with its own number, so that
//! `H H * * *` does not put minute and hour in step: `x = seed + (number + 1) · 0x9E3779B97F4A7C15` (numbers: second 0, minute 1,
//! hour 2, day-of-month 3, month 4, day-of-week 5), finished as SplitMix64 does, and the place among `n` values is the high
//! half of `x · n`. The tests hold values from this.

use super::field::Field;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The seed of a job's `H`, from its name: FNV-1a, 64 bits. Frozen.
pub fn seed(name: &str) -> u64 {
    name.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
}

/// The place of a job among `n` values of a field, below `n` (0 for `n` = 0).
pub(super) fn place(seed: u64, field: Field, n: usize) -> usize {
    let mut x = seed.wrapping_add((field as u64 + 1).wrapping_mul(GOLDEN));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    ((u128::from(x) * n as u128) >> 64) as usize
}
