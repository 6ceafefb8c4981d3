//! Random histories: jobs of every policy come, change and go; leaders and workers come and go; the store too. Whatever happens, every
//! fire that the schedules ask for has exactly one fate, and nothing starts twice.

use std::collections::{BTreeMap, BTreeSet};

use chrono_flow::ledger::Command;
use chrono_flow::model::{CatchUp, Job, JobId, JobSpec, OnWorkerLost, Overlap, Reason, Retry, RunState, Trigger, UnixMs};
use chrono_flow::schedule::JobFires;

use super::world::{DAY, Habit, World, clock};
use crate::support::{OnPanic, Random, seeds};

const STEPS: usize = 60;
const SCHEDULES: [&str; 8] =
    ["* * * * * *", "*/2 * * * * *", "*/5 * * * * *", "3/7 * * * * *", "*/10 * * * * *", "0 * * * * *", "30 */2 * * * *", "@every 3s"];

/// Each worker has its name for a label.
fn labels(name: &str) -> BTreeMap<String, String> {
    [("name".to_owned(), name.trim_end_matches('\'').to_owned())].into()
}

struct History {
    world: World,
    random: Random,
    /// Every revision of every job, with the instant at which it ended.
    revisions: Vec<(Job, Option<UnixMs>)>,
    /// A revocation came late at some time, or was not heard: until it is acknowledged, the old revision may start (PROTOCOL, "Not
    /// guaranteed").
    held_back: bool,
    may_hold_back: bool,
}

impl History {
    fn spec(&mut self, name: &str) -> JobSpec {
        let random = &mut self.random;
        let mut spec = JobSpec::new(name, random.pick(&SCHEDULES), "true");
        spec.overlap = random.pick(&[Overlap::Allow, Overlap::Skip, Overlap::QueueOne, Overlap::Replace]);
        spec.catch_up = random.pick(&[CatchUp::None, CatchUp::Last, CatchUp::All]);
        spec.catch_up_max = random.pick(&[1, 3, 100]);
        spec.start_deadline_s = random.pick(&[1, 5, 30]);
        spec.retry = Retry { max_attempts: random.pick(&[1, 1, 3]), backoff_s: 2, max_backoff_s: 10 };
        spec.is_enabled = !random.chance(10);
        spec.on_worker_lost = random.pick(&[OnWorkerLost::Wait, OnWorkerLost::Retry]);
        spec.lost_after_s = random.pick(&[1, 20, 90]);
        spec.kill_grace_s = random.pick(&[0, 1, 10]);
        if random.chance(20) {
            spec.worker_selector = labels(random.pick(&["v", "u"]));
        }
        spec
    }

    fn create(&mut self) {
        let name = format!("j{}", self.revisions.len());
        let spec = self.spec(&name);
        let habit = Habit { lasts_ms: self.random.pick(&[50, 900, 2_500, 20_000]), succeeds: self.random.chance(70) };
        let id = self.world.create(spec, habit);
        self.revisions.push((self.world.specs[&id].clone(), None));
    }

    fn some_job(&mut self) -> Option<JobId> {
        let ids: Vec<JobId> = self.world.specs.keys().copied().collect();
        (!ids.is_empty()).then(|| self.random.pick(&ids))
    }

    fn ends(&mut self, id: JobId, at: UnixMs) {
        for (_, end) in self.revisions.iter_mut().filter(|(job, end)| job.id == id && end.is_none()) {
            *end = Some(at);
        }
    }

    fn edit(&mut self, from: UnixMs) {
        let Some(id) = self.some_job() else { return };
        let name = self.world.specs[&id].spec.name.clone();
        let spec = if self.random.chance(30) {
            let old = self.world.specs[&id].spec.clone();
            JobSpec { is_enabled: !old.is_enabled, ..old }
        } else {
            // What `overlap` means between runs of revisions that differ in it is for the transcripts to say.
            let overlap = self.world.specs[&id].spec.overlap;
            JobSpec { overlap, ..self.spec(&name) }
        };
        self.world.edit(id, from, |old| *old = spec);
        let from = self.world.specs[&id].effective_from;
        self.ends(id, from);
        self.revisions.push((self.world.specs[&id].clone(), None));
    }

    fn delete(&mut self) {
        let Some(id) = self.some_job() else { return };
        self.ends(id, self.world.now);
        self.world.delete(id);
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=9 if self.world.specs.len() < 6 => self.create(),
            10..=24 => self.edit(self.world.now),
            25..=28 => self.delete(),
            29..=36 => self.world.take_over(),
            // Nobody leads for a while; jobs change meanwhile.
            37..=44 => {
                let gap = self.random.pick(&[1_000, 4_000, 20_000, 60_000]);
                let before = self.world.now;
                self.world.nobody_leads(self.random.below(gap) as i64);
                let gap = self.world.now.since(before);
                self.held_back |= self.may_hold_back;
                for part in 0..self.random.below(3) as i64 {
                    self.edit(before + gap * (part + 1) / 4);
                }
                self.world.take_over();
            }
            45..=60 => self.disturb_worker(),
            61..=64 => self.world.records_automatically = !self.world.records_automatically,
            65..=68 => self.trigger(),
            69..=71 => self.cancel(),
            72..=74 => self.world.set_slots(self.random.pick(&[1, 2, 64])),
            75..=77 if self.may_hold_back => {
                self.world.holds_back_revokes = true;
                self.held_back = true;
            }
            78..=82 => {
                self.world.holds_back_revokes = false;
                self.world.answer_revokes();
            }
            83..=86 => self.world.proposals_to_lose = self.random.below(4) as u32,
            _ => {
                let ahead = self.random.below(9_000) as i64 + 1;
                self.world.run_to(self.world.now + ahead);
            }
        }
    }

    /// A worker stops, dies, is cut off, or comes back.
    fn disturb_worker(&mut self) {
        let names: Vec<&'static str> = self.world.workers.keys().copied().collect();
        let name = self.random.pick(&names);
        let worker = &self.world.workers[name];
        match (worker.is_up, worker.is_cut, self.random.below(3)) {
            (true, false, 0) => self.world.worker_down(name),
            (true, false, 1) => self.world.worker_dies(name),
            (true, false, _) if self.may_hold_back => self.cut(name),
            (true, false, _) => {}
            (true, true, 0) => self.world.worker_dies(name),
            (true, true, _) => self.reconnect(name),
            (false, ..) => self.worker_returns(name),
        }
    }

    fn cut(&mut self, name: &str) {
        self.held_back = true;
        let hears = self.random.chance(50);
        let worker = self.world.workers.get_mut(name).expect("a known worker");
        (worker.is_cut, worker.hears) = (true, hears);
    }

    fn reconnect(&mut self, name: &str) {
        self.world.workers.get_mut(name).expect("a known worker").is_cut = false;
    }

    /// With its data directory, or as another process of the same name, which may have to wait.
    fn worker_returns(&mut self, name: &'static str) {
        let name = match name {
            "u" if self.random.chance(30) => "u'",
            name => name,
        };
        self.world.worker_up(name, labels(name));
    }

    fn trigger(&mut self) {
        let Some(job) = self.some_job() else { return };
        let run = chrono_flow::model::RunId::at(self.world.now, u128::from(self.random.next()));
        self.world.apply(vec![Command::Trigger { at: self.world.now, job, run, has_key: false, session: None }]);
    }

    fn cancel(&mut self) {
        let run = self.world.ledger.open_runs().map(|run| run.id).next();
        if let Some(run) = run {
            self.world.apply(vec![Command::Cancel { at: self.world.now, run, reason: Reason::Requested }]);
        }
    }

    /// Everything works again, jobs end, and what is open comes to its end.
    fn heal(&mut self) {
        self.world.set_slots(64);
        self.world.holds_back_revokes = false;
        self.world.answer_revokes();
        // One never comes back.
        for name in ["w", "v"] {
            self.reconnect(name);
            if !self.world.workers[name].is_up {
                self.world.worker_up(name, labels(name));
            }
        }
        self.world.worker_dies("u");
        self.world.records_automatically = true;
        self.world.run_to(self.world.now + 5_000);
        while self.some_job().is_some() {
            self.delete();
        }
        self.world.run_to(self.world.now + 200_000);
        assert_eq!(self.world.ledger.open_runs().count(), 0, "a run never ends");
        assert_eq!(self.world.ledger.waiting().count(), 0, "a fire waits for ever");
        assert_eq!(self.world.ledger.unrecorded_len(), 0);
    }

    /// The fires that the jobs ask for, each with its revision, from the revisions alone.
    fn expected(&self) -> BTreeMap<(JobId, UnixMs), u64> {
        let mut expected = BTreeMap::new();
        for (job, end) in self.revisions.iter().filter(|(job, _)| job.spec.is_enabled) {
            let fires = JobFires::of(job).unwrap();
            expected.extend(fires.between(job.effective_from, end.unwrap_or(self.world.now)).map(|at| ((job.id, at), job.revision)));
        }
        expected
    }

    fn revisions_of(&self, id: JobId) -> Vec<String> {
        let of_job = self.revisions.iter().filter(|(job, _)| job.id == id);
        let describe = |(job, end): &(Job, Option<UnixMs>)| {
            let span = (clock(job.effective_from), end.map(clock));
            format!("revision {} `{}` enabled {} {span:?}", job.revision, job.spec.schedule, job.spec.is_enabled)
        };
        of_job.map(describe).collect()
    }

    fn check(&self) {
        let expected = self.expected();
        let mut fates: BTreeMap<(JobId, UnixMs), Vec<String>> = BTreeMap::new();
        let mut withdrawn = BTreeSet::new();
        let scheduled = self.world.history.values().filter(|run| run.attempt == 1 && run.trigger != Trigger::Manual);
        for run in scheduled {
            let from = run.skipped_from.unwrap_or(run.scheduled_at);
            let covered: Vec<_> = match run.skipped_count {
                None => vec![(run.job_id, run.scheduled_at)],
                Some(count) => {
                    let covered: Vec<_> =
                        expected.range((run.job_id, from)..=(run.job_id, run.scheduled_at)).map(|(key, _)| *key).collect();
                    assert_eq!(covered.len() as u64, count, "{} skipped {} to {}", run.job_name, clock(from), clock(run.scheduled_at));
                    covered
                }
            };
            // A run that was taken back from a revision that its instant no longer belongs to.
            let is_withdrawn = run.state == RunState::Skipped
                && matches!(run.reason, Some(Reason::Superseded | Reason::Revoked))
                && expected.get(&(run.job_id, run.scheduled_at)) != Some(&run.job_revision);
            if is_withdrawn {
                withdrawn.insert((run.job_id, run.scheduled_at));
                continue;
            }
            for key in covered {
                let reason = run.reason.map_or("", |reason| reason.name());
                fates.entry(key).or_default().push(format!("{} {reason}", run.state.name()));
            }
            let was_cancelled = run.state == RunState::Cancelled && run.started_at.is_none();
            // Nobody answered when it was asked back.
            let may_have_run = run.reason == Some(Reason::WorkerLost);
            let is_expected = self.held_back
                || was_cancelled
                || may_have_run
                || run.skipped_count.is_some()
                || expected.contains_key(&(run.job_id, run.scheduled_at));
            assert!(is_expected, "nobody asked for {run:?} of {:#?}", self.revisions_of(run.job_id));
        }
        for key in expected.keys() {
            let fate = fates.get(key).map_or(&[][..], |fates| fates);
            let story = || {
                let (name, at) = (&self.revisions.iter().find(|(job, _)| job.id == key.0).expect("a known job").0.spec.name, clock(key.1));
                let told = self.world.diary.iter().filter(|line| line.contains(&format!("{name}@"))).cloned().collect::<Vec<_>>();
                format!("job {name} at {at}: {fate:?} of {:#?}\n{}", self.revisions_of(key.0), told.join("\n"))
            };
            // Taken back from one revision and then, by a deletion, from its heir too: the one row says so for both.
            let is_revoked = fate.is_empty() && withdrawn.contains(key);
            assert!(fate.len() == 1 || is_revoked, "{}", story());
        }
        for (job, at, attempt, trigger) in &self.world.starts {
            let is_asked =
                self.held_back || expected.contains_key(&(*job, *at)) || !matches!(trigger, Trigger::Schedule | Trigger::CatchUp);
            assert!(is_asked, "job {job} started for {} (attempt {attempt}), which nobody asked for", clock(*at));
        }
    }
}

#[test]
fn every_fire_has_exactly_one_fate_whatever_happens() {
    let mut fires = 0;
    for seed in seeds(250) {
        let _name = OnPanic(seed);
        let mut world = World::new(DAY);
        world.rests_without_leader = seed % 2 != 0;
        for name in ["w", "v", "u"] {
            world.worker_up(name, labels(name));
        }
        let mut history = History { world, random: Random(seed), revisions: Vec::new(), held_back: false, may_hold_back: seed % 2 == 0 };
        history.create();
        for _ in 0..STEPS {
            history.step();
        }
        history.heal();
        history.check();
        fires += history.expected().len();
    }
    println!("{fires} fires, each with one fate");
    assert!(fires > 1_000, "the histories are too quiet to show anything");
}
