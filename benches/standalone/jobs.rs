//! Start-up and memory with many jobs: from an empty ledger (all come from the database), and again from the ledger's own log.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono_flow::model::JobSpec;

use crate::server;
use crate::support::figures::{median, resident_bytes};
use crate::support::{Effort, directory};

const JOBS: usize = 100_000;
const SLOTS: u32 = 64;
/// After which memory is read.
const SETTLE: Duration = Duration::from_secs(3);

struct Start {
    ready_ms: f64,
    /// From the start of the process until the ledger has all jobs.
    loaded_ms: f64,
    bytes: f64,
}

pub fn run(effort: Effort) -> Result<()> {
    println!("\n## {JOBS} jobs: start-up and memory\n");
    println!("|                          | ready, ms | all jobs there, ms | resident, MB | bytes a job |");
    println!("|--------------------------|----------:|-------------------:|-------------:|------------:|");
    let (mut empty, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.pick(2, 1) {
        let dir = directory()?;
        empty.push(start(dir.path(), "extra")?);
        let dir = directory()?;
        server::populate(dir.path(), (0..JOBS).map(job))?;
        first.push(start(dir.path(), "extra")?);
        again.push(start(dir.path(), "extra-again")?);
    }
    let none = median(empty.iter().map(|start| start.bytes).collect());
    for (name, starts) in [("no jobs", &empty), ("first start", &first), ("start with its own ledger", &again)] {
        let of = |figure: fn(&Start) -> f64| median(starts.iter().map(figure).collect());
        let (ready, loaded, bytes) = (of(|start| start.ready_ms), of(|start| start.loaded_ms), of(|start| start.bytes));
        let each = (bytes - none) / JOBS as f64;
        println!("| {name:<24} | {ready:>9.0} | {loaded:>18.0} | {:>12.1} | {each:>11.0} |", bytes / 1e6);
    }
    println!("\naim: all there within 2,000 ms, at most 500 bytes a job");
    Ok(())
}

/// None of them is due while this lasts.
fn job(n: usize) -> JobSpec {
    JobSpec::new(&format!("job number {n}"), &format!("{} {} 1 1 *", n % 60, n / 60 % 24), "/usr/local/bin/backup --all --quiet")
}

fn start(dir: &std::path::Path, extra: &str) -> Result<Start> {
    let started = Instant::now();
    let server = server::Server::start(dir, SLOTS)?;
    server.create(extra)?;
    let loaded_ms = started.elapsed().as_secs_f64() * 1000.0;
    std::thread::sleep(SETTLE);
    let bytes = resident_bytes(server.pid())?;
    let ready_ms = server.ready_after.as_secs_f64() * 1000.0;
    server.stop()?;
    Ok(Start { ready_ms, loaded_ms, bytes })
}
