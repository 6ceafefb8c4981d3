//! Random faults, one upon another, from a seed that is printed; then everything is healed, and judged.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::random::{OnPanic, Random, seeds};
use crate::wait::{now_ms, wait_until_ms};
use crate::work::{Work, says_revision};

/// How long the faults go on, unless CHRONO_FLOW_MIXED_S says otherwise.
const MIXED_S_DEFAULT: u64 = 90;
/// Faults that are there at a time, at most.
const FAULTS_MAX: usize = 2;
/// Longer than the lease of a session.
const LAPSE_MS: i64 = 17_000;

/// What is broken, until it is healed.
#[derive(Clone, PartialEq, Debug)]
enum Fault {
    /// Killed, or asked to stop.
    ControllerGone(u64),
    ControllerFrozen(u64),
    AllControllersGone,
    WorkerGone(String),
    WorkerFrozen(String),
    DatabaseGone,
    DatabaseFrozen,
}

struct Storm {
    cluster: Cluster,
    random: Random,
    /// With the moment at which each is healed.
    faults: Vec<(i64, Fault)>,
    count: usize,
}

impl Storm {
    /// One step: what is due is healed, and perhaps something breaks.
    fn step(&mut self, work: &mut Work) {
        let (due, later) = self.faults.drain(..).partition(|(until_ms, _)| *until_ms <= now_ms());
        self.faults = later;
        for (_, fault) in due {
            self.heal(fault);
        }
        if self.faults.len() < FAULTS_MAX && self.random.chance(35) {
            self.strike();
        } else if self.random.chance(30) {
            self.change(work);
        }
    }

    fn strike(&mut self) {
        let short = |random: &mut Random| 200 + random.below(6_000) as i64;
        let (fault, for_ms) = match self.random.below(11) {
            // Most of the time the one that matters.
            0..=3 => {
                let leader = self.cluster.leader().filter(|_| self.random.chance(70));
                let id = leader.unwrap_or_else(|| 1 + self.random.below(3));
                let fault = if self.random.chance(40) { Fault::ControllerFrozen(id) } else { Fault::ControllerGone(id) };
                (fault, short(&mut self.random))
            }
            4 => (Fault::AllControllersGone, short(&mut self.random) / 2),
            5..=6 => (Fault::WorkerGone(self.worker()), short(&mut self.random)),
            7..=8 => {
                let for_ms = if self.random.chance(25) { LAPSE_MS } else { short(&mut self.random) };
                (Fault::WorkerFrozen(self.worker()), for_ms)
            }
            9 => (Fault::DatabaseGone, short(&mut self.random)),
            _ => (Fault::DatabaseFrozen, short(&mut self.random)),
        };
        if self.is_possible(&fault) {
            eprintln!("{} {fault:?} for {for_ms} ms", jiff::Timestamp::now());
            self.begin(&fault);
            self.faults.push((now_ms() + for_ms, fault));
            self.count += 1;
        }
    }

    fn worker(&mut self) -> String {
        format!("worker-{}", 1 + self.random.below(3))
    }

    /// Whether this may break beside what is broken already.
    fn is_possible(&self, fault: &Fault) -> bool {
        let is_part = |fault: &Fault| match fault {
            Fault::ControllerGone(_) | Fault::ControllerFrozen(_) | Fault::AllControllersGone => 'c',
            Fault::WorkerGone(_) | Fault::WorkerFrozen(_) => 'w',
            Fault::DatabaseGone | Fault::DatabaseFrozen => 'd',
        };
        // One of a kind at a time: a quorum, or nobody; most workers; and the database.
        self.faults.iter().all(|(_, other)| is_part(other) != is_part(fault))
    }

    fn begin(&mut self, fault: &Fault) {
        let cluster = &mut self.cluster;
        match fault {
            Fault::ControllerGone(id) if self.random.chance(30) => cluster.controller(*id).stop(),
            Fault::ControllerGone(id) => cluster.controller(*id).kill(),
            Fault::ControllerFrozen(id) => cluster.controller(*id).freeze(),
            Fault::AllControllersGone => cluster.controllers.values_mut().for_each(|node| node.kill()),
            Fault::WorkerGone(name) => cluster.worker(name).kill(),
            Fault::WorkerFrozen(name) if self.random.chance(50) => cluster.worker(name).freeze(),
            Fault::WorkerFrozen(name) => cluster.worker(name).freeze_all(),
            Fault::DatabaseGone if self.random.chance(50) => cluster.postgres.stop(),
            Fault::DatabaseGone => cluster.postgres.stop_immediate(),
            Fault::DatabaseFrozen => cluster.postgres.pause(),
        }
    }

    fn heal(&mut self, fault: Fault) {
        let cluster = &mut self.cluster;
        match fault {
            Fault::ControllerGone(id) => cluster.controller(id).start(),
            Fault::ControllerFrozen(id) => cluster.controller(id).thaw(),
            Fault::AllControllersGone => cluster.controllers.values_mut().for_each(|node| node.start()),
            Fault::WorkerGone(name) => cluster.worker(&name).start(),
            Fault::WorkerFrozen(name) => cluster.worker(&name).thaw(),
            Fault::DatabaseGone => cluster.postgres.start_again(),
            Fault::DatabaseFrozen => cluster.postgres.resume(),
        }
    }

    /// A change of a job, where somebody can take it.
    fn change(&mut self, work: &mut Work) {
        let is_in_the_way = |fault: &Fault| !matches!(fault, Fault::ControllerGone(_) | Fault::ControllerFrozen(_) | Fault::WorkerGone(_));
        if self.faults.iter().any(|(_, fault)| is_in_the_way(fault)) {
            return;
        }
        let api = self.cluster.api();
        match self.random.below(3) {
            0 => work.job("paused").pause(&api),
            1 => work.job("paused").resume(&api),
            _ => work.job("edited").edit(&api, &self.cluster),
        }
    }
}

#[test]
fn whatever_breaks_every_fire_has_one_fate_and_history_is_what_the_witness_saw() {
    let seed = seeds(1).next().expect("a seed");
    let _named = OnPanic(seed);
    eprintln!("CHRONO_FLOW_SEED={seed}");
    let mixed_s = std::env::var("CHRONO_FLOW_MIXED_S").ok().map_or(MIXED_S_DEFAULT, |text| text.parse().expect("seconds"));
    let cluster = Cluster::start_with(Options { workers: 3, ..Options::default() });
    let mut work = Work::start(&cluster);
    work.add(&cluster, "edited", 1, &says_revision(1), json!({}));
    work.add(&cluster, "paused", 1, "w end", json!({}));
    work.add(&cluster, "retried", 2, "sleep 3; w end", json!({"on_worker_lost": "retry", "kill_grace_s": 1}));
    let mut storm = Storm { cluster, random: Random(seed), faults: Vec::new(), count: 0 };
    let until_ms = now_ms() + mixed_s as i64 * 1000;
    while now_ms() < until_ms {
        storm.step(&mut work);
        std::thread::sleep(Duration::from_millis(200 + storm.random.below(1_500)));
    }
    for (_, fault) in std::mem::take(&mut storm.faults) {
        storm.heal(fault);
    }
    eprintln!("healed after {} faults", storm.count);
    storm.cluster.wait_ready();
    wait_until_ms(now_ms() + 4_000);
    let verdict = work.finish(&storm.cluster);
    // Where a worker died, what ran there is lost.
    let is_excused = |state: &str, reason: &str| state == "lost" && ["worker_restarted", "worker_lost"].contains(&reason);
    verdict.check_fates(&work, is_excused);
    let lost = verdict.rows.iter().filter(|row| row.state == "lost").count();
    eprintln!("{} runs, {lost} of them were on a worker when it died", verdict.rows.len());
}
