//! Seeded randomness: the same numbers on every machine, other ones on request.
//!
//! `CHRONO_FLOW_SEED` chooses other cases than the suite's own, `CHRONO_FLOW_CASES` multiplies their number; a failure prints both.

use std::env;

/// The suite's seed.
const SEED: u64 = 20_261_123;

pub fn seed() -> u64 {
    env::var("CHRONO_FLOW_SEED").map_or(SEED, |text| text.parse().expect("CHRONO_FLOW_SEED is a number"))
}

/// How many cases to try: the suite's number, or the one asked for.
pub fn cases(usual: u32) -> u32 {
    env::var("CHRONO_FLOW_CASES").map_or(usual, |text| text.parse().expect("CHRONO_FLOW_CASES is a number"))
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// From `from` to `to`, both included.
    pub fn within(&mut self, from: i64, to: i64) -> i64 {
        from + (self.next() % (to - from + 1) as u64) as i64
    }

    pub fn chance(&mut self, percent: i64) -> bool {
        self.within(1, 100) <= percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.within(0, from.len() as i64 - 1) as usize]
    }
}
