//! How commands end, and what is said of it.

use chrono_flow::model::{Reason, RunState, Stream};
use chrono_flow::rpc::wire::Stage;

use crate::leader::Ended;
use crate::support::{SmallDisk, World, inline_text, is_alive, lines, now, stage, text};

fn assert_end(ended: &Ended, state: RunState, exit_code: Option<i32>, signal: Option<i32>) {
    let outcome = &ended.outcome;
    assert_eq!((outcome.state, outcome.exit_code, outcome.signal), (state, exit_code, signal), "{ended:?}");
}

#[tokio::test]
async fn a_command_that_exits_with_zero_has_succeeded_and_its_output_comes_with_the_report() {
    let world = World::new().await;
    let before = now();
    let ended = world.run("echo out; echo err >&2").await;
    assert_end(&ended, RunState::Succeeded, Some(0), None);
    let outcome = &ended.outcome;
    assert!(before <= outcome.started_at.unwrap() && outcome.started_at.unwrap() <= outcome.finished_at && outcome.finished_at <= now());
    assert_eq!((outcome.output_bytes, outcome.output_truncated, &outcome.error), (8, false, &None));
    let parts = ended.output.as_ref().unwrap();
    assert_eq!(parts.iter().map(|part| part.bytes.len()).sum::<usize>(), 8);
    assert!(parts.iter().any(|part| part.stream == Stream::Stderr && part.bytes == b"err\n"));
}

#[tokio::test]
async fn a_command_that_is_not_found_has_failed_with_127_and_the_shells_words() {
    let world = World::new().await;
    let ended = world.run("no-such-command-here").await;
    assert_end(&ended, RunState::Failed, Some(127), None);
    assert!(inline_text(&ended).contains("not found"), "{ended:?}");
}

#[tokio::test]
async fn a_command_that_exits_non_zero_or_by_a_signal_has_failed_with_that() {
    let world = World::new().await;
    assert_end(&world.run("exit 3").await, RunState::Failed, Some(3), None);
    assert_end(&world.run("kill -SEGV $$").await, RunState::Failed, None, Some(11));
}

#[tokio::test]
async fn a_working_directory_that_is_missing_fails_the_run_and_says_so() {
    let world = World::new().await;
    let mut stage = stage("echo here");
    stage.task.working_dir = Some("/no/such/directory".into());
    let run = stage.run;
    world.stage(vec![stage]).await;
    let ended = world.leader.ended(run).await;
    assert_end(&ended, RunState::Failed, None, None);
    assert!(ended.outcome.error.as_ref().unwrap().contains("/no/such/directory"), "{ended:?}");
    assert_eq!(ended.outcome.started_at, None);
}

#[tokio::test]
async fn a_command_sees_its_directory_its_settings_a_clean_environment_and_no_input() {
    let world = World::new().await;
    let mut stage = stage("pwd; cat; env");
    stage.task.working_dir = Some("/usr".into());
    stage.task.env.insert("GREETING".into(), "hello there".into());
    let (run, job) = (stage.run, stage.job);
    world.stage(vec![stage]).await;
    let output = inline_text(&world.leader.ended(run).await);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "/usr");
    for wanted in ["GREETING=hello there", "LANG=C.UTF-8", "CHRONO_FLOW_ATTEMPT=1"] {
        assert!(lines.contains(&wanted), "{output}");
    }
    assert!(lines.contains(&format!("CHRONO_FLOW_RUN_ID={run}").as_str()) && lines.contains(&format!("CHRONO_FLOW_JOB_ID={job}").as_str()));
    let known = ["GREETING", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in &lines[1..] {
        let name = line.split('=').next().unwrap();
        assert!(known.contains(&name) || name.starts_with("CHRONO_FLOW_"), "{line} has leaked");
    }
}

#[tokio::test]
async fn a_command_that_writes_a_gigabyte_succeeds_and_its_first_and_last_bytes_are_kept() {
    let world = World::new().await;
    let stage = stage("printf first; head -c 1000000000 /dev/zero; printf last");
    let run = stage.run;
    world.stage(vec![stage]).await;
    let ended = world.leader.ended(run).await;
    assert_end(&ended, RunState::Succeeded, Some(0), None);
    assert_eq!((ended.outcome.output_bytes, ended.outcome.output_truncated, &ended.output), (1_000_000_009, true, &None));
    let parts = world.read_all(run).await;
    assert_eq!(parts.iter().map(|part| part.bytes.len()).sum::<usize>(), 1 << 20);
    assert!(parts[0].bytes.starts_with(b"first\0") && parts.last().unwrap().bytes.ends_with(b"\0last"));
    assert_eq!(parts.last().unwrap().end(), 1_000_000_009);
    assert!(text(&parts).contains("[chrono-flow: 998951433 bytes of output dropped here]"));
}

#[tokio::test]
async fn bytes_that_are_no_utf_8_are_kept_as_they_are() {
    let world = World::new().await;
    let ended = world.run(r"printf '\377\376\000\033[31m'").await;
    assert_eq!(ended.output.unwrap()[0].bytes, b"\xff\xfe\x00\x1b[31m");
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_stopped_and_killed_if_it_ignores_that() {
    let world = World::new().await;
    let limited = |command: &str| {
        let mut stage = stage(command);
        (stage.task.timeout_ms, stage.task.kill_grace_ms) = (Some(300), 300);
        stage
    };
    let obeys = limited("echo up; exec sleep 300");
    let cleans_up = limited("trap 'echo cleaned; exit 0' TERM; while :; do sleep 0.01; done");
    let ignores = limited("trap '' TERM; echo up; while :; do sleep 0.01; done");
    let runs = world.stage(vec![obeys, cleans_up, ignores]).await;
    assert_end(&world.leader.ended(runs[0]).await, RunState::TimedOut, None, Some(15));
    let cleaned = world.leader.ended(runs[1]).await;
    assert_end(&cleaned, RunState::TimedOut, Some(0), None);
    assert!(inline_text(&cleaned).ends_with("cleaned\n"), "{cleaned:?}");
    assert_end(&world.leader.ended(runs[2]).await, RunState::TimedOut, None, Some(9));
}

#[tokio::test]
async fn a_cancelled_command_is_stopped_and_killed_if_it_ignores_that() {
    let world = World::new().await;
    let mut stubborn = stage("trap '' TERM; echo up; while :; do sleep 0.01; done");
    stubborn.task.kill_grace_ms = 200;
    let runs = world.stage(vec![stage("echo up; exec sleep 300"), stubborn]).await;
    for run in &runs {
        world.read_until(*run, |text| text == "up\n").await;
        world.cancel(*run).await;
    }
    for (run, signal) in runs.iter().zip([15, 9]) {
        let ended = world.leader.ended(*run).await;
        assert_end(&ended, RunState::Cancelled, None, Some(signal));
        assert_eq!(ended.outcome.reason, Some(Reason::Requested));
        assert_eq!(inline_text(&ended), "up\n");
    }
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_is_ended_with_its_run() {
    let world = World::new().await;
    let ended = world.run("sleep 300 & echo $!").await;
    assert_end(&ended, RunState::Succeeded, Some(0), None);
    let pid: u32 = inline_text(&ended).trim().parse().unwrap();
    assert!(!is_alive(pid), "{pid} is still there");
}

#[tokio::test]
async fn a_daemon_that_left_the_group_with_the_pipe_does_not_hold_the_run() {
    let world = World::new().await;
    let up = world.path("up");
    let daemon = format!("setsid sh -c 'echo daemon; touch {0}; exec sleep 300' & while [ ! -e {0} ]; do sleep 0.01; done", up.display());
    let ended = world.run(&format!("{daemon}; echo now")).await;
    assert_end(&ended, RunState::Succeeded, Some(0), None);
    let output = inline_text(&ended);
    assert!(output.contains("now\n") && output.contains("daemon\n"), "{output}");
    world.agent.watch_status().wait_for(|status| status.counts.live == 0 && status.counts.running == 0).await.unwrap();
}

#[tokio::test]
async fn a_command_that_closes_its_own_outputs_runs_to_its_own_end() {
    let world = World::new().await;
    let witness = world.path("witness");
    let command = format!("echo before; exec >&- 2>&-; sleep 0.2; echo end >> {}; exit 4", witness.display());
    let ended = world.run(&command).await;
    assert_end(&ended, RunState::Failed, Some(4), None);
    assert_eq!((inline_text(&ended).as_str(), lines(&witness)), ("before\n", vec!["end".to_string()]));
}

#[tokio::test]
async fn a_command_that_fills_its_directory_fails_by_its_own_words() {
    let Some(disk) = SmallDisk::mount("64k") else { return };
    let world = World::new().await;
    let mut stage: Stage = stage("head -c 1000000 /dev/zero > full && echo unlikely");
    stage.task.working_dir = Some(disk.path().display().to_string());
    let run = stage.run;
    world.stage(vec![stage]).await;
    let ended = world.leader.ended(run).await;
    assert_end(&ended, RunState::Failed, Some(1), None);
    assert!(inline_text(&ended).contains("No space left"), "{ended:?}");
}

#[tokio::test]
async fn a_full_disk_under_the_spool_loses_output_and_says_so_but_not_the_run() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let data_dir = disk.path().join("data");
    let world = World::with(|config| config.data_dir = data_dir).await;
    let mut stage = stage("head -c 6000000 /dev/zero; echo end >&2; exit 5");
    stage.task.max_output_bytes = 32 << 20;
    let run = stage.run;
    world.stage(vec![stage]).await;
    let ended = world.leader.ended(run).await;
    assert_end(&ended, RunState::Failed, Some(5), None);
    assert_eq!((ended.outcome.output_bytes, ended.outcome.output_truncated), (6_000_004, true));
    assert!(ended.outcome.error.as_ref().unwrap().contains("No space left on device"), "{ended:?}");
    assert!(text(&world.read_all(run).await).len() > 1_000_000, "what was written before is kept");
    assert_end(&world.run("echo still here").await, RunState::Succeeded, Some(0), None);
}
