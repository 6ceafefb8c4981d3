//! Runs a second of the cheapest command when more is due than the machine can start, and what a run costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono_flow::model::UnixMs;
use rusqlite::{Connection, OpenFlags};

use crate::server;
use crate::support::burst::{self, COMMAND, SLOTS};
use crate::support::figures::{Cpu, guardian_of, median};
use crate::support::{Effort, directory, now, sleep_until};

/// From the start of a round to its instant.
const AHEAD_MS: i64 = 5_000;
/// The server decides 2 s ahead: its processor time is counted from here on.
const COUNT_FROM_MS: i64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// One round.
struct Round {
    per_s: f64,
    /// Until the last command has ended, recorded or not.
    ended_per_s: f64,
    server_ms: f64,
    guardian_ms: f64,
    commands_ms: f64,
}

pub fn run(effort: Effort) -> Result<()> {
    let runs = effort.pick(6_000, 2_000);
    println!(
        "\n## Throughput: `sh -c {COMMAND}`, {runs} due at one instant, {SLOTS} slots, from the first start to the last row of history\n"
    );
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds() {
        ours.push(ours_round(runs)?);
        bares.push(bare_round(runs)?);
    }
    let of = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    println!("|            | runs/s | until ended | CPU-ms a run: own | guardian | commands |");
    println!("|------------|-------:|------------:|------------------:|---------:|---------:|");
    for (name, rounds) in [("chrono-flow", &ours), ("bare loop", &bares)] {
        println!(
            "| {name:<10} | {:>6.0} | {:>11.0} | {:>17.2} | {:>8.2} | {:>8.2} |",
            of(rounds, |round| round.per_s),
            of(rounds, |round| round.ended_per_s),
            of(rounds, |round| round.server_ms),
            of(rounds, |round| round.guardian_ms),
            of(rounds, |round| round.commands_ms)
        );
    }
    let ratios = ours.iter().zip(&bares).map(|(ours, bare)| ours.per_s / bare.per_s).collect();
    println!("\nruns/s, ours by bare: {:.0} % (aim: 70 % or more)", median(ratios) * 100.0);
    Ok(())
}

fn ours_round(runs: usize) -> Result<Round> {
    let dir = directory()?;
    let instant = now() + AHEAD_MS;
    server::populate(dir.path(), (0..runs).map(|n| burst::once(&format!("once {n}"), instant)))?;
    let server = server::Server::start(dir.path(), SLOTS)?;
    let guardian = guardian_of(server.pid())?;
    sleep_until(instant - COUNT_FROM_MS);
    let (before, guardian_before) = (Cpu::of(server.pid())?, Cpu::of(guardian)?);
    sleep_until(instant);
    let recorded_at = wait_recorded(dir.path(), runs)?;
    let cpu = Cpu::of(server.pid())?.since(before);
    let guardian_cpu = Cpu::of(guardian)?.since(guardian_before);
    let (first, last, succeeded) = history(dir.path())?;
    ensure!(succeeded == runs, "{succeeded} of {runs} runs succeeded");
    server.stop()?;
    let each = |ms: f64| ms / runs as f64;
    Ok(Round {
        per_s: runs as f64 * 1000.0 / recorded_at.since(first) as f64,
        ended_per_s: runs as f64 * 1000.0 / last.since(first) as f64,
        server_ms: each(cpu.own_ms),
        guardian_ms: each(guardian_cpu.own_ms),
        commands_ms: each(guardian_cpu.children_ms),
    })
}

fn history_of(dir: &Path) -> Result<Connection> {
    Ok(Connection::open_with_flags(server::database(dir), OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

/// Waits until so many rows are in the database; answers when that was.
fn wait_recorded(dir: &Path, runs: usize) -> Result<UnixMs> {
    let history = history_of(dir)?;
    let mut count = history.prepare("SELECT run_count FROM meta")?;
    let started = Instant::now();
    while count.query_row([], |row| row.get::<_, i64>(0))? < runs as i64 {
        ensure!(started.elapsed() < PATIENCE, "not all runs were recorded");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(now())
}

/// The first start, the last end, and how many succeeded.
fn history(dir: &Path) -> Result<(UnixMs, UnixMs, usize)> {
    let sql = "SELECT min(started_at), max(finished_at), count(*) FILTER (WHERE state = 'succeeded') FROM runs";
    let row = history_of(dir)?.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?)))?;
    Ok((UnixMs(row.0), UnixMs(row.1), row.2 as usize))
}

fn bare_round(runs: usize) -> Result<Round> {
    let bare = burst::bare(runs)?;
    let each = |ms: f64| ms / runs as f64;
    Ok(Round {
        per_s: bare.per_s,
        ended_per_s: bare.per_s,
        server_ms: each(bare.cpu.own_ms),
        guardian_ms: 0.0,
        commands_ms: each(bare.cpu.children_ms),
    })
}
