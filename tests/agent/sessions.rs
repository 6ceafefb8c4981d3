//! Permits, leases, sessions, reports, drains.

use std::sync::Arc;
use std::time::Duration;

use chrono_flow::agent::Agent;
use chrono_flow::model::{Reason, RunState};
use chrono_flow::rpc::wire::{RunRef, StageResult};

use crate::support::{World, config, is_alive, lines, stage, stage_in, until};

#[tokio::test]
async fn nothing_starts_without_a_permit_and_what_waited_starts_with_the_next_one() {
    let world = World::new().await;
    // Permits are counted from the heartbeat, so this one is over before its answer comes.
    world.leader.with(|state| state.session = None);
    world.leader.with(|state| state.permit_ms = 0);
    world.leader.session_after(1).await;
    world.in_session().await;
    let witness = world.path("witness");
    let runs = world.stage(vec![stage(&format!("echo ran >> {}", witness.display()))]).await;
    world.leader.heartbeats(2).await;
    assert_eq!((lines(&witness), world.agent.status().counts.waiting), (Vec::new(), 1));
    world.leader.with(|state| state.permit_ms = 60_000);
    world.leader.ended(runs[0]).await;
    assert_eq!(lines(&witness), ["ran"]);
}

#[tokio::test]
async fn a_lapsed_lease_gives_back_what_has_not_started_and_what_runs_is_adopted() {
    let world = World::new().await;
    let witness = world.path("witness");
    let end = world.path("end");
    let goes_on = stage(&format!("echo up; while [ ! -e {} ]; do sleep 0.01; done; echo over", end.display()));
    let waits = stage_in(&format!("echo ran >> {}", witness.display()), 60_000);
    let runs = world.stage(vec![goes_on, waits]).await;
    world.read_until(runs[0], |text| text == "up\n").await;
    let first = world.leader.with(|state| {
        state.is_silent = true;
        (state.permit_ms, state.lease_ms) = (500, 1_500);
        state.session.take()
    });
    // The connection is given up with the unanswered heartbeat; the one after it is told that the session is not known.
    world.leader.with(|state| state.is_silent = false);
    let opened = world.leader.session_after(1).await;
    assert_eq!(opened.previous, first);
    assert_eq!((opened.not_started, opened.adopted), (vec![RunRef { run: runs[1], epoch: 1 }], vec![RunRef { run: runs[0], epoch: 1 }]));
    assert_eq!(opened.cluster, Some(world.leader.with(|state| state.cluster)));
    world.in_session().await;
    // Now by its own clock: nobody answers until the lease is over.
    world.leader.with(|state| state.is_silent = true);
    let mut status = world.agent.watch_status();
    status.wait_for(|status| status.session.is_none()).await.unwrap();
    world.leader.with(|state| (state.is_silent, state.lease_ms, state.permit_ms) = (false, 90_000, 60_000));
    let opened = world.leader.session_after(2).await;
    assert_eq!((opened.not_started, opened.adopted), (vec![], vec![RunRef { run: runs[0], epoch: 1 }]), "told before");
    std::fs::write(end, "").unwrap();
    let ended = world.leader.ended(runs[0]).await;
    assert_eq!(ended.outcome.state, RunState::Succeeded);
    assert_eq!(Some(ended.session), world.leader.with(|state| state.session), "reported in the session that adopted it");
    assert_eq!(lines(&witness), Vec::<String>::new());
}

#[tokio::test]
async fn a_session_whose_answer_was_lost_is_followed_by_the_next_with_what_is_so_by_then() {
    let world = World::new().await;
    let end = world.path("end");
    let run = world.stage(vec![stage(&format!("echo up; while [ ! -e {} ]; do sleep 0.01; done", end.display()))]).await[0];
    world.read_until(run, |text| text == "up\n").await;
    let first = world.leader.with(|state| {
        state.opens_lost = 2;
        state.session.take()
    });
    let lost = [world.leader.session_after(1).await, world.leader.session_after(2).await];
    let opened = world.leader.session_after(3).await;
    let previous = [lost[0].previous, lost[1].previous, opened.previous];
    assert!(previous.is_sorted() && previous[0] == first && previous[1] != first && previous[2] != previous[1], "{previous:?}");
    assert_eq!(opened.adopted, vec![RunRef { run, epoch: 1 }]);
    world.in_session().await;
    std::fs::write(end, "").unwrap();
    assert_eq!(world.leader.ended(run).await.outcome.state, RunState::Succeeded);
}

#[tokio::test]
async fn an_end_is_reported_until_it_is_acknowledged() {
    let world = World::new().await;
    world.leader.with(|state| (state.reports_refused, state.answers_lost) = (3, 2));
    let stage = stage("echo out");
    let run = stage.run;
    world.stage(vec![stage]).await;
    let is_acknowledged = |state: &mut crate::leader::State| state.ended.get(&run).is_some_and(|ended| ended.reports == 3).then_some(());
    world.leader.until("the third report", is_acknowledged).await;
    let mut status = world.agent.watch_status();
    status.wait_for(|status| status.counts.unreported == 0).await.unwrap();
    world.leader.heartbeats(1).await;
    assert_eq!(world.leader.with(|state| state.ended[&run].reports), 3, "and not after that");
}

#[tokio::test]
async fn the_start_of_a_run_that_goes_on_is_told() {
    let world = World::new().await;
    let runs = world.stage(vec![stage("exec sleep 300"), stage("true")]).await;
    world.leader.until("the news", |state| state.started.contains(&runs[0]).then_some(())).await;
    world.leader.ended(runs[1]).await;
    world.cancel(runs[0]).await;
    world.leader.ended(runs[0]).await;
    assert_eq!(world.leader.with(|state| state.started.iter().filter(|run| **run == runs[0]).count()), 1);
}

#[tokio::test]
async fn a_drain_lets_runs_end_takes_nothing_new_and_waits_for_the_reports() {
    let world = World::new().await;
    let end = world.path("end");
    let runs = world
        .stage(vec![stage(&format!("echo up; while [ ! -e {} ]; do sleep 0.01; done", end.display())), stage_in("echo no", 60_000)])
        .await;
    world.read_until(runs[0], |text| text == "up\n").await;
    world.leader.with(|state| state.reports_refused = 2);
    let after = async {
        let mut status = world.agent.watch_status();
        status.wait_for(|status| status.is_draining).await.unwrap();
        let answer = world.stage_answers(vec![stage("echo no")]).await.remove(0);
        assert_eq!(answer.result, StageResult::Declined("the worker is draining".into()));
        world.leader.until("a heartbeat that says so", |state| state.heartbeats.back()?.is_draining.then_some(())).await;
        std::fs::write(&end, "").unwrap();
    };
    tokio::join!(world.agent.drain(), after);
    assert_eq!(world.leader.with(|state| state.ended[&runs[0]].outcome.state), RunState::Succeeded);
    assert!(world.revoke(runs[1], 1).await.not_started);
    // What it held goes to others; nothing is to come from it any more.
    assert_eq!(world.leader.with(|state| state.closed.clone()), [world.leader.with(|state| state.session.unwrap())]);
    let heartbeats = world.leader.with(|state| state.heartbeats_answered);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(world.leader.with(|state| state.heartbeats_answered) <= heartbeats + 1, "one may have been on its way");
    assert_eq!(world.leader.with(|state| state.opened.len()), 1);
    world.agent.stop().await;
}

#[tokio::test]
async fn a_drain_stops_what_does_not_end_in_time() {
    let world = World::with(|config| config.drain_ms = 200).await;
    let mut stubborn = stage("trap '' TERM; echo up; while :; do sleep 0.01; done");
    stubborn.task.kill_grace_ms = 200;
    let runs = world.stage(vec![stage("echo up; exec sleep 300"), stubborn]).await;
    for run in &runs {
        world.read_until(*run, |text| text == "up\n").await;
    }
    world.agent.drain().await;
    for (run, signal) in runs.iter().zip([15, 9]) {
        let outcome = world.leader.with(|state| state.ended[run].outcome.clone());
        assert_eq!((outcome.state, outcome.reason, outcome.signal), (RunState::Cancelled, Some(Reason::Drained), Some(signal)));
    }
}

#[tokio::test]
async fn a_second_agent_on_the_same_directory_is_refused() {
    let world = World::new().await;
    let error = Agent::start(config(&world.path("data")), vec!["the test's controller".into()], Arc::new(world.leader.clone()))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("another worker is using the data directory"), "{error}");
    let pid = world.run("echo $PPID").await;
    let guardian: u32 = crate::support::inline_text(&pid).trim().parse().unwrap();
    world.agent.stop().await;
    until("the guardian ends with its agent", || !is_alive(guardian)).await;
    Agent::start(config(&world.dir.path().join("data")), vec!["the test's controller".into()], Arc::new(world.leader.clone()))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agent_whose_guardian_died_says_why_it_can_not_go_on() {
    let world = World::new().await;
    let guardian = crate::support::inline_text(&world.run("echo $PPID").await);
    let staged = stage("echo $$; exec sleep 1000");
    let run = staged.run;
    world.stage(vec![staged]).await;
    let pid: u32 = world.read_until(run, |text| text.ends_with('\n')).await.trim().parse().unwrap();
    std::process::Command::new("kill").args(["-9", guardian.trim()]).status().unwrap();
    let mut fatal = world.agent.fatal();
    let why = fatal.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(why.contains("guardian"), "{why}");
    assert!(!is_alive(pid), "what nobody holds any more is ended before the agent");
}
