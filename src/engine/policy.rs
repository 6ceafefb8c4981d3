//! What becomes of fires: late ones by `catch_up`, those that meet an open run by `overlap`. Pure.

use std::sync::Arc;

use crate::ledger::{Fate, Fire, Heir, Ledger, OpenRun, Skip, Then, Waiting, WaitingFate, WaitingKind};
use crate::model::{CatchUp, Job, JobId, Overlap, Reason, RunId, Trigger, UnixMs};
use crate::schedule::JobFires;

use super::placement::Fleet;

/// The fates of one job's fires, to go into a `Decide`.
#[derive(Default, Debug)]
pub struct Fates {
    pub fires: Vec<Fire>,
    pub skips: Vec<Skip>,
}

/// Decides the fires of one revision in (from, to]. `launchable_from`: earlier ones are missed, whatever the policy (PROTOCOL B3).
pub struct Span<'a> {
    pub job: &'a Job,
    pub fires: &'a JobFires,
    pub from: UnixMs,
    pub to: UnixMs,
    pub launchable_from: UnixMs,
}

impl Span<'_> {
    pub fn decide(&self, ledger: &Ledger, fleet: &mut Fleet, now: UnixMs) -> Fates {
        let mut fates = Fates::default();
        let launches = self.sort(ledger, now, &mut fates);
        self.meet_overlap(ledger, fleet, now, launches, &mut fates);
        fates
    }

    /// Every fire that has no fate yet is skipped, for the same reason.
    pub fn skip_all(&self, ledger: &Ledger, reason: Reason) -> Vec<Skip> {
        let mut fates = Fates::default();
        self.skip_open(ledger, self.from, self.to, reason, &mut fates);
        fates.skips
    }

    /// Skips the fires in (after, to] that have no fate yet: as one row up to the first instant that the ledger remembers, then one by one.
    fn skip_open(&self, ledger: &Ledger, after: UnixMs, to: UnixMs, reason: Reason, fates: &mut Fates) {
        let remembered = ledger.first_decided_between(self.job.id, after, to).map_or(to, |first| (first - 1).max(after));
        fates.skips.extend(self.skip_span(after, remembered, reason));
        let open = self.fires.between(remembered, to).filter(|at| !ledger.is_decided(self.job.id, *at));
        open.for_each(|at| self.skip_one(fates, at, reason));
    }

    /// The fires in (after, to] as one row, if there are any.
    fn skip_span(&self, after: UnixMs, to: UnixMs, reason: Reason) -> Option<Skip> {
        let count = self.fires.count_between(after, to);
        let last = self.fires.last_between(after, to, 1).pop()?;
        Some(self.skip(self.fires.next_after(after)?, last, count, reason))
    }

    fn skip(&self, from: UnixMs, to: UnixMs, count: u64, reason: Reason) -> Skip {
        Skip { job: self.job.id, revision: self.job.revision, from, to, count, reason }
    }

    /// Tells fires in time from those that are late, and lets `catch_up` choose among the late ones (PROTOCOL B9). Answers what is to be
    /// launched, in order; what is missed goes into `fates`.
    fn sort(&self, ledger: &Ledger, now: UnixMs, fates: &mut Fates) -> Vec<(UnixMs, Trigger)> {
        let spec = &self.job.spec;
        let is_open = |at: &UnixMs| !ledger.is_decided(self.job.id, *at);
        let horizon = self.launchable_from.clamp(self.from, self.to);
        let deadline = (now - i64::from(spec.start_deadline_s) * 1000 - 1).clamp(horizon, self.to);
        self.skip_open(ledger, self.from, horizon, Reason::Missed, fates);

        let in_time: Vec<UnixMs> = self.fires.between(deadline, self.to).filter(is_open).collect();
        let wanted = match spec.catch_up {
            CatchUp::None => 0,
            CatchUp::Last => usize::from(!self.fires.between(deadline, now.min(self.to)).any(|_| true)),
            CatchUp::All => spec.catch_up_max as usize,
        };
        let window = (now - i64::from(spec.catch_up_window_s) * 1000 - 1).clamp(horizon, deadline);
        let caught = if ledger.first_decided_between(self.job.id, horizon, deadline).is_some() {
            let late: Vec<UnixMs> = self.fires.between(horizon, deadline).filter(is_open).collect();
            let first_caught = late.len().saturating_sub(wanted).max(late.partition_point(|at| *at <= window));
            late[..first_caught].iter().for_each(|at| self.skip_one(fates, *at, Reason::Missed));
            late[first_caught..].to_vec()
        } else {
            let caught = self.fires.last_between(window, deadline, wanted);
            let missed_to = caught.first().map_or(deadline, |first| *first - 1);
            fates.skips.extend(self.skip_span(horizon, missed_to, Reason::Missed));
            caught
        };
        let late = caught.into_iter().map(|at| (at, Trigger::CatchUp));
        late.chain(in_time.into_iter().map(|at| (at, Trigger::Schedule))).collect()
    }

    /// One launch at a time where `overlap` says so: the first goes if no run is open, further ones are ruled on at once if they are
    /// due, else deferred to their instants (PROTOCOL B7).
    fn meet_overlap(&self, ledger: &Ledger, fleet: &mut Fleet, now: UnixMs, launches: Vec<(UnixMs, Trigger)>, fates: &mut Fates) {
        let job = self.job;
        let mut is_blocked = ledger.is_blocked(job);
        let mut has_queued = ledger.waiting_of(job.id).next().is_some();
        let last_due = launches.iter().map(|(at, _)| *at).rfind(|at| *at <= now);
        for (scheduled_at, trigger) in launches {
            let fire = |fate| Fire { job: job.id, revision: job.revision, scheduled_at, trigger, fate };
            if !is_blocked {
                is_blocked = job.spec.overlap != Overlap::Allow;
                fates.fires.push(fire(Fate::Launch { session: fleet.choose(&job.spec.worker_selector) }));
                continue;
            }
            let reason = match job.spec.overlap {
                _ if scheduled_at > now => None,
                Overlap::Allow => None,
                Overlap::Skip => Some(Reason::Overlap),
                Overlap::QueueOne if has_queued => Some(Reason::QueueFull),
                Overlap::QueueOne => {
                    has_queued = true;
                    None
                }
                Overlap::Replace if Some(scheduled_at) == last_due => None,
                Overlap::Replace => Some(Reason::Superseded),
            };
            match reason {
                None => fates.fires.push(fire(Fate::Defer)),
                Some(reason) => self.skip_one(fates, scheduled_at, reason),
            }
        }
    }

    /// Adds to the last range if it goes on there.
    fn skip_one(&self, fates: &mut Fates, at: UnixMs, reason: Reason) {
        match fates.skips.last_mut() {
            Some(last) if last.reason == reason && self.fires.next_after(last.to) == Some(at) => {
                last.to = at;
                last.count += 1;
            }
            _ => fates.skips.push(self.skip(at, at, 1, reason)),
        }
    }
}

/// Rules on the fires of one job that wait, as far as they can be ruled on now.
pub fn resolve(ledger: &Ledger, job: JobId, fleet: &mut Fleet, now: UnixMs) -> Vec<(JobId, UnixMs, RunId, WaitingFate)> {
    let waiting: Vec<&Waiting> = ledger.waiting_of(job).map(|waiting| &**waiting).collect();
    let ruled = if ledger.open_runs_of(job).next().is_some() {
        let is_unreachable = ledger.open_runs_of(job).any(|run| ledger.is_unreachable(run));
        rule_while_open(&waiting, is_unreachable, now)
    } else {
        let_go_on(&waiting, fleet, now)
    };
    ruled.into_iter().map(|(fire, fate)| (job, fire.scheduled_at, fire.id, fate)).collect()
}

/// A run is open: fires whose instants have come are skipped, queued, or replace it. One that its worker can't be told to end, since the
/// worker's session is over, can't be replaced (PROTOCOL B8).
fn rule_while_open<'a>(waiting: &[&'a Waiting], is_unreachable: bool, now: UnixMs) -> Vec<(&'a Waiting, WaitingFate)> {
    let mut has_queued = waiting.iter().any(|fire| fire.kind == WaitingKind::Queued);
    let due = |fire: &&&Waiting| fire.kind == WaitingKind::Deferred && fire.scheduled_at <= now;
    let newest = waiting.iter().rfind(due).map(|fire| fire.id);
    let mut ruled = Vec::new();
    for fire in waiting.iter().copied() {
        let is_due = due(&&fire);
        let fate = match fire.job.spec.overlap {
            Overlap::Allow => continue,
            Overlap::Replace if is_unreachable && (is_due || fire.kind == WaitingKind::Replacing) => {
                WaitingFate::Skip { reason: Reason::Overlap }
            }
            Overlap::Replace => match newest {
                Some(newest) if fire.id == newest => WaitingFate::Replace,
                Some(_) if is_due || fire.kind == WaitingKind::Replacing => WaitingFate::Skip { reason: Reason::Superseded },
                _ => continue,
            },
            _ if !is_due => continue,
            Overlap::Skip => WaitingFate::Skip { reason: Reason::Overlap },
            Overlap::QueueOne if has_queued => WaitingFate::Skip { reason: Reason::QueueFull },
            Overlap::QueueOne => {
                has_queued = true;
                WaitingFate::Queue
            }
        };
        ruled.push((fire, fate));
    }
    ruled
}

/// No run is open: the first fire that may still launch does; late ones before it are missed by the job's `catch_up`.
fn let_go_on<'a>(waiting: &[&'a Waiting], fleet: &mut Fleet, now: UnixMs) -> Vec<(&'a Waiting, WaitingFate)> {
    let is_late = |fire: &Waiting| {
        let deadline = now - i64::from(fire.job.spec.start_deadline_s) * 1000;
        fire.kind == WaitingKind::Deferred && fire.trigger != Trigger::Manual && fire.scheduled_at < deadline
    };
    let has_in_time = waiting.iter().any(|fire| !is_late(fire) && fire.scheduled_at <= now);
    let last_late = waiting.iter().rfind(|fire| is_late(fire)).map(|fire| fire.id);
    let mut ruled = Vec::new();
    for fire in waiting.iter().copied() {
        let is_missed = is_late(fire)
            && match fire.job.spec.catch_up {
                CatchUp::None => true,
                CatchUp::Last => has_in_time || last_late != Some(fire.id),
                CatchUp::All => false,
            };
        if is_missed {
            ruled.push((fire, WaitingFate::Skip { reason: Reason::Missed }));
            continue;
        }
        let session = fleet.choose(&fire.job.spec.worker_selector);
        let fate = if is_late(fire) { WaitingFate::CatchUp { session } } else { WaitingFate::Launch { session } };
        ruled.push((fire, fate));
        break;
    }
    ruled
}

/// What becomes of an unstarted run whose instant belongs to an heir (PROTOCOL B5).
pub fn after_revoke(run: &OpenRun, heir: &Heir, fleet: &mut Fleet) -> Then {
    let skip = |reason| Then::Skip { reason, heir: heir.revision() };
    let Heir::Revision(job) = heir else { return skip(Reason::Revoked) };
    if !job.spec.is_enabled {
        return skip(Reason::Revoked);
    }
    match JobFires::of(job) {
        Ok(fires) if run.trigger != Trigger::Retry && fires.has(run.scheduled_at) => {
            Then::Relaunch { revision: job.revision, session: fleet.choose(&job.spec.worker_selector) }
        }
        _ => skip(Reason::Superseded),
    }
}

/// Scheduled runs that no worker could take in time: those of one job that are late together, in order. Answers which are missed.
///
/// Newer fires of the job count as if all were missed together (PROTOCOL B9): those decided meanwhile, and those that will be decided
/// next. Where `overlap` isn't `allow`, these give way to the late run, which is open.
pub fn missed_for_want_of_a_worker<'a>(ledger: &Ledger, late: &[&'a OpenRun], now: UnixMs) -> Vec<&'a OpenRun> {
    let Some(newest) = late.last() else { return Vec::new() };
    let (job, spec) = (&newest.job, &newest.job.spec);
    let deadline = now - i64::from(spec.start_deadline_s) * 1000;
    let is_newer = |run: &&Arc<OpenRun>, trigger| run.trigger == trigger && run.start_at > newest.start_at && run.start_at <= now;
    let mut caught = ledger.open_runs_of(job.id).filter(|run| is_newer(run, Trigger::CatchUp)).count();
    let mut has_in_time = ledger.open_runs_of(job.id).any(|run| is_newer(&run, Trigger::Schedule) && run.start_at >= deadline);
    if let (Overlap::Allow, Ok(fires)) = (spec.overlap, JobFires::of(job)) {
        let undecided_from = ledger.watermark().max(newest.start_at);
        caught += fires.between(undecided_from, deadline - 1).take(spec.catch_up_max as usize).count();
        has_in_time |= fires.between(undecided_from.max(deadline - 1), now).next().is_some();
    }
    let is_missed = |place: usize| match spec.catch_up {
        CatchUp::None => true,
        CatchUp::Last => has_in_time || caught > 0 || place + 1 < late.len(),
        CatchUp::All => late.len() - place + caught > spec.catch_up_max as usize,
    };
    late.iter().enumerate().filter(|(place, _)| is_missed(*place)).map(|(_, run)| *run).collect()
}
