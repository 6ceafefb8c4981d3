//! What the guardian ends by itself: with its agent, with the lease; and what does not make it end anything.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chrono_flow::agent::clock::boottime_ms;
use chrono_flow::agent::guardian::{End, Guardian, Leftover, Notice, Spawn, SpawnError, kill_leftover};

use crate::support::{Fixture, PATIENCE, in_ms, is_alive, launch_on, number_in, signal, soon, until};

/// Set for the process that stands in for an agent: its data directory.
const STAND_IN_DIR: &str = "CHRONO_FLOW_TEST_AGENT_DIR";

/// Each writes the process ids that must die into files of its name.
const RUNS: [(&str, &str); 3] = [
    ("plain", "echo $$ > plain; exec sleep 1000"),
    ("deaf", "trap '' TERM INT HUP; sleep 1000 & echo $! > deaf; wait"),
    ("daemon", "setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; exec sleep 1000' & wait"),
];

/// Not a test but the process that others kill: this binary, started again with [`STAND_IN_DIR`]. It starts the [`RUNS`] and survives
/// SIGINT.
#[tokio::test]
async fn stand_in_for_an_agent() {
    let Some(dir) = std::env::var_os(STAND_IN_DIR).map(PathBuf::from) else { return };
    let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
    let launched = Guardian::launch(&launch_on(&dir)).unwrap();
    std::fs::write(dir.join("guardian"), format!("{}\n", launched.pid())).unwrap();
    let (guardian, _notices) = launched.attach().unwrap();
    guardian.set_lease(u64::MAX, u64::MAX);
    for (token, (_, command)) in (1..).zip(RUNS) {
        let null = || std::fs::File::options().write(true).open("/dev/null").unwrap().into();
        let spawn = Spawn {
            token,
            command: command.to_owned(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            cwd: Some(dir.to_str().unwrap().to_owned()),
            stdout: null(),
            stderr: null(),
            not_after_boot_ms: u64::MAX,
            kill_on_lease_end: false,
            kill_grace_ms: 600_000,
        };
        guardian.spawn(spawn).await.unwrap();
    }
    for _ in 0..1000 {
        interrupts.recv().await;
        std::fs::write(dir.join("interrupted"), "").unwrap();
    }
}

struct StandIn {
    process: Child,
    guardian: u32,
    runs: Vec<u32>,
}

impl StandIn {
    async fn start(dir: &Path) -> StandIn {
        use std::os::unix::process::CommandExt;
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fence::stand_in_for_an_agent", "--nocapture"])
            .env(STAND_IN_DIR, dir)
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut runs = Vec::new();
        for (name, _) in RUNS {
            runs.push(number_in(&dir.join(name)).await);
        }
        StandIn { process, guardian: number_in(&dir.join("guardian")).await, runs }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn when_the_agent_is_killed_everything_beneath_the_guardian_dies_and_the_lock_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = StandIn::start(dir.path()).await;
    assert!(agent.runs.iter().all(|pid| is_alive(*pid)));
    agent.kill();
    until("the guardian has ended", || !is_alive(agent.guardian)).await;
    for (pid, (name, _)) in agent.runs.iter().zip(RUNS) {
        assert!(!is_alive(*pid), "{name} outlived the guardian");
    }
    let lock = std::fs::File::open(dir.path().join("guardian.lock")).unwrap();
    lock.try_lock().expect("the lock is free");
}

#[tokio::test]
async fn a_new_guardian_starts_nothing_before_the_older_one_has_ended_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = StandIn::start(dir.path()).await;
    signal(agent.guardian as i32, "STOP");
    agent.kill();
    let error =
        Guardian::launch_within(&launch_on(dir.path()), std::time::Duration::from_millis(100)).err().expect("the older one holds it");
    assert!(error.to_string().contains(&agent.guardian.to_string()), "{error}");
    assert!(agent.runs.iter().all(|pid| is_alive(*pid)));

    let data_dir = dir.path().to_owned();
    let next = tokio::task::spawn_blocking(move || Guardian::launch_within(&launch_on(&data_dir), PATIENCE).map(drop));
    signal(agent.guardian as i32, "CONT");
    soon(next).await.unwrap().unwrap();
    assert!(!agent.runs.iter().any(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn a_signal_from_the_terminal_or_a_service_manager_ends_neither_guardian_nor_runs() {
    let dir = tempfile::tempdir().unwrap();
    let agent = StandIn::start(dir.path()).await;
    signal(-(agent.process.id() as i32), "INT");
    until("the agent got the terminal's signal", || dir.path().join("interrupted").exists()).await;
    for name in ["INT", "TERM", "HUP", "QUIT", "USR1", "PIPE", "ALRM"] {
        signal(agent.guardian as i32, name);
    }
    assert!(is_alive(agent.guardian));
    assert!(agent.runs.iter().all(|pid| is_alive(*pid)));
}

#[tokio::test]
async fn the_end_of_the_lease_ends_the_marked_runs_only() {
    let mut fixture = Fixture::new();
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.01; done";
    let unmarked = fixture.start("exec sleep 1000").await;
    let polite = fixture.start_with("exec sleep 1000", |spawn| spawn.kill_on_lease_end = true).await;
    let mut marked = fixture
        .start_with(deaf, |spawn| {
            spawn.kill_on_lease_end = true;
            spawn.kill_grace_ms = 100;
        })
        .await;
    marked.says("ready").await;
    fixture.guardian.set_lease(u64::MAX, in_ms(600_000));
    let lease_end = in_ms(50);
    fixture.guardian.set_lease(lease_end, lease_end);
    let outcome = fixture.finish(polite).await;
    assert_eq!(outcome.end, End::Signal(15));
    assert!(outcome.at.boot_ms > lease_end);
    let outcome = fixture.finish(marked).await;
    assert_eq!(outcome.end, End::Signal(9));
    assert!(outcome.at.boot_ms >= lease_end + 100);
    assert!(is_alive(unmarked.spawned.pid));
    assert!(matches!(fixture.refusal(":", |_| {}).await, SpawnError::PermitOver));

    fixture.guardian.set_lease(u64::MAX, u64::MAX);
    fixture.run(":").await;
    fixture.guardian.kill(unmarked.token);
    fixture.finish(unmarked).await;
}

#[tokio::test]
async fn a_renewed_lease_ends_nothing() {
    let mut fixture = Fixture::new();
    let running = fixture.start_with("exec sleep 0.2", |spawn| spawn.kill_on_lease_end = true).await;
    let first = in_ms(5_000);
    fixture.guardian.set_lease(first, first);
    fixture.guardian.set_lease(u64::MAX, u64::MAX);
    assert_eq!(fixture.finish(running).await.end, End::Code(0));
}

#[tokio::test]
async fn a_guardian_that_dies_is_noticed_and_what_it_leaves_can_be_killed() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap '' TERM; sleep 1000 & echo ready; wait").await;
    running.says("ready").await;
    let (pid, start) = (running.spawned.pid, running.spawned.start_time_ticks);
    signal(fixture.pid as i32, "KILL");
    assert_eq!(fixture.notice().await, Notice::GuardianLost);
    assert!(matches!(fixture.refusal(":", |_| {}).await, SpawnError::Lost));
    assert!(!soon(fixture.guardian.revoke(77)).await, "nothing can be promised any more");

    assert!(is_alive(pid));
    assert_eq!(kill_leftover(pid, start + 1), Leftover::Gone, "a process that got the number later is not the run");
    assert!(is_alive(pid));
    assert_eq!(kill_leftover(pid, start), Leftover::Killed);
    assert!(!is_alive(pid));
    let mut rest = String::new();
    soon(tokio::io::AsyncReadExt::read_to_string(&mut running.stdout, &mut rest)).await.unwrap();
    assert_eq!(kill_leftover(pid, start), Leftover::Gone);
}

#[tokio::test]
async fn a_leftover_is_found_by_its_members_when_its_main_process_has_gone() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("sleep 1000 & echo ready; wait").await;
    running.says("ready").await;
    let (pid, start) = (running.spawned.pid, running.spawned.start_time_ticks);
    assert_eq!(kill_leftover(std::process::id(), 1), Leftover::Gone, "a stranger");
    signal(fixture.pid as i32, "KILL");
    assert_eq!(fixture.notice().await, Notice::GuardianLost);
    signal(pid as i32, "KILL");
    until("the main process has gone", || !is_alive(pid)).await;
    assert_eq!(kill_leftover(pid, start), Leftover::Killed);
    let mut rest = String::new();
    soon(tokio::io::AsyncReadExt::read_to_string(&mut running.stdout, &mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_what_still_runs_and_is_no_loss() {
    let mut fixture = Fixture::new();
    let mut running = fixture.start("trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
    running.says("ready").await;
    let (pid, guardian) = (running.spawned.pid, fixture.pid);
    soon(fixture.guardian.shutdown()).await;
    assert!(!is_alive(pid) && !is_alive(guardian));
    while let Some(notice) = soon(fixture.notices.recv()).await {
        assert_ne!(notice, Notice::GuardianLost);
    }
}

#[tokio::test]
async fn when_the_last_handle_is_dropped_the_guardian_ends_everything() {
    let mut fixture = Fixture::new();
    let running = fixture.start("exec sleep 1000").await;
    let (pid, guardian) = (running.spawned.pid, fixture.pid);
    let second = fixture.guardian.clone();
    drop(fixture.guardian);
    assert!(is_alive(guardian) && boottime_ms() > 0);
    drop(second);
    until("both have ended", || !is_alive(pid) && !is_alive(guardian)).await;
}
