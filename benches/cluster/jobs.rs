//! Whether a takeover takes longer the more jobs there are.

use std::time::Duration;

use anyhow::Result;
use chrono_flow::model::JobSpec;

use crate::cluster::Cluster;
use crate::support::Effort;
use crate::takeover::{ELECTION_TIMEOUT_MS, bound_ms, kill_leader, ms, spread};

const SIZES: [usize; 2] = [10_000, 100_000];
const SLOTS: u32 = 64;
/// Between a restart and the next kill.
const SETTLE: Duration = Duration::from_millis(500);
/// Runs on demand, to see whether the new leader works.
const PROBE: &str = "probe";

pub fn run(effort: Effort) -> Result<()> {
    let kills = effort.pick(6, 3);
    println!("\n## Takeover with many jobs, none of them due: from the kill of the leader, in ms, {kills} times\n");
    println!("|    jobs | to the first entry: p50 |   p95 | to a run on demand: p50 |   p95 |");
    println!("|--------:|------------------------:|------:|------------------------:|------:|");
    for size in SIZES {
        let mut cluster = Cluster::start(SLOTS, ELECTION_TIMEOUT_MS)?;
        cluster.populate("many", (0..size).map(job).chain([JobSpec::new(PROBE, "@yearly", ":")]))?;
        let (mut applied, mut works) = (Vec::new(), Vec::new());
        for _ in 0..kills {
            std::thread::sleep(SETTLE);
            let leader = cluster.wait_ready()?;
            let probe = cluster.api(leader).job_id(PROBE)?;
            let takeover = kill_leader(&mut cluster)?;
            cluster.api(takeover.leader).run(probe)?;
            applied.push(takeover.applied_ms);
            works.push(ms(takeover.killed_at.elapsed()));
            for process in cluster.controllers.values_mut().filter(|process| !process.is_up()) {
                process.start()?;
            }
        }
        let ((applied_p50, applied_p95, _), (works_p50, works_p95, _)) = (spread(applied), spread(works));
        println!("| {size:>7} | {applied_p50:>23.0} | {applied_p95:>5.0} | {works_p50:>23.0} | {works_p95:>5.0} |");
    }
    println!("\naim: the same with {} jobs as with {}; p95 at most {:.0} ms", SIZES[1], SIZES[0], bound_ms(ELECTION_TIMEOUT_MS));
    Ok(())
}

fn job(n: usize) -> JobSpec {
    JobSpec::new(&format!("job number {n}"), &format!("{} {} 1 1 *", n % 60, n / 60 % 24), "/usr/local/bin/backup --all --quiet")
}
