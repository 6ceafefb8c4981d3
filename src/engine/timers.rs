//! The timer queue: each enabled job's next fire behind the watermark. Warm on every controller, so that taking over costs what is due,
//! not what exists. Pure.
//!
//! A schedule is read when its job is due, and not kept: that takes a microsecond, and keeping it would double what a job costs.

use std::collections::{BTreeSet, HashMap};

use crate::ledger::Ledger;
use crate::model::{Job, JobId, UnixMs};
use crate::schedule::JobFires;

#[derive(Default)]
pub struct Timers {
    next: HashMap<JobId, UnixMs>,
    queue: BTreeSet<(UnixMs, JobId)>,
}

impl Timers {
    pub fn new(ledger: &Ledger) -> Timers {
        let mut timers = Timers::default();
        for job in ledger.jobs() {
            timers.insert(&job, ledger.watermark());
        }
        timers
    }

    /// A job may have come, changed or gone.
    pub fn refresh(&mut self, ledger: &Ledger, id: JobId) {
        if let Some(next) = self.next.remove(&id) {
            self.queue.remove(&(next, id));
        }
        if let Some(job) = ledger.job(id) {
            self.insert(&job, ledger.watermark());
        }
    }

    fn insert(&mut self, job: &Job, watermark: UnixMs) {
        if let Some(next) = fires(job).and_then(|fires| fires.next_after(watermark)) {
            self.next.insert(job.id, next);
            self.queue.insert((next, job.id));
        }
    }

    /// The watermark has moved: timers that it has passed go on to their next fire.
    pub fn advance(&mut self, ledger: &Ledger) {
        while let Some((_, id)) = self.queue.first().copied().filter(|(due, _)| *due <= ledger.watermark()) {
            self.refresh(ledger, id);
        }
    }

    pub fn earliest(&self) -> Option<UnixMs> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Jobs with a fire at or before `to`, by their first one.
    pub fn due(&self, to: UnixMs) -> impl Iterator<Item = JobId> {
        self.queue.iter().take_while(move |(due, _)| *due <= to).map(|(_, id)| *id)
    }
}

/// None for a job that does not fire.
pub fn fires(job: &Job) -> Option<JobFires> {
    if !job.spec.is_enabled {
        return None;
    }
    let fires = JobFires::of(job);
    if let Err(error) = &fires {
        log::error!("job {} ({}) never fires: its schedule can't be read: {error}", job.id, job.spec.name);
    }
    fires.ok()
}
