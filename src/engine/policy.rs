//! What becomes of fires: late ones by `catch_up`, those that meet an open run by `overlap`. Pure.

use crate::ledger::{Fate, Fire, Ledger, OpenRun, Skip, Then, Waiting, WaitingFate, WaitingKind};
use crate::model::{CatchUp, Job, JobId, Overlap, Reason, RunId, Trigger, UnixMs};
use crate::schedule::JobFires;

use super::placement::Fleet;

/// The fates of one job's fires, to go into a `Decide`.
#[derive(Default, Debug)]
pub struct Fates {
    pub fires: Vec<Fire>,
    pub skips: Vec<Skip>,
}

/// Instants to launch, in order, and spans that are missed.
struct Sorted {
    launches: Vec<(UnixMs, Trigger)>,
    missed: Option<Skip>,
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
        let sorted = self.sort(now);
        let mut fates = Fates { skips: sorted.missed.into_iter().collect(), ..Fates::default() };
        let undecided = sorted.launches.into_iter().filter(|(at, _)| !ledger.is_decided(self.job.id, *at)).collect();
        self.meet_overlap(ledger, fleet, now, undecided, &mut fates);
        fates
    }

    /// Every fire is skipped for the same reason.
    pub fn skip_all(&self, reason: Reason) -> Option<Skip> {
        let count = self.fires.count_between(self.from, self.to);
        let (first, last) = (self.fires.next_after(self.from)?, self.fires.last_between(self.from, self.to, 1).pop()?);
        Some(self.skip(first, last, count, reason))
    }

    fn skip(&self, from: UnixMs, to: UnixMs, count: u64, reason: Reason) -> Skip {
        Skip { job: self.job.id, revision: self.job.revision, from, to, count, reason }
    }

    /// Tells fires in time from those that are late, and lets `catch_up` choose among the late ones (PROTOCOL B9).
    fn sort(&self, now: UnixMs) -> Sorted {
        let spec = &self.job.spec;
        let deadline = (now - i64::from(spec.start_deadline_s) * 1000 - 1).max(self.launchable_from).clamp(self.from, self.to);
        let in_time: Vec<UnixMs> = self.fires.between(deadline, self.to).collect();
        let late = self.fires.count_between(self.from, deadline);
        let wanted = match spec.catch_up {
            CatchUp::None => 0,
            CatchUp::Last => usize::from(!in_time.iter().any(|at| *at <= now)),
            CatchUp::All => spec.catch_up_max as usize,
        };
        let window = (now - i64::from(spec.catch_up_window_s) * 1000 - 1).max(self.launchable_from).clamp(self.from, deadline);
        let caught = if late == 0 || wanted == 0 { Vec::new() } else { self.fires.last_between(window, deadline, wanted) };
        let missed_to = caught.first().map_or(deadline, |first| *first - 1);
        let missed_count = late - caught.len() as u64;
        let ends = (self.fires.next_after(self.from), self.fires.last_between(self.from, missed_to, 1).pop());
        let missed = match ends {
            (Some(first), Some(last)) if missed_count > 0 => Some(self.skip(first, last, missed_count, Reason::Missed)),
            _ => None,
        };
        let late = caught.into_iter().map(|at| (at, Trigger::CatchUp));
        Sorted { launches: late.chain(in_time.into_iter().map(|at| (at, Trigger::Schedule))).collect(), missed }
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
                fates.fires.push(fire(Fate::Launch { session: fleet.choose() }));
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
    let ruled = if ledger.open_runs_of(job).next().is_some() { rule_while_open(&waiting, now) } else { let_go_on(&waiting, fleet, now) };
    ruled.into_iter().map(|(fire, fate)| (job, fire.scheduled_at, fire.id, fate)).collect()
}

/// A run is open: fires whose instants have come are skipped, queued, or replace it.
fn rule_while_open<'a>(waiting: &[&'a Waiting], now: UnixMs) -> Vec<(&'a Waiting, WaitingFate)> {
    let mut has_queued = waiting.iter().any(|fire| fire.kind == WaitingKind::Queued);
    let due = |fire: &&&Waiting| fire.kind == WaitingKind::Deferred && fire.scheduled_at <= now;
    let newest = waiting.iter().rfind(due).map(|fire| fire.id);
    let mut ruled = Vec::new();
    for fire in waiting.iter().copied() {
        let is_due = due(&&fire);
        let fate = match fire.job.spec.overlap {
            Overlap::Allow => continue,
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
        let session = fleet.choose();
        let fate = if is_late(fire) { WaitingFate::CatchUp { session } } else { WaitingFate::Launch { session } };
        ruled.push((fire, fate));
        break;
    }
    ruled
}

/// What becomes of an unstarted run that a newer revision of its job took back (PROTOCOL B5).
pub fn after_revoke(ledger: &Ledger, run: &OpenRun, fleet: &mut Fleet) -> Then {
    let Some(job) = ledger.job(run.job.id).filter(|job| job.spec.is_enabled) else { return Then::Skip { reason: Reason::Revoked } };
    if run.trigger == Trigger::Retry {
        return Then::Skip { reason: Reason::Superseded };
    }
    match JobFires::of(job) {
        Ok(fires) if fires.has(run.scheduled_at) => Then::Relaunch { revision: job.revision, session: fleet.choose() },
        _ => Then::Skip { reason: Reason::Superseded },
    }
}

/// Scheduled runs that no worker could take in time (PROTOCOL B9): those of one job that are late together. Answers which are missed.
pub fn missed_for_want_of_a_worker<'a>(late: &[&'a OpenRun], has_in_time: bool) -> Vec<&'a OpenRun> {
    let mut missed = Vec::new();
    for (place, run) in late.iter().enumerate() {
        let is_last = place + 1 == late.len();
        let is_missed = match run.job.spec.catch_up {
            CatchUp::None => true,
            CatchUp::Last => has_in_time || !is_last,
            CatchUp::All => late.len() - place > run.job.spec.catch_up_max as usize,
        };
        if is_missed {
            missed.push(*run);
        }
    }
    missed
}
