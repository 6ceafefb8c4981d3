//! An agent with a leader of the test's own, and the orders that tests give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono_flow::agent::{Agent, AgentConfig, SPOOL_BYTES_MAX_DEFAULT};
use chrono_flow::model::{JobId, OutputPart, Reason, RunId, SessionId, UnixMs, WorkerId, output};
use chrono_flow::rpc::codec;
use chrono_flow::rpc::wire::{Cancel, Order, OutputPage, ReadOutput, RevokeAck, RunRef, Stage, StageAck, StageResult, Task, WorkerClient};
use tarpc::context::{self, Context};

use crate::leader::{Ended, Leader, PATIENCE};

pub struct World {
    pub dir: tempfile::TempDir,
    pub leader: Leader,
    pub agent: Agent,
    pub worker: WorkerClient,
    _guardian: GuardianEnd,
}

/// Waits for the end of the guardian when it is dropped, after its agent.
pub struct GuardianEnd(pub u32);

impl GuardianEnd {
    pub fn of(data_dir: &Path) -> GuardianEnd {
        GuardianEnd(std::fs::read_to_string(data_dir.join("guardian.lock")).unwrap().trim().parse().unwrap())
    }
}

impl Drop for GuardianEnd {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        while is_alive(self.0) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub fn config(data_dir: &Path) -> AgentConfig {
    AgentConfig {
        worker: WorkerId("worker-1".into()),
        data_dir: data_dir.to_path_buf(),
        address: "in this process".into(),
        labels: BTreeMap::new(),
        slots: 8,
        guardian_exe: PathBuf::from(env!("CARGO_BIN_EXE_chrono-flow")),
        drain_ms: 60_000,
        spool_bytes_max: SPOOL_BYTES_MAX_DEFAULT,
    }
}

impl World {
    pub async fn new() -> World {
        World::with(|_| {}).await
    }

    /// An agent with other settings, in a session.
    pub async fn with(change: impl FnOnce(&mut AgentConfig)) -> World {
        let dir = tempfile::tempdir().unwrap();
        let leader = Leader::new();
        let mut config = config(&dir.path().join("data"));
        change(&mut config);
        let data_dir = config.data_dir.clone();
        let agent = Agent::start(config, vec!["the test's controller".into()], Arc::new(leader.clone())).await.unwrap();
        let worker = connect(&agent);
        let world = World { dir, leader, agent, worker, _guardian: GuardianEnd::of(&data_dir) };
        world.in_session().await;
        world
    }

    pub async fn in_session(&self) {
        let mut status = self.agent.watch_status();
        let session = status.wait_for(|status| status.session.is_some() && status.session == self.leader.with(|state| state.session));
        tokio::time::timeout(PATIENCE, session).await.unwrap().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn order<T>(&self, body: T) -> Order<T> {
        order(&self.leader, body)
    }

    /// Stages runs that must be accepted.
    pub async fn stage(&self, stages: Vec<Stage>) -> Vec<RunId> {
        let acks = self.worker.stage(context(), self.order(stages)).await.unwrap().unwrap();
        acks.iter().for_each(|ack| assert_eq!(ack.result, StageResult::Accepted, "{ack:?}"));
        acks.iter().map(|ack| ack.run).collect()
    }

    pub async fn stage_answers(&self, stages: Vec<Stage>) -> Vec<StageAck> {
        self.worker.stage(context(), self.order(stages)).await.unwrap().unwrap()
    }

    pub async fn revoke(&self, run: RunId, epoch: u64) -> RevokeAck {
        self.worker.revoke(context(), self.order(vec![RunRef { run, epoch }])).await.unwrap().unwrap().remove(0)
    }

    pub async fn cancel(&self, run: RunId) {
        let cancel = Cancel { run, epoch: 1, reason: Reason::Requested };
        self.worker.cancel(context(), self.order(vec![cancel])).await.unwrap().unwrap();
    }

    /// Runs a command to its end.
    pub async fn run(&self, command: &str) -> Ended {
        let stage = stage(command);
        let run = stage.run;
        self.stage(vec![stage]).await;
        self.leader.ended(run).await
    }

    pub async fn read(&self, run: RunId, from: u64, bytes_max: u32, wait_ms: u32) -> OutputPage {
        let request = ReadOutput { cluster: self.leader.with(|state| state.cluster), run, from, bytes_max, wait_ms };
        self.worker.read_output(context(), request).await.unwrap().unwrap()
    }

    /// All of a run's output, as the worker has it.
    pub async fn read_all(&self, run: RunId) -> Vec<OutputPart> {
        let (mut parts, mut from) = (Vec::new(), 0);
        loop {
            let page = self.read(run, from, 1 << 20, 0).await;
            parts.extend(page.parts);
            if page.is_complete {
                return parts;
            }
            assert!(page.next > from, "no progress at {from}");
            from = page.next;
        }
    }

    /// Waits for an output that matches.
    pub async fn read_until(&self, run: RunId, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        let (mut parts, mut from) = (Vec::new(), 0);
        loop {
            let page = self.read(run, from, 1 << 20, 5_000).await;
            from = page.next;
            parts.extend(page.parts);
            let so_far = text(&parts);
            if wanted(&so_far) {
                return so_far;
            }
            assert!(!page.is_complete && Instant::now() < until, "the output is {so_far:?}");
        }
    }
}

pub fn connect(agent: &Agent) -> WorkerClient {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    agent.serve(theirs);
    WorkerClient::new(tarpc::client::Config::default(), codec::transport(ours)).spawn()
}

pub fn context() -> Context {
    let mut context = context::current();
    context.deadline = Instant::now() + PATIENCE;
    context
}

pub fn order<T>(leader: &Leader, body: T) -> Order<T> {
    leader.with(|state| Order { cluster: state.cluster, term: state.term, session: state.session.unwrap_or(SessionId(0)), body })
}

pub fn now() -> UnixMs {
    chrono_flow::agent::clock::wall_now()
}

/// A new run that is due at once.
pub fn stage(command: &str) -> Stage {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Stage {
        run: RunId(uuid::Uuid::new_v4()),
        epoch: 1,
        job: JobId(number as i64),
        job_name: format!("job {number}"),
        attempt: 1,
        scheduled_at: now(),
        start_at: now(),
        in_ms: 0,
        max_skew_ms: 500,
        not_after_in_ms: None,
        task: Task {
            command: command.into(),
            env: BTreeMap::new(),
            working_dir: None,
            timeout_ms: None,
            kill_grace_ms: 10_000,
            max_output_bytes: 1 << 20,
            ends_with_lease: false,
        },
    }
}

/// The same, due in a while.
pub fn stage_in(command: &str, in_ms: i64) -> Stage {
    let stage = stage(command);
    Stage { start_at: stage.start_at + in_ms, scheduled_at: stage.start_at + in_ms, in_ms, ..stage }
}

pub fn text(parts: &[OutputPart]) -> String {
    let mut text = Vec::new();
    output::render(&mut text, 0, parts, None);
    String::from_utf8_lossy(&text).into_owned()
}

pub fn inline_text(ended: &Ended) -> String {
    text(ended.output.as_ref().expect("a small output"))
}

/// Lines of a file that commands append to; none if it isn't there yet.
pub fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_string).collect()
}

/// Waits until a condition outside of the agent holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process lives (and is not a zombie).
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A small file system in memory, for the time of a test; none, loudly, where it can't be mounted.
pub struct SmallDisk(pub tempfile::TempDir);

impl SmallDisk {
    pub fn mount(size: &str) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("SKIPPED: a tmpfs can't be mounted here (it takes root)");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
