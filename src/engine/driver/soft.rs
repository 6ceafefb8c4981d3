//! What the leader knows beyond the ledger: how runs are doing, small outputs on their way to the store, how the workers are. All of it is
//! lost with the process and told again by the workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::engine::clock::{ClockJudge, Reading, Source};
use crate::engine::leases::{Leases, SKEWS};
use crate::engine::placement::{Fleet, Health};
use crate::engine::staging::Staging;
use crate::ledger::{Command, Ledger, Session};
use crate::model::{NodeId, OutputPart, Run, RunId, RunState, SessionId, UnixMs, WorkerId, WorkerInfo, WorkerState, limits};
use crate::rpc::wire::Heartbeat;

/// Output of ended runs that is kept in memory until the store has it, at most; more is fetched from the workers' spools.
const OUTPUT_KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Runs that are known to be running, at most; the state of further ones reads as `staged`.
const STARTED_MAX: usize = 1_000_000;

pub struct Soft {
    state: Mutex<State>,
    skew_ms_max: i64,
    samples_wanted: Notify,
}

struct State {
    judge: ClockJudge,
    leases: Leases,
    started: HashMap<RunId, UnixMs>,
    outputs: HashMap<RunId, Vec<OutputPart>>,
    outputs_bytes: usize,
    sessions: HashMap<SessionId, Seen>,
    /// The feed has seen the store's end, or that the store is away, since this node got its licence.
    feed_has_looked: bool,
    store_trouble: Option<String>,
    feed_trouble: Option<String>,
    /// Whether the clock was good, and whether the majority had another time, when it was last looked at.
    clock_was: Option<(bool, bool)>,
    is_full: bool,
}

#[derive(Clone)]
struct Seen {
    at: UnixMs,
    heartbeat: Option<Heartbeat>,
}

/// What is wrong, for `/readyz`.
#[derive(Clone, Default, PartialEq)]
pub struct Troubles {
    pub store: Option<String>,
    pub feed: Option<String>,
    pub clock: Option<String>,
    pub is_full: bool,
}

impl Soft {
    pub fn new(skew_ms_max: i64) -> Soft {
        let state = State {
            judge: ClockJudge::new(skew_ms_max),
            leases: Leases::default(),
            started: HashMap::new(),
            outputs: HashMap::new(),
            outputs_bytes: 0,
            sessions: HashMap::new(),
            feed_has_looked: false,
            store_trouble: None,
            feed_trouble: None,
            clock_was: None,
            is_full: false,
        };
        Soft { state: Mutex::new(state), skew_ms_max, samples_wanted: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn started(&self, run: RunId, at: UnixMs) {
        let mut state = self.lock();
        if state.started.len() < STARTED_MAX {
            state.started.insert(run, at);
        }
    }

    /// Whether a worker has said that this run started.
    pub fn has_started(&self, run: RunId) -> bool {
        self.lock().started.contains_key(&run)
    }

    /// These runs are open no more, or never were: what runs is told by workers, before or after the ledger has it here.
    pub fn ended(&self, runs: impl IntoIterator<Item = RunId>) {
        let mut state = self.lock();
        for run in runs {
            state.started.remove(&run);
        }
    }

    /// Keeps what the ledger knows as open.
    pub fn sweep_started(&self, ledger: &Ledger) {
        self.lock().started.retain(|run, _| ledger.open_run(*run).is_some());
    }

    pub fn keep_output(&self, run: RunId, parts: Vec<OutputPart>) {
        let mut state = self.lock();
        let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
        if state.outputs_bytes + bytes <= OUTPUT_KEPT_BYTES_MAX && state.outputs.insert(run, parts).is_none() {
            state.outputs_bytes += bytes;
        }
    }

    pub fn output(&self, run: RunId) -> Option<Vec<OutputPart>> {
        self.lock().outputs.get(&run).cloned()
    }

    /// The store has these runs.
    pub fn forget(&self, runs: impl IntoIterator<Item = RunId>) {
        let mut state = self.lock();
        for run in runs {
            state.started.remove(&run);
            if let Some(parts) = state.outputs.remove(&run) {
                state.outputs_bytes -= parts.iter().map(|part| part.bytes.len()).sum::<usize>();
            }
        }
    }

    /// A run that has not ended, with what its worker says of it.
    pub fn overlay(&self, mut run: Run, session: Option<SessionId>, now_boot_ms: i64) -> Run {
        let state = self.lock();
        if let Some(started_at) = state.started.get(&run.id).filter(|_| matches!(run.state, RunState::Staged | RunState::Unreachable)) {
            run.started_at = Some(*started_at);
            if run.state == RunState::Staged {
                run.state = RunState::Running;
            }
        }
        let is_silent = session.is_some_and(|session| state.leases.is_silent(session, now_boot_ms));
        if is_silent && matches!(run.state, RunState::Staged | RunState::Running) {
            run.state = RunState::Unreachable;
        }
        run
    }

    /// Output that came with reports, how far the feed had looked, and which leases may stand, counts for one licence. What runs was told
    /// by the workers themselves.
    pub fn begin_licence(&self, now_boot_ms: i64) {
        let mut state = self.lock();
        state.leases.lead(now_boot_ms);
        state.outputs.clear();
        state.outputs_bytes = 0;
        state.feed_has_looked = false;
    }

    pub fn set_feed_has_looked(&self) {
        self.lock().feed_has_looked = true;
    }

    pub fn feed_has_looked(&self) -> bool {
        self.lock().feed_has_looked
    }

    /// A worker has taken back its word: it takes no work until its next heartbeat. Answers whether this is news.
    pub fn declined(&self, session: SessionId, why: &str) -> bool {
        let mut state = self.lock();
        let heartbeat = state.sessions.get_mut(&session).and_then(|seen| seen.heartbeat.as_mut());
        heartbeat.is_some_and(|heartbeat| heartbeat.trouble.replace(why.to_owned()).is_none())
    }

    /// A worker has spoken. False: its session is over, or about to be, and gets no grant.
    pub fn seen(&self, session: SessionId, at: UnixMs, at_boot_ms: i64, heartbeat: Heartbeat) -> bool {
        let mut state = self.lock();
        if !state.leases.heard(session, at_boot_ms) {
            return false;
        }
        state.judge.sample(Source::Worker(session), heartbeat.now.since(at), 0, at_boot_ms);
        state.sessions.insert(session, Seen { at, heartbeat: Some(heartbeat) });
        true
    }

    /// What the leader should propose for workers that are silent.
    pub fn plan_lost(&self, ledger: &Ledger, staging: &Staging, now: Reading) -> Vec<Command> {
        self.lock().leases.plan(ledger, staging, now, self.skew_ms_max)
    }

    /// What is to start later than this has not been started before `at`, by whichever clock (PROTOCOL C6, D1).
    pub fn unstarted_after(&self, at: UnixMs) -> UnixMs {
        at + SKEWS * self.skew_ms_max
    }

    /// Whether a session may still start what it is told.
    pub fn has_permit(&self, session: SessionId, now_boot_ms: i64) -> bool {
        self.lock().leases.has_permit(session, now_boot_ms)
    }

    // ---- the clock

    /// Another controller's clock seemed to be ahead of this one by `offset_ms`; asking took `rtt_ms` (PROTOCOL H2).
    pub fn sample_clock(&self, node: NodeId, offset_ms: i64, rtt_ms: i64, now_boot_ms: i64) {
        self.lock().judge.sample(Source::Controller(node), offset_ms, rtt_ms, now_boot_ms);
    }

    pub fn set_other_voters(&self, others: impl IntoIterator<Item = NodeId>) {
        self.lock().judge.set_others(others);
    }

    /// Looks at this node's clock. Answers a jump, if there was one, and what is wrong, if that is news. A clock that jumped has the
    /// others asked at once.
    pub fn observe_clock(&self, reading: Reading) -> (Option<i64>, Option<Option<String>>) {
        let mut state = self.lock();
        let jump_ms = state.judge.observe(reading);
        if jump_ms.is_some() {
            self.samples_wanted.notify_one();
        }
        let is = (state.judge.is_good(), state.judge.is_outvoted());
        // That it is good from the start is none.
        let is_news = state.clock_was.replace(is).unwrap_or((true, false)) != is;
        (jump_ms, is_news.then(|| state.judge.trouble()))
    }

    /// Until the clock has jumped.
    pub async fn samples_wanted(&self) {
        self.samples_wanted.notified().await;
    }

    /// Too few other controllers have said what time it is.
    pub fn is_clock_unproved(&self) -> bool {
        self.lock().judge.is_unproved()
    }

    /// Why the clock may not be trusted.
    pub fn clock_trouble(&self) -> Option<String> {
        self.lock().judge.trouble()
    }

    /// Whether the wall clock was set since it was last looked at.
    pub fn has_clock_jumped(&self, reading: Reading) -> bool {
        self.lock().judge.has_jumped(reading)
    }

    pub fn is_clock_good(&self) -> bool {
        self.lock().judge.is_good()
    }

    /// The majority of the controllers has another time (PROTOCOL H1).
    pub fn is_clock_outvoted(&self) -> bool {
        self.lock().judge.is_outvoted()
    }

    // ---- the workers

    /// Sessions that are no longer in the ledger are forgotten; those that have not been heard of count from now.
    pub fn follow(&self, ledger: &Ledger, now: UnixMs, now_boot_ms: i64) {
        let mut state = self.lock();
        state.leases.follow(ledger, now_boot_ms);
        state.judge.retain_workers(|id| ledger.session(id).is_some());
        state.sessions.retain(|id, _| ledger.session(*id).is_some());
        for session in ledger.sessions() {
            state.sessions.entry(session.id).or_insert(Seen { at: now, heartbeat: None });
        }
    }

    /// The workers that may get work; `answers` says of each whether what it is told arrives.
    pub fn fleet(&self, ledger: &Ledger, staging: &Staging, answers: impl Fn(SessionId) -> bool, now_boot_ms: i64) -> Fleet {
        let state = self.lock();
        let health = |session: &Arc<Session>| {
            let id = session.id;
            let heartbeat = state.sessions.get(&id)?.heartbeat.as_ref()?;
            let is_willing = !heartbeat.is_draining && heartbeat.trouble.is_none();
            let takes_work = is_willing && state.leases.is_fresh(id, now_boot_ms) && !state.judge.is_worker_off(id);
            Some((id, Health { session: session.clone(), takes_work, answers: answers(id), outstanding: staging.outstanding(id) }))
        };
        Fleet { sessions: ledger.sessions().filter_map(health).collect() }
    }

    /// Sessions whose workers have been asked to stop.
    pub fn draining(&self) -> Vec<SessionId> {
        let state = self.lock();
        let is_draining = |seen: &Seen| seen.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.is_draining);
        state.sessions.iter().filter(|(_, seen)| is_draining(seen)).map(|(id, _)| *id).collect()
    }

    /// For how long the leader counts a session as silent, in milliseconds (PROTOCOL C4).
    pub fn silence_ms(&self, session: SessionId, now_boot_ms: i64) -> Option<i64> {
        self.lock().leases.silence_ms(session, now_boot_ms)
    }

    /// Each worker by its newest session; one that is over makes it unreachable.
    pub fn workers(&self, ledger: &Ledger, now_boot_ms: i64) -> Vec<WorkerInfo> {
        let state = self.lock();
        let mut newest: BTreeMap<&WorkerId, &Arc<Session>> = BTreeMap::new();
        for session in ledger.ended_sessions().chain(ledger.sessions()) {
            let place = newest.entry(&session.worker).or_insert(session);
            if (place.ended_at.is_some(), session.id) > (session.ended_at.is_some(), place.id) {
                *place = session;
            }
        }
        newest.into_values().map(|session| state.worker(session, now_boot_ms)).collect()
    }

    /// Why no worker takes work, if none does.
    pub fn worker_trouble(&self, ledger: &Ledger, now_boot_ms: i64) -> Option<String> {
        let workers = self.workers(ledger, now_boot_ms);
        if workers.iter().any(|worker| worker.state == WorkerState::Ready) {
            let state = self.lock();
            let mut beats = state.sessions.values().filter_map(|seen| seen.heartbeat.as_ref());
            if beats.clone().count() > 0 && beats.all(|beat| beat.trouble.is_some()) {
                return state.sessions.values().find_map(|seen| seen.heartbeat.as_ref()?.trouble.clone());
            }
            return None;
        }
        Some(if workers.is_empty() { "no worker has come yet".into() } else { "no worker takes work".into() })
    }

    pub fn troubles(&self) -> Troubles {
        let state = self.lock();
        Troubles {
            store: state.store_trouble.clone(),
            feed: state.feed_trouble.clone(),
            clock: state.judge.trouble(),
            is_full: state.is_full,
        }
    }

    /// Each answers whether this is news.
    pub fn set_store_trouble(&self, trouble: Option<String>) -> bool {
        replace(&mut self.lock().store_trouble, trouble)
    }
    pub fn set_feed_trouble(&self, trouble: Option<String>) -> bool {
        replace(&mut self.lock().feed_trouble, trouble)
    }
    pub fn set_full(&self, is_full: bool) -> bool {
        std::mem::replace(&mut self.lock().is_full, is_full) != is_full
    }
}

fn replace(place: &mut Option<String>, trouble: Option<String>) -> bool {
    let is_news = place.is_some() != trouble.is_some();
    *place = trouble;
    is_news
}

impl State {
    fn worker(&self, session: &Session, now_boot_ms: i64) -> WorkerInfo {
        let seen = self.sessions.get(&session.id);
        let heartbeat = seen.and_then(|seen| seen.heartbeat.as_ref());
        let state = match heartbeat {
            _ if seen.is_none() || session.ended_at.is_some() || self.leases.is_silent(session.id, now_boot_ms) => WorkerState::Unreachable,
            Some(heartbeat) if heartbeat.is_draining => WorkerState::Draining,
            _ if self.judge.is_worker_off(session.id) => WorkerState::BadClock,
            _ => WorkerState::Ready,
        };
        WorkerInfo {
            id: session.worker.clone(),
            address: session.address.clone(),
            labels: session.labels.clone(),
            slots: session.slots,
            running: heartbeat.map_or(0, |heartbeat| heartbeat.running),
            staged: heartbeat.map_or(0, |heartbeat| heartbeat.waiting),
            state,
            lease_expires_at: seen.map(|seen| seen.at + limits::SESSION_LEASE_MS),
        }
    }
}
