//! Waiting, for what has no event to wait for: bounded, and with a name for what did not happen.

use std::time::{Duration, Instant};

/// Nothing takes longer, unless something hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Rest between two looks at what has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until there is something to see.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "this did not happen in {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Waits until the wall clock says `ms`.
pub fn wait_until_ms(ms: i64) {
    while now_ms() < ms {
        std::thread::sleep(Duration::from_millis((ms - now_ms()).clamp(1, 1000) as u64));
    }
}
