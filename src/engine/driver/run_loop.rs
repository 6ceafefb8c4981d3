//! The loop itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock;
use crate::consensus::{Applied, Handle, Member, MemberRole, ProposeError, Status};
use crate::engine::api::EngineError;
use crate::engine::clock::Reading;
use crate::engine::core::{Core, Settings};
use crate::ledger::{Command, Effect, Ledger, Reply, encode_entry};
use crate::model::{ClusterId, SessionId, UnixMs};
use crate::rpc::link::Dial;
use crate::rpc::wire::{RevokeAck, StageAck, StageResult};
use crate::shutdown::Shutdown;
use crate::store::Store;

use super::handle::{EngineHandle, Inner};
use super::link::{Link, LinkEvent};
use super::machine::Shared;
use super::members::Members;
use super::outputs::Outputs;
use super::peers::{Peers, Pulses};
use super::queue::{Batch, PROPOSALS_WAITING_MAX, Proposer, Queue, Request};
use super::soft::Soft;
use super::{feed, peers, recorder};

/// The loop looks around at least so often.
const HOUSEKEEPING_MS: i64 = 500;
/// A leader whose clock is bad hands over, and tries again after so long if nobody took it.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(10);
/// How long a new leader waits for the feed's first look at the store before it decides.
const FEED_PATIENCE: Duration = Duration::from_millis(500);
/// Wait before proposing again after a proposal failed.
const PROPOSE_AGAIN_MS: u64 = 20;
/// Answers of worker links that wait for the loop, at most; a link waits for its place.
const LINK_EVENTS_MAX: usize = 256;
/// How often what runs is compared with the ledger, in which a run may have ended before its start was told here.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the engine is told at its start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub cluster: ClusterId,
    pub settings: Settings,
    pub clock_skew_ms: i64,
    pub history_days: u32,
    pub history_runs: u64,
}

/// Starts the loop, the feed and the recorder. They end when `shutdown` says so.
pub fn start(
    config: EngineConfig,
    store: Arc<dyn Store>,
    consensus: Handle<Vec<Reply>>,
    shared: Arc<Shared>,
    workers: Arc<dyn Dial>,
    peers: Arc<dyn Peers>,
    shutdown: Shutdown,
) -> (EngineHandle, Vec<JoinHandle<()>>) {
    let (requests, inbox) = mpsc::channel(PROPOSALS_WAITING_MAX);
    let (link_events, from_links) = mpsc::channel(LINK_EVENTS_MAX);
    let soft = Arc::new(Soft::new(config.clock_skew_ms));
    let inner = Arc::new(Inner {
        cluster: config.cluster,
        store,
        consensus: consensus.clone(),
        shared: shared.clone(),
        soft: soft.clone(),
        proposer: Proposer(requests),
        outputs: Outputs::new(workers.clone(), shared.clone(), soft.clone(), config.cluster),
        members: Members::new(consensus.clone()),
        peers,
        pulses: Pulses::default(),
    });
    let ledger = shared.ledger();
    let driver = Driver {
        core: Core::new(config.settings, &ledger),
        ledger,
        status: shared.status(),
        handed_over_at: None,
        config: config.clone(),
        shared,
        soft,
        consensus,
        workers,
        queue: Queue::default(),
        in_flight: None,
        has_waited: false,
        licence: None,
        licensed_at: tokio::time::Instant::now(),
        reading: Reading { wall: UnixMs(0), boot_ms: 0 },
        planned_at: UnixMs(i64::MIN),
        swept_at: tokio::time::Instant::now(),
        links: HashMap::new(),
        link_events,
    };
    let tasks = vec![
        tokio::spawn(driver.run(inbox, from_links, shutdown.clone())),
        tokio::spawn(feed::run(inner.clone(), shutdown.clone())),
        tokio::spawn(peers::run(inner.clone(), shutdown.clone())),
        tokio::spawn(recorder::run(inner.clone(), config, shutdown)),
    ];
    (EngineHandle { inner }, tasks)
}

struct Driver {
    config: EngineConfig,
    core: Core,
    ledger: Ledger,
    status: Status,
    /// When this node last asked another one to lead, because of its clock.
    handed_over_at: Option<tokio::time::Instant>,
    shared: Arc<Shared>,
    soft: Arc<Soft>,
    consensus: Handle<Vec<Reply>>,
    workers: Arc<dyn Dial>,
    queue: Queue,
    in_flight: Option<InFlight>,
    /// A decision was due at the last entry and did not go into it.
    has_waited: bool,
    /// The term for which this node has its licence.
    licence: Option<u64>,
    /// Since when the licence is held, or not held.
    licensed_at: tokio::time::Instant,
    /// What the clocks said when they were last judged.
    reading: Reading,
    /// The time of the last plan.
    planned_at: UnixMs,
    swept_at: tokio::time::Instant,
    links: HashMap<SessionId, Link>,
    link_events: mpsc::Sender<LinkEvent>,
}

struct InFlight {
    result: oneshot::Receiver<Result<Applied<Vec<Reply>>, ProposeError>>,
    callers: Vec<(usize, oneshot::Sender<super::queue::Answer>)>,
}

/// The result of the proposal in flight; never, if there is none.
async fn landed(in_flight: &mut Option<InFlight>) -> Result<Applied<Vec<Reply>>, ProposeError> {
    match in_flight {
        Some(flight) => (&mut flight.result).await.unwrap_or(Err(ProposeError::Unknown)),
        None => std::future::pending().await,
    }
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, mut from_links: mpsc::Receiver<LinkEvent>, shutdown: Shutdown) {
        let mut not_before = tokio::time::Instant::now();
        loop {
            let wake = self.wake_in().max(not_before.saturating_duration_since(tokio::time::Instant::now()));
            tokio::select! {
                () = self.shared.changed() => self.on_changed(),
                result = landed(&mut self.in_flight) => {
                    if !self.on_landed(result) {
                        not_before = tokio::time::Instant::now() + Duration::from_millis(PROPOSE_AGAIN_MS);
                    }
                }
                Some(request) = inbox.recv(), if self.queue.len() < PROPOSALS_WAITING_MAX => {
                    self.queue.push(request);
                    while self.queue.len() < PROPOSALS_WAITING_MAX && let Ok(request) = inbox.try_recv() {
                        self.queue.push(request);
                    }
                }
                Some(event) = from_links.recv() => self.on_link_event(event),
                () = tokio::time::sleep(wake) => {}
                () = shutdown.requested() => break,
            }
            self.check_clock();
            self.hand_over();
            self.check_licence();
            if self.swept_at.elapsed() >= SWEEP_EVERY {
                self.swept_at = tokio::time::Instant::now();
                self.soft.sweep_started(&self.ledger);
            }
            if self.licence.is_some() {
                if tokio::time::Instant::now() >= not_before {
                    self.propose();
                }
                self.send_orders();
            } else {
                self.refuse();
            }
        }
        self.queue.refuse_all(&EngineError::NoLeader("this node is stopping".into()));
    }

    fn wake_in(&self) -> Duration {
        let until = self.core.wake_at(&self.ledger).filter(|_| self.licence.is_some() && self.in_flight.is_none());
        let ms = match until {
            // What was due at the last plan and still waits (for a worker, say) waits for something to happen.
            Some(at) if at > self.planned_at => at.since(clock::wall_now()).clamp(1, HOUSEKEEPING_MS),
            _ => HOUSEKEEPING_MS,
        };
        Duration::from_millis(ms as u64)
    }

    fn on_changed(&mut self) {
        let update = self.shared.take();
        self.ledger = update.ledger;
        self.status = update.status;
        if update.must_rebuild {
            self.core.rebuild(&self.ledger);
            self.soft.sweep_started(&self.ledger);
        } else {
            let runs = update.effects.iter().filter_map(|effect| if let Effect::Run(id) = effect { Some(*id) } else { None });
            self.soft.ended(runs.filter(|id| self.ledger.open_run(*id).is_none()));
            self.core.absorb(&self.ledger, &update.effects);
        }
        self.soft.follow(&self.ledger, clock::wall_now(), clock::boottime_ms() as i64);
        let others = self.status.members.iter().filter(|member| member.role == MemberRole::Voter && member.id != self.status.node_id);
        self.soft.set_other_voters(others.map(|member| member.id));
        self.links.retain(|session, _| self.ledger.session(*session).is_some());
    }

    /// Answers whether it went well.
    fn on_landed(&mut self, result: Result<Applied<Vec<Reply>>, ProposeError>) -> bool {
        let Some(flight) = self.in_flight.take() else { return true };
        // What was applied is published before it is answered.
        self.on_changed();
        match result {
            Ok(applied) => {
                failpoint!("before-stage");
                Batch::answer(flight.callers, applied.index, applied.term, applied.outcome);
                true
            }
            Err(error) => {
                log::warn!("a proposal failed: {error}");
                self.core.forget_plans(&self.ledger);
                Batch::refuse(flight.callers, &EngineError::NoLeader(error.to_string()));
                false
            }
        }
    }

    fn check_clock(&mut self) {
        let reading = Reading { wall: clock::wall_now(), boot_ms: clock::boottime_ms() as i64 };
        self.reading = reading;
        let (jump_ms, news) = self.soft.observe_clock(reading);
        if let Some(jump_ms) = jump_ms {
            log::warn!("the wall clock jumped by {jump_ms} ms; deciding waits until it goes steadily (now {})", reading.wall);
        }
        match news {
            Some(Some(trouble)) if jump_ms.is_none() => log::error!("{trouble}; this node doesn't decide"),
            Some(None) => log::info!("the clock is good again"),
            _ => {}
        }
    }

    /// A leader whose clock is bad keeps replicating, and asks another one to lead (PROTOCOL H1).
    fn hand_over(&mut self) {
        let is_recent = self.handed_over_at.is_some_and(|at| at.elapsed() < HAND_OVER_AGAIN);
        if !self.status.is_leader() || is_recent || !self.soft.is_clock_outvoted() {
            return;
        }
        let is_other = |member: &Member| member.role == MemberRole::Voter && member.reachable && member.id != self.status.node_id;
        if !self.status.members.iter().any(is_other) {
            return;
        }
        self.handed_over_at = Some(tokio::time::Instant::now());
        log::warn!("this node leads, and its clock is not with the majority: it hands leadership over");
        let consensus = self.consensus.clone();
        tokio::spawn(async move {
            if let Err(error) = consensus.transfer_leadership(None).await {
                log::warn!("leadership can't be handed over: {error}");
            }
        });
    }

    /// PROTOCOL B1: only a leader that has applied an entry of its own term and whose clock is good.
    fn check_licence(&mut self) {
        // Between two looks it can be lost and won again.
        let licence = self.status.first_own_applied.then_some(self.status.term);
        if licence != self.licence {
            self.core.take_over(&self.ledger);
            self.links.clear();
            self.soft.begin_licence(clock::boottime_ms() as i64);
            self.licensed_at = tokio::time::Instant::now();
        }
        self.licence = licence;
        let is_full = self.core.is_full(&self.ledger);
        if self.soft.set_full(is_full) {
            if is_full {
                let held = self.ledger.unrecorded_len();
                log::error!("{held} runs wait to be recorded: deciding stops until the store takes them (fires come late, none is lost)");
            } else {
                log::info!("the store has caught up: deciding goes on");
            }
        }
    }

    fn refuse(&mut self) {
        let leader = self.status.leader.map_or_else(|| "none is known".to_owned(), |leader| format!("node {leader} leads"));
        self.queue.refuse_all(&EngineError::NoLeader(leader));
    }

    fn propose(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let now = self.reading.wall;
        self.planned_at = now;
        let mut batch = self.fill(now);
        if batch.commands.is_empty() {
            return;
        }
        let mut fleet = self.fleet();
        for command in &mut batch.commands {
            if let Command::Trigger { job, session: session @ None, .. } = command {
                *session = self.ledger.job(*job).and_then(|job| fleet.choose(&job.spec.worker_selector));
            }
        }
        let entry = encode_entry(&batch.commands);
        let (reply, result) = oneshot::channel();
        let consensus = self.consensus.clone();
        tokio::spawn(async move {
            let _ = reply.send(consensus.propose(entry).await);
        });
        self.in_flight = Some(InFlight { result, callers: batch.callers });
    }

    /// Changes of jobs that came before this leader go into the ledger before it decides; a store that is away is not waited for.
    fn has_looked(&self) -> bool {
        self.soft.feed_has_looked() || self.licensed_at.elapsed() > FEED_PATIENCE
    }

    /// The commands of the next entry: what callers want and the core says, or a decision, which goes alone since it was made for the
    /// state as it is. One that had to wait for an entry goes before anything else: however much others want, fires come in time.
    fn fill(&mut self, now: UnixMs) -> Batch {
        if self.ledger.cluster().is_none() {
            let commands = vec![Command::Found { cluster: self.config.cluster }];
            return Batch { commands, ..Batch::default() };
        }
        if !self.soft.is_clock_good() {
            // Late fires, retries and what a silence proves are judged by the clock too: until it can be trusted, only what callers want.
            self.has_waited = false;
            return self.queue.take();
        }
        let mut fleet = self.fleet();
        let is_due = self.has_looked() && self.core.has_due(&self.ledger, now);
        if is_due
            && std::mem::take(&mut self.has_waited)
            && let Some(decide) = self.core.decide(&self.ledger, now, &mut fleet)
        {
            return Batch { commands: vec![decide], ..Batch::default() };
        }
        let mut batch = self.queue.take();
        let planned = self.core.plan(&self.ledger, now, &mut fleet, is_due && batch.commands.is_empty());
        self.has_waited = is_due && !planned.iter().any(|command| matches!(command, Command::Decide(_)));
        batch.commands.extend(planned);
        batch.commands.extend(self.soft.plan_lost(&self.ledger, &self.core.staging, self.reading));
        batch
    }

    fn fleet(&self) -> crate::engine::placement::Fleet {
        self.soft.fleet(&self.ledger, &self.core.staging, clock::boottime_ms() as i64)
    }

    /// Tells each idle link what its worker has to know. Only what is applied, and by a leader of this term (PROTOCOL B1, B2).
    fn send_orders(&mut self) {
        if !self.soft.is_clock_good() {
            return; // it could not say how long a worker has to wait
        }
        for session in self.soft.draining() {
            self.core.staging.hand_back(session);
        }
        let sessions: Vec<SessionId> = self.core.staging.sessions().collect();
        for id in sessions {
            // One that is over takes no orders, and one without a permit could start nothing.
            let Some(session) = self.ledger.session(id).filter(|_| self.soft.has_permit(id, self.reading.boot_ms)) else { continue };
            let link = self.links.entry(id).or_insert_with(|| {
                Link::start(session.clone(), self.config.cluster, self.config.clock_skew_ms, self.workers.clone(), self.link_events.clone())
            });
            if link.is_idle {
                let orders = self.core.staging.take_orders(id);
                if !orders.is_empty()
                    && let Err(unsent) = link.send(self.status.term, self.reading, orders, &self.ledger)
                {
                    self.core.staging.failed(&unsent);
                }
            }
        }
    }

    fn on_link_event(&mut self, event: LinkEvent) {
        if let Some(link) = self.links.get_mut(&event.session) {
            link.is_idle = true;
        }
        self.core.staging.failed(&event.failed);
        for StageAck { run, epoch, result } in event.staged {
            match result {
                StageResult::Accepted => {}
                StageResult::Revoked => self.core.not_started(run, epoch),
                StageResult::Declined(why) => {
                    // One word for all of a batch; the next heartbeat says whether it takes work again.
                    if self.soft.declined(event.session, &why) {
                        log::warn!("worker session {} takes no work: {why}", event.session);
                    }
                    self.core.not_started(run, epoch);
                }
            }
        }
        for RevokeAck { run, epoch, .. } in event.revoked.into_iter().filter(|ack| ack.not_started) {
            self.core.not_started(run, epoch);
        }
    }
}
