//! Repeatable randomness for tests: fixed seeds in the suite, fresh ones from the environment.

/// SplitMix64.
pub struct Random(pub u64);

#[allow(dead_code)] // not every test uses every word
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

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The seeds 1..=count; or, with CHRONO_FLOW_SEED, that one and, with CHRONO_FLOW_SEEDS, so many from there.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} must be a number")));
    match number("CHRONO_FLOW_SEED") {
        Some(first) => first..first.saturating_add(number("CHRONO_FLOW_SEEDS").unwrap_or(1)),
        None => 1..count + 1,
    }
}

/// Names the seed of a test that panics.
pub struct OnPanic(pub u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with CHRONO_FLOW_SEED={}", self.0);
        }
    }
}
