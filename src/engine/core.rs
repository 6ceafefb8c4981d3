//! The engine's core: from the ledger, the workers' health and the time to the commands that should be proposed next. Pure.
//!
//! What it keeps is an index of the ledger, renewed from the effects of applied commands and rebuilt from the ledger at any time: what
//! is outstanding follows from the state, never from what was said before. The driver has one proposal in flight at a time and asks for
//! the next one when the ledger has applied it, so that no plan is made twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ledger::{Command, Decide, Effect, Ledger, OpenRun, Owed, Then, WaitingKind};
use crate::model::{Epoch, JobId, Reason, RunId, Trigger, UnixMs};
use crate::mutation::{self, Mutation};
use crate::schedule::JobFires;

use super::placement::Fleet;
use super::policy::{self, Span};
use super::staging::Staging;
use super::timers::{self, Timers};

/// Fires and skips in one entry, at most; a larger batch goes in parts (PROTOCOL B2).
const FATES_PER_ENTRY_MAX: usize = 10_000;
/// Deciding looks so much further than it must, so that fires a few milliseconds apart share an entry.
const DECIDE_SLACK_MS: i64 = 250;
/// Beyond a job's deadline, late instants may be decided for so long (as `ledger` remembers them).
const HORIZON_MARGIN_MS: i64 = 60_000;

/// Parts of a decision that wait for longer are made anew: workers and open runs have changed.
const PART_AGE_MS_MAX: i64 = 1_000;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub lookahead_ms: i64,
    pub unrecorded_max: u64,
}

pub struct Core {
    settings: Settings,
    timers: Timers,
    /// Jobs whose waiting fires may be ruled on now, and instants at which others may.
    rulings: BTreeSet<JobId>,
    rulings_at: BTreeSet<(UnixMs, JobId)>,
    /// Open runs that nobody has, by when they are due: at their start, or now.
    unassigned: BTreeSet<(UnixMs, RunId)>,
    unassigned_starts: BTreeMap<RunId, UnixMs>,
    /// What the workers have to be told.
    pub staging: Staging,
    /// Runs that did not start under these epochs, as their workers have said: kept until the ledger has it, since they say it once.
    not_started: BTreeMap<RunId, Epoch>,
    /// The rest of a decision that goes in parts.
    parts: VecDeque<Decide>,
}

impl Core {
    pub fn new(settings: Settings, ledger: &Ledger) -> Core {
        Core::with_timers(settings, Timers::new(ledger), ledger)
    }

    fn with_timers(settings: Settings, timers: Timers, ledger: &Ledger) -> Core {
        let mut core = Core {
            settings,
            timers,
            rulings: BTreeSet::new(),
            rulings_at: BTreeSet::new(),
            unassigned: BTreeSet::new(),
            unassigned_starts: BTreeMap::new(),
            staging: Staging::default(),
            not_started: BTreeMap::new(),
            parts: VecDeque::new(),
        };
        for run in ledger.open_runs() {
            core.look_at_run(ledger, run.id);
        }
        for fire in ledger.waiting() {
            core.rulings.insert(fire.job.id);
        }
        core
    }

    /// Makes the index anew; the old one goes first, so that there are never two.
    pub fn rebuild(&mut self, ledger: &Ledger) {
        *self = Core::new(self.settings, &Ledger::default());
        *self = Core::new(self.settings, ledger);
    }

    /// This node begins to lead, or has stopped: nobody was told anything, and nothing is planned. What follows from the ledger alone is
    /// warm on every controller and stays, so that taking over costs what is due, not what exists.
    pub fn take_over(&mut self, ledger: &Ledger) {
        let timers = std::mem::take(&mut self.timers);
        *self = Core::with_timers(self.settings, timers, ledger);
    }

    /// Renews the index after commands were applied.
    pub fn absorb(&mut self, ledger: &Ledger, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Job(id) => self.timers.refresh(ledger, id),
                Effect::Run(id) => self.look_at_run(ledger, id),
                Effect::Waiting(id) => {
                    self.rulings.insert(id);
                }
                Effect::Owed(_) | Effect::Session(_) | Effect::Unrecorded => {}
            }
        }
        self.timers.advance(ledger);
    }

    /// What was on its way is lost or void: plan anew.
    pub fn forget_plans(&mut self, ledger: &Ledger) {
        self.parts.clear();
        self.rulings.extend(ledger.waiting().map(|fire| fire.job.id));
    }

    fn look_at_run(&mut self, ledger: &Ledger, id: RunId) {
        if let Some(start_at) = self.unassigned_starts.remove(&id) {
            self.unassigned.remove(&(start_at, id));
        }
        let run = ledger.open_run(id);
        if let Some(run) = run.filter(|run| run.assigned.is_none()) {
            // What is asked back is ruled on at once, however long its back-off.
            let due = if run.heir.is_some() { UnixMs(i64::MIN) } else { run.start_at };
            self.unassigned.insert((due, id));
            self.unassigned_starts.insert(id, due);
        }
        self.staging.look_at(id, run.map(|run| &**run));
    }

    /// The worker says that this run did not start under this epoch, and never will (PROTOCOL D1).
    pub fn not_started(&mut self, run: RunId, epoch: Epoch) {
        self.not_started.insert(run, epoch);
    }

    /// Whether deciding has to stand still (PROTOCOL B10).
    pub fn is_full(&self, ledger: &Ledger) -> bool {
        ledger.unrecorded_len() >= self.settings.unrecorded_max && !mutation::is(Mutation::NoBound)
    }

    /// What should be proposed now. `may_decide`: false where the entry already carries changes of jobs, which a decision must not meet.
    pub fn plan(&mut self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet, may_decide: bool) -> Vec<Command> {
        let mut commands = Vec::new();
        self.plan_not_started(ledger, now, fleet, &mut commands);
        self.plan_rulings(ledger, now, fleet, &mut commands);
        self.plan_unassigned(ledger, now, fleet, &mut commands);
        if may_decide && commands.is_empty() {
            commands.extend(self.decide(ledger, now, fleet));
        }
        commands
    }

    /// Whether fires wait for a decision.
    pub fn has_due(&self, ledger: &Ledger, now: UnixMs) -> bool {
        let is_due = || self.timers.earliest().is_some_and(|due| due <= now + self.settings.lookahead_ms);
        let is_owed = || ledger.owed().any(|owed| owed.from <= now + self.settings.lookahead_ms);
        !self.is_full(ledger) && (!self.parts.is_empty() || is_due() || is_owed())
    }

    /// When to plan again, if nothing happens before.
    pub fn wake_at(&self, ledger: &Ledger) -> Option<UnixMs> {
        let ahead = self.settings.lookahead_ms;
        let timer = self.timers.earliest().filter(|_| !self.is_full(ledger)).map(|due| due - ahead);
        let ruling = self.rulings_at.first().map(|(at, _)| *at);
        let retry = self.unassigned.first().map(|(at, _)| *at - ahead);
        let owed = ledger.owed().map(|owed| owed.from - ahead).min().filter(|_| !self.is_full(ledger));
        [timer, ruling, retry, owed].into_iter().flatten().min()
    }

    fn plan_not_started(&mut self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet, commands: &mut Vec<Command>) {
        let assigned = |id: &RunId| ledger.open_run(*id).and_then(|run| run.assigned);
        self.not_started.retain(|id, epoch| assigned(id).is_some_and(|assigned| assigned.epoch == *epoch));
        let mut then = |id: &RunId, epoch: &Epoch| {
            let run = ledger.open_run(*id)?;
            Some((*id, *epoch, run.heir.as_ref().map_or(Then::Requeue, |heir| policy::after_revoke(run, heir, fleet))))
        };
        let runs: Vec<_> = self.not_started.iter().take(FATES_PER_ENTRY_MAX).filter_map(|(id, epoch)| then(id, epoch)).collect();
        if !runs.is_empty() {
            commands.push(Command::Unstarted { at: now, runs });
        }
    }

    fn plan_rulings(&mut self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet, commands: &mut Vec<Command>) {
        while let Some((at, job)) = self.rulings_at.first().copied().filter(|(at, _)| *at <= now) {
            self.rulings_at.remove(&(at, job));
            self.rulings.insert(job);
        }
        let mut ruled = Vec::new();
        while let Some(job) = self.rulings.pop_first() {
            let later = ledger.waiting_of(job).filter(|fire| fire.kind == WaitingKind::Deferred && fire.scheduled_at > now);
            self.rulings_at.extend(later.map(|fire| (fire.scheduled_at, job)));
            ruled.extend(policy::resolve(ledger, job, fleet, now));
            if ruled.len() >= FATES_PER_ENTRY_MAX {
                break;
            }
        }
        if !ruled.is_empty() {
            commands.push(Command::Resolve { at: now, fires: ruled });
        }
    }

    fn plan_unassigned(&self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet, commands: &mut Vec<Command>) {
        let mut unstarted = Vec::new();
        let mut assign = Vec::new();
        let mut late: BTreeMap<JobId, Vec<&OpenRun>> = BTreeMap::new();
        let due = self.unassigned.iter().take_while(|(at, _)| *at <= now + self.settings.lookahead_ms);
        // Those that no worker may take don't hold up those behind them.
        for run in due.filter_map(|(_, id)| ledger.open_run(*id)) {
            let deadline = now - i64::from(run.job.spec.start_deadline_s) * 1000;
            if let Some(heir) = &run.heir {
                unstarted.push((run.id, run.epoch, policy::after_revoke(run, heir, fleet)));
            } else if run.trigger == Trigger::Schedule && run.start_at < deadline {
                late.entry(run.job.id).or_default().push(run);
            } else {
                assign.extend(fleet.choose(&run.job.spec.worker_selector).map(|session| (run.id, session)));
            }
            if unstarted.len() + assign.len() >= FATES_PER_ENTRY_MAX {
                break;
            }
        }
        for runs in late.into_values() {
            let missed = policy::missed_for_want_of_a_worker(ledger, &runs, now);
            for run in runs {
                if missed.iter().any(|missed| missed.id == run.id) {
                    unstarted.push((run.id, run.epoch, Then::Skip { reason: Reason::Missed, heir: None }));
                } else {
                    assign.extend(fleet.choose(&run.job.spec.worker_selector).map(|session| (run.id, session)));
                }
            }
        }
        if !unstarted.is_empty() {
            commands.push(Command::Unstarted { at: now, runs: unstarted });
        }
        if !assign.is_empty() {
            commands.push(Command::Assign { runs: assign });
        }
    }

    /// The next decision, if one is due, or the next part of it.
    pub fn decide(&mut self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet) -> Option<Command> {
        if !self.has_due(ledger, now) {
            return None;
        }
        let is_void = |part: &Decide| part.from != ledger.watermark() || part.feed != ledger.feed() || now.since(part.at) > PART_AGE_MS_MAX;
        // A part that was refused, or that nobody knows of, has made the rest void (`forget_plans`): this one follows what was applied.
        if self.parts.front().is_some_and(is_void) {
            self.parts.clear();
        }
        if self.parts.is_empty() {
            let decide = self.decide_all(ledger, now, fleet);
            self.parts = in_parts(decide);
        }
        self.parts.pop_front().map(|part| Command::Decide(Decide { after: ledger.last_decision(), ..part }))
    }

    fn decide_all(&self, ledger: &Ledger, now: UnixMs, fleet: &mut Fleet) -> Decide {
        let from = ledger.watermark();
        let is_due = self.timers.earliest().is_some_and(|due| due <= now + self.settings.lookahead_ms);
        let to = if is_due { from.max(now + self.settings.lookahead_ms + DECIDE_SLACK_MS) } else { from };
        let mut decide = Decide { at: now, from, to, feed: ledger.feed(), ..Decide::default() };
        let ahead = now + self.settings.lookahead_ms;
        for owed in ledger.owed().filter(|owed| owed.from <= ahead) {
            settle(owed, ahead + DECIDE_SLACK_MS, ledger, fleet, now, &mut decide);
        }
        for job in self.timers.due(to).filter_map(|id| ledger.job(id)) {
            let Some(fires) = timers::fires(&job) else { continue };
            let span = Span { job: &job, fires: &fires, from, to, launchable_from: UnixMs(i64::MIN) };
            let fates = span.decide(ledger, fleet, now);
            decide.fires.extend(fates.fires);
            decide.skips.extend(fates.skips);
        }
        decide
    }
}

/// Decides what one revision owes (PROTOCOL B3): instants behind the horizon are missed, others take the usual way.
///
/// Not beyond `ahead`: where the clock was set back, the watermark lies in the future, and all up to there is owed.
fn settle(owed: &Owed, ahead: UnixMs, ledger: &Ledger, fleet: &mut Fleet, now: UnixMs, decide: &mut Decide) {
    let to = owed.to.min(ahead);
    decide.settled.push((owed.job.id, owed.job.revision, to));
    let Ok(fires) = JobFires::of(&owed.job) else { return };
    let horizon = now - i64::from(owed.job.spec.start_deadline_s) * 1000 - HORIZON_MARGIN_MS;
    let span = Span { job: &owed.job, fires: &fires, from: owed.from, to, launchable_from: horizon };
    if owed.is_dropped {
        decide.skips.extend(span.skip_all(ledger, Reason::Revoked));
        return;
    }
    let fates = span.decide(ledger, fleet, now);
    decide.fires.extend(fates.fires);
    decide.skips.extend(fates.skips);
}

/// Cuts a decision into entries; only the last moves the watermark, and settles what was owed.
fn in_parts(whole: Decide) -> VecDeque<Decide> {
    let head = Decide { to: whole.from, fires: Vec::new(), skips: Vec::new(), settled: Vec::new(), ..whole };
    let (to, settled) = (whole.to, whole.settled);
    let skips = whole.skips.chunks(FATES_PER_ENTRY_MAX).map(|skips| Decide { skips: skips.to_vec(), ..head.clone() });
    let fires = whole.fires.chunks(FATES_PER_ENTRY_MAX).map(|fires| Decide { fires: fires.to_vec(), ..head.clone() });
    let mut parts: VecDeque<Decide> = skips.chain(fires).collect();
    match parts.back_mut() {
        Some(last) => (last.to, last.settled) = (to, settled),
        None => parts.push_back(Decide { to, settled, ..head.clone() }),
    }
    parts
}
