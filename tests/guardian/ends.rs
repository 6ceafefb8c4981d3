//! How runs end, and what is left of them.

use chrono_flow::agent::clock::boottime_ms;
use chrono_flow::agent::guardian::{End, Notice};
use tokio::io::AsyncReadExt;

use crate::support::{Fixture, children_of, is_alive, number_in, signal, soon, stat_field, until};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

#[tokio::test]
async fn the_exit_code_is_the_shells() {
    let mut fixture = Fixture::new();
    for (command, code) in [(":", 0), ("exit 3", 3), ("exit 255", 255), ("false", 1), ("if", 2)] {
        assert_eq!(fixture.run(command).await.end, End::Code(code), "{command}");
    }
}

#[tokio::test]
async fn a_command_that_is_not_found_ends_with_127_and_says_so() {
    let outcome = Fixture::new().run("no-such-command-anywhere").await;
    assert_eq!(outcome.end, End::Code(127));
    assert!(outcome.stderr.contains("not found"), "{}", outcome.stderr);
}

#[tokio::test]
async fn death_by_a_signal_names_the_signal() {
    let mut fixture = Fixture::new();
    for (name, number) in [("SEGV", 11), ("KILL", SIGKILL), ("USR1", 10)] {
        assert_eq!(fixture.run(&format!("kill -s {name} $$")).await.end, End::Signal(number));
    }
}

#[tokio::test]
async fn both_clocks_tell_when_it_started_and_ended() {
    let before = boottime_ms();
    let outcome = Fixture::new().run("sleep 0.03").await;
    let (start, end) = (outcome.spawned.at, outcome.at);
    assert!(before <= start.boot_ms && start.boot_ms + 30 <= end.boot_ms && end.boot_ms <= boottime_ms());
    assert!(end.wall >= start.wall + 29);
}

#[tokio::test]
async fn a_stop_gives_the_command_time_to_end_by_itself() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done").await;
    running.says("ready").await;
    fixture.guardian.stop(running.token, 60_000);
    let outcome = fixture.finish(running).await;
    assert_eq!((outcome.end, outcome.stdout.as_str()), (End::Code(5), "bye\n"));
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_after_the_grace_and_not_before() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    running.says("ready").await;
    let asked = boottime_ms();
    fixture.guardian.stop(running.token, 100);
    let outcome = fixture.finish(running).await;
    assert_eq!(outcome.end, End::Signal(SIGKILL));
    assert!(outcome.at.boot_ms >= asked + 100);
}

#[tokio::test]
async fn a_second_stop_can_shorten_the_grace_but_not_lengthen_it() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    running.says("ready").await;
    for grace_ms in [600_000, 50, 600_000] {
        fixture.guardian.stop(running.token, grace_ms);
    }
    assert_eq!(fixture.finish(running).await.end, End::Signal(SIGKILL));
}

#[tokio::test]
async fn a_kill_waits_for_nothing() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    running.says("ready").await;
    fixture.guardian.stop(running.token, 600_000);
    fixture.guardian.kill(running.token);
    assert_eq!(fixture.finish(running).await.end, End::Signal(SIGKILL));
}

#[tokio::test]
async fn a_stopped_process_still_sees_the_request_to_end() {
    let mut fixture = Fixture::new();
    let running = fixture.start("kill -s STOP $$").await;
    let pid = running.spawned.pid;
    until("it is stopped", || stat_field(pid, 3).as_deref() == Some("T")).await;
    fixture.guardian.stop(running.token, 600_000);
    assert_eq!(fixture.finish(running).await.end, End::Signal(SIGTERM));
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_ends_with_the_group() {
    let mut fixture = Fixture::new();
    let outcome = fixture.run("sleep 1000 & echo $!").await;
    assert_eq!(outcome.end, End::Code(0));
    let grandchild: u32 = outcome.stdout.trim().parse().unwrap();
    assert!(!is_alive(grandchild), "GroupGone means that nothing of the group is left");
}

#[tokio::test]
async fn a_grandchild_that_ignores_sigterm_is_killed_after_the_runs_own_grace() {
    let mut fixture = Fixture::new();
    let running = fixture.start_with("trap '' TERM; sleep 1000 & echo $!", |spawn| spawn.kill_grace_ms = 100).await;
    let token = running.token;
    let Notice::Exited { end: End::Code(0), at, .. } = fixture.notice().await else { panic!("the main process ends by itself") };
    assert_eq!(fixture.notice().await, Notice::GroupGone { token });
    assert!(boottime_ms() >= at.boot_ms + 100);
    let mut said = String::new();
    let mut stdout = running.stdout;
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    assert!(!is_alive(said.trim().parse().unwrap()));
}

#[tokio::test]
async fn a_zombie_that_nobody_reaps_does_not_keep_its_run_open() {
    let mut fixture = Fixture::new();
    // The subshell's child ends in the run's group; the subshell itself leaves the group and, forking nothing more, never waits for it.
    let command = "(true & exec setsid sh -c ': > left; exec sleep 1000') >/dev/null 2>&1 & while ! [ -e left ]; do sleep 0.01; done";
    let running = fixture.start_with(command, |spawn| spawn.kill_grace_ms = 0).await;
    assert_eq!(fixture.finish(running).await.end, End::Code(0));
}

#[tokio::test]
async fn a_daemon_outlives_its_run_and_is_reaped_and_dies_with_the_guardian() {
    let mut fixture = Fixture::new();
    let daemon = "setsid sh -c 'echo $$ > daemon; exec sleep 1000' >/dev/null 2>&1 & while ! [ -s daemon ]; do sleep 0.01; done";
    assert_eq!(fixture.run(daemon).await.end, End::Code(0));
    let pid = number_in(&fixture.path("daemon")).await;
    assert!(is_alive(pid));
    assert_eq!(stat_field(pid, 4), Some(fixture.pid.to_string()), "the guardian is the parent of orphans");

    let second = "setsid sh -c 'echo $$ > second' >/dev/null 2>&1 &";
    fixture.run(&format!("{second} while ! [ -s second ]; do sleep 0.01; done")).await;
    let guardian = fixture.pid;
    until("only the daemon is left, no zombie", || children_of(guardian) == [pid]).await;

    fixture.guardian.shutdown().await;
    assert!(!is_alive(pid) && !is_alive(guardian));
}

#[tokio::test]
async fn a_command_that_closes_its_own_output_is_still_waited_for() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("exec >&- 2>&-; while ! [ -e go ]; do sleep 0.01; done; exit 4").await;
    soon(running.stdout.read_to_end(&mut Vec::new())).await.unwrap();
    soon(running.stderr.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(is_alive(running.spawned.pid));
    std::fs::write(fixture.path("go"), "").unwrap();
    assert_eq!(fixture.ended(running.token).await.0, End::Code(4));
}

#[tokio::test]
async fn a_stop_of_one_run_does_not_touch_another() {
    let mut fixture = Fixture::new();
    let bystander = fixture.start("exec sleep 1000").await;
    let running = fixture.start("exec sleep 1000").await;
    fixture.guardian.stop(running.token, 600_000);
    assert_eq!(fixture.finish(running).await.end, End::Signal(SIGTERM));
    assert!(is_alive(bystander.spawned.pid));
    signal(bystander.spawned.pid as i32, "KILL");
    assert_eq!(fixture.finish(bystander).await.end, End::Signal(SIGKILL));
}
