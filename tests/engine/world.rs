//! Ledger and engine core with virtual time, and workers (`workers`) that do what they are told. It keeps a diary of what happens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono_flow::engine::clock::Reading;
use chrono_flow::engine::core::{Core, Settings};
use chrono_flow::engine::leases::Leases;
use chrono_flow::engine::placement::{Fleet, Health};
use chrono_flow::ledger::{Command, Effect, Ledger, Reply, decode_entry, encode_entry};
use chrono_flow::model::{ClusterId, Epoch, Job, JobId, JobSpec, Overlap, Reason, Run, RunId, RunState, Trigger, UnixMs};
use uuid::Uuid;

use super::workers::Worker;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
/// 2026-01-01T00:00:00Z
pub const DAY: UnixMs = UnixMs(1_767_225_600_000);

/// How far apart clocks may be.
const SKEW_MS: i64 = 500;
/// How often the leader looks at silent workers.
const LOOK_MS: i64 = 500;

/// How runs of a job go.
#[derive(Clone, Copy)]
pub struct Habit {
    pub lasts_ms: i64,
    pub succeeds: bool,
}

pub struct World {
    pub now: UnixMs,
    pub ledger: Ledger,
    pub core: Core,
    takeovers: u32,
    settings: Settings,
    index: u64,
    change_seq: u64,
    next_job: i64,
    pub specs: BTreeMap<JobId, Job>,
    pub habits: BTreeMap<JobId, Habit>,
    pub leases: Leases,
    pub workers: BTreeMap<&'static str, Worker>,
    /// A leader answers heartbeats and decides.
    pub has_leader: bool,
    /// Nothing starts while nobody leads.
    pub rests_without_leader: bool,
    /// Of workers that register from now on.
    pub slots: u32,
    /// (job, instant, attempt) of every start there ever was.
    pub starts: Vec<(JobId, UnixMs, u32, Trigger)>,
    pub started: HashMap<RunId, Epoch>,
    /// What was recorded, by run; the newest row counts.
    pub history: BTreeMap<RunId, Run>,
    pub records_automatically: bool,
    /// So many proposals come to nothing.
    pub proposals_to_lose: u32,
    pub diary: Vec<String>,
    /// Instants for which somebody may revoke a run: the worker answers revocations only on demand.
    pub holds_back_revokes: bool,
    pub revokes_held_back: Vec<(&'static str, RunId, Epoch)>,
}

impl World {
    pub fn new(now: UnixMs) -> World {
        let settings = Settings { lookahead_ms: 2_000, unrecorded_max: 1_000_000 };
        let ledger = Ledger::default();
        let mut world = World {
            now,
            core: Core::new(settings, &ledger),
            takeovers: 0,
            ledger,
            settings,
            index: 0,
            change_seq: 0,
            next_job: 1,
            specs: BTreeMap::new(),
            habits: BTreeMap::new(),
            leases: Leases::default(),
            workers: BTreeMap::new(),
            has_leader: true,
            rests_without_leader: false,
            slots: 64,
            starts: Vec::new(),
            started: HashMap::new(),
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

    pub fn set_lookahead(&mut self, ms: i64) {
        self.settings.lookahead_ms = ms;
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

    /// Another leader takes over: in turn from a snapshot, with nothing but the ledger, and warm, as one that has followed all along.
    pub fn take_over(&mut self) {
        let image = self.ledger.encode();
        let restored = Ledger::decode(&image).expect("a snapshot reads back");
        assert_eq!(restored, self.ledger, "a snapshot is the state");
        self.ledger = restored;
        self.takeovers += 1;
        if self.takeovers % 2 == 1 {
            self.core = Core::new(self.settings, &self.ledger);
        } else {
            self.core.take_over(&self.ledger);
        }
        self.leases = Leases::default();
        self.leases.follow(&self.ledger, self.now.0);
        self.leases.lead(self.now.0);
        self.has_leader = true;
    }

    /// Nobody leads for a while.
    pub fn nobody_leads(&mut self, ms: i64) {
        self.has_leader = false;
        self.run_to(self.now + ms);
    }

    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let commands = decode_entry(&encode_entry(&commands)).expect("an entry reads back");
        self.index += 1;
        let before = self.ledger.clone();
        let mut effects: Vec<Effect> = Vec::new();
        let replies = self.ledger.apply(self.index, commands, &mut effects);
        self.core.absorb(&self.ledger, &effects);
        self.leases.follow(&self.ledger, self.now.0);
        self.write_diary(&before);
        self.check();
        replies
    }

    fn fleet(&self) -> Fleet {
        let health = |session: &std::sync::Arc<chrono_flow::ledger::Session>| {
            let takes_work = self.leases.is_fresh(session.id, self.now.0);
            (
                session.id,
                Health { session: session.clone(), takes_work, answers: true, outstanding: self.core.staging.outstanding(session.id) },
            )
        };
        Fleet { sessions: self.ledger.sessions().map(health).collect() }
    }

    // ---- time

    /// Runs everything up to `until`, from event to event.
    pub fn run_to(&mut self, until: UnixMs) {
        loop {
            self.settle();
            let engine = self.core.wake_at(&self.ledger).filter(|_| self.has_leader);
            // The leader looks at silent workers now and then.
            let holds = |session: &std::sync::Arc<chrono_flow::ledger::Session>| self.core.staging.outstanding(session.id) > 0;
            let is_silent = self.ledger.sessions().any(|session| !self.is_heard(session.id));
            let is_silent = is_silent || self.ledger.ended_sessions().any(holds);
            let look = (is_silent && self.has_leader).then_some(self.now + LOOK_MS);
            let worker = self.workers.values().filter_map(|worker| self.worker_event(worker)).min();
            let next = [engine, look, worker].into_iter().flatten().filter(|at| *at > self.now).min().unwrap_or(until).min(until);
            if next <= self.now {
                break;
            }
            self.beat_until(next);
            self.now = next;
        }
    }

    /// Lets engine and workers do all that is due now.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.watch_leases();
            let has_planned = self.has_leader && self.plan();
            let has_worked = self.work();
            if self.records_automatically && self.has_leader {
                self.record();
            }
            if !has_planned && !has_worked {
                return;
            }
        }
        panic!("engine and workers never come to rest at {}:\n{}", self.now, self.diary[self.diary.len().saturating_sub(30)..].join("\n"));
    }

    fn plan(&mut self) -> bool {
        let mut fleet = self.fleet();
        let may_decide = self.core.has_due(&self.ledger, self.now);
        let mut planned = self.core.plan(&self.ledger, self.now, &mut fleet, may_decide);
        let reading = Reading { wall: self.now, boot_ms: self.now.0 };
        planned.extend(self.leases.plan(&self.ledger, &self.core.staging, reading, SKEW_MS));
        if planned.is_empty() {
            return false;
        }
        if self.proposals_to_lose > 0 {
            self.proposals_to_lose -= 1;
            self.core.forget_plans(&self.ledger);
        } else {
            self.apply(planned);
        }
        true
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

    // ---- what must always be true

    fn check(&self) {
        let mut open_jobs = BTreeSet::new();
        let is_known = |run: &std::sync::Arc<chrono_flow::ledger::OpenRun>| {
            run.assigned.is_none_or(|assigned| self.ledger.any_session(assigned.session).is_some())
        };
        assert!(self.ledger.open_runs().all(is_known), "a session was forgotten while a run refers to it");
        for run in self.ledger.open_runs() {
            let is_alone = open_jobs.insert(run.job.id);
            assert!(is_alone || run.job.spec.overlap == Overlap::Allow, "two open runs of {}", run.job.spec.name);
        }
    }

    // ---- the diary

    pub fn note(&mut self, event: String) {
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
            if after.is_unreachable(run) && old.is_some_and(|old| !before.is_unreachable(old)) {
                events.push(format!("silent  {label}"));
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

pub fn name(job: &str, scheduled_at: UnixMs, attempt: u32) -> String {
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
