//! Runs a second of the cheapest command when more is due than the machine can start, and what a run costs, in which part.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::cluster::{Bill, Cluster};
use crate::support::burst::{self, COMMAND, SLOTS};
use crate::support::figures::median;
use crate::support::{Effort, now, sleep_until};
use crate::takeover::ELECTION_TIMEOUT_MS;

/// From the write of the jobs to their instant.
const AHEAD_MS: i64 = 8_000;
/// The leader decides 2 s ahead: processor time is counted from here on.
const COUNT_FROM_MS: i64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Round {
    per_s: f64,
    /// Until the last command has ended, recorded or not.
    ended_per_s: f64,
    bill: Bill,
}

pub fn run(effort: Effort) -> Result<()> {
    let (runs, rounds) = (effort.pick(6_000, 2_000), effort.pick(2, 1));
    println!(
        "\n## Throughput: `sh -c {COMMAND}`, {runs} due at one instant, {SLOTS} slots, from the first start to the last row of history\n"
    );
    let mut cluster = Cluster::start(SLOTS, ELECTION_TIMEOUT_MS)?;
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        ours.push(round(&mut cluster, number, runs)?);
        bares.push(burst::bare(runs)?);
    }
    let of = |figure: fn(&Round) -> f64| median(ours.iter().map(figure).collect());
    let each = |figure: fn(&Bill) -> f64| median(ours.iter().map(|round| figure(&round.bill) / runs as f64).collect());
    let bare = |figure: fn(&burst::Bare) -> f64| median(bares.iter().map(figure).collect());
    println!("|             | runs/s | until ended | CPU-ms a run: controllers | worker | guardian | database | commands |");
    println!("|-------------|-------:|------------:|--------------------------:|-------:|---------:|---------:|---------:|");
    println!(
        "| chrono-flow | {:>6.0} | {:>11.0} | {:>25.2} | {:>6.2} | {:>8.2} | {:>8.2} | {:>8.2} |",
        of(|round| round.per_s),
        of(|round| round.ended_per_s),
        each(|bill| bill.controllers_ms),
        each(|bill| bill.worker_ms),
        each(|bill| bill.guardian_ms),
        each(|bill| bill.database_ms),
        each(|bill| bill.commands_ms)
    );
    let (own, commands) = (bare(|bare| bare.cpu.own_ms) / runs as f64, bare(|bare| bare.cpu.children_ms) / runs as f64);
    let per_s = bare(|bare| bare.per_s);
    println!("| bare loop   | {per_s:>6.0} | {per_s:>11.0} | {:>25} | {own:>6.2} | {:>8} | {:>8} | {commands:>8.2} |", "", "", "");
    let ratios = ours.iter().zip(&bares).map(|(ours, bare)| ours.per_s / bare.per_s).collect();
    println!("\nruns/s, ours by bare: {:.0} % (aim: 50 % or more)", median(ratios) * 100.0);
    Ok(())
}

fn round(cluster: &mut Cluster, number: usize, runs: usize) -> Result<Round> {
    let name = format!("once-{number}");
    let instant = now() + AHEAD_MS;
    cluster.populate(&name, (0..runs).map(|n| burst::once(&format!("{name} {n}"), instant)))?;
    ensure!(now() < instant - COUNT_FROM_MS, "the jobs came too late into the ledger");
    sleep_until(instant - COUNT_FROM_MS);
    let before = cluster.bill()?;
    sleep_until(instant);
    let started = Instant::now();
    let (first, last) = loop {
        let (succeeded, ends) = cluster.database.history(&name)?;
        if let (true, Some(ends)) = (succeeded >= runs, ends) {
            break ends;
        }
        ensure!(started.elapsed() < PATIENCE, "only {succeeded} of {runs} runs were recorded");
        std::thread::sleep(Duration::from_millis(20));
    };
    let recorded_at = now();
    Ok(Round {
        per_s: runs as f64 * 1000.0 / recorded_at.since(first) as f64,
        ended_per_s: runs as f64 * 1000.0 / last.since(first) as f64,
        bill: cluster.bill()?.since(before),
    })
}
