//! The job table: what the feed brings, and what an edit does to fires of the revision before (PROTOCOL A2, B3, B5, F5).

use std::sync::Arc;

use crate::model::{Job, JobId, Reason, Revision, RunId, RunState, Trigger, UnixMs};
use crate::mutation::{self, Mutation};

use super::apply::Turn;
use super::command::{Effect, Reply};
use super::packed::PackedJob;
use super::state::{Heir, Ledger, Owed, Waiting, horizon_ms};

impl Ledger {
    pub(super) fn put_job(&mut self, turn: &mut Turn, job: Job) -> Reply {
        if job.change_seq <= self.feed {
            return Reply::Refused;
        }
        self.feed = job.change_seq;
        turn.touch(Effect::Job(job.id));
        let (id, from) = (job.id, job.effective_from);
        let packed = PackedJob::of(&job);
        let job = Arc::new(job);
        let owes_from = from.max(self.remembers_from(id));
        self.retire(turn, id, from, false);
        if job.spec.is_enabled && owes_from < self.watermark && !mutation::is(Mutation::NoLateFloor) {
            self.owe(turn, &job, owes_from, self.watermark, false);
        }
        self.jobs.insert(id, packed);
        self.take_back(turn, id, from, &Heir::Revision(job));
        Reply::Done
    }

    pub(super) fn drop_job(&mut self, turn: &mut Turn, id: JobId, _revision: Revision, from: UnixMs, change_seq: u64) -> Reply {
        if change_seq <= self.feed {
            return Reply::Refused;
        }
        self.feed = change_seq;
        turn.touch(Effect::Job(id));
        self.retire(turn, id, from, true);
        self.jobs.remove(&id);
        self.take_back(turn, id, from, &Heir::Nobody);
        let waiting: Vec<Arc<Waiting>> = self.waiting_of(id).cloned().collect();
        for fire in waiting {
            self.end_waiting(turn, &fire, RunState::Skipped, Reason::Superseded, from);
        }
        self.forget_if_gone(id);
        Reply::Done
    }

    /// From when on it is known which instants of a job have their fate. Where the feed lags more than a horizon behind (the leader was cut
    /// off from the database), the revision before has fired meanwhile, and what it decided before that is forgotten (PROTOCOL B4).
    fn remembers_from(&self, id: JobId) -> UnixMs {
        match self.job(id) {
            Some(old) if old.spec.is_enabled => self.watermark - horizon_ms(&old),
            _ => UnixMs(i64::MIN),
        }
    }

    /// The current revision ends at `until`: what it owes before that instant is kept as a debt, what comes after is no longer its own.
    fn retire(&mut self, turn: &mut Turn, id: JobId, until: UnixMs, is_dropped: bool) {
        let debts: Vec<Arc<Owed>> = self.owed.range((id, 0)..=(id, Revision::MAX)).map(|(_, owed)| owed.clone()).collect();
        for debt in debts {
            self.owed.remove(&(id, debt.job.revision));
            self.owe(turn, &debt.job, debt.from, debt.to.min(until), is_dropped || debt.is_dropped);
        }
        let Some(old) = self.job(id) else { return };
        if old.spec.is_enabled {
            let from = self.watermark.max(old.effective_from);
            self.owe(turn, &old, from, until, is_dropped);
        }
    }

    fn owe(&mut self, turn: &mut Turn, job: &Arc<Job>, from: UnixMs, to: UnixMs, is_dropped: bool) {
        if from >= to {
            return;
        }
        // A revision can owe two spans: late instants behind the watermark, and those before its end. They touch at the watermark.
        let (from, to) = match self.owed.get(&(job.id, job.revision)) {
            Some(other) => (from.min(other.from), to.max(other.to)),
            None => (from, to),
        };
        turn.touch(Effect::Owed(job.id));
        self.owed.insert((job.id, job.revision), Arc::new(Owed { job: job.clone(), from, to, is_dropped }));
    }

    /// Asks for unstarted runs of older revisions back whose instants lie after `from` and so belong to the heir (PROTOCOL B5); of a
    /// deleted job all, of a paused one retries too. Fires that still wait belong to nobody yet: they are taken back at once, and
    /// their instants decided anew.
    fn take_back(&mut self, turn: &mut Turn, id: JobId, from: UnixMs, heir: &Heir) {
        if mutation::is(Mutation::NoTakingBack) {
            return;
        }
        let is_on = matches!(heir, Heir::Revision(job) if job.spec.is_enabled);
        let runs: Vec<RunId> = self
            .open_runs_of(id)
            .filter(|run| match run.trigger {
                _ if *heir == Heir::Nobody => true,
                Trigger::Schedule | Trigger::CatchUp => run.scheduled_at > from,
                Trigger::Retry => !is_on && run.start_at > from,
                Trigger::Manual => false,
            })
            .map(|run| run.id)
            .collect();
        for run in runs {
            if let Some(run) = self.open.get_mut(&run) {
                Arc::make_mut(run).heir = Some(heir.clone());
                turn.touch(Effect::Run(run.id));
            }
        }
        let waiting: Vec<Arc<Waiting>> =
            self.waiting_of(id).filter(|fire| fire.trigger != Trigger::Manual && fire.scheduled_at > from).cloned().collect();
        for fire in waiting {
            self.stop_waiting(turn, &fire);
            self.decided.remove(&(id, fire.scheduled_at));
        }
    }
}
