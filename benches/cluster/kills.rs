//! What the death of a leader does to fires, and how long it takes until somebody else leads.

use std::time::Duration;

use anyhow::{Result, ensure};
use chrono_flow::model::UnixMs;

use crate::cluster::Cluster;
use crate::support::starts::{Fifo, Lateness, Start, jobs};
use crate::support::{Effort, directory, now, sleep_until};
use crate::takeover::{ELECTION_TIMEOUT_MS, Takeover, bound_ms, kill_leader, spread};

const RATE: usize = 100;
const SLOTS: u32 = 256;
const AHEAD_MS: i64 = 5_000;
/// Quiet at the beginning and at the end.
const REST_MS: i64 = 5_000;
/// From one kill to the next.
const PERIOD_MS: i64 = 8_000;
/// The dead are started again so long after.
const RESTART: Duration = Duration::from_millis(1_000);
/// Fires so near to a kill are told apart from the others.
const NEAR_MS: i64 = 2_000;
/// Fires decided while nobody leads come that long after the kill, as they are decided ahead; they are neither near nor quiet.
const AFTER_MS: i64 = 4_000;

pub fn run(effort: Effort) -> Result<()> {
    let kills = effort.pick(10, 3);
    println!("\n## Leaders killed (kill -9, restarted after {} s) under {RATE} fires/s\n", RESTART.as_secs());
    let mut cluster = Cluster::start(SLOTS, ELECTION_TIMEOUT_MS)?;
    let dir = directory()?;
    let fifo = Fifo::new(dir.path())?;
    let seconds = ((2 * REST_MS + kills as i64 * PERIOD_MS) / 1000) as usize;
    let from = now() + AHEAD_MS;
    cluster.populate("kill", jobs(RATE, seconds, from, "kill", &fifo))?;
    let mut takeovers = Vec::new();
    for kill in 0..kills {
        sleep_until(from + REST_MS + kill as i64 * PERIOD_MS);
        takeovers.push(kill_leader(&mut cluster)?);
        sleep_until(takeovers[kill].at + RESTART.as_millis() as i64);
        for process in cluster.controllers.values_mut().filter(|process| !process.is_up()) {
            process.start()?;
        }
    }
    let starts = fifo.read(RATE * seconds)?;
    check(&starts)?;
    report_lateness(&starts, &takeovers);
    report_takeovers(takeovers);
    Ok(())
}

/// Every fire has an instant of its own: none is there twice.
fn check(starts: &[Start]) -> Result<()> {
    let mut instants: Vec<UnixMs> = starts.iter().map(|start| start.instant).collect();
    instants.sort();
    instants.dedup();
    ensure!(instants.len() == starts.len(), "{} fires started twice", starts.len() - instants.len());
    Ok(())
}

fn report_lateness(starts: &[Start], takeovers: &[Takeover]) {
    let (mut near, mut after, mut quiet) = (Vec::new(), Vec::new(), Vec::new());
    for start in starts {
        let from_kill = |range: std::ops::RangeInclusive<i64>| takeovers.iter().any(|kill| range.contains(&start.instant.since(kill.at)));
        let group = if from_kill(-NEAR_MS..=NEAR_MS) {
            &mut near
        } else if from_kill(NEAR_MS..=AFTER_MS) {
            &mut after
        } else {
            &mut quiet
        };
        group.push(*start);
    }
    println!("| fires, lateness in ms          |   fires |     p50 |     p99 |     max | p99 by quiet |");
    println!("|--------------------------------|--------:|--------:|--------:|--------:|-------------:|");
    let base = Lateness::of(&quiet).p99;
    for (name, starts) in [("within 2 s of a kill", near), ("2 to 4 s after one", after), ("quiet", quiet)] {
        let late = Lateness::of(&starts);
        let (count, ratio) = (starts.len(), late.p99 / base);
        println!("| {name:<30} | {count:>7} | {:>7.2} | {:>7.2} | {:>7.2} | {ratio:>12.2} |", late.p50, late.p99, late.max);
    }
    println!("\nall {} fires started, none twice; aim: 1.5 or less within 2 s of a kill", starts.len());
}

fn report_takeovers(takeovers: Vec<Takeover>) {
    let count = takeovers.len();
    let (p50, p95, max) = spread(takeovers.into_iter().map(|takeover| takeover.applied_ms).collect());
    println!("\n| from the kill, in ms, of {count:>2}     |     p50 |     p95 |     max | aim for p95 |");
    println!("|--------------------------------|--------:|--------:|--------:|------------:|");
    println!("| to the new leader's first entry| {p50:>7.0} | {p95:>7.0} | {max:>7.0} | {:>11.0} |", bound_ms());
}
