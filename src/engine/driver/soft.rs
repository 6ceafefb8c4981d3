//! What the leader knows beyond the ledger: how runs are doing, small outputs on their way to the store, how the workers are. All of it is
//! lost with the process and told again by the workers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::placement::{Fleet, Health};
use crate::engine::staging::Staging;
use crate::ledger::Ledger;
use crate::model::{OutputPart, Run, RunId, RunState, SessionId, UnixMs, WorkerInfo, WorkerState, limits};
use crate::rpc::wire::Heartbeat;

/// Output of ended runs that is kept in memory until the store has it, at most; more is fetched from the workers' spools.
const OUTPUT_KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Runs that are known to be running, at most; the state of further ones reads as `staged`.
const STARTED_MAX: usize = 1_000_000;

#[derive(Default)]
pub struct Soft {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    started: HashMap<RunId, UnixMs>,
    outputs: HashMap<RunId, Vec<OutputPart>>,
    outputs_bytes: usize,
    sessions: HashMap<SessionId, Seen>,
    /// The feed has seen the store's end, or that the store is away, since this node got its licence.
    feed_has_looked: bool,
    store_trouble: Option<String>,
    feed_trouble: Option<String>,
    clock_trouble: Option<String>,
    is_full: bool,
}

#[derive(Clone)]
struct Seen {
    at_boot_ms: i64,
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
        if let Some(started_at) = state.started.get(&run.id).filter(|_| run.state == RunState::Staged) {
            run.state = RunState::Running;
            run.started_at = Some(*started_at);
        }
        let is_silent = session.and_then(|session| state.sessions.get(&session)).is_some_and(|seen| seen.is_silent(now_boot_ms));
        if is_silent && matches!(run.state, RunState::Staged | RunState::Running) {
            run.state = RunState::Unreachable;
        }
        run
    }

    /// Output that came with reports, and how far the feed had looked, counts for one licence. What runs was told by the workers themselves.
    pub fn forget_licence(&self) {
        let mut state = self.lock();
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

    pub fn seen(&self, session: SessionId, at: UnixMs, at_boot_ms: i64, heartbeat: Option<Heartbeat>) {
        let mut state = self.lock();
        let before = state.sessions.remove(&session).and_then(|seen| seen.heartbeat);
        state.sessions.insert(session, Seen { at_boot_ms, at, heartbeat: heartbeat.or(before) });
    }

    /// Sessions that are no longer in the ledger are forgotten; those that have not been heard of since this node leads count from now.
    pub fn follow(&self, ledger: &Ledger, now: UnixMs, now_boot_ms: i64) {
        let mut state = self.lock();
        state.sessions.retain(|id, _| ledger.session(*id).is_some());
        for session in ledger.sessions() {
            state.sessions.entry(session.id).or_insert(Seen { at_boot_ms: now_boot_ms, at: now, heartbeat: None });
        }
    }

    /// The workers that may get work.
    pub fn fleet(&self, ledger: &Ledger, staging: &Staging, now_boot_ms: i64) -> Fleet {
        let state = self.lock();
        let health = |id: SessionId, slots: u32| {
            let seen = state.sessions.get(&id)?;
            let heartbeat = seen.heartbeat.as_ref()?;
            let takes_work = !seen.is_silent(now_boot_ms) && !heartbeat.is_draining && heartbeat.trouble.is_none();
            Some((id, Health { slots, takes_work, outstanding: staging.outstanding(id) }))
        };
        Fleet { sessions: ledger.sessions().filter_map(|session| health(session.id, session.slots)).collect() }
    }

    /// How long a session has been silent, in milliseconds.
    pub fn silence_ms(&self, session: SessionId, now_boot_ms: i64) -> Option<i64> {
        self.lock().sessions.get(&session).map(|seen| now_boot_ms - seen.at_boot_ms)
    }

    pub fn workers(&self, ledger: &Ledger, now_boot_ms: i64) -> Vec<WorkerInfo> {
        let state = self.lock();
        ledger
            .sessions()
            .map(|session| {
                let seen = state.sessions.get(&session.id);
                let heartbeat = seen.and_then(|seen| seen.heartbeat.as_ref());
                let worker_state = match (seen, heartbeat) {
                    (Some(seen), _) if seen.is_silent(now_boot_ms) => WorkerState::Unreachable,
                    (_, Some(heartbeat)) if heartbeat.is_draining => WorkerState::Draining,
                    (None, _) => WorkerState::Unreachable,
                    _ => WorkerState::Ready,
                };
                WorkerInfo {
                    id: session.worker.clone(),
                    address: session.address.clone(),
                    labels: session.labels.clone(),
                    slots: session.slots,
                    running: heartbeat.map_or(0, |heartbeat| heartbeat.running),
                    staged: heartbeat.map_or(0, |heartbeat| heartbeat.waiting),
                    state: worker_state,
                    lease_expires_at: seen.map(|seen| seen.at + limits::SESSION_LEASE_MS),
                }
            })
            .collect()
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
            clock: state.clock_trouble.clone(),
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
    pub fn set_clock_trouble(&self, trouble: Option<String>) -> bool {
        replace(&mut self.lock().clock_trouble, trouble)
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

impl Seen {
    fn is_silent(&self, now_boot_ms: i64) -> bool {
        now_boot_ms - self.at_boot_ms > limits::SESSION_LEASE_MS
    }
}
