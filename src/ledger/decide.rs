//! Deciding: the fates of fires (PROTOCOL B2, B4, B7, B9), and of those that wait.

use std::sync::Arc;

use crate::model::{Job, JobId, Reason, Revision, RunId, RunState, Trigger, UnixMs};
use crate::mutation::{self, Mutation};

use super::apply::Turn;
use super::command::{Decide, Effect, Fate, Fire, Reply, Skip, WaitingFate};
use super::state::{Ledger, Owed, Waiting, WaitingKind, horizon_ms};

impl Ledger {
    pub(super) fn decide(&mut self, turn: &mut Turn, decide: &Decide) -> Reply {
        let is_compared = !mutation::is(Mutation::NoCompareAndSet);
        let follows = decide.after == self.last_decision || mutation::is(Mutation::PartsNotCompared);
        let is_next = decide.from == self.watermark && follows;
        if is_compared && !is_next || decide.feed != self.feed || decide.to < decide.from {
            return Reply::Refused;
        }
        for skip in &decide.skips {
            self.decide_skip(turn, skip, decide.at);
        }
        for fire in &decide.fires {
            self.decide_fire(turn, fire, decide.at);
        }
        for (job, revision, up_to) in &decide.settled {
            let Some(owed) = self.owed.remove(&(*job, *revision)) else { continue };
            turn.touch(Effect::Owed(*job));
            if *up_to < owed.to {
                let rest = Owed { from: owed.from.max(*up_to), ..Owed::clone(&owed) };
                self.owed.insert((*job, *revision), Arc::new(rest));
            }
            self.forget_if_gone(*job);
        }
        self.last_decision = turn.index;
        self.watermark = decide.to + if mutation::is(Mutation::WatermarkTooFar) && decide.to > decide.from { 1_000 } else { 0 };
        Reply::Done
    }

    fn decide_fire(&mut self, turn: &mut Turn, fire: &Fire, at: UnixMs) {
        let Some(job) = self.revision(fire.job, fire.revision) else { return };
        if self.is_decided(fire.job, fire.scheduled_at) {
            return;
        }
        self.decided.insert((fire.job, fire.scheduled_at));
        self.prune(&job, at);
        let id = self.launch_id(fire.job, fire.scheduled_at, 1);
        match fire.fate {
            Fate::Launch { session } if !self.is_blocked(&job) || mutation::is(Mutation::OverlapNotChecked) => {
                self.open(turn, Ledger::first_attempt(id, &job, fire.trigger, fire.scheduled_at), session);
            }
            _ => self.wait(turn, Ledger::deferred(id, &job, fire.trigger, fire.scheduled_at)),
        }
    }

    fn decide_skip(&mut self, turn: &mut Turn, skip: &Skip, at: UnixMs) {
        let Some(job) = self.revision(skip.job, skip.revision) else { return };
        if skip.count == 0 || self.is_decided(skip.job, skip.to) {
            return;
        }
        self.skipped.insert((skip.job, skip.to), skip.from);
        self.prune(&job, at);
        let mut row = self.skipped_row(&job, Trigger::Schedule, skip.to, skip.reason, at);
        if skip.count > 1 {
            row.skipped_from = Some(skip.from);
            row.skipped_count = Some(skip.count);
        }
        self.leave_row(turn, row);
    }

    /// The revision of a job that a fire was computed from: the current one, or one that still owes.
    fn revision(&self, id: JobId, revision: Revision) -> Option<Arc<Job>> {
        let current = self.job(id).filter(|job| job.revision == revision);
        current.or_else(|| self.owed.get(&(id, revision)).map(|owed| owed.job.clone()))
    }

    /// Forgets instants of a job that nobody can decide again: they lie behind the watermark and the job's horizon.
    fn prune(&mut self, job: &Job, at: UnixMs) {
        let end = at.min(self.watermark) - horizon_ms(job);
        loop {
            let old: Vec<_> = self.decided.range((job.id, UnixMs(i64::MIN))..(job.id, end)).take(64).copied().collect();
            if old.is_empty() {
                break;
            }
            for key in old {
                self.decided.remove(&key);
            }
        }
        while let Some(key) = self.skipped.range((job.id, UnixMs(i64::MIN))..(job.id, end)).next().map(|(key, _)| *key) {
            self.skipped.remove(&key);
        }
    }

    /// Nobody decides for a job that is deleted and owes nothing.
    pub(super) fn forget_if_gone(&mut self, id: JobId) {
        if self.jobs.contains_key(&id) || self.owed.range((id, 0)..=(id, Revision::MAX)).next().is_some() {
            return;
        }
        while let Some(key) = self.decided.range((id, UnixMs(i64::MIN))..=(id, UnixMs(i64::MAX))).next().copied() {
            self.decided.remove(&key);
        }
        while let Some(key) = self.skipped.range((id, UnixMs(i64::MIN))..=(id, UnixMs(i64::MAX))).next().map(|(key, _)| *key) {
            self.skipped.remove(&key);
        }
    }

    pub(super) fn resolve(&mut self, turn: &mut Turn, at: UnixMs, fires: &[(JobId, UnixMs, RunId, WaitingFate)]) -> Reply {
        for (job, scheduled_at, id, fate) in fires {
            let Some(waiting) = self.waiting.get(&(*job, *scheduled_at, *id)).cloned() else { continue };
            self.resolve_one(turn, at, &waiting, *fate);
        }
        Reply::Done
    }

    fn resolve_one(&mut self, turn: &mut Turn, at: UnixMs, waiting: &Waiting, fate: WaitingFate) {
        match fate {
            WaitingFate::Launch { session } | WaitingFate::CatchUp { session } => {
                if self.open_runs_of(waiting.job.id).next().is_some() {
                    return;
                }
                let is_late = matches!(fate, WaitingFate::CatchUp { .. }) && waiting.trigger == Trigger::Schedule;
                let trigger = if is_late { Trigger::CatchUp } else { waiting.trigger };
                self.stop_waiting(turn, waiting);
                self.open(turn, Ledger::first_attempt(waiting.id, &waiting.job, trigger, waiting.scheduled_at), session);
            }
            WaitingFate::Skip { reason } => self.end_waiting(turn, waiting, RunState::Skipped, reason, at),
            WaitingFate::Queue => self.set_kind(turn, waiting, WaitingKind::Queued),
            WaitingFate::Replace => {
                self.set_kind(turn, waiting, WaitingKind::Replacing);
                let open: Vec<RunId> = self.open_runs_of(waiting.job.id).map(|run| run.id).collect();
                for run in open {
                    self.cancel(turn, at, run, Reason::Replaced);
                }
                if mutation::is(Mutation::ReplacesAtOnce) {
                    self.stop_waiting(turn, waiting);
                    let run = Ledger::first_attempt(waiting.id, &waiting.job, waiting.trigger, waiting.scheduled_at);
                    self.open(turn, run, None);
                }
            }
        }
    }

    fn set_kind(&mut self, turn: &mut Turn, waiting: &Waiting, kind: WaitingKind) {
        let key = (waiting.job.id, waiting.scheduled_at, waiting.id);
        self.waiting.insert(key, Arc::new(Waiting { kind, ..waiting.clone() }));
        turn.touch(Effect::Waiting(waiting.job.id));
    }
}
