//! The two clocks, which only the edges read: BOOTTIME, which measures (leases, permits, time-outs), and the wall, which tells people when.
//!
//! `std::time::Instant` stands still while the machine is suspended and so would make a lease outlive its term; hence CLOCK_BOOTTIME
//! (PROTOCOL, preamble).
//!
//! The wall is read through the C library, as everybody else does it, so that what gives one process another wall clock for a test gives it
//! to this one. BOOTTIME is the kernel's own.

use std::time::{SystemTime, UNIX_EPOCH};

use std::sync::{Arc, Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::model::UnixMs;

const MICROS_PER_MS: i64 = 1_000;
const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_SEC: u64 = 1_000_000_000;

/// One instant as both clocks show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// CLOCK_BOOTTIME in milliseconds.
    pub boot_ms: u64,
    /// The wall clock.
    pub wall: UnixMs,
}

impl Moment {
    /// What the clocks show now.
    pub fn now() -> Moment {
        Moment { boot_ms: boottime_ms(), wall: wall_now() }
    }
}

/// Where a part of the program reads the time: the clocks of its machine, or what a simulation shows.
#[derive(Clone, Default, Debug)]
pub struct Clock(Option<Arc<Mutex<Moment>>>);

impl Clock {
    /// Always shows what was last entered there.
    pub fn shown(moment: Arc<Mutex<Moment>>) -> Clock {
        Clock(Some(moment))
    }

    pub fn now(&self) -> Moment {
        match &self.0 {
            None => Moment::now(),
            Some(shown) => *shown.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub fn wall(&self) -> UnixMs {
        self.now().wall
    }

    pub fn boot_ms(&self) -> i64 {
        self.now().boot_ms as i64
    }
}

/// Milliseconds since the machine started, time in suspend included (CLOCK_BOOTTIME).
pub fn boottime_ms() -> u64 {
    boottime_ns() / NANOS_PER_MS
}

/// Nanoseconds since the machine started, time in suspend included (CLOCK_BOOTTIME).
pub fn boottime_ns() -> u64 {
    nanos(ClockId::Boottime)
}

/// The wall clock (CLOCK_REALTIME).
pub fn wall_now() -> UnixMs {
    UnixMs(wall_us() / MICROS_PER_MS)
}

/// The wall clock (CLOCK_REALTIME) in microseconds since 1970; one set before reads as 1970.
pub fn wall_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64
}

/// The clock counts from an origin in the past.
fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec.max(0) as u64).saturating_mul(NANOS_PER_SEC).saturating_add(time.tv_nsec.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_never_goes_back_and_the_wall_agrees_with_the_standard_library() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second.boot_ms >= first.boot_ms && first.boot_ms > 0);
        let std_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        assert!((std_ms - second.wall.0).abs() < 60_000);
    }
}
