//! Manual runs, and how runs end: cancelled, closed by their worker, corrected.

use std::sync::Arc;

use crate::model::{Epoch, JobId, OnWorkerLost, Outcome, Reason, Run, RunId, RunState, SessionId, Trigger, UnixMs, limits};
use crate::mutation::{self, Mutation};

use super::apply::Turn;
use super::command::{Closing, Effect, Reply, Then};
use super::state::{Heir, Ledger, OpenRun};

impl Ledger {
    pub(super) fn trigger(
        &mut self,
        turn: &mut Turn,
        at: UnixMs,
        job: JobId,
        run: RunId,
        has_key: bool,
        session: Option<SessionId>,
    ) -> Reply {
        self.forget_keys(at);
        if self.keys.contains_key(&run) || self.run(run).is_some() {
            return Reply::Triggered { is_new: false };
        }
        let Some(job) = self.job(job) else { return Reply::NoSuchJob };
        if has_key {
            self.keys.insert(run, at);
            self.keys_by_age.insert((at, run));
        }
        if self.is_blocked(&job) && !mutation::is(Mutation::OverlapNotChecked) {
            self.wait(turn, Ledger::deferred(run, &job, Trigger::Manual, at));
        } else {
            self.open(turn, Ledger::first_attempt(run, &job, Trigger::Manual, at), session);
        }
        Reply::Triggered { is_new: true }
    }

    fn forget_keys(&mut self, at: UnixMs) {
        let end = at - limits::IDEMPOTENCY_KEY_KEPT_MS;
        while let Some((asked_at, run)) = self.keys_by_age.get_min().filter(|(asked_at, _)| *asked_at < end).copied() {
            self.keys_by_age.remove(&(asked_at, run));
            self.keys.remove(&run);
        }
    }

    pub(super) fn cancel(&mut self, turn: &mut Turn, at: UnixMs, id: RunId, reason: Reason) -> Reply {
        if let Some(run) = self.open.get(&id).cloned() {
            if run.assigned.is_none() {
                self.end(turn, &run, &Outcome::unstarted(RunState::Cancelled, Some(reason), at));
            } else if run.cancel.is_none() {
                self.open.insert(id, Arc::new(OpenRun { cancel: Some(reason), ..OpenRun::clone(&run) }));
                turn.touch(Effect::Run(id));
            }
            return Reply::Done;
        }
        if let Some((job, scheduled_at)) = self.waiting_runs.get(&id).copied() {
            if let Some(waiting) = self.waiting.get(&(job, scheduled_at, id)).cloned() {
                self.end_waiting(turn, &waiting, RunState::Cancelled, reason, at);
            }
            return Reply::Done;
        }
        if self.unrecorded_runs.contains_key(&id) { Reply::Done } else { Reply::NoSuchRun }
    }

    pub(super) fn close(&mut self, turn: &mut Turn, at: UnixMs, runs: Vec<Closing>) -> Reply {
        Reply::Closed(runs.into_iter().map(|closing| self.close_one(turn, at, closing)).collect())
    }

    fn close_one(&mut self, turn: &mut Turn, at: UnixMs, closing: Closing) -> u64 {
        let Some(run) = self.open.get(&closing.run).cloned() else { return self.close_again(turn, at, &closing) };
        if run.assigned.is_none_or(|assigned| assigned.epoch != closing.epoch) {
            // The end of an assignment that was proved not to have started; the run lives on elsewhere.
            return 0;
        }
        self.end(turn, &run, &closing.outcome);
        self.retry(turn, &run, &closing.outcome);
        turn.index
    }

    /// An end of a run that has ended: the same report again, or the true outcome of a lost run (PROTOCOL F3).
    fn close_again(&mut self, turn: &mut Turn, at: UnixMs, closing: &Closing) -> u64 {
        let Some(place) = self.unrecorded_runs.get(&closing.run).copied() else { return 0 };
        let Some(row) = self.unrecorded.get(&place).cloned() else { return 0 };
        if row.state == RunState::Lost && closing.outcome.state != RunState::Lost {
            let mut row = Run::clone(&row);
            row.close(&closing.outcome);
            self.correct(turn, at, row);
            return turn.index;
        }
        place.0
    }

    pub(super) fn correct(&mut self, turn: &mut Turn, at: UnixMs, row: Run) -> Reply {
        if self.open.contains_key(&row.id) {
            return Reply::Refused;
        }
        if row.state == RunState::Succeeded {
            let retry = self.open_runs_of(row.job_id).find(|run| run.retry_of == Some(row.id) && run.assigned.is_none()).cloned();
            if let Some(retry) = retry {
                self.end(turn, &retry, &Outcome::unstarted(RunState::Skipped, Some(Reason::Superseded), at));
            }
        }
        self.leave_row(turn, row);
        Reply::Done
    }

    /// A failed attempt with attempts left is followed by another one, under the same revision (PROTOCOL B6), while its job is there
    /// and not paused; so is one that was lost with its worker, if the job says so, and that counts as none of its attempts (D2).
    pub(super) fn retry(&mut self, turn: &mut Turn, run: &OpenRun, outcome: &Outcome) {
        // The numbers may come from a snapshot that says anything.
        let attempt = run.attempt.saturating_add(1);
        let failures = attempt.saturating_sub(run.losses);
        let (is_due, losses, backoff_ms) = match outcome.state {
            RunState::Failed | RunState::TimedOut => {
                let retry = &run.job.spec.retry;
                (failures <= retry.max_attempts, run.losses, retry.backoff_ms(failures))
            }
            RunState::Lost => {
                let is_asked = run.job.spec.on_worker_lost == OnWorkerLost::Retry;
                (is_asked && run.losses < limits::WORKER_LOSSES_MAX, run.losses.saturating_add(1), 0)
            }
            _ => return,
        };
        let is_wanted =
            is_due && run.cancel.is_none() && self.job(run.job.id).is_some_and(|job| job.spec.is_enabled || run.trigger == Trigger::Manual);
        if !is_wanted {
            return;
        }
        let id = if run.trigger == Trigger::Manual || run.retry_of.is_some() {
            RunId::at(run.scheduled_at, uuid::Uuid::new_v5(&run.id.0, &attempt.to_be_bytes()).as_u128())
        } else {
            self.launch_id(run.job.id, run.scheduled_at, attempt)
        };
        let next = OpenRun {
            id,
            trigger: Trigger::Retry,
            retry_of: Some(run.id),
            // One that is lost with its machine may end before its instant.
            start_at: (outcome.finished_at + backoff_ms).max(run.scheduled_at),
            attempt,
            losses,
            epoch: 0,
            heir: None,
            ..run.clone()
        };
        self.open(turn, next, None);
    }

    pub(super) fn unstarted(&mut self, turn: &mut Turn, at: UnixMs, runs: &[(RunId, Epoch, Then)]) -> Reply {
        for (id, epoch, then) in runs {
            let Some(run) = self.open.get(id).cloned() else { continue };
            if run.epoch == *epoch {
                self.unstarted_one(turn, at, &run, *then);
            }
        }
        Reply::Done
    }

    pub(super) fn unstarted_one(&mut self, turn: &mut Turn, at: UnixMs, run: &OpenRun, then: Then) {
        if let Some(reason) = run.cancel {
            return self.end(turn, run, &Outcome::unstarted(RunState::Cancelled, Some(reason), at));
        }
        let mut next = run.clone();
        let session = match (then, &run.heir) {
            (Then::Relaunch { revision, session }, Some(Heir::Revision(heir))) if heir.revision == revision => {
                next.job = heir.clone();
                next.heir = None;
                self.open.remove(&run.id);
                self.open_of_job.remove(&(run.job.id, run.id));
                turn.touch(Effect::Run(run.id));
                if self.is_blocked(&next.job) {
                    return self.wait(turn, Ledger::deferred(run.id, &next.job, run.trigger, run.scheduled_at));
                }
                session
            }
            (Then::Skip { reason, heir }, _) if run.heir.as_ref().and_then(Heir::revision) == heir => {
                self.end(turn, run, &Outcome::unstarted(RunState::Skipped, Some(reason), at));
                if run.heir.is_some() {
                    // If a later revision fires then, it decides the instant anew.
                    self.decided.remove(&(run.job.id, run.scheduled_at));
                }
                return;
            }
            // Nobody has it, and what becomes of it is asked again where its job has changed meanwhile.
            _ => None,
        };
        self.open(turn, next, session);
    }
}
