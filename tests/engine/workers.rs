//! The workers of the world. They keep to permit and lease as real ones do, at their worst: an order arrives though its acknowledgement
//! doesn't, and what is to be killed lives until its grace is over.

use std::collections::{BTreeMap, BTreeSet};

use chrono_flow::engine::staging::Orders;
use chrono_flow::ledger::{Closing, Command, OpenRun, Reply};
use chrono_flow::model::limits::{SESSION_LEASE_MS, START_PERMIT_MS};
use chrono_flow::model::{Epoch, OnWorkerLost, Outcome, Overlap, Reason, RunId, RunState, SessionId, UnixMs, WorkerId};
use uuid::Uuid;

use super::world::{World, name};

pub struct Held {
    pub run: OpenRun,
    pub epoch: Epoch,
    pub started_at: Option<UnixMs>,
    /// The lease lapsed over it: the guardian ends it by then.
    dies_at: Option<UnixMs>,
}

pub struct Worker {
    /// What it registers as; another process may go by the same name.
    id: WorkerId,
    data_dir: Uuid,
    pub labels: BTreeMap<String, String>,
    slots: u32,
    session: Option<SessionId>,
    /// The process works. If not, it is stopped or dead; a guardian keeps the fence.
    pub is_up: bool,
    /// Nothing comes from it: no heartbeat, no acknowledgement, no report.
    pub is_cut: bool,
    /// Orders reach it all the same.
    pub hears: bool,
    /// When it sent the last heartbeat that was granted.
    granted_at: UnixMs,
    pub held: BTreeMap<RunId, Held>,
    not_started: Vec<(RunId, Epoch)>,
    ended: Vec<Closing>,
    /// What has ended or was revoked under these epochs never starts under them.
    tombstones: BTreeSet<(RunId, Epoch)>,
}

impl Worker {
    pub fn is_connected(&self) -> bool {
        self.is_up && !self.is_cut
    }

    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    fn permit_until(&self) -> UnixMs {
        self.granted_at + START_PERMIT_MS
    }
}

fn lost(held: &Held, reason: Reason, at: UnixMs) -> Closing {
    let mut outcome = Outcome::unstarted(RunState::Lost, Some(reason), at);
    outcome.started_at = held.started_at;
    Closing { run: held.run.id, epoch: held.epoch, outcome }
}

impl World {
    pub fn set_slots(&mut self, slots: u32) {
        self.slots = slots;
        self.workers.values_mut().for_each(|worker| worker.slots = slots);
    }

    /// A worker comes, or comes back: it opens a session with what its journal proves. False: another one of its name may still run.
    pub fn worker_up(&mut self, name: &'static str, labels: BTreeMap<String, String>) -> bool {
        let id = WorkerId(name.trim_end_matches('\'').to_owned());
        let (now, slots, data_dir) = (self.now, self.slots, Uuid::from_u128(1 + self.workers.len() as u128));
        let new = || Worker {
            id,
            data_dir,
            labels,
            slots,
            session: None,
            is_up: true,
            is_cut: false,
            hears: false,
            granted_at: now,
            held: BTreeMap::new(),
            not_started: Vec::new(),
            ended: Vec::new(),
            tombstones: BTreeSet::new(),
        };
        let worker = self.workers.entry(name).or_insert_with(new);
        (worker.is_up, worker.is_cut, worker.slots) = (true, false, slots);
        worker.give_back();
        let previous = self.ledger.newest_session(worker.data_dir);
        let held = worker.held.values().map(|held| (held.run.id, held.epoch));
        let command = Command::OpenSession {
            at: now,
            worker: worker.id.clone(),
            data_dir: worker.data_dir,
            address: String::new(),
            labels: worker.labels.clone(),
            slots,
            not_started: worker.not_started.clone(),
            held: held.chain(worker.ended.iter().map(|end| (end.run, end.epoch))).collect(),
            unstarted_after: UnixMs::MIN,
            previous,
        };
        let replies = self.apply(vec![command]);
        let worker = self.workers.get_mut(name).expect("it is there");
        let Some(Reply::Session(session)) = replies.first() else {
            worker.session = None;
            return false;
        };
        worker.session = Some(*session);
        worker.granted_at = now;
        worker.not_started.clear();
        self.leases.heard(*session, now.0);
        self.report(name);
        true
    }

    /// It starts nothing and answers nothing, until a new session opens.
    pub fn worker_down(&mut self, name: &str) {
        if let Some(worker) = self.workers.get_mut(name) {
            worker.is_up = false;
        }
    }

    /// The process dies with its runs; its next life will report them as lost.
    pub fn worker_dies(&mut self, name: &str) {
        let now = self.now;
        let worker = self.workers.get_mut(name).expect("a known worker");
        worker.is_up = false;
        for held in std::mem::take(&mut worker.held).into_values() {
            worker.tombstones.insert((held.run.id, held.epoch));
            match held.started_at {
                Some(_) => worker.ended.push(lost(&held, Reason::WorkerRestarted, now)),
                None => worker.not_started.push((held.run.id, held.epoch)),
            }
        }
    }

    /// Reports what has ended, if somebody hears it.
    fn report(&mut self, name: &str) {
        let (now, has_leader) = (self.now, self.has_leader);
        let worker = self.workers.get_mut(name).expect("a known worker");
        let is_heard = has_leader && worker.is_connected() && worker.session.is_some_and(|session| self.ledger.session(session).is_some());
        if !is_heard || worker.ended.is_empty() {
            return;
        }
        let runs = std::mem::take(&mut worker.ended);
        let replies = self.apply(vec![Command::Close { at: now, runs: runs.clone() }]);
        let Some(Reply::Closed(indices)) = replies.first() else { panic!("not closed: {replies:?}") };
        for (end, _) in runs.iter().zip(indices).filter(|(end, index)| **index == 0 && end.outcome.state != RunState::Lost) {
            // As `service` does: the ledger has forgotten it, the store hasn't.
            if let Some(mut row) = self.history.get(&end.run).filter(|row| row.state == RunState::Lost).cloned() {
                row.close(&end.outcome);
                self.apply(vec![Command::Correct { at: now, run: Box::new(row) }]);
            }
        }
    }

    // ---- leases

    /// Heartbeats, grants, and leases that lapse.
    pub(super) fn watch_leases(&mut self) {
        let names: Vec<&'static str> = self.workers.keys().copied().collect();
        for name in names {
            self.beat(name);
            self.lapse(name);
            self.kill(name);
        }
    }

    /// Time goes on to `next`, and whoever is connected sends heartbeats meanwhile.
    pub(super) fn beat_until(&mut self, next: UnixMs) {
        for worker in self.workers.values_mut().filter(|worker| worker.is_connected() && self.has_leader) {
            if worker.session.is_some_and(|session| self.ledger.session(session).is_some() && self.leases.heard(session, next.0)) {
                worker.granted_at = next;
            }
        }
    }

    /// Whether somebody speaks for this session.
    pub(super) fn is_heard(&self, session: SessionId) -> bool {
        self.workers.values().any(|worker| worker.session == Some(session) && worker.is_connected())
    }

    fn beat(&mut self, name: &'static str) {
        let (now, has_leader) = (self.now, self.has_leader);
        let worker = self.workers.get_mut(name).expect("a known worker");
        if !worker.is_connected() || !has_leader {
            return;
        }
        // The lapse comes before anything that the leader says.
        let is_lapsed = now.since(worker.granted_at) >= SESSION_LEASE_MS;
        let is_granted = |session| self.ledger.session(session).is_some() && self.leases.heard(session, now.0);
        if !is_lapsed && worker.session.is_some_and(is_granted) {
            worker.granted_at = now;
            self.report(name);
        } else {
            self.lapse(name);
            self.worker_up(name, BTreeMap::new());
        }
    }

    /// What has not started is dropped; runs of `retry` jobs are killed, and live as long as they may.
    fn lapse(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).expect("a known worker");
        let lapses_at = worker.granted_at + SESSION_LEASE_MS;
        if self.now < lapses_at || worker.session.is_none() {
            return;
        }
        for held in worker.held.values_mut().filter(|held| held.run.job.spec.on_worker_lost == OnWorkerLost::Retry) {
            held.dies_at.get_or_insert(lapses_at + i64::from(held.run.job.spec.kill_grace_s) * 1000);
        }
        worker.session = None;
        worker.give_back();
    }

    fn kill(&mut self, name: &str) {
        let worker = self.workers.get_mut(name).expect("a known worker");
        let dead: Vec<RunId> =
            worker.held.values().filter(|held| held.dies_at.is_some_and(|at| at <= self.now)).map(|held| held.run.id).collect();
        for id in dead {
            let held = worker.held.remove(&id).expect("held");
            worker.tombstones.insert((id, held.epoch));
            worker.ended.push(lost(&held, Reason::WorkerLost, held.dies_at.expect("it is dead")));
        }
    }

    /// When something happens at a worker.
    pub(super) fn worker_event(&self, worker: &Worker) -> Option<UnixMs> {
        let lapse = worker.session.map(|_| worker.granted_at + SESSION_LEASE_MS).filter(|_| !worker.is_connected() || !self.has_leader);
        let runs = worker.held.values().filter_map(|held| match held.started_at {
            None => worker.is_up.then_some(held.run.start_at),
            Some(started_at) => {
                let ends_at = worker.is_up.then_some(started_at + self.habits[&held.run.job.id].lasts_ms);
                ends_at.into_iter().chain(held.dies_at).min()
            }
        });
        runs.chain(lapse).filter(|at| *at > self.now).min()
    }

    // ---- work

    pub(super) fn work(&mut self) -> bool {
        let names: Vec<&'static str> = self.workers.keys().copied().collect();
        let mut has_worked = false;
        for name in names {
            has_worked |= self.take_orders(name);
            if self.workers[name].is_up {
                has_worked |= self.start_due(name);
                has_worked |= self.end_due(name);
            }
            self.report(name);
        }
        has_worked
    }

    fn take_orders(&mut self, name: &'static str) -> bool {
        let worker = &self.workers[name];
        let Some(session) = worker.session else { return false };
        let (is_connected, hears) = (worker.is_connected(), worker.is_up && worker.hears);
        let is_reachable = self.ledger.session(session).is_some() && self.leases.has_permit(session, self.now.0);
        if !self.has_leader || !is_reachable || !(is_connected || hears) {
            return false;
        }
        let orders = self.core.staging.take_orders(session);
        let has_orders = !orders.is_empty();
        if !is_connected {
            // They arrive, and nobody knows.
            self.core.staging.failed(&Orders { stage: orders.stage.clone(), ..Orders::default() });
        }
        for id in &orders.stage {
            self.stage(name, *id);
        }
        for (id, epoch) in orders.revoke {
            if self.holds_back_revokes || !is_connected {
                self.revokes_held_back.push((name, id, epoch))
            } else {
                self.revoke(name, id, epoch)
            }
        }
        for (id, epoch, reason) in orders.cancel {
            if !self.end(name, id, RunState::Cancelled, Some(reason)) {
                self.workers.get_mut(name).expect("known").tombstones.insert((id, epoch));
            }
        }
        has_orders && is_connected
    }

    fn stage(&mut self, name: &str, id: RunId) {
        let Some(run) = self.ledger.open_run(id) else { return };
        let epoch = run.assigned.expect("only assigned runs are staged").epoch;
        let worker = self.workers.get_mut(name).expect("a known worker");
        let is_known = worker.held.get(&id).is_some_and(|held| held.started_at.is_some() || held.epoch >= epoch);
        if !is_known && !worker.tombstones.contains(&(id, epoch)) {
            worker.held.insert(id, Held { run: OpenRun::clone(run), epoch, started_at: None, dies_at: None });
        }
    }

    fn start_due(&mut self, name: &str) -> bool {
        let worker = &self.workers[name];
        let may_start = (self.has_leader || !self.rests_without_leader) && worker.session.is_some() && self.now <= worker.permit_until();
        let running = worker.held.values().filter(|held| held.started_at.is_some()).count();
        let waiting = worker.held.values().filter(|held| held.started_at.is_none() && held.run.start_at <= self.now && may_start);
        let mut due: Vec<(UnixMs, RunId)> = waiting.map(|held| (held.run.start_at, held.run.id)).collect();
        due.sort_unstable();
        due.truncate((worker.slots as usize).saturating_sub(running));
        for (_, id) in &due {
            self.start(name, *id);
        }
        !due.is_empty()
    }

    fn start(&mut self, name: &str, id: RunId) {
        let now = self.now;
        let held = self.workers.get_mut(name).and_then(|worker| worker.held.get_mut(&id)).expect("held");
        held.started_at = Some(now);
        let (run, epoch) = (held.run.clone(), held.epoch);
        let before = self.started.insert(run.id, epoch);
        let place = if name == "w" { String::new() } else { format!(" on {name}") };
        self.note(format!("start   {}{place}", self::name(&run.job.spec.name, run.scheduled_at, run.attempt)));
        let story = || self.diary.iter().filter(|line| line.contains(&*run.job.spec.name)).cloned().collect::<Vec<_>>().join("\n");
        assert!(before.is_none(), "run {} starts under epochs {before:?} and {epoch}:\n{}", run.id, story());
        self.starts.push((run.job.id, run.scheduled_at, run.attempt, run.trigger));
        let alive = || self.workers.values().flat_map(|worker| worker.held.values()).filter(|held| held.started_at.is_some());
        let is_first_over = alive().all(|held| Some(held.run.id) != run.retry_of);
        assert!(is_first_over, "an attempt starts while the one before it is alive:\n{}", story());
        // One that was given up as lost may be alive all the same; then the job's next run is not held up by it.
        let beside = alive().filter(|held| held.run.job.id == run.job.id && self.ledger.open_run(held.run.id).is_some()).count();
        assert!(run.job.spec.overlap == Overlap::Allow || beside <= 1, "two runs of {} at once:\n{}", run.job.spec.name, story());
    }

    fn end_due(&mut self, name: &'static str) -> bool {
        let is_over = |held: &&Held| held.started_at.is_some_and(|at| at + self.habits[&held.run.job.id].lasts_ms <= self.now);
        let ended: Vec<RunId> = self.workers[name].held.values().filter(is_over).map(|held| held.run.id).collect();
        for id in &ended {
            let succeeds = self.habits[&self.workers[name].held[id].run.job.id].succeeds;
            self.end(name, *id, if succeeds { RunState::Succeeded } else { RunState::Failed }, None);
        }
        !ended.is_empty()
    }

    fn end(&mut self, name: &'static str, id: RunId, state: RunState, reason: Option<Reason>) -> bool {
        let now = self.now;
        let worker = self.workers.get_mut(name).expect("a known worker");
        let Some(held) = worker.held.remove(&id) else { return false };
        let mut outcome = Outcome::unstarted(state, reason, now);
        outcome.started_at = held.started_at;
        outcome.exit_code = match state {
            RunState::Succeeded => Some(0),
            RunState::Failed => Some(1),
            _ => None,
        };
        worker.tombstones.insert((id, held.epoch));
        worker.ended.push(Closing { run: id, epoch: held.epoch, outcome });
        self.report(name);
        true
    }

    fn revoke(&mut self, name: &str, id: RunId, epoch: Epoch) {
        let worker = self.workers.get_mut(name).expect("a known worker");
        let is_started = worker.held.get(&id).is_some_and(|held| held.started_at.is_some());
        if is_started || worker.ended.iter().any(|end| end.run == id) {
            return;
        }
        worker.held.remove(&id);
        worker.tombstones.insert((id, epoch));
        self.core.not_started(id, epoch);
    }

    pub fn answer_revokes(&mut self) {
        for (name, id, epoch) in std::mem::take(&mut self.revokes_held_back) {
            if self.workers[name].is_connected() {
                self.revoke(name, id, epoch);
            } else {
                self.revokes_held_back.push((name, id, epoch));
            }
        }
        self.settle();
    }
}

impl Worker {
    /// What it holds and has not started goes back to the leader.
    fn give_back(&mut self) {
        let unstarted: Vec<RunId> = self.held.values().filter(|held| held.started_at.is_none()).map(|held| held.run.id).collect();
        for id in unstarted {
            let held = self.held.remove(&id).expect("held");
            self.tombstones.insert((id, held.epoch));
            self.not_started.push((id, held.epoch));
        }
    }
}
