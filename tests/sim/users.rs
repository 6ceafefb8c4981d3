//! What people do: jobs of every policy are written, paused, deleted; runs are asked for and cancelled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chrono_flow::engine::api::Engine;
use chrono_flow::model::{CatchUp, Job, JobId, JobSpec, NodeId, OnWorkerLost, Overlap, Retry, RunId};
use chrono_flow::rpc::peer::MembersWish;

use crate::random::Random;
use crate::sim::{SPARE, Sim};

const SCHEDULES: [&str; 10] = [
    "* * * * * *",
    "*/2 * * * * *",
    "*/5 * * * * *",
    "3/7 * * * * *",
    "*/10 * * * * *",
    "*/15 * * * * *",
    "0 * * * * *",
    "30 */2 * * * *",
    "@every 3s",
    "@every 11s",
];
const HABITS: [&str; 8] = ["30 0 0", "200 0 10", "900 30 0", "900 0 20000", "2500 50 100", "2500 0 20000", "15000 0 0", "40000 10 20000"];

/// More have to be asked for.
pub const JOBS_MAX: usize = 30;
/// What jobs of `plots` are called; nobody else touches them.
pub const QUICK: &str = "quick ";
/// A job that stays as it is.
pub const LONG: JobId = JobId(1);

pub struct Users {
    pub random: Random,
    pub next_ms: u64,
    pub jobs_max: usize,
    jobs_made: u64,
    keys: u64,
    /// Manual runs that were answered as asked for.
    pub asked_for: Arc<Mutex<BTreeMap<RunId, JobId>>>,
}

impl Users {
    pub fn new(seed: u64) -> Users {
        let mut random = Random(seed);
        let few = random.pick(&[4, 12, JOBS_MAX]);
        // For a soak: most fires for the time that it takes come with some hundreds.
        let jobs_max = std::env::var("CHRONO_FLOW_SIM_JOBS").map_or(few, |many| many.parse().expect("a number of jobs"));
        Users { random, next_ms: 0, jobs_max, jobs_made: 0, keys: 0, asked_for: Arc::default() }
    }

    fn spec(&mut self, name: &str, overlap: Overlap) -> JobSpec {
        let random = &mut self.random;
        let mut spec = JobSpec::new(name, random.pick(&SCHEDULES), random.pick(&HABITS));
        spec.overlap = overlap;
        spec.catch_up = random.pick(&[CatchUp::None, CatchUp::Last, CatchUp::All]);
        spec.catch_up_max = random.pick(&[1, 3, 20]);
        spec.start_deadline_s = random.pick(&[1, 5, 30]);
        spec.retry = Retry { max_attempts: random.pick(&[1, 1, 3]), backoff_s: 2, max_backoff_s: 10 };
        spec.is_enabled = !random.chance(10);
        spec.on_worker_lost = random.pick(&[OnWorkerLost::Wait, OnWorkerLost::Retry]);
        spec.lost_after_s = random.pick(&[1, 20, 60]);
        spec.kill_grace_s = random.pick(&[0, 1, 5]);
        spec.timeout_s = random.chance(20).then_some(3);
        if random.chance(15) {
            spec.worker_selector = [("name".to_owned(), random.pick(&["a", "b", "c"]).to_owned())].into();
        }
        spec
    }
}

impl Sim {
    /// A controller whose API somebody uses: it runs, and says what time it is.
    fn some_controller(&mut self) -> Option<NodeId> {
        let up: Vec<NodeId> =
            self.controllers.values().filter(|it| it.life.is_some() && self.now_ms >= it.paused_until_ms).map(|it| it.id).collect();
        (!up.is_empty()).then(|| self.users.random.pick(&up))
    }

    fn some_job(&mut self) -> Option<JobId> {
        let is_theirs = |job: &&Job| job.id != LONG && !job.spec.name.starts_with(QUICK);
        let ids: Vec<JobId> = self.store.lock().unwrap().jobs.values().filter(is_theirs).map(|job| job.id).collect();
        (!ids.is_empty()).then(|| self.users.random.pick(&ids))
    }

    pub fn use_it(&mut self) {
        self.users.next_ms = self.now_ms + 50 + self.users.random.below(1_500);
        let Some(id) = self.some_controller() else { return };
        while self.users.jobs_made < self.users.jobs_max as u64 / 2 && self.writes_at(id).is_some() {
            self.create(id);
        }
        match self.users.random.below(100) {
            0..=29 => self.create(id),
            30..=54 => self.edit(id),
            55..=61 => self.delete(id),
            62..=84 => self.trigger(id),
            85..=94 => self.cancel(id),
            95..=96 => self.wish(id, MembersWish::Transfer { to: None }),
            _ => self.change_members(id),
        }
    }

    /// The checked clock of a controller that reaches the store (PROTOCOL A3).
    pub fn writes_at(&self, id: NodeId) -> Option<chrono_flow::model::UnixMs> {
        let life = self.controllers.get(&id)?.life.as_ref()?;
        life.engine.now().ok().filter(|_| self.store.lock().unwrap().takes_writes_of(id))
    }

    pub fn create(&mut self, id: NodeId) {
        let Some(now) = self.writes_at(id) else { return };
        if self.store.lock().unwrap().jobs.len() >= self.users.jobs_max {
            return;
        }
        self.users.jobs_made += 1;
        let overlap = self.users.random.pick(&[Overlap::Allow, Overlap::Skip, Overlap::QueueOne, Overlap::Replace]);
        let mut spec = self.users.spec(&format!("j{}", self.users.jobs_made), overlap);
        if self.users.jobs_made == 1 {
            // Something that is alive all the time, and may not be alive twice.
            (spec.schedule, spec.command, spec.overlap) = ("*/10 * * * * *".into(), "90000 0 0".into(), Overlap::Allow);
            (spec.on_worker_lost, spec.kill_grace_s, spec.is_enabled, spec.timeout_s) = (OnWorkerLost::Retry, 5, true, None);
            spec.worker_selector.clear();
        }
        let job = self.store.lock().unwrap().create(spec, now);
        self.trace("create", job.0 as u64, id);
    }

    pub fn edit(&mut self, id: NodeId) {
        let (Some(now), Some(job)) = (self.writes_at(id), self.some_job()) else { return };
        let old = self.store.lock().unwrap().jobs[&job].spec.clone();
        let spec = if self.users.random.chance(30) {
            JobSpec { is_enabled: !old.is_enabled, ..old }
        } else {
            // What `overlap` means between runs of revisions that differ in it is for the transcripts of the engine to say.
            self.users.spec(&old.name, old.overlap)
        };
        self.store.lock().unwrap().replace(job, spec, now);
        self.trace("edit", job.0 as u64, id);
    }

    fn delete(&mut self, id: NodeId) {
        let (Some(now), Some(job)) = (self.writes_at(id), self.some_job()) else { return };
        self.store.lock().unwrap().delete(job, now);
        self.trace("delete", job.0 as u64, id);
    }

    /// With a key, sometimes one that was used before.
    fn trigger(&mut self, id: NodeId) {
        let Some(job) = self.some_job() else { return };
        if !self.users.random.chance(20) {
            self.users.keys += 1;
        }
        let key = format!("key {}", self.users.keys);
        self.trace("trigger", job.0 as u64, self.users.keys);
        let asked_for = self.users.asked_for.clone();
        let Some(life) = self.controllers.get_mut(&id).and_then(|it| it.life.as_mut()) else { return };
        let engine = life.engine.clone();
        life.tasks.spawn(async move {
            if let Ok(triggered) = engine.trigger(job, Some(key)).await {
                asked_for.lock().unwrap().insert(triggered.run.id, job);
            }
        });
    }

    fn cancel(&mut self, id: NodeId) {
        let Some(ledger) = self.controllers.get(&id).and_then(|it| it.ledger()) else { return };
        let open = ledger.open_runs().map(|run| run.id).chain(ledger.waiting().map(|fire| fire.id));
        let runs: Vec<RunId> = open.take(20).collect();
        if runs.is_empty() {
            return;
        }
        let run = self.users.random.pick(&runs);
        self.trace("cancel", run.0.as_u64_pair().1, id);
        let Some(life) = self.controllers.get_mut(&id).and_then(|it| it.life.as_mut()) else { return };
        let engine = life.engine.clone();
        life.tasks.spawn(async move { drop(engine.cancel(run).await) });
    }

    /// The spare controller comes in; then one may go, and stays away.
    fn change_members(&mut self, id: NodeId) {
        let members = self.members();
        if !self.controllers.contains_key(&SPARE) || members.is_empty() || self.has_removed {
            return;
        }
        if !members.contains(&SPARE) {
            self.wish(id, MembersWish::Add { id: SPARE, address: format!("node-{SPARE}:1") });
        } else if members.len() == 4 {
            self.has_removed = true;
            let gone = self.users.random.pick(&members);
            self.wish(id, MembersWish::Remove { id: gone });
        }
    }

    /// Asks for another leader, or other members.
    pub fn wish(&mut self, id: NodeId, wish: MembersWish) {
        self.trace("wish", id, 0);
        let Some(life) = self.controllers.get_mut(&id).and_then(|it| it.life.as_mut()) else { return };
        let engine = life.engine.clone();
        life.tasks.spawn(async move {
            let _ = match wish {
                MembersWish::Add { id, address } => engine.add_member(id, address).await,
                MembersWish::Remove { id } => engine.remove_member(id).await,
                MembersWish::Transfer { to } => engine.transfer_leadership(to).await,
            };
        });
    }

    /// Nobody wants anything any more.
    pub fn delete_all(&mut self) {
        let id = self.controllers.keys().copied().find(|id| self.writes_at(*id).is_some());
        let Some(now) = id.and_then(|id| self.writes_at(id)) else { return };
        let mut store = self.store.lock().unwrap();
        let jobs: Vec<JobId> = store.jobs.keys().copied().collect();
        jobs.into_iter().for_each(|job| store.delete(job, now));
    }
}
