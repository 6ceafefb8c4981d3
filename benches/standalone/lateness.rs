//! How late commands start: `@every 1s` jobs whose anchors are spread over the second.
//!
//! The command is one `echo` of the shell itself into a FIFO; a thread here notes the time as each line comes. That delay is in the
//! figures of both sides alike.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use chrono_flow::model::{JobSpec, UnixMs};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::figures::{median, percentile};
use crate::{Effort, bare, server};

const RATES: [usize; 3] = [10, 100, 1_000];
const SLOTS: u32 = 256;
const AHEAD_MS: i64 = 5_000;
/// What the commands find their instant in.
const VARIABLE: &str = "CHRONO_FLOW_SCHEDULED_AT";
/// How long after the last instant the last line may come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Round {
    p50: f64,
    p99: f64,
    max: f64,
}

pub fn run(effort: Effort) -> Result<()> {
    let seconds = effort.pick(8, 4);
    println!("\n## Lateness: start of the command after its instant, in ms; instants spread over the second, for {seconds} s\n");
    println!("| fires/s |             |    p50 |    p99 |    max | p99, ours by bare |");
    println!("|--------:|-------------|-------:|-------:|-------:|------------------:|");
    for rate in RATES {
        let (mut ours, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds() {
            ours.push(ours_round(rate, seconds)?);
            bares.push(bare_round(rate, seconds)?);
        }
        let ratios = ours.iter().zip(&bares).map(|(ours, bare)| ours.p99 / bare.p99).collect();
        let ratio = format!("{:.2}", median(ratios));
        for (name, rounds, ratio) in [("chrono-flow", &ours, &ratio), ("bare loop", &bares, &String::new())] {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
            let (p50, p99, max) = (of(|round| round.p50), of(|round| round.p99), of(|round| round.max));
            println!("| {rate:>7} | {name:<11} | {p50:>6.2} | {p99:>6.2} | {max:>6.2} | {ratio:>17} |");
        }
    }
    println!("\naim: 2 or less at 100 fires/s");
    Ok(())
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

fn ours_round(rate: usize, seconds: usize) -> Result<Round> {
    let dir = server::directory()?;
    let fifo = Fifo::new(dir.path())?;
    let from = server::now() + AHEAD_MS;
    let job = |n: usize| {
        let mut job = JobSpec::new(&format!("job {n}"), "@every 1s", &command(&fifo.path));
        job.starts_at = Some(from + offset_ms(n, rate));
        job.ends_at = Some(from + (seconds * 1000) as i64);
        job
    };
    server::populate(dir.path(), (0..rate).map(job))?;
    let server = server::Server::start(dir.path(), SLOTS)?;
    let round = fifo.read(rate * seconds)?;
    server.stop()?;
    Ok(round)
}

fn bare_round(rate: usize, seconds: usize) -> Result<Round> {
    let dir = server::directory()?;
    let fifo = Fifo::new(dir.path())?;
    let runtime = bare::runtime()?;
    for instant in instants(rate, seconds, server::now() + 1_000) {
        let env = (VARIABLE.to_owned(), instant.to_string());
        runtime.spawn(bare::at(UNIX_EPOCH + Duration::from_millis(instant.0 as u64), command(&fifo.path), env));
    }
    fifo.read(rate * seconds)
}

/// Where the commands say that they have started, and the thread that listens.
struct Fifo {
    path: std::path::PathBuf,
    lines: mpsc::Receiver<(SystemTime, String)>,
}

impl Fifo {
    fn new(dir: &Path) -> Result<Fifo> {
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
    fn read(self, starts: usize) -> Result<Round> {
        let mut late_ms = Vec::with_capacity(starts);
        while late_ms.len() < starts {
            let next = self.lines.recv_timeout(PATIENCE);
            let (at, line) = next.with_context(|| format!("only {} of {starts} commands started", late_ms.len()))?;
            let instant: UnixMs = line.trim().parse().map_err(|_| anyhow::anyhow!("`{line}` is no instant"))?;
            late_ms.push(at.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0 - instant.0 as f64);
        }
        late_ms.sort_by(f64::total_cmp);
        Ok(Round { p50: percentile(&late_ms, 50.0), p99: percentile(&late_ms, 99.0), max: percentile(&late_ms, 100.0) })
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
