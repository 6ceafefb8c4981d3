//! What the log asked for, and what became of it: revisions of jobs as they came into the ledger, and the rows that the ledger left.

use std::collections::{BTreeMap, BTreeSet};

use chrono_flow::ledger::{Command, Ledger, Reply};
use chrono_flow::model::{Job, JobId, Reason, Revision, Run, RunId, RunState, Trigger, UnixMs};
use chrono_flow::schedule::JobFires;

use crate::clocks::DAY;

#[derive(Default)]
pub struct History {
    /// Every revision of every job, with the instant at which it ended.
    revisions: BTreeMap<JobId, Vec<(Job, Option<UnixMs>)>>,
    /// Jobs whose change came so late that what was decided before it is forgotten (PROTOCOL B4): the old revision may have fired instead.
    late: BTreeSet<JobId>,
    /// The newest row of each run, with the index that left it.
    pub rows: BTreeMap<RunId, (u64, Run)>,
    /// Runs that were given up as lost, whatever became of them since.
    lost: BTreeSet<RunId>,
}

/// How many milliseconds behind the watermark instants are surely remembered.
fn horizon_ms(job: &Job) -> i64 {
    i64::from(job.spec.start_deadline_s) * 1_000 + 60_000
}

impl History {
    pub fn jobs_changed(&mut self, before: &Ledger, command: &Command, reply: &Reply) {
        if *reply != Reply::Done {
            return;
        }
        let (id, from) = match command {
            Command::PutJob(job) => (job.id, job.effective_from),
            Command::DropJob { id, effective_from, .. } => (*id, *effective_from),
            _ => return,
        };
        if let Some(old) = before.job(id)
            && old.spec.is_enabled
            && from < before.watermark() - horizon_ms(&old)
        {
            self.late.insert(id);
        }
        let revisions = self.revisions.entry(id).or_default();
        for (_, end) in revisions.iter_mut().filter(|(_, end)| end.is_none()) {
            *end = Some(from);
        }
        if let Command::PutJob(job) = command {
            revisions.push((Job::clone(job), None));
        }
    }

    pub fn row(&mut self, index: u64, row: &Run) {
        let older = self.rows.insert(row.id, (index, row.clone()));
        let may_turn_out = |older: &Run| match older.reason {
            // The instant was taken back from one revision, and decided anew for another.
            Some(Reason::Superseded | Reason::Revoked) => older.state == RunState::Skipped,
            _ => older.state == RunState::Lost,
        };
        if row.state == RunState::Lost {
            self.lost.insert(row.id);
        }
        // What became of a lost run may be told twice, before either was recorded (PROTOCOL F3).
        let is_repeated = |older: &Run| older == row && self.lost.contains(&row.id);
        let is_allowed = older.as_ref().is_none_or(|(_, older)| may_turn_out(older) || is_repeated(older));
        assert!(is_allowed, "a run that has ended leaves another row: {older:?}, then {row:?}");
    }

    /// The fires that the jobs ask for, each with its revision, from the revisions alone.
    fn expected(&self) -> BTreeMap<(JobId, UnixMs), Revision> {
        let mut expected = BTreeMap::new();
        for (job, end) in self.revisions.values().flatten().filter(|(job, _)| job.spec.is_enabled) {
            let fires = JobFires::of(job).expect("a schedule that parses");
            let end = end.expect("every job was deleted in the end");
            expected.extend(fires.between(job.effective_from, end).map(|at| ((job.id, at), job.revision)));
        }
        expected
    }

    fn story(&self, job: JobId, at: UnixMs) -> String {
        let revisions = self.revisions[&job].iter().map(|(job, end)| {
            let (from, end) = (job.effective_from.since(DAY), end.map(|end| end.since(DAY)));
            format!("revision {} `{}` enabled {} from {from} to {end:?}", job.revision, job.spec.schedule, job.spec.is_enabled)
        });
        let is_about = |run: &&Run| run.job_id == job && run.scheduled_at >= at && run.skipped_from.unwrap_or(run.scheduled_at) <= at;
        let rows = self.rows.values().map(|(_, run)| run).filter(is_about);
        let rows = rows.map(|run| format!("{} {:?} {:?} {:?} r{}", run.id, run.state, run.reason, run.trigger, run.job_revision));
        format!("{:#?}\n{:#?}", revisions.collect::<Vec<_>>(), rows.collect::<Vec<_>>())
    }

    /// Each fire has one fate. Answers how many there were.
    pub fn check_fates(&self) -> usize {
        let expected = self.expected();
        let mut fates: BTreeMap<(JobId, UnixMs), u32> = BTreeMap::new();
        let mut withdrawn = BTreeSet::new();
        let scheduled = self.rows.values().map(|(_, run)| run).filter(|run| run.attempt == 1 && run.trigger != Trigger::Manual);
        for run in scheduled {
            let key = (run.job_id, run.scheduled_at);
            let is_withdrawn = run.skipped_count.is_none()
                && run.state == RunState::Skipped
                && matches!(run.reason, Some(Reason::Superseded | Reason::Revoked))
                && expected.get(&key) != Some(&run.job_revision);
            if is_withdrawn {
                withdrawn.insert(key);
                continue;
            }
            let Some(count) = run.skipped_count else {
                *fates.entry(key).or_default() += 1;
                continue;
            };
            let from = run.skipped_from.unwrap_or(run.scheduled_at);
            let covered: Vec<_> = expected.range((run.job_id, from)..=key).map(|(key, _)| *key).collect();
            let own = self.revisions[&run.job_id].iter().find(|(job, _)| job.revision == run.job_revision).expect("a known revision");
            let of_its_own = JobFires::of(&own.0).expect("a schedule that parses").count_between(from - 1, run.scheduled_at);
            assert!(of_its_own == count, "a row for {count} fires covers {of_its_own}: {run:?}\n{}", self.story(run.job_id, from));
            covered.into_iter().for_each(|key| *fates.entry(key).or_default() += 1);
        }
        for key in expected.keys().filter(|(job, _)| !self.late.contains(job)) {
            let count = fates.get(key).copied().unwrap_or(0);
            // Taken back from one revision and then, by a deletion, from its heir too: the one row says so for both.
            let is_revoked = count == 0 && withdrawn.contains(key);
            assert!(count == 1 || is_revoked, "job {} at {} has {count} fates\n{}", key.0, key.1.since(DAY), self.story(key.0, key.1));
        }
        expected.len()
    }
}
