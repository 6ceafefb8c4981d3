//! Repeatable randomness.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in 0..n.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The fixed seeds 1..=count, and the one in the environment.
pub fn seeds(count: u64) -> Vec<u64> {
    let fresh = std::env::var("CHRONO_FLOW_SEED").ok().map(|text| text.parse().expect("CHRONO_FLOW_SEED must be a number"));
    (1..=count).chain(fresh).collect()
}

/// Names the seed of a test that panics.
pub struct OnPanic(pub u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was CHRONO_FLOW_SEED={}", self.0);
        }
    }
}
