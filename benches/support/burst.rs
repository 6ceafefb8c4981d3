//! The cheapest command, more often at one instant than the machine can start it; and the same from a bare loop.

use anyhow::Result;
use chrono_flow::model::{JobSpec, UnixMs};

use super::bare;
use super::figures::Cpu;

pub const COMMAND: &str = ":";
pub const SLOTS: u32 = 64;

/// A job that fires once.
pub fn once(name: &str, instant: UnixMs) -> JobSpec {
    let mut job = JobSpec::new(name, "@every 1h", COMMAND);
    job.starts_at = Some(instant);
    job.ends_at = Some(instant + 1);
    job
}

/// What the bare loop came to.
pub struct Bare {
    pub per_s: f64,
    /// Processor time of the loop and of its commands, all runs together.
    pub cpu: Cpu,
}

pub fn bare(runs: usize) -> Result<Bare> {
    let before = Cpu::of(std::process::id())?;
    let per_s = bare::runtime()?.block_on(bare::rate(COMMAND, runs, SLOTS as usize))?;
    Ok(Bare { per_s, cpu: Cpu::of(std::process::id())?.since(before) })
}
