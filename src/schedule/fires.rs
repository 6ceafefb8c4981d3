//! The fires of one revision of a job: its schedule between the instants that bound it.

use crate::model::{Job, UnixMs};

use super::{Schedule, ScheduleError, seed};

/// A schedule cut to `effective_from`, `starts_at` and `ends_at`.
#[derive(Clone, Debug)]
pub struct JobFires {
    schedule: Schedule,
    /// Fires come strictly after this instant.
    after: UnixMs,
    /// And at or before this one.
    last: UnixMs,
}

impl JobFires {
    /// The store keeps only jobs whose schedules parse; an error means that the job was written by another version of the program.
    pub fn of(job: &Job) -> Result<JobFires, ScheduleError> {
        let spec = &job.spec;
        let schedule = Schedule::parse(&spec.schedule, Some(&spec.time_zone), seed(&spec.name), job.anchor())?;
        let starts = spec.starts_at.map_or(UnixMs(i64::MIN), |at| at - 1);
        Ok(JobFires { schedule, after: job.effective_from.max(starts), last: spec.ends_at.map_or(UnixMs(i64::MAX), |at| at - 1) })
    }

    pub fn next_after(&self, instant: UnixMs) -> Option<UnixMs> {
        self.schedule.next_after(instant.max(self.after)).filter(|fire| *fire <= self.last)
    }

    /// Fires in (after, to], ascending.
    pub fn between(&self, after: UnixMs, to: UnixMs) -> impl Iterator<Item = UnixMs> + '_ {
        std::iter::successors(self.next_after(after), |fire| self.next_after(*fire)).take_while(move |fire| *fire <= to)
    }

    /// How many fires (after, to] has.
    pub fn count_between(&self, after: UnixMs, to: UnixMs) -> u64 {
        self.schedule.count_between(after.max(self.after), to.min(self.last))
    }

    /// The last `max` fires in (after, to], ascending.
    pub fn last_between(&self, after: UnixMs, to: UnixMs, max: usize) -> Vec<UnixMs> {
        self.schedule.last_between(after.max(self.after), to.min(self.last), max)
    }

    /// Whether the job fires at exactly this instant.
    pub fn has(&self, instant: UnixMs) -> bool {
        self.next_after(instant - 1) == Some(instant)
    }
}
