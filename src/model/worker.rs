//! A worker as users read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{UnixMs, WorkerId};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Has a session and a lease: takes work.
    Ready,
    /// Lets its runs end and takes no new ones.
    Draining,
    /// Its clock is off by more than the limit: takes no work (PROTOCOL H).
    BadClock,
    /// No heartbeat since its lease ran out.
    Unreachable,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub id: WorkerId,
    pub address: String,
    pub labels: BTreeMap<String, String>,
    /// Runs that it executes at once, at most.
    pub slots: u32,
    pub running: u32,
    /// Runs that it holds and has not started.
    pub staged: u32,
    pub state: WorkerState,
    pub lease_expires_at: Option<UnixMs>,
}
