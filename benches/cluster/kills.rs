//! What the death of a leader does to fires, and how long it takes until somebody else leads.
//!
//! CHRONO_FLOW_BENCH_KILLS and CHRONO_FLOW_BENCH_ELECTION_TIMEOUT_MS say how many and how fast: a hundred at the fast setting, in a quarter
//! of an hour, are `CHRONO_FLOW_BENCH_KILLS=100 CHRONO_FLOW_BENCH_ELECTION_TIMEOUT_MS=150 cargo bench --bench cluster -- kills`.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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
    let kills: usize = asked("CHRONO_FLOW_BENCH_KILLS", effort.pick(10, 3))?;
    let timeout_ms = asked("CHRONO_FLOW_BENCH_ELECTION_TIMEOUT_MS", ELECTION_TIMEOUT_MS)?;
    println!("\n## Leaders killed (kill -9, restarted after {} s) under {RATE} fires/s, time-out {timeout_ms} ms\n", RESTART.as_secs());
    let mut cluster = Cluster::start_logging(SLOTS, timeout_ms, "info,chrono_flow::agent=debug")?;
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
    report_stagings(&cluster.worker.read_log()?)?;
    report_takeovers(takeovers, timeout_ms);
    Ok(())
}

fn asked<T: FromStr>(variable: &str, usual: T) -> Result<T> {
    match std::env::var(variable) {
        Err(_) => Ok(usual),
        Ok(text) => text.parse().ok().with_context(|| format!("{variable} is `{text}`, and should be a number")),
    }
}

/// How long before its instant each run came to the worker first, by the worker's own word. All of these jobs allow overlap.
fn report_stagings(log: &str) -> Result<()> {
    let mut ahead: BTreeMap<&str, i64> = BTreeMap::new();
    for (_, staged) in log.lines().filter_map(|line| line.split_once("staged run ")) {
        let parsed = staged.split_once(' ').and_then(|(run, rest)| {
            let in_ms: i64 = rest.rsplit_once("starts in ")?.1.split(' ').next()?.parse().ok()?;
            Some((run, in_ms))
        });
        let (run, in_ms) = parsed.with_context(|| format!("the worker says {staged:?}"))?;
        let first = ahead.entry(run).or_insert(in_ms);
        *first = in_ms.max(*first);
    }
    let late = ahead.values().filter(|in_ms| **in_ms < 0).count();
    let least = ahead.values().min().context("the worker was given nothing")?;
    println!("\n{late} of {} fires were staged after their instant (aim: 0); the least time ahead was {least} ms", ahead.len());
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

fn report_takeovers(takeovers: Vec<Takeover>, timeout_ms: u64) {
    let count = takeovers.len();
    let (p50, p95, max) = spread(takeovers.into_iter().map(|takeover| takeover.applied_ms).collect());
    println!("\n| from the kill, in ms, of {count:>2}     |     p50 |     p95 |     max | aim for p95 |");
    println!("|--------------------------------|--------:|--------:|--------:|------------:|");
    println!("| to the new leader's first entry| {p50:>7.0} | {p95:>7.0} | {max:>7.0} | {:>11.0} |", bound_ms(timeout_ms));
}
