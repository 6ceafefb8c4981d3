//! How late commands start with three controllers, beside the bare loop (`support::starts`).

use anyhow::Result;

use crate::cluster::Cluster;
use crate::support::starts::{Fifo, compare, head, jobs};
use crate::support::{Effort, directory, now};
use crate::takeover::ELECTION_TIMEOUT_MS;

const RATES: [usize; 2] = [100, 1_000];
const SLOTS: u32 = 256;
/// From the write of the jobs to their first instants.
const AHEAD_MS: i64 = 5_000;

pub fn run(effort: Effort) -> Result<()> {
    let (seconds, rounds) = (5, effort.pick(2, 1));
    println!("\n## Lateness: start of the command after its instant, in ms; instants spread over the second, for {seconds} s\n");
    head();
    let mut cluster = Cluster::start(SLOTS, ELECTION_TIMEOUT_MS)?;
    for rate in RATES {
        let mut round = 0;
        compare(rate, seconds, rounds, || {
            round += 1;
            let name = format!("late-{rate}-{round}");
            let dir = directory()?;
            let fifo = Fifo::new(dir.path())?;
            cluster.populate(&name, jobs(rate, seconds, now() + AHEAD_MS, &name, &fifo))?;
            fifo.read(rate * seconds)
        })?;
    }
    println!("\naim: 2 or less at 100 fires/s");
    Ok(())
}
