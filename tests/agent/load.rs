//! Many runs at once: none is lost, none runs twice. Prints how fast it went; nothing is asserted about that.

use std::collections::HashSet;
use std::time::Instant;

use chrono_flow::model::RunState;

use crate::support::{World, lines, stage_in};

const RUNS: usize = 2_000;
const BATCH: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_runs_that_are_due_at_once_all_run_once() {
    let world = World::with(|config| config.slots = 64).await;
    let witness = world.path("witness");
    let mut runs = Vec::new();
    for _ in 0..RUNS / BATCH {
        let stages = (0..BATCH).map(|_| {
            let mut stage = stage_in("", 1_000);
            stage.task.command = format!("echo {} >> {}", stage.run, witness.display());
            stage
        });
        runs.extend(world.stage(stages.collect()).await);
    }
    let start = Instant::now();
    for run in &runs {
        let ended = world.leader.ended(*run).await;
        assert_eq!((ended.outcome.state, ended.reports), (RunState::Succeeded, 1), "{ended:?}");
    }
    eprintln!("{RUNS} runs ended within {:.2} s", start.elapsed().as_secs_f64());
    let witnesses = lines(&witness);
    assert_eq!(witnesses.len(), RUNS);
    assert_eq!(witnesses.into_iter().collect::<HashSet<_>>(), runs.iter().map(ToString::to_string).collect());
}
