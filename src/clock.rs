//! The two clocks. Only the edges read them; pure code gets instants as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::UnixMs;

/// Civil time, as this machine knows it; may be set, forwards and backwards.
pub fn wall() -> UnixMs {
    let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    };
    UnixMs(ms)
}

/// Milliseconds on CLOCK_BOOTTIME: never set, and goes on in suspend (std's `Instant` stands still there).
pub fn boottime_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
