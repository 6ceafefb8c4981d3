//! The wall clock of one node over the boot time that all share: it can be off, drift and jump.

use std::sync::{Arc, Mutex};

use chrono_flow::clock::{Clock, Moment};
use chrono_flow::model::UnixMs;

/// 2026-01-01T00:00:00Z
pub const DAY: UnixMs = UnixMs(1_767_225_600_000);

pub struct NodeClock {
    offset_ms: i64,
    drift_ppm: i64,
    drifts_since_ms: u64,
    shown: Arc<Mutex<Moment>>,
}

impl NodeClock {
    pub fn new(offset_ms: i64) -> NodeClock {
        let shown = Arc::new(Mutex::new(Moment { boot_ms: 0, wall: DAY + offset_ms }));
        NodeClock { offset_ms, drift_ppm: 0, drifts_since_ms: 0, shown }
    }

    pub fn wall(&self, now_ms: u64) -> UnixMs {
        DAY + now_ms as i64 + self.offset_ms + self.drifted(now_ms)
    }

    fn drifted(&self, now_ms: u64) -> i64 {
        (now_ms - self.drifts_since_ms) as i64 * self.drift_ppm / 1_000_000
    }

    pub fn jump(&mut self, ms: i64) {
        self.offset_ms += ms;
    }

    pub fn set_drift(&mut self, now_ms: u64, ppm: i64) {
        self.offset_ms += self.drifted(now_ms);
        (self.drift_ppm, self.drifts_since_ms) = (ppm, now_ms);
    }

    /// Right again.
    pub fn set_right(&mut self, now_ms: u64) {
        (self.offset_ms, self.drift_ppm, self.drifts_since_ms) = (0, 0, now_ms);
    }

    /// By how much it is ahead of the true time.
    pub fn ahead_ms(&self, now_ms: u64) -> i64 {
        self.wall(now_ms).since(DAY + now_ms as i64)
    }

    /// What the node's own code reads from now on.
    pub fn show(&self, now_ms: u64) {
        *self.shown.lock().unwrap() = Moment { boot_ms: now_ms, wall: self.wall(now_ms) };
    }

    pub fn clock(&self) -> Clock {
        Clock::shown(self.shown.clone())
    }
}
