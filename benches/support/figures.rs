//! Numbers: medians, percentiles, and what /proc says of a process.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of the processor times in /proc, per second: fixed in what Linux shows to programs (proc(5), USER_HZ).
const TICKS_PER_S: f64 = 100.0;

/// The value below which so many of a hundred lie; the list must not be empty.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(&values, 50.0)
}

/// The machine's load averages, as /proc says them.
pub fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Processor time in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub own_ms: f64,
    /// Of children that were waited for.
    pub children_ms: f64,
}

impl Cpu {
    pub fn of(pid: u32) -> Result<Cpu> {
        let fields = stat(pid)?;
        let ms = |number: usize| fields[number - 3].parse::<f64>().map(|ticks| ticks * 1000.0 / TICKS_PER_S);
        Ok(Cpu { own_ms: ms(14)? + ms(15)?, children_ms: ms(16)? + ms(17)? })
    }

    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { own_ms: self.own_ms - before.own_ms, children_ms: self.children_ms - before.children_ms }
    }
}

/// The fields of /proc/<pid>/stat from the third on.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("a stat line has a name")?;
    Ok(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The processes that this one has started and that live.
pub fn children_of(parent: u32) -> Result<Vec<u32>> {
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|pid| stat(*pid).is_ok_and(|fields| fields[1] == parent.to_string())).collect())
}

/// The guardian of a server or worker.
pub fn guardian_of(server: u32) -> Result<u32> {
    children_of(server)?.first().copied().context("it has a guardian")
}

/// Resident memory, in bytes.
pub fn resident_bytes(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a status has VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}
