//! An agent that is killed, and the next one on the same directory. The agent is a process of its own here: this test program again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use chrono_flow::agent::Agent;
use chrono_flow::model::{Reason, RunId, RunState};
use chrono_flow::rpc::codec;
use chrono_flow::rpc::link::{Connection, Dial};
use chrono_flow::rpc::wire::{Refusal, RunRef, Stage, StageResult, WorkerClient};
use tokio::net::{UnixListener, UnixStream};

use crate::leader::Leader;
use crate::support::{GuardianEnd, config, context, is_alive, lines, order, stage, stage_in, text, until};

const DIR: &str = "CHRONO_FLOW_TEST_AGENT_DIR";

struct Socket(PathBuf);

#[async_trait]
impl Dial for Socket {
    async fn dial(&self, _address: &str) -> std::io::Result<Connection> {
        Ok(Box::new(UnixStream::connect(&self.0).await?))
    }
}

/// Not a test: the process that the tests below start and kill.
#[test]
fn the_agent_of_these_tests() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let agent =
            Agent::start(config(&dir.join("data")), vec!["the test's controller".into()], Arc::new(Socket(dir.join("leader.sock"))))
                .await
                .unwrap();
        let listener = UnixListener::bind(dir.join("worker.sock")).unwrap();
        loop {
            agent.serve(listener.accept().await.unwrap().0);
        }
    });
}

struct Machine {
    dir: tempfile::TempDir,
    leader: Leader,
    agent: Child,
    worker: WorkerClient,
}

impl Machine {
    async fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let leader = Leader::new();
        let listener = UnixListener::bind(dir.path().join("leader.sock")).unwrap();
        let serving = leader.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                serving.accept(io);
            }
        });
        let (agent, worker) = start(dir.path(), &leader, 0).await;
        Machine { dir, leader, agent, worker }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn stage(&self, stages: Vec<Stage>) -> Vec<RunId> {
        let acks = self.worker.stage(context(), order(&self.leader, stages)).await.unwrap().unwrap();
        acks.iter().for_each(|ack| assert_eq!(ack.result, StageResult::Accepted));
        acks.iter().map(|ack| ack.run).collect()
    }

    fn kill(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }

    /// Starts the next agent; waits for its session.
    async fn restart(&mut self) {
        let sessions = self.leader.with(|state| state.opened.len());
        (self.agent, self.worker) = start(self.dir.path(), &self.leader, sessions).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let guardian = GuardianEnd::of(&self.path("data"));
        self.kill();
        drop(guardian);
    }
}

async fn start(dir: &Path, leader: &Leader, sessions: usize) -> (Child, WorkerClient) {
    let socket = dir.join("worker.sock");
    let _ = std::fs::remove_file(&socket);
    let agent = Command::new(std::env::current_exe().unwrap())
        .args(["restart::the_agent_of_these_tests", "--exact", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    leader.session_after(sessions).await;
    // The socket's file is there a little before it takes connections.
    until("the agent serves", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    let io = UnixStream::connect(socket).await.unwrap();
    let worker = WorkerClient::new(tarpc::client::Config::default(), codec::transport(io)).spawn();
    // The leader knows the session a little earlier than the worker does.
    while let Err(Refusal::Busy { .. }) = worker.list(context(), order(leader, ())).await.unwrap() {
        tokio::task::yield_now().await;
    }
    (agent, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_takes_its_runs_with_it_and_the_next_one_tells_the_truth() {
    let mut machine = Machine::new().await;
    let (started, witness) = (machine.path("started"), machine.path("witness"));
    let runs_on = stage(&format!("echo $$ >> {0}; echo partial; sleep 300; echo late >> {0}", started.display()));
    let waits = stage_in(&format!("echo waited >> {}", witness.display()), 3_000);
    let revoked = stage_in(&format!("echo revoked >> {}", witness.display()), 3_000);
    let runs = machine.stage(vec![runs_on, waits, revoked]).await;
    let revoke = machine.worker.revoke(context(), order(&machine.leader, vec![RunRef { run: runs[2], epoch: 1 }])).await;
    assert!(revoke.unwrap().unwrap()[0].not_started);
    machine.leader.until("the news of the start", |state| state.started.contains(&runs[0]).then_some(())).await;
    // What goes on for a while is in the spool, and survives.
    let spooled = machine.path(&format!("data/spool/{}.out", runs[0]));
    let is_spooled = || std::fs::read(&spooled).is_ok_and(|bytes| bytes.ends_with(b"partial\n"));
    until("the output so far is in the spool", is_spooled).await;
    machine.kill();
    let pid: u32 = lines(&started)[0].parse().unwrap();
    until("the group is dead", || !is_alive(pid)).await;

    let before = machine.leader.with(|state| state.session);
    machine.restart().await;
    let opened = machine.leader.session_after(1).await;
    let of = |run| RunRef { run, epoch: 1 };
    let mut not_started = vec![of(runs[1]), of(runs[2])];
    not_started.sort_by_key(|of| of.run);
    assert_eq!((opened.previous, opened.not_started, opened.adopted), (before, not_started, vec![]));
    assert_eq!(opened.to_report, [of(runs[0])]);
    let ended = machine.leader.ended(runs[0]).await;
    assert_eq!((ended.outcome.state, ended.outcome.reason), (RunState::Lost, Some(Reason::WorkerRestarted)));
    assert!(ended.outcome.error.as_ref().unwrap().contains("outcome is not known"), "{ended:?}");
    assert!(ended.outcome.started_at.is_some());
    assert_eq!((text(&ended.output.unwrap()).as_str(), ended.outcome.output_bytes), ("partial\n", 8));

    let later = stage_in("true", 3_500);
    let run = later.run;
    machine.stage(vec![later]).await;
    machine.leader.ended(run).await;
    assert_eq!((lines(&witness), lines(&started).len()), (Vec::new(), 1), "nothing is started from the journal, or twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_not_acknowledged_is_reported_by_the_next_life_with_its_output() {
    let mut machine = Machine::new().await;
    machine.leader.with(|state| state.reports_refused = u32::MAX);
    let witness = machine.path("witness");
    let small = stage(&format!("echo small; echo ran >> {}; exit 6", witness.display()));
    let large = stage(&format!("head -c 100000 /dev/zero; echo ran >> {}", witness.display()));
    let runs = machine.stage(vec![small, large]).await;
    until("both have ended", || lines(&witness).len() == 2).await;
    let refused =
        |state: &mut crate::leader::State| (state.heartbeats.back()?.running == 0 && state.reports_refused < u32::MAX - 1).then_some(());
    machine.leader.until("refused reports", refused).await;
    machine.kill();
    machine.leader.with(|state| state.reports_refused = 0);
    machine.restart().await;
    let small = machine.leader.ended(runs[0]).await;
    assert_eq!((small.outcome.state, small.outcome.exit_code), (RunState::Failed, Some(6)));
    assert_eq!(text(&small.output.unwrap()), "small\n");
    let large = machine.leader.ended(runs[1]).await;
    assert_eq!((large.outcome.state, &large.output), (RunState::Succeeded, &None));
    assert_eq!(lines(&witness).len(), 2);

    // Acknowledged, and not recorded: it can still be read after one more restart, but is not reported again.
    machine.leader.heartbeats(2).await;
    machine.kill();
    machine.restart().await;
    let cluster = machine.leader.with(|state| state.cluster);
    let request = chrono_flow::rpc::wire::ReadOutput { cluster, run: runs[1], from: 0, bytes_max: 1 << 20, wait_ms: 0 };
    let page = machine.worker.read_output(context(), request).await.unwrap().unwrap();
    assert_eq!((page.next, page.is_complete), (100_000, true));
    machine.leader.heartbeats(1).await;
    assert_eq!(machine.leader.with(|state| state.ended[&runs[1]].reports), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_run_is_started_twice_or_forgotten_however_often_the_agent_is_killed() {
    let mut machine = Machine::new().await;
    let witness = machine.path("witness");
    let mut all: Vec<RunId> = Vec::new();
    for round in 0..6 {
        let stages: Vec<_> = (0..60)
            .map(|n| {
                let mut stage = stage_in("", n * 4);
                stage.task.command = format!("echo {} >> {}; exit 0", stage.run, witness.display());
                stage
            })
            .collect();
        all.extend(machine.stage(stages).await);
        let seen = lines(&witness).len();
        until("some have run", || lines(&witness).len() > seen + 5 + 7 * round).await;
        machine.kill();
        machine.restart().await;
    }
    let mut ran = lines(&witness);
    let count = ran.len();
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), count, "a run was started twice");
    let mut not_started: Vec<RunId> =
        machine.leader.with(|state| state.opened.iter().flat_map(|opened| &opened.not_started).map(|of| of.run).collect());
    not_started.sort();
    not_started.dedup();
    for run in all {
        if not_started.contains(&run) {
            assert!(!ran.contains(&run.to_string()), "{run} is said not to have started, and it did");
        } else {
            let ended = machine.leader.ended(run).await;
            let is_honest = ran.contains(&run.to_string()) || ended.outcome.state == RunState::Lost;
            assert!(is_honest, "{run} has not run: {ended:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_is_refused_by_name_and_a_torn_one_is_not() {
    let mut machine = Machine::new().await;
    machine.stage(vec![stage_in("true", 60_000), stage_in("true", 60_000)]).await;
    machine.kill();
    let journal = std::fs::read_dir(machine.path("data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal-"))
        .unwrap();
    let whole = std::fs::read(&journal).unwrap();
    let mut damaged = whole.clone();
    damaged[70] ^= 1;
    std::fs::write(&journal, damaged).unwrap();
    let start = || Agent::start(config(&machine.path("data")), vec!["the test's controller".into()], Arc::new(machine.leader.clone()));
    let error = format!("{:#}", start().await.err().unwrap());
    assert!(error.contains(&journal.display().to_string()) && error.contains("move the worker's data directory away"), "{error}");
    std::fs::write(&journal, &whole[..whole.len() - 3]).unwrap();
    machine.restart().await;
    let opened = machine.leader.session_after(1).await;
    assert_eq!(opened.not_started.len(), 1, "the record that was torn was never acknowledged by its writer");
}
