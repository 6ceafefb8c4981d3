//! Ledger and engine core with virtual time, and one worker that does what it is told. It keeps a diary of what happens.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono_flow::engine::core::{Core, Settings};
use chrono_flow::engine::placement::{Fleet, Health};
use chrono_flow::ledger::{Closing, Command, Effect, Ledger, OpenRun, Reply, decode_entry, encode_entry};
use chrono_flow::model::{
    ClusterId, Epoch, Job, JobId, JobSpec, Outcome, Overlap, Reason, Run, RunId, RunState, SessionId, Trigger, UnixMs, WorkerId,
};
use uuid::Uuid;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
/// 2026-01-01T00:00:00Z
pub const DAY: UnixMs = UnixMs(1_767_225_600_000);

/// How runs of a job go.
#[derive(Clone, Copy)]
pub struct Habit {
    pub lasts_ms: i64,
    pub succeeds: bool,
}

struct Held {
    run: OpenRun,
    epoch: Epoch,
    started_at: Option<UnixMs>,
}

pub struct World {
    pub now: UnixMs,
    pub ledger: Ledger,
    core: Core,
    settings: Settings,
    index: u64,
    change_seq: u64,
    next_job: i64,
    pub specs: BTreeMap<JobId, Job>,
    pub habits: BTreeMap<JobId, Habit>,
    session: Option<SessionId>,
    data_dir: Uuid,
    /// The worker's side: what it holds. It starts runs at their instants while `is_up`.
    held: BTreeMap<RunId, Held>,
    is_up: bool,
    pub slots: u32,
    /// (job, instant, attempt) of every start there ever was.
    pub starts: Vec<(JobId, UnixMs, u32, Trigger)>,
    started: HashSet<(RunId, u32)>,
    /// What was recorded, by run; the newest row counts.
    pub history: BTreeMap<RunId, Run>,
    pub records_automatically: bool,
    /// So many proposals come to nothing.
    pub proposals_to_lose: u32,
    pub diary: Vec<String>,
    /// Instants for which somebody may revoke a run: the worker answers revocations only on demand.
    pub holds_back_revokes: bool,
    revokes_held_back: Vec<(RunId, Epoch)>,
}

impl World {
    pub fn new(now: UnixMs) -> World {
        let settings = Settings { lookahead_ms: 2_000, unrecorded_max: 1_000_000 };
        let ledger = Ledger::default();
        let mut world = World {
            now,
            core: Core::new(settings, &ledger),
            ledger,
            settings,
            index: 0,
            change_seq: 0,
            next_job: 1,
            specs: BTreeMap::new(),
            habits: BTreeMap::new(),
            session: None,
            data_dir: Uuid::from_u128(1),
            held: BTreeMap::new(),
            is_up: true,
            slots: 64,
            starts: Vec::new(),
            started: HashSet::new(),
            history: BTreeMap::new(),
            records_automatically: true,
            proposals_to_lose: 0,
            diary: Vec::new(),
            holds_back_revokes: false,
            revokes_held_back: Vec::new(),
        };
        world.apply(vec![Command::Found { cluster: CLUSTER }]);
        world
    }

    pub fn set_unrecorded_max(&mut self, unrecorded_max: u64) {
        self.settings.unrecorded_max = unrecorded_max;
        self.core = Core::new(self.settings, &self.ledger);
    }

    // ---- jobs

    pub fn create(&mut self, spec: JobSpec, habit: Habit) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.habits.insert(id, habit);
        let now = self.now;
        let job = Job { id, revision: 1, change_seq: 0, created_at: now, updated_at: now, effective_from: now, spec };
        self.specs.insert(id, job);
        self.put(id, now);
        id
    }

    /// Writes the next revision of a job, to take effect at `from`.
    pub fn edit(&mut self, id: JobId, from: UnixMs, change: impl FnOnce(&mut JobSpec)) {
        let job = self.specs.get_mut(&id).expect("a known job");
        change(&mut job.spec);
        job.revision += 1;
        self.put(id, from);
    }

    fn put(&mut self, id: JobId, from: UnixMs) {
        self.change_seq += 1;
        let job = self.specs.get_mut(&id).expect("a known job");
        job.change_seq = self.change_seq;
        job.effective_from = from.max(job.effective_from);
        job.updated_at = self.now;
        let command = Command::PutJob(Box::new(job.clone()));
        self.apply(vec![command]);
    }

    pub fn delete(&mut self, id: JobId) {
        self.change_seq += 1;
        let job = self.specs.remove(&id).expect("a known job");
        let drop = Command::DropJob { id, revision: job.revision + 1, effective_from: self.now, change_seq: self.change_seq };
        self.apply(vec![drop]);
    }

    // ---- the cluster

    /// Another leader takes over: from a snapshot, with nothing but the ledger.
    pub fn take_over(&mut self) {
        let image = self.ledger.encode();
        let restored = Ledger::decode(&image).expect("a snapshot reads back");
        assert_eq!(restored, self.ledger, "a snapshot is the state");
        self.ledger = restored;
        self.core = Core::new(self.settings, &self.ledger);
    }

    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let commands = decode_entry(&encode_entry(&commands)).expect("an entry reads back");
        self.index += 1;
        let before = self.ledger.clone();
        let mut effects: Vec<Effect> = Vec::new();
        let replies = self.ledger.apply(self.index, commands, &mut effects);
        self.core.absorb(&self.ledger, &effects);
        self.write_diary(&before);
        self.check();
        replies
    }

    // ---- the worker

    pub fn open_session(&mut self) {
        let not_started = self.held.values().filter(|held| held.started_at.is_none()).map(|held| (held.run.id, held.epoch)).collect();
        let running = self.held.values().filter(|held| held.started_at.is_some()).map(|held| (held.run.id, held.epoch)).collect();
        self.held.retain(|_, held| held.started_at.is_some());
        let command = Command::OpenSession {
            at: self.now,
            worker: WorkerId("w".into()),
            data_dir: self.data_dir,
            address: String::new(),
            labels: BTreeMap::new(),
            slots: self.slots,
            not_started,
            held: running,
            journal_is_whole: true,
        };
        let replies = self.apply(vec![command]);
        let Some(Reply::Session(session)) = replies.first() else { panic!("no session: {replies:?}") };
        self.session = Some(*session);
        self.is_up = true;
    }

    /// The worker starts nothing and answers nothing, until a new session opens.
    pub fn worker_down(&mut self) {
        self.is_up = false;
    }

    /// The worker process dies with its runs; its next session will report them as lost.
    pub fn worker_dies(&mut self) -> Vec<Closing> {
        self.is_up = false;
        let lost: Vec<RunId> = self.held.values().filter(|held| held.started_at.is_some()).map(|held| held.run.id).collect();
        let now = self.now;
        let close = |held: &Held| {
            let mut outcome = Outcome::unstarted(RunState::Lost, Some(Reason::WorkerRestarted), now);
            outcome.started_at = held.started_at;
            Closing { run: held.run.id, epoch: held.epoch, outcome }
        };
        lost.iter().filter_map(|id| self.held.get(id)).map(close).collect()
    }

    pub fn report(&mut self, closing: Vec<Closing>) {
        for end in &closing {
            self.held.remove(&end.run);
        }
        if !closing.is_empty() {
            self.apply(vec![Command::Close { at: self.now, runs: closing }]);
        }
    }

    fn fleet(&self) -> Fleet {
        let health = |session| Health { slots: self.slots, takes_work: true, outstanding: self.core.staging.outstanding(session) };
        let up = self.session.filter(|_| self.is_up);
        Fleet { sessions: up.map(|session| (session, health(session))).into_iter().collect() }
    }

    // ---- time

    /// Runs everything up to `until`, from event to event.
    pub fn run_to(&mut self, until: UnixMs) {
        loop {
            self.settle();
            let engine = self.core.wake_at(&self.ledger);
            let worker = self.held.values().filter(|_| self.is_up).filter_map(|held| self.worker_event(held)).min();
            let next = [engine, worker].into_iter().flatten().filter(|at| *at > self.now).min().unwrap_or(until).min(until);
            if next <= self.now {
                break;
            }
            self.now = next;
        }
    }

    fn worker_event(&self, held: &Held) -> Option<UnixMs> {
        Some(match held.started_at {
            None => held.run.start_at,
            Some(started_at) => started_at + self.habits[&held.run.job.id].lasts_ms,
        })
    }

    /// Lets engine and worker do all that is due now.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut fleet = self.fleet();
            let may_decide = self.core.has_due(&self.ledger, self.now);
            let planned = self.core.plan(&self.ledger, self.now, &mut fleet, may_decide);
            let has_planned = !planned.is_empty();
            if has_planned && self.proposals_to_lose > 0 {
                self.proposals_to_lose -= 1;
                self.core.forget_plans(&self.ledger);
            } else if has_planned {
                self.apply(planned);
            }
            let has_worked = self.is_up && self.work();
            if self.records_automatically {
                self.record();
            }
            if !has_planned && !has_worked {
                return;
            }
        }
        panic!("engine and worker never come to rest at {}", self.now);
    }

    pub fn record(&mut self) {
        let rows: Vec<(u64, Run)> = self.ledger.unrecorded().map(|(index, run)| (index, Run::clone(run))).collect();
        let Some((up_to, _)) = rows.last().cloned() else { return };
        for (_, row) in rows {
            let older = self.history.insert(row.id, row);
            let may_turn_out = |older: Run| match older.reason {
                // The instant was taken back from one revision, and decided anew for another.
                Some(Reason::Superseded | Reason::Revoked) => older.state == RunState::Skipped,
                _ => older.state == RunState::Lost,
            };
            assert!(older.is_none_or(may_turn_out), "a run that has ended is recorded again");
        }
        self.apply(vec![Command::Recorded { up_to }]);
    }

    fn work(&mut self) -> bool {
        let Some(session) = self.session else { return false };
        let orders = self.core.staging.take_orders(session);
        let mut has_worked = !orders.is_empty();
        for id in orders.stage {
            let Some(run) = self.ledger.open_run(id) else { continue };
            let epoch = run.assigned.expect("only assigned runs are staged").epoch;
            self.held.entry(id).or_insert(Held { run: OpenRun::clone(run), epoch, started_at: None });
        }
        for (id, epoch) in orders.revoke {
            if self.holds_back_revokes { self.revokes_held_back.push((id, epoch)) } else { self.revoke(id, epoch) }
        }
        for (id, _, reason) in orders.cancel {
            self.end(id, RunState::Cancelled, Some(reason));
        }
        has_worked |= self.start_due();
        let ended: Vec<RunId> = self
            .held
            .values()
            .filter(|held| held.started_at.is_some() && self.worker_event(held).is_some_and(|at| at <= self.now))
            .map(|held| held.run.id)
            .collect();
        for id in ended {
            has_worked = true;
            let succeeds = self.habits[&self.held[&id].run.job.id].succeeds;
            self.end(id, if succeeds { RunState::Succeeded } else { RunState::Failed }, None);
        }
        has_worked
    }

    fn start_due(&mut self) -> bool {
        let running = self.held.values().filter(|held| held.started_at.is_some()).count();
        let mut due: Vec<(UnixMs, RunId)> = self
            .held
            .values()
            .filter(|held| held.started_at.is_none() && held.run.start_at <= self.now)
            .map(|held| (held.run.start_at, held.run.id))
            .collect();
        due.sort_unstable();
        due.truncate((self.slots as usize).saturating_sub(running));
        for (_, id) in &due {
            let held = self.held.get_mut(id).expect("held");
            held.started_at = Some(self.now);
            let run = held.run.clone();
            assert!(self.started.insert((run.id, run.attempt)), "run {} is started twice", run.id);
            self.starts.push((run.job.id, run.scheduled_at, run.attempt, run.trigger));
            self.note(format!("start   {}", name(&run.job.spec.name, run.scheduled_at, run.attempt)));
            let beside = self.held.values().filter(|held| held.started_at.is_some() && held.run.job.id == run.job.id).count();
            let story = || self.diary.iter().filter(|line| line.contains(&*run.job.spec.name)).cloned().collect::<Vec<_>>().join("\n");
            assert!(run.job.spec.overlap == Overlap::Allow || beside == 1, "two runs of {} at once:\n{}", run.job.spec.name, story());
        }
        !due.is_empty()
    }

    fn end(&mut self, id: RunId, state: RunState, reason: Option<Reason>) {
        let Some(held) = self.held.remove(&id) else { return };
        let mut outcome = Outcome::unstarted(state, reason, self.now);
        outcome.started_at = held.started_at;
        outcome.exit_code = match state {
            RunState::Succeeded => Some(0),
            RunState::Failed => Some(1),
            _ => None,
        };
        self.apply(vec![Command::Close { at: self.now, runs: vec![Closing { run: id, epoch: held.epoch, outcome }] }]);
    }

    fn revoke(&mut self, id: RunId, epoch: Epoch) {
        if self.held.get(&id).is_some_and(|held| held.started_at.is_some()) {
            return;
        }
        self.held.remove(&id);
        self.core.not_started(id, epoch);
    }

    pub fn answer_revokes(&mut self) {
        for (id, epoch) in std::mem::take(&mut self.revokes_held_back) {
            self.revoke(id, epoch);
        }
        self.settle();
    }

    // ---- what must always be true

    fn check(&self) {
        let mut open_jobs = BTreeSet::new();
        for run in self.ledger.open_runs() {
            let is_alone = open_jobs.insert(run.job.id);
            assert!(is_alone || run.job.spec.overlap == Overlap::Allow, "two open runs of {}", run.job.spec.name);
        }
    }

    // ---- the diary

    fn note(&mut self, event: String) {
        self.diary.push(format!("{} {event}", clock(self.now)));
    }

    fn write_diary(&mut self, before: &Ledger) {
        let after = self.ledger.clone();
        let mut events = Vec::new();
        for run in after.open_runs() {
            let label = name(&run.job.spec.name, run.scheduled_at, run.attempt);
            let old = before.open_run(run.id);
            if old.is_none() {
                let wait = if run.start_at > run.scheduled_at { format!(" not before {}", clock(run.start_at)) } else { String::new() };
                events.push(format!("launch  {label} {}{wait}", run.trigger.name()));
            }
            if old.is_some_and(|old| old.job.revision != run.job.revision) {
                events.push(format!("relaunch {label} by revision {}", run.job.revision));
            }
            if old.is_some_and(|old| old.assigned.is_some() && run.assigned.is_none()) {
                events.push(format!("requeue {label}"));
            }
            if run.heir.is_some() && old.is_none_or(|old| old.heir.is_none()) {
                events.push(format!("revoke  {label}"));
            }
            if let Some(reason) = run.cancel.filter(|_| old.is_none_or(|old| old.cancel.is_none())) {
                events.push(format!("cancel  {label} {}", reason.name()));
            }
        }
        for fire in after.waiting() {
            let old = before.waiting_of(fire.job.id).find(|old| old.id == fire.id);
            if old.is_none_or(|old| old.kind != fire.kind) {
                let kind = format!("{:?}", fire.kind).to_lowercase();
                events.push(format!("wait    {} {kind}", name(&fire.job.spec.name, fire.scheduled_at, 1)));
            }
        }
        let recorded: BTreeSet<(u64, RunId)> = before.unrecorded().map(|(index, run)| (index, run.id)).collect();
        for (index, run) in after.unrecorded() {
            if recorded.contains(&(index, run.id)) {
                continue;
            }
            let reason = run.reason.map_or(String::new(), |reason| format!(" {}", reason.name()));
            let span = match (run.skipped_from, run.skipped_count) {
                (Some(from), Some(count)) => format!(" ({count} fires from {})", clock(from)),
                _ => String::new(),
            };
            events.push(format!("end     {} {}{reason}{span}", name(&run.job_name, run.scheduled_at, run.attempt), run.state.name()));
        }
        for event in events {
            self.note(event);
        }
    }
}

fn name(job: &str, scheduled_at: UnixMs, attempt: u32) -> String {
    let attempt = if attempt > 1 { format!("#{attempt}") } else { String::new() };
    format!("{job}@{}{attempt}", clock(scheduled_at))
}

/// Hours, minutes and seconds since the first day's midnight.
pub fn clock(at: UnixMs) -> String {
    let ms = at.since(DAY);
    let (s, rest) = (ms.div_euclid(1000), ms.rem_euclid(1000));
    let fraction = if rest == 0 { String::new() } else { format!(".{rest:03}") };
    format!("{:02}:{:02}:{:02}{fraction}", s / 3600, s / 60 % 60, s % 60)
}

/// Reads what `clock` writes.
pub fn at(text: &str) -> Result<UnixMs, String> {
    let parts: Vec<f64> =
        text.split(':').map(|part| part.parse::<f64>().map_err(|error| format!("{text}: {error}"))).collect::<Result<_, _>>()?;
    match parts[..] {
        [h, m, s] => Ok(DAY + ((h * 3600.0 + m * 60.0 + s) * 1000.0).round() as i64),
        _ => Err(format!("`{text}` is not hh:mm:ss")),
    }
}
