//! How late commands start, beside the bare loop (`support::starts`).

use anyhow::Result;

use crate::server;
use crate::support::starts::{Fifo, Start, compare, head, jobs};
use crate::support::{Effort, directory, now};

const RATES: [usize; 3] = [10, 100, 1_000];
const SLOTS: u32 = 256;
const AHEAD_MS: i64 = 4_000;

pub fn run(effort: Effort) -> Result<()> {
    let seconds = effort.pick(5, 4);
    println!("\n## Lateness: start of the command after its instant, in ms; instants spread over the second, for {seconds} s\n");
    head();
    for rate in RATES {
        compare(rate, seconds, effort.rounds(), || round(rate, seconds))?;
    }
    println!("\naim: 2 or less at 100 fires/s");
    Ok(())
}

fn round(rate: usize, seconds: usize) -> Result<Vec<Start>> {
    let dir = directory()?;
    let fifo = Fifo::new(dir.path())?;
    server::populate(dir.path(), jobs(rate, seconds, now() + AHEAD_MS, "job", &fifo))?;
    let server = server::Server::start(dir.path(), SLOTS)?;
    let starts = fifo.read(rate * seconds)?;
    server.stop()?;
    Ok(starts)
}
