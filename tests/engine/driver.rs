//! The driver over a real log and a real store, without a worker.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono_flow::clock::Moment;
use chrono_flow::consensus::{self, NoPeers, NodeConfig};
use chrono_flow::engine::api::Engine;
use chrono_flow::engine::core::Settings;
use chrono_flow::engine::driver::{self, EngineConfig, EngineHandle, Machine, Shared};
use chrono_flow::ledger::{Command, OpenRun, Reply, encode_entry};
use chrono_flow::model::{CatchUp, Job, JobId, JobSpec, Overlap, Reason, RunId, SessionId, UnixMs, WorkerId, WorkerState};
use chrono_flow::rpc::codec;
use chrono_flow::rpc::link::{Connection, Dial};
use chrono_flow::rpc::wire::{
    Cancel, FRAME_BYTES_MAX, HeldRun, OpenSession, Order, OutputPage, PROTOCOL_VERSION, ReadOutput, Refusal, RevokeAck, RunRef, Stage,
    StageAck, StageResult, Worker, WorkerHealth,
};
use chrono_flow::shutdown::Shutdown;
use chrono_flow::store::Store;
use chrono_flow::store::sqlite::SqliteStore;
use futures::StreamExt;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};

use super::world::{CLUSTER, DAY};

/// More than the recorder writes in one transaction.
const RUNS: u128 = 2_500;

struct Nobody;

#[async_trait]
impl Dial for Nobody {
    async fn dial(&self, _address: &str) -> io::Result<Connection> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// Takes whatever it is given, and starts nothing.
#[derive(Clone)]
struct Taker;

impl Worker for Taker {
    async fn stage(self, _: Context, order: Order<Vec<Stage>>) -> Result<Vec<StageAck>, Refusal> {
        let ack = |stage: &Stage| StageAck { run: stage.run, epoch: stage.epoch, result: StageResult::Accepted };
        Ok(order.body.iter().map(ack).collect())
    }
    async fn revoke(self, _: Context, order: Order<Vec<RunRef>>) -> Result<Vec<RevokeAck>, Refusal> {
        Ok(order.body.iter().map(|of| RevokeAck { run: of.run, epoch: of.epoch, not_started: true }).collect())
    }
    async fn cancel(self, _: Context, _: Order<Vec<Cancel>>) -> Result<(), Refusal> {
        Ok(())
    }
    async fn list(self, _: Context, _: Order<()>) -> Result<Vec<HeldRun>, Refusal> {
        Ok(Vec::new())
    }
    async fn read_output(self, _: Context, _: ReadOutput) -> Result<OutputPage, Refusal> {
        Err(Refusal::Failed("there is none".into()))
    }
    async fn health(self, _: Context) -> WorkerHealth {
        WorkerHealth { session: None, is_draining: false, trouble: None }
    }
}

/// Reaches a taker at every address but one, which refuses for as long as it is said to.
#[derive(Clone, Default)]
struct Takers {
    is_away: Arc<AtomicBool>,
    refusals: Arc<AtomicUsize>,
}

#[async_trait]
impl Dial for Takers {
    async fn dial(&self, address: &str) -> io::Result<Connection> {
        if address == "away:1" && self.is_away.load(Ordering::SeqCst) {
            self.refusals.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let channel = BaseChannel::with_defaults(codec::serving(theirs, FRAME_BYTES_MAX));
        tokio::spawn(channel.execute(Taker.serve()).for_each_concurrent(None, |call| call));
        Ok(Box::new(ours))
    }
}

struct Controller {
    store: Arc<SqliteStore>,
    node: consensus::Handle<Vec<Reply>>,
    shared: Arc<Shared>,
    engine: EngineHandle,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl Controller {
    async fn start() -> Controller {
        Controller::start_with(Nobody).await
    }

    async fn start_with(workers: impl Dial) -> Controller {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&dir.path().join("db")).unwrap());
        let (machine, shared) = Machine::new();
        let members = BTreeMap::from([(1, "here".to_owned())]);
        let node = consensus::start(NodeConfig::new(1, dir.path().join("raft"), CLUSTER, members), machine, NoPeers).unwrap();
        let config = EngineConfig {
            cluster: CLUSTER,
            settings: Settings { lookahead_ms: 2_000, unrecorded_max: 1_000_000 },
            clock_skew_ms: 500,
            history_days: 30,
            history_runs: 1_000_000,
        };
        let shutdown = Shutdown::default();
        let (engine, _) = driver::start(
            config,
            store.clone(),
            node.clone(),
            shared.clone(),
            Arc::new(workers),
            Arc::new(driver::NobodyElse),
            shutdown.clone(),
        );
        node.status().wait_for(|status| status.first_own_applied).await.unwrap();
        Controller { store, node, shared, engine, shutdown, _dir: dir }
    }

    async fn stop(self) {
        self.shutdown.request();
        self.node.stop().await;
    }
}

fn job(id: i64, is_enabled: bool) -> Command {
    let mut spec = JobSpec::new(&format!("j{id}"), "* * * * * *", "true");
    spec.is_enabled = is_enabled;
    let at = DAY;
    let (id, change_seq) = (JobId(id), id as u64);
    Command::PutJob(Box::new(Job { id, revision: 1, change_seq, created_at: at, updated_at: at, effective_from: at, spec }))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_ends_more_runs_than_one_transaction_takes_is_recorded_all_the_same() {
    let controller = Controller::start().await;
    let ids: Vec<RunId> = (0..RUNS).map(|n| RunId::at(DAY, n)).collect();
    let asked = ids.iter().map(|run| Command::Trigger { at: DAY, job: JobId(1), run: *run, has_key: false, session: None });
    let ended = ids.iter().map(|run| Command::Cancel { at: DAY, run: *run, reason: Reason::Requested });
    let commands: Vec<Command> = std::iter::once(job(1, false)).chain(asked).chain(ended).collect();
    controller.node.propose(encode_entry(&commands)).await.unwrap();
    until("the ledger never gets rid of them", || controller.engine.unrecorded() == 0).await;
    for id in ids {
        assert!(controller.store.run(id).await.unwrap().is_some(), "run {id} is not in the store");
    }
    controller.stop().await;
}

/// What a worker asks for whose clock is so far ahead.
fn request(previous: Option<SessionId>, ahead_ms: i64) -> OpenSession {
    OpenSession {
        cluster: Some(CLUSTER),
        protocol_version: PROTOCOL_VERSION,
        worker: WorkerId("w".into()),
        data_dir: uuid::Uuid::from_u128(1),
        address: "nowhere:1".into(),
        labels: BTreeMap::new(),
        slots: 4,
        now: Moment::now().wall + ahead_ms,
        previous,
        not_started: Vec::new(),
        adopted: Vec::new(),
        to_report: Vec::new(),
        journal_is_whole: true,
    }
}

async fn first_session(controller: &Controller, ahead_ms: i64) -> SessionId {
    loop {
        match controller.engine.open_session(request(None, ahead_ms)).await {
            Ok(opened) => return opened.session,
            Err(refusal) => assert!(matches!(refusal, Refusal::NotLeader { .. }), "{refusal}"), // the loop has not heard of it yet
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_off_gets_no_work_from_its_session_s_first_moment_on() {
    for (ahead_ms, state) in [(0, WorkerState::Ready), (3_000, WorkerState::BadClock), (-3_600_000, WorkerState::BadClock)] {
        let controller = Controller::start().await;
        first_session(&controller, ahead_ms).await;
        let states: Vec<WorkerState> = controller.engine.workers().iter().map(|worker| worker.state).collect();
        assert_eq!(states, [state], "{ahead_ms} ms ahead");
        controller.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_started_by_a_clock_within_its_limit_is_lost_with_the_journal() {
    let controller = Controller::start_with(Takers::default()).await;
    let session = first_session(&controller, 0).await;
    let mut job = job(1, true);
    if let Command::PutJob(job) = &mut job {
        (job.spec.overlap, job.spec.catch_up) = (Overlap::Allow, CatchUp::None);
    }
    controller.node.propose(encode_entry(&[job])).await.unwrap();
    let held_by = |session: SessionId| -> Vec<(RunId, UnixMs)> {
        let ledger = controller.shared.ledger();
        let is_its = |run: &&Arc<OpenRun>| run.assigned.is_some_and(|assigned| assigned.session == session);
        ledger.open_runs().filter(is_its).map(|run| (run.id, run.scheduled_at)).collect()
    };
    // Fires are decided two seconds ahead.
    until("nothing is decided", || held_by(session).len() > 1).await;
    let held = held_by(session);
    let lacking = OpenSession { journal_is_whole: false, ..request(Some(session), 0) };
    let opened = controller.engine.open_session(lacking).await.unwrap().session;
    let ledger = controller.shared.ledger();
    let at = ledger.session(opened).expect("it is open").opened_at;
    // An attempt that is lost is followed by another one, if at all: by another run.
    for (run, instant) in held {
        assert_eq!(ledger.open_run(run).is_none(), instant <= at + 3 * 500, "due at {instant}, opened at {at}");
    }
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_a_refusal_goes_to_a_worker_that_answers() {
    let workers = Takers::default();
    workers.is_away.store(true, Ordering::SeqCst);
    let controller = Controller::start_with(workers.clone()).await;
    first_session(&controller, 0).await;
    let open = |name: &str, address: &str, slots, data_dir| OpenSession {
        worker: WorkerId(name.into()),
        address: address.into(),
        slots,
        data_dir: uuid::Uuid::from_u128(data_dir),
        ..request(None, 0)
    };
    // By its slots, the one that is away has far less work than the other, whatever it gets.
    let away = controller.engine.open_session(open("big", "away:1", 10_000, 2)).await.unwrap().session;
    let mut job = job(1, false);
    if let Command::PutJob(job) = &mut job {
        job.spec.overlap = Overlap::Allow;
    }
    controller.node.propose(encode_entry(&[job])).await.unwrap();
    let trigger = async || {
        let run = controller.engine.trigger(JobId(1), None).await.unwrap().run.id;
        // If the loop has not heard of the job yet, the run is assigned by the next entry.
        let assigned = || controller.shared.ledger().open_run(run).and_then(|run| run.assigned);
        until("nobody gets it", || assigned().is_some()).await;
        assigned().expect("it was given to somebody").session
    };
    trigger().await;
    assert_eq!(trigger().await, away, "nothing is known of it yet");
    until("nobody is refused", || workers.refusals.load(Ordering::SeqCst) > 1).await;
    for _ in 0..5 {
        assert_ne!(trigger().await, away);
    }
    workers.is_away.store(false, Ordering::SeqCst);
    let patience = Instant::now() + Duration::from_secs(30);
    while trigger().await != away {
        assert!(Instant::now() < patience, "it answers, and gets nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_missed_an_answer_is_told_which_session_it_has_to_follow() {
    let controller = Controller::start().await;
    let open = |previous| controller.engine.open_session(request(previous, 0));
    let first = first_session(&controller, 0).await;
    assert_eq!(open(None).await.unwrap_err(), Refusal::NewerSession { newest: first });
    let both = tokio::join!(open(Some(first)), open(Some(first)));
    let (Ok(opened), Err(refusal)) = (if both.0.is_ok() { both } else { (both.1, both.0) }) else { panic!("one of the two is opened") };
    assert_eq!(refusal, Refusal::NewerSession { newest: opened.session });
    assert!(controller.shared.ledger().session(opened.session).is_some());
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fires_are_decided_however_many_requests_come() {
    let controller = Controller::start().await;
    controller.node.propose(encode_entry(&[job(1, false)])).await.unwrap();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let engine = controller.engine.clone();
            tokio::spawn(async move { while engine.trigger(JobId(1), None).await.is_ok() {} })
        })
        .collect();
    until("nothing is triggered", || controller.shared.ledger().open_runs().count() > 100).await;
    controller.node.propose(encode_entry(&[job(2, true)])).await.unwrap();
    until("nothing is decided", || controller.shared.ledger().open_runs_of(JobId(2)).next().is_some()).await;
    assert!(callers.iter().all(|caller| !caller.is_finished()), "nobody asks any more");
    callers.iter().for_each(|caller| caller.abort());
    controller.stop().await;
}
