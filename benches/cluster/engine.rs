//! Fires a second that the engine decides, through a ledger of three members on three directories of this machine, fsync included.
//!
//! The members live in this process and hand each other their frames in memory. The worker is a session that takes whatever it is told,
//! at once; time is the engine's argument and goes as fast as it keeps up. So what is measured is: computing fires, the entry, its way
//! onto a quorum's disks, applying it on all three, and the orders to the worker, short of sending them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono_flow::consensus::{self, Handle, NodeConfig, PeerQueues};
use chrono_flow::engine::core::{Core, Settings};
use chrono_flow::engine::driver::{Machine, Shared};
use chrono_flow::engine::placement::{Fleet, Health};
use chrono_flow::ledger::{Closing, Command, Ledger, Reply, encode_entry};
use chrono_flow::model::{ClusterId, Job, JobId, JobSpec, NodeId, Outcome, RunState, SessionId, UnixMs, WorkerId};
use chrono_flow::rpc::peer::FRAMES_BYTES_MAX;
use uuid::Uuid;

use crate::support::figures::{Cpu, median};
use crate::support::{Effort, bare, directory};

const MEMBERS: [NodeId; 3] = [1, 2, 3];
/// Each fires once a second.
const JOBS: usize = 50_000;
const JOBS_PER_ENTRY: usize = 1_000;
const ENDS_PER_COMMAND: usize = 1_000;
const ENDS_PER_ENTRY: usize = 5_000;
/// How far time goes from one decision to the next: 10,000 fires.
const STEP_MS: i64 = 200;
const SLOTS: u32 = 100_000;
/// 2026-01-01T00:00:00Z
const BEGIN: UnixMs = UnixMs(1_767_225_600_000);
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(effort: Effort) -> Result<()> {
    let seconds = effort.pick(6, 3);
    println!(
        "\n## Engine: fires/s through a ledger of 3 with fsync, {JOBS} jobs once a second, a worker that takes all; for {seconds} s\n"
    );
    println!("|                                      | fires/s | CPU-µs a fire, all members |");
    println!("|--------------------------------------|--------:|---------------------------:|");
    let runtime = bare::runtime()?;
    for (name, is_whole_life) in [("decided and staged", false), ("decided, staged, ended, recorded", true)] {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..effort.pick(2, 1) {
            let round = runtime.block_on(round(Duration::from_secs(seconds), is_whole_life))?;
            rates.push(round.per_s);
            costs.push(round.cpu_us);
        }
        println!("| {name:<36} | {:>7.0} | {:>26.1} |", median(rates), median(costs));
    }
    println!("\naim: 50,000 decided");
    Ok(())
}

struct Round {
    per_s: f64,
    /// Processor time a fire, in microseconds.
    cpu_us: f64,
}

async fn round(lasts: Duration, is_whole_life: bool) -> Result<Round> {
    let group = Group::start().await?;
    let mut leader = Leader::of(&group).await?;
    let session = leader.prepare().await?;
    let mut now = BEGIN;
    let before = Cpu::of(std::process::id())?;
    let started = Instant::now();
    let mut fires = 0;
    while started.elapsed() < lasts {
        now = now + STEP_MS;
        fires += leader.decide(now, session).await?;
        let staged = leader.take_orders(session);
        if is_whole_life {
            leader.end(now, staged).await?;
        }
    }
    let per_s = fires as f64 / started.elapsed().as_secs_f64();
    let cpu = Cpu::of(std::process::id())?.since(before);
    group.stop().await;
    Ok(Round { per_s, cpu_us: cpu.own_ms * 1000.0 / fires as f64 })
}

/// Three members that are connected in memory.
struct Group {
    nodes: BTreeMap<NodeId, (Handle<Vec<Reply>>, Arc<Shared>)>,
    carriers: tokio::task::JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl Group {
    async fn start() -> Result<Group> {
        let dir = directory()?;
        let cluster = ClusterId(Uuid::new_v4());
        let members: BTreeMap<NodeId, String> = MEMBERS.iter().map(|id| (*id, format!("member-{id}:1"))).collect();
        let (mut nodes, mut ways) = (BTreeMap::new(), Vec::new());
        for id in MEMBERS {
            let (machine, shared) = Machine::new();
            let out = PeerQueues::default();
            let config = NodeConfig::new(id, dir.path().join(id.to_string()), cluster, members.clone());
            nodes.insert(id, (consensus::start(config, machine, out.clone())?, shared));
            ways.extend(MEMBERS.iter().filter(|to| **to != id).map(|to| (id, *to, out.clone())));
        }
        let mut carriers = tokio::task::JoinSet::new();
        for (from, to, out) in ways {
            let (sender, receiver) = (nodes[&from].0.clone(), nodes[&to].0.clone());
            carriers.spawn(carry(out, to, sender, receiver));
        }
        Ok(Group { nodes, carriers, _dir: dir })
    }

    async fn stop(mut self) {
        for (node, _) in self.nodes.values() {
            node.stop().await;
        }
        self.carriers.shutdown().await;
    }
}

/// Takes the frames for one member there.
async fn carry(out: PeerQueues, to: NodeId, sender: Handle<Vec<Reply>>, receiver: Handle<Vec<Reply>>) {
    loop {
        tokio::select! {
            frames = out.next_frames(to, FRAMES_BYTES_MAX) => {
                // What is dropped, raft repeats.
                frames.into_iter().for_each(|frame| {
                    receiver.receive(frame);
                });
            }
            snapshot = out.next_snapshot(to) => sender.report_snapshot(to, receiver.receive(snapshot)),
        }
    }
}

/// The engine where the leader is.
struct Leader {
    node: Handle<Vec<Reply>>,
    shared: Arc<Shared>,
    ledger: Ledger,
    core: Core,
}

impl Leader {
    async fn of(group: &Group) -> Result<Leader> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some((node, shared)) = group.nodes.values().find(|(_, shared)| shared.status().first_own_applied) {
                let ledger = shared.ledger();
                let settings = Settings { lookahead_ms: 2_000, unrecorded_max: u64::MAX };
                return Ok(Leader { node: node.clone(), shared: shared.clone(), core: Core::new(settings, &ledger), ledger });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("nobody leads")
    }

    /// Has commands applied, and the engine know of it.
    async fn propose(&mut self, commands: &[Command]) -> Result<Vec<Reply>> {
        let applied = self.node.propose(encode_entry(commands)).await?;
        let update = self.shared.take();
        self.ledger = update.ledger;
        if update.must_rebuild {
            self.core.rebuild(&self.ledger);
        } else {
            self.core.absorb(&self.ledger, &update.effects);
        }
        Ok(applied.outcome)
    }

    /// Brings the jobs and the worker into the ledger.
    async fn prepare(&mut self) -> Result<SessionId> {
        let open = Command::OpenSession {
            at: BEGIN,
            worker: WorkerId("stub".into()),
            data_dir: Uuid::new_v4(),
            address: "nowhere:1".into(),
            labels: BTreeMap::new(),
            slots: SLOTS,
            not_started: Vec::new(),
            held: Vec::new(),
            unstarted_after: UnixMs::MIN,
            previous: None,
        };
        let replies = self.propose(&[Command::Found { cluster: ClusterId(Uuid::new_v4()) }, open]).await?;
        let session = replies.iter().find_map(|reply| if let Reply::Session(session) = reply { Some(*session) } else { None });
        let jobs: Vec<Command> = (0..JOBS).map(|n| Command::PutJob(Box::new(job(n)))).collect();
        for jobs in jobs.chunks(JOBS_PER_ENTRY) {
            self.propose(jobs).await?;
        }
        session.context("a session")
    }

    /// Decides all that is due, entry by entry.
    async fn decide(&mut self, now: UnixMs, session: SessionId) -> Result<usize> {
        let mut fires = 0;
        loop {
            let worker = self.ledger.session(session).context("the worker's session")?.clone();
            let health = Health { session: worker, takes_work: true, answers: true, outstanding: self.core.staging.outstanding(session) };
            let mut fleet = Fleet { sessions: HashMap::from([(session, health)]) };
            let Some(command) = self.core.decide(&self.ledger, now, &mut fleet) else { return Ok(fires) };
            if let Command::Decide(decide) = &command {
                fires += decide.fires.len();
            }
            ensure!(self.propose(&[command]).await? == [Reply::Done], "a decision was refused");
        }
    }

    /// All orders to the worker, which has them at once; answers the ends of the runs.
    fn take_orders(&mut self, session: SessionId) -> Vec<Closing> {
        let mut ends = Vec::new();
        loop {
            let orders = self.core.staging.take_orders(session);
            if orders.is_empty() {
                return ends;
            }
            let runs = orders.stage.iter().filter_map(|id| self.ledger.open_run(*id));
            ends.extend(runs.map(|run| Closing { run: run.id, epoch: run.epoch, outcome: outcome(run.start_at) }));
        }
    }

    /// The runs have ended, and the store has them.
    async fn end(&mut self, at: UnixMs, ends: Vec<Closing>) -> Result<()> {
        for ends in ends.chunks(ENDS_PER_ENTRY) {
            let mut commands: Vec<Command> = ends.chunks(ENDS_PER_COMMAND).map(|runs| Command::Close { at, runs: runs.to_vec() }).collect();
            commands.push(Command::Recorded { up_to: self.ledger.applied() });
            self.propose(&commands).await?;
        }
        Ok(())
    }
}

/// The second's fires are spread evenly.
fn job(n: usize) -> Job {
    let mut spec = JobSpec::new(&format!("job number {n}"), "@every 1s", "/usr/local/bin/backup --all --quiet");
    spec.starts_at = Some(BEGIN + (n * 1000 / JOBS) as i64);
    let number = n as u64 + 1;
    Job { id: JobId(number as i64), revision: 1, change_seq: number, created_at: BEGIN, updated_at: BEGIN, effective_from: BEGIN, spec }
}

fn outcome(at: UnixMs) -> Outcome {
    Outcome { started_at: Some(at), exit_code: Some(0), ..Outcome::unstarted(RunState::Succeeded, None, at) }
}
