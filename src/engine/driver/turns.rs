//! What the loop decides, turn by turn: may this node decide (PROTOCOL B1), what goes into the next entry, who is told what. Told what has
//! happened and what the clocks show, it answers with what is to be done; the loop does it, and so does a simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::consensus::{Applied, Member, MemberRole, ProposeError, Status};
use crate::engine::api::EngineError;
use crate::engine::clock::Reading;
use crate::engine::core::Core;
use crate::engine::placement::Fleet;
use crate::ledger::{Command, Effect, Ledger, Reply, encode_entry};
use crate::model::{SessionId, UnixMs};
use crate::mutation::{self, Mutation};
use crate::rpc::wire::{RevokeAck, StageAck, StageResult};

use super::delivery::{Batch as OrderBatch, LinkEvent};
use super::machine::Update;
use super::queue::{Answer, Batch, PROPOSALS_WAITING_MAX, Queue, Request};
use super::run_loop::EngineConfig;
use super::soft::Soft;

/// The loop looks around at least so often.
const HOUSEKEEPING_MS: i64 = 500;
/// A leader whose clock is bad hands over, and tries again after so long if nobody took it.
const HAND_OVER_AGAIN_MS: i64 = 2_000;
/// How long a new leader waits for the feed's first look at the store before it decides.
const FEED_PATIENCE_MS: i64 = 500;
/// Wait before proposing again after a proposal failed.
const PROPOSE_AGAIN_MS: i64 = 20;
/// How often what runs is compared with the ledger, in which a run may have ended before its start was told here.
const SWEEP_EVERY_MS: i64 = 60_000;
/// How often a worker is asked again for what it has not given back.
const ASK_AGAIN_EVERY_MS: i64 = 1_000;
/// A worker that takes longer to answer its orders gets new work only if all others do.
const ANSWER_MS_MAX: i64 = 500;

type Callers = Vec<(usize, oneshot::Sender<Answer>)>;

pub struct Turns {
    config: EngineConfig,
    core: Core,
    ledger: Ledger,
    status: Status,
    soft: Arc<Soft>,
    queue: Queue,
    /// Who waits for the proposal in flight.
    in_flight: Option<Callers>,
    not_before_boot_ms: i64,
    /// A decision was due at the last entry and did not go into it.
    has_waited: bool,
    /// The term for which this node has its licence.
    licence: Option<u64>,
    /// Since when the licence is held, or not held.
    licensed_at_boot_ms: i64,
    /// The time of the last plan.
    planned_at: UnixMs,
    /// When this node last asked another one to lead, because of its clock.
    handed_over_at_boot_ms: Option<i64>,
    swept_at_boot_ms: i64,
    asked_again_at_boot_ms: i64,
    /// Sessions that have a batch of orders on its way, and since when, in milliseconds of BOOTTIME.
    busy: BTreeMap<SessionId, i64>,
    /// Sessions whose last batch failed.
    failing: BTreeSet<SessionId>,
}

/// What a turn asks for, in this order.
#[derive(Default)]
pub struct Todo {
    /// Ask another voter to lead.
    pub hand_over: bool,
    /// Propose this; what becomes of it is told by `landed`.
    pub entry: Option<Vec<u8>>,
    /// Whatever is on its way to workers was ordered by a licence that is over.
    pub must_relink: bool,
    /// One batch a session; what becomes of it is told by `link_event`.
    pub orders: Vec<OrderBatch>,
}

impl Turns {
    pub fn new(config: EngineConfig, ledger: Ledger, status: Status, soft: Arc<Soft>, now: Reading) -> Turns {
        Turns {
            core: Core::new(config.settings, &ledger),
            config,
            ledger,
            status,
            soft,
            queue: Queue::default(),
            in_flight: None,
            not_before_boot_ms: now.boot_ms,
            has_waited: false,
            licence: None,
            licensed_at_boot_ms: now.boot_ms,
            planned_at: UnixMs(i64::MIN),
            handed_over_at_boot_ms: None,
            swept_at_boot_ms: now.boot_ms,
            asked_again_at_boot_ms: now.boot_ms,
            busy: BTreeMap::new(),
            failing: BTreeSet::new(),
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How long until the next turn, if nothing happens before.
    pub fn wake_in_ms(&self, now: Reading) -> i64 {
        let until = self.core.wake_at(&self.ledger).filter(|_| self.licence.is_some() && self.in_flight.is_none());
        let ms = match until {
            // What was due at the last plan and still waits (for a worker, say) waits for something to happen.
            Some(at) if at > self.planned_at => at.since(now.wall).clamp(1, HOUSEKEEPING_MS),
            _ => HOUSEKEEPING_MS,
        };
        ms.max(self.not_before_boot_ms - now.boot_ms)
    }

    // ---- what has happened

    /// The node has applied something, or its status has changed.
    pub fn changed(&mut self, update: Update, now: Reading) {
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
        self.soft.follow(&self.ledger, now.wall, now.boot_ms);
        self.set_other_voters();
        let ledger = &self.ledger;
        self.busy.retain(|session, _| ledger.session(*session).is_some());
        self.failing.retain(|session| ledger.session(*session).is_some());
    }

    /// Whose clocks count. A node that has not come up yet says nothing of them.
    fn set_other_voters(&self) {
        if !self.status.members.is_empty() {
            let others = self.status.members.iter().filter(|member| member.role == MemberRole::Voter && member.id != self.status.node_id);
            self.soft.set_other_voters(others.map(|member| member.id));
        }
    }

    /// The proposal in flight has come to its end. What was applied must have been told by `changed` before.
    pub fn landed(&mut self, result: Result<Applied<Vec<Reply>>, ProposeError>, now: Reading) {
        let Some(callers) = self.in_flight.take() else { return };
        match result {
            Ok(applied) => {
                failpoint!("before-stage");
                if applied.outcome.contains(&Reply::Refused) {
                    self.core.forget_plans(&self.ledger); // of a decision in parts, the rest is void too (PROTOCOL B2)
                }
                Batch::answer(callers, applied.index, applied.term, applied.outcome);
            }
            Err(error) => {
                log::warn!("a proposal failed: {error}");
                self.core.forget_plans(&self.ledger);
                Batch::refuse(callers, &EngineError::NoLeader(error.to_string()));
                self.not_before_boot_ms = now.boot_ms + PROPOSE_AGAIN_MS;
            }
        }
    }

    /// Whether a further request may wait here.
    pub fn has_room(&self) -> bool {
        self.queue.len() < PROPOSALS_WAITING_MAX
    }

    pub fn request(&mut self, request: Request) {
        self.queue.push(request);
    }

    /// A batch of orders has come to its end.
    pub fn link_event(&mut self, event: LinkEvent) {
        self.busy.remove(&event.session);
        if mutation::is(Mutation::SilenceIsProof) {
            let epoch = |run: &crate::model::RunId| Some((*run, self.ledger.open_run(*run)?.epoch));
            let unheard: Vec<_> = event.failed.stage.iter().filter_map(epoch).collect();
            unheard.into_iter().for_each(|(run, epoch)| self.core.not_started(run, epoch));
        }
        self.core.staging.failed(&event.failed);
        if event.failed.is_empty() {
            self.failing.remove(&event.session);
        } else {
            self.failing.insert(event.session);
        }
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

    /// These orders could not be handed over.
    pub fn unsent(&mut self, orders: &crate::engine::staging::Orders) {
        self.core.staging.failed(orders);
    }

    /// The node stops.
    pub fn stop(&mut self) {
        self.queue.refuse_all(&EngineError::NoLeader("this node is stopping".into()));
    }

    // ---- what follows

    pub fn turn(&mut self, now: Reading) -> Todo {
        self.check_clock(now);
        let mut todo = Todo { hand_over: self.must_hand_over(now), ..Todo::default() };
        todo.must_relink = self.check_licence(now);
        if now.boot_ms - self.swept_at_boot_ms >= SWEEP_EVERY_MS {
            self.swept_at_boot_ms = now.boot_ms;
            self.soft.sweep_started(&self.ledger);
        }
        if self.licence.is_some() {
            if now.boot_ms >= self.not_before_boot_ms {
                todo.entry = self.entry(now);
            }
            todo.orders = self.orders(now);
        } else {
            self.refuse();
        }
        todo
    }

    fn check_clock(&mut self, now: Reading) {
        let (jump_ms, news) = self.soft.observe_clock(now);
        if let Some(jump_ms) = jump_ms {
            log::warn!("the wall clock jumped by {jump_ms} ms; deciding waits until it goes steadily (now {})", now.wall);
        }
        match news {
            Some(Some(trouble)) if self.soft.is_clock_outvoted() => log::error!("{trouble}; this node doesn't decide"),
            Some(None) => log::info!("the clock is good"),
            _ => {}
        }
    }

    /// A leader whose clock is bad keeps replicating, and asks another one to lead (PROTOCOL H1).
    fn must_hand_over(&mut self, now: Reading) -> bool {
        let is_recent = self.handed_over_at_boot_ms.is_some_and(|at| now.boot_ms - at < HAND_OVER_AGAIN_MS);
        if !self.status.is_leader() || is_recent || !self.soft.is_clock_outvoted() {
            return false;
        }
        let is_other = |member: &Member| member.role == MemberRole::Voter && member.reachable && member.id != self.status.node_id;
        if !self.status.members.iter().any(is_other) {
            return false;
        }
        self.handed_over_at_boot_ms = Some(now.boot_ms);
        log::warn!("this node leads, and its clock is not with the majority: it hands leadership over");
        true
    }

    /// PROTOCOL B1: only a leader that has applied an entry of its own term and whose clock is good. Answers whether there is another
    /// licence, or none any more.
    fn check_licence(&mut self, now: Reading) -> bool {
        // Between two looks it can be lost and won again.
        let licence = self.status.first_own_applied.then_some(self.status.term);
        let is_other = licence != self.licence;
        if is_other {
            self.core.take_over(&self.ledger);
            self.busy.clear();
            self.failing.clear();
            self.soft.begin_licence(now.boot_ms);
            self.licensed_at_boot_ms = now.boot_ms;
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
        is_other
    }

    fn refuse(&mut self) {
        let leader = self.status.leader.map_or_else(|| "none is known".to_owned(), |leader| format!("node {leader} leads"));
        self.queue.refuse_all(&EngineError::NoLeader(leader));
    }

    /// The next entry, unless one is in flight or there is nothing to say.
    fn entry(&mut self, now: Reading) -> Option<Vec<u8>> {
        if self.in_flight.is_some() {
            return None;
        }
        self.planned_at = now.wall;
        let mut batch = self.fill(now);
        if batch.commands.is_empty() {
            return None;
        }
        let mut fleet = self.fleet(now);
        for command in &mut batch.commands {
            if let Command::Trigger { job, session: session @ None, .. } = command {
                *session = self.ledger.job(*job).and_then(|job| fleet.choose(&job.spec.worker_selector));
            }
        }
        if mutation::is(Mutation::StagesProposals) {
            let mut effects = Vec::new();
            self.ledger.apply(self.ledger.applied() + 1, batch.commands.clone(), &mut effects);
            self.core.absorb(&self.ledger, &effects);
        }
        self.in_flight = Some(batch.callers);
        Some(encode_entry(&batch.commands))
    }

    /// Changes of jobs that came before this leader go into the ledger before it decides; a store that is away is not waited for.
    fn has_looked(&self, now: Reading) -> bool {
        self.soft.feed_has_looked() || now.boot_ms - self.licensed_at_boot_ms > FEED_PATIENCE_MS
    }

    /// The commands of the next entry: what callers want and the core says, or a decision, which goes alone since it was made for the
    /// state as it is. One that had to wait for an entry goes before anything else: however much others want, fires come in time.
    fn fill(&mut self, now: Reading) -> Batch {
        if self.ledger.cluster().is_none() {
            let commands = vec![Command::Found { cluster: self.config.cluster }];
            return Batch { commands, ..Batch::default() };
        }
        if !self.soft.is_clock_good() {
            // Late fires, retries and what a silence proves are judged by the clock too: until it can be trusted, only what callers want.
            self.has_waited = false;
            return self.queue.take();
        }
        let mut fleet = self.fleet(now);
        let is_due = self.has_looked(now) && self.core.has_due(&self.ledger, now.wall);
        if is_due
            && std::mem::take(&mut self.has_waited)
            && let Some(decide) = self.core.decide(&self.ledger, now.wall, &mut fleet)
        {
            return Batch { commands: vec![decide], ..Batch::default() };
        }
        let mut batch = self.queue.take();
        let planned = self.core.plan(&self.ledger, now.wall, &mut fleet, is_due && batch.commands.is_empty());
        self.has_waited = is_due && !planned.iter().any(|command| matches!(command, Command::Decide(_)));
        batch.commands.extend(planned);
        batch.commands.extend(self.soft.plan_lost(&self.ledger, &self.core.staging, now));
        batch
    }

    fn fleet(&self, now: Reading) -> Fleet {
        let staging = &self.core.staging;
        let answers = |id: SessionId| match self.busy.get(&id) {
            Some(since) => !self.failing.contains(&id) && now.boot_ms - since <= ANSWER_MS_MAX,
            // What failed may have come to nothing meanwhile; then nothing would show that it answers again.
            None => !(self.failing.contains(&id) && staging.has_orders(id)),
        };
        self.soft.fleet(&self.ledger, staging, answers, now.boot_ms)
    }

    /// What each worker has to know whose last orders have arrived. Only what is applied, and by a leader of this term (PROTOCOL B1, B2).
    fn orders(&mut self, now: Reading) -> Vec<OrderBatch> {
        if !self.soft.is_clock_good() {
            return Vec::new(); // it could not say how long a worker has to wait
        }
        for session in self.soft.draining() {
            self.core.staging.hand_back(session);
        }
        if now.boot_ms - self.asked_again_at_boot_ms >= ASK_AGAIN_EVERY_MS {
            self.asked_again_at_boot_ms = now.boot_ms;
            self.core.staging.ask_again(|run| self.soft.has_started(run));
        }
        let sessions: Vec<SessionId> = self.core.staging.sessions().collect();
        let mut batches = Vec::new();
        for id in sessions.into_iter().filter(|id| !self.busy.contains_key(id)) {
            // One that is over takes no orders, and one without a permit could start nothing.
            let Some(session) = self.ledger.session(id).filter(|_| self.soft.has_permit(id, now.boot_ms)) else { continue };
            let orders = self.core.staging.take_orders(id);
            if !orders.is_empty() {
                batches.push(OrderBatch::new(session.clone(), self.status.term, now, orders, &self.ledger));
            }
        }
        self.busy.extend(batches.iter().map(|batch| (batch.session.id, now.boot_ms)));
        batches
    }
}
