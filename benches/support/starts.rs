//! When commands start: `@every 1s` jobs whose anchors are spread over the second, and the same from a bare loop.
//!
//! The command is one `echo` of the shell itself into a FIFO; a thread here notes the time as each line comes. That delay is in the
//! figures of both sides alike.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use chrono_flow::model::{JobSpec, UnixMs};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::figures::{median, percentile};
use super::{bare, directory, now};

/// What the commands find their instant in.
const VARIABLE: &str = "CHRONO_FLOW_SCHEDULED_AT";
/// How long after the last instant the last line may come.
const PATIENCE: Duration = Duration::from_secs(30);

/// How late the commands of one round started, in milliseconds.
pub struct Lateness {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Lateness {
    /// Of at least one start.
    pub fn of(starts: &[Start]) -> Lateness {
        let mut late_ms: Vec<f64> = starts.iter().map(|start| start.late_ms).collect();
        late_ms.sort_by(f64::total_cmp);
        Lateness { p50: percentile(&late_ms, 50.0), p99: percentile(&late_ms, 99.0), max: percentile(&late_ms, 100.0) }
    }
}

/// One start of a command.
#[derive(Clone, Copy)]
pub struct Start {
    /// The fire's instant.
    pub instant: UnixMs,
    pub late_ms: f64,
}

/// Measures so many rounds of ours and of the bare loop, in turns, and prints their medians.
pub fn compare(rate: usize, seconds: usize, rounds: usize, mut ours: impl FnMut() -> Result<Vec<Start>>) -> Result<()> {
    let (mut ours_rounds, mut bare_rounds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours_rounds.push(Lateness::of(&ours()?));
        bare_rounds.push(Lateness::of(&bare_round(rate, seconds)?));
    }
    let ratios = ours_rounds.iter().zip(&bare_rounds).map(|(ours, bare)| ours.p99 / bare.p99).collect();
    let ratio = format!("{:.2}", median(ratios));
    for (name, rounds, ratio) in [("chrono-flow", &ours_rounds, &ratio), ("bare loop", &bare_rounds, &String::new())] {
        let of = |figure: fn(&Lateness) -> f64| median(rounds.iter().map(figure).collect());
        let (p50, p99, max) = (of(|round| round.p50), of(|round| round.p99), of(|round| round.max));
        println!("| {rate:>7} | {name:<11} | {p50:>7.2} | {p99:>7.2} | {max:>7.2} | {ratio:>17} |");
    }
    Ok(())
}

/// The head of the table that `compare` fills.
pub fn head() {
    println!("| fires/s |             |     p50 |     p99 |     max | p99, ours by bare |");
    println!("|--------:|-------------|--------:|--------:|--------:|------------------:|");
}

/// The jobs that make `rate` fires a second from `from` on.
pub fn jobs(rate: usize, seconds: usize, from: UnixMs, name: &str, fifo: &Fifo) -> impl Iterator<Item = JobSpec> {
    let command = command(&fifo.path);
    (0..rate).map(move |n| {
        let mut job = JobSpec::new(&format!("{name} {n}"), "@every 1s", &command);
        job.starts_at = Some(from + offset_ms(n, rate));
        job.ends_at = Some(from + (seconds * 1000) as i64);
        job
    })
}

/// The instants of one round, spread over each second.
fn instants(rate: usize, seconds: usize, from: UnixMs) -> impl Iterator<Item = UnixMs> {
    (0..seconds).flat_map(move |second| (0..rate).map(move |n| from + (second * 1000) as i64 + offset_ms(n, rate)))
}

fn offset_ms(n: usize, rate: usize) -> i64 {
    (n * 1000 / rate) as i64
}

fn command(fifo: &Path) -> String {
    format!("echo ${VARIABLE} >{}", fifo.display())
}

fn bare_round(rate: usize, seconds: usize) -> Result<Vec<Start>> {
    let dir = directory()?;
    let fifo = Fifo::new(dir.path())?;
    let runtime = bare::runtime()?;
    for instant in instants(rate, seconds, now() + 1_000) {
        let env = (VARIABLE.to_owned(), instant.to_string());
        runtime.spawn(bare::at(UNIX_EPOCH + Duration::from_millis(instant.0 as u64), command(&fifo.path), env));
    }
    fifo.read(rate * seconds)
}

/// Where the commands say that they have started, and the thread that listens.
pub struct Fifo {
    path: PathBuf,
    lines: mpsc::Receiver<(SystemTime, String)>,
}

impl Fifo {
    pub fn new(dir: &Path) -> Result<Fifo> {
        let path = dir.join("started");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Open for writing too, so that the reader does not see an end whenever there is no writer.
        let file = File::options().read(true).write(true).open(&path)?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut file = BufReader::new(file);
            let mut line = String::new();
            while file.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                if sender.send((SystemTime::now(), std::mem::take(&mut line))).is_err() {
                    return;
                }
            }
        });
        Ok(Fifo { path, lines })
    }

    /// Waits for so many starts.
    pub fn read(&self, count: usize) -> Result<Vec<Start>> {
        let mut starts = Vec::with_capacity(count);
        while starts.len() < count {
            let next = self.lines.recv_timeout(PATIENCE);
            let (at, line) = next.with_context(|| format!("only {} of {count} commands started", starts.len()))?;
            let instant: UnixMs = line.trim().parse().map_err(|_| anyhow::anyhow!("`{line}` is no instant"))?;
            starts.push(Start { instant, late_ms: at.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0 - instant.0 as f64 });
        }
        Ok(starts)
    }
}

impl Drop for Fifo {
    /// Wakes the thread, which finds nobody listening.
    fn drop(&mut self) {
        if let Ok(mut file) = File::options().read(true).write(true).open(&self.path) {
            let _ = writeln!(file);
        }
    }
}
