//! The timer queue: each enabled job's next fire behind the watermark. Warm on every controller, so that taking over costs what is due,
//! not what exists. Pure.

use std::collections::{BTreeSet, HashMap};

use crate::ledger::Ledger;
use crate::model::{Job, JobId, Revision, UnixMs};
use crate::schedule::JobFires;

#[derive(Default)]
pub struct Timers {
    jobs: HashMap<JobId, Timer>,
    queue: BTreeSet<(UnixMs, JobId)>,
}

struct Timer {
    revision: Revision,
    fires: JobFires,
    next: Option<UnixMs>,
}

impl Timers {
    pub fn new(ledger: &Ledger) -> Timers {
        let mut timers = Timers::default();
        for job in ledger.jobs() {
            timers.insert(job, ledger.watermark());
        }
        timers
    }

    /// A job may have come, changed or gone.
    pub fn refresh(&mut self, ledger: &Ledger, id: JobId) {
        self.remove(id);
        if let Some(job) = ledger.job(id) {
            self.insert(job, ledger.watermark());
        }
    }

    fn remove(&mut self, id: JobId) {
        if let Some(Timer { next: Some(next), .. }) = self.jobs.remove(&id) {
            self.queue.remove(&(next, id));
        }
    }

    fn insert(&mut self, job: &Job, watermark: UnixMs) {
        if !job.spec.is_enabled {
            return;
        }
        let fires = match JobFires::of(job) {
            Ok(fires) => fires,
            Err(error) => {
                log::error!("job {} ({}) never fires: its schedule can't be read: {error}", job.id, job.spec.name);
                return;
            }
        };
        let next = fires.next_after(watermark);
        self.jobs.insert(job.id, Timer { revision: job.revision, fires, next });
        self.queue.extend(next.map(|next| (next, job.id)));
    }

    /// The watermark has moved: timers that it has passed go on to their next fire.
    pub fn advance(&mut self, watermark: UnixMs) {
        while let Some((due, id)) = self.queue.first().copied().filter(|(due, _)| *due <= watermark) {
            self.queue.remove(&(due, id));
            if let Some(timer) = self.jobs.get_mut(&id) {
                timer.next = timer.fires.next_after(watermark);
                self.queue.extend(timer.next.map(|next| (next, id)));
            }
        }
    }

    pub fn earliest(&self) -> Option<UnixMs> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Jobs with a fire at or before `to`, by their first one.
    pub fn due(&self, to: UnixMs) -> impl Iterator<Item = (JobId, Revision, &JobFires)> {
        self.queue
            .iter()
            .take_while(move |(due, _)| *due <= to)
            .filter_map(|(_, id)| self.jobs.get(id).map(|timer| (*id, timer.revision, &timer.fires)))
    }
}
