//! Histories with fixed seeds, and that one seed is one history.

use chrono_flow::engine::api::Engine;
use chrono_flow::model::{JobSpec, Overlap, WorkerState};
use uuid::Uuid;

use crate::checks::{Aftermath, Outcome};
use crate::clocks::DAY;
use crate::controller::{Controller, FEW_UNRECORDED};
use crate::faults::{Mend, Trouble};
use crate::random::{OnPanic, seeds};
use crate::shrink::{self, Storm};
use crate::sim::Sim;
use crate::users::JOBS_MAX;
use crate::worker::Worker;

/// Longest silence of a job that fires every second, once the faults have healed and no rule says to wait: 2 s, and by how much clocks and
/// the steps of this look differ.
const SILENCE_MS_MAX: u64 = 2_100;

/// From the first boot to the last check.
pub fn live(seed: u64) -> Outcome {
    live_with(seed, None)
}

/// The same, with one kind of trouble more often than the others.
pub fn live_with(seed: u64, focus: Option<Trouble>) -> Outcome {
    live_in(seed, &Storm::with(focus))
}

pub fn live_in(seed: u64, storm: &Storm) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut sim = Sim::new(seed, storm);
        sim.run_until(1_500).await;
        sim.run_until(storm.ms).await;
        sim.come_to_rest().await
    })
}

impl Sim {
    async fn come_to_rest(&mut self) -> Outcome {
        self.is_calm = true;
        let aftermath = self.aftermath();
        self.heal();
        let healed_ms = self.now_ms;
        self.trace("heal", 0, 0);
        while self.leader().is_none() {
            self.run_until(self.now_ms + 20).await;
            assert!(self.now_ms < healed_ms + 10_000, "no leader within 10 s");
        }
        let leader_ms = self.now_ms - healed_ms;
        self.remove_wiped().await;
        // Deciding stands still while too much waits to be recorded (PROTOCOL B10), and the limit is a low one here.
        while self.witness.ledger.unrecorded_len() > FEW_UNRECORDED / 2 {
            self.run_until(self.now_ms + 100).await;
            assert!(self.now_ms < healed_ms + 120_000, "what waits is not recorded within 120 s");
        }
        let recorded_ms = self.now_ms - healed_ms;
        // A process that has gone for good, or lost its disk, holds what it was given until its session is over.
        while self.witness.ledger.sessions().any(|session| !self.lives(session.data_dir)) {
            self.run_until(self.now_ms + 100).await;
            assert!(self.now_ms < healed_ms + 120_000, "the session of a process that is gone does not end");
        }
        if self.users.jobs_max > JOBS_MAX {
            // They take all slots there are.
            self.delete_all();
            self.rest().await;
        }
        let (taken_ms, silence_ms) = self.probe().await;
        self.delete_all();
        self.run_until(self.now_ms + 10_000).await;
        self.rest().await;
        let ledger = &self.witness.ledger;
        assert_eq!(self.store.lock().unwrap().jobs.len(), 0, "the jobs could not be deleted");
        assert_eq!(ledger.jobs().count(), 0, "the ledger still has jobs");
        assert_eq!(ledger.open_runs().count(), 0, "a run never ends: {:#?}", ledger.open_runs().next());
        assert_eq!(ledger.waiting().count(), 0, "a fire waits for ever");
        assert_eq!(ledger.unrecorded_len(), 0, "something is never recorded");
        let members = self.members();
        for controller in self.controllers.values().filter(|it| members.contains(&it.id)) {
            let replica = controller.ledger().expect("all are up");
            assert_eq!(replica.applied(), ledger.applied(), "node {} lags behind", controller.id);
            self.witness.compare(controller.id, &replica);
        }
        self.check_history();
        let fires = self.witness.history.check_fates() as u64;
        Outcome {
            digest: self.digest(),
            fires,
            starts: self.witness.starts,
            packets: self.packets,
            simulated_ms: self.now_ms,
            leader_ms,
            recorded_ms,
            taken_ms,
            silence_ms,
            aftermath,
        }
    }

    /// Whether the worker of this data directory is there, or comes back.
    fn lives(&self, data_dir: Uuid) -> bool {
        let is_up = |it: &Worker| it.agent.is_some() || it.restarts_at_ms.is_some();
        self.workers.iter().any(|it| it.data_dir == data_dir && is_up(it))
    }

    async fn rest(&mut self) {
        for _ in 0..100 {
            if self.is_at_rest() {
                break;
            }
            self.run_until(self.now_ms + 2_000).await;
        }
    }

    fn is_at_rest(&self) -> bool {
        let ledger = &self.witness.ledger;
        let is_even = |it: &crate::controller::Controller| it.ledger().is_some_and(|replica| replica.applied() == ledger.applied());
        let is_idle = ledger.jobs().next().is_none() && ledger.open_runs().next().is_none() && ledger.waiting().next().is_none();
        let members = self.members();
        is_idle && ledger.unrecorded_len() == 0 && self.controllers.values().filter(|it| members.contains(&it.id)).all(is_even)
    }

    /// Why it may be that nothing fires.
    fn how_it_is(&self) -> String {
        let leader = self.leader().and_then(|id| self.controllers[&id].life.as_ref());
        let readiness = leader.map(|life| life.engine.readiness());
        let ledger = &self.witness.ledger;
        let (behind_ms, held) = (self.now_ms as i64 - ledger.watermark().since(DAY), ledger.unrecorded_len());
        format!("{readiness:?}, watermark {behind_ms} ms behind, {held} runs to be recorded, {} open", ledger.open_runs().count())
    }

    /// As it is when the faults heal.
    fn aftermath(&self) -> Aftermath {
        let is_clock = |mend: &Mend| matches!(mend, Mend::Clock(_));
        let doubts = |it: &Controller| it.life.as_ref().is_some_and(|life| life.engine.now().is_err());
        let is_off = |it: &Controller| {
            let workers = it.life.as_ref().map(|life| life.engine.workers()).unwrap_or_default();
            workers.iter().any(|worker| worker.state == WorkerState::BadClock)
        };
        if self.mends.values().flatten().any(is_clock) || self.controllers.values().any(|it| doubts(it) || is_off(it)) {
            return Aftermath::Clocks;
        }
        let sessions = self.workers.iter().filter_map(|worker| worker.agent.as_ref()?.runs.session());
        let is_open = |session| self.witness.ledger.session(session).is_some();
        if sessions.into_iter().any(is_open) { Aftermath::Nothing } else { Aftermath::Sessions }
    }

    /// A job that fires every second: how long until the ledger has it (its notification may be lost, and the feed looks every 5 s),
    /// and its longest silence from then on.
    async fn probe(&mut self) -> (u64, u64) {
        let mut spec = JobSpec::new("probe", "* * * * * *", "30 0 0");
        spec.overlap = Overlap::Allow;
        // What a worker was given just before its disk was wiped, or before it went for good, has no other end.
        spec.lost_after_s = 20;
        let made_ms = self.now_ms;
        let now = self.controllers[&1].clock.wall(self.now_ms);
        let job = self.store.lock().unwrap().create(spec, now);
        while !self.witness.ledger.has_job(job) {
            self.run_until(self.now_ms + 20).await;
            assert!(self.now_ms < made_ms + 15_000, "the probe does not come into the ledger: {}", self.how_it_is());
        }
        let began_ms = self.now_ms;
        let (mut last_ms, mut silence_ms) = (began_ms, 0);
        while self.now_ms < began_ms + 20_000 {
            self.run_until(self.now_ms + 20).await;
            let started_ms = self.witness.last_starts.get(&job).copied().unwrap_or(began_ms);
            silence_ms = silence_ms.max(self.now_ms - last_ms);
            last_ms = last_ms.max(started_ms);
        }
        assert!(last_ms + 3_000 > self.now_ms, "the probe does not fire any more: {}", self.how_it_is());
        (began_ms - made_ms, silence_ms)
    }
}

#[test]
fn whatever_happens_every_fire_has_one_fate_and_nothing_starts_twice() {
    let started = std::time::Instant::now();
    let storm = Storm::of_environment();
    let mut all: Vec<Outcome> = Vec::new();
    for seed in seeds(30) {
        let _name_the_seed = OnPanic(seed);
        let outcome = shrink::live(seed, &storm);
        println!("seed {seed}: {outcome:?}");
        all.push(outcome);
    }
    let sum = |of: fn(&Outcome) -> u64| all.iter().map(of).sum::<u64>();
    let simulated_s = sum(|outcome| outcome.simulated_ms) / 1_000;
    let rate = simulated_s as f64 / started.elapsed().as_secs_f64();
    let worst = |aftermath: Aftermath| {
        let of_kind = || all.iter().filter(|outcome| outcome.aftermath == aftermath);
        (of_kind().count(), of_kind().map(|outcome| outcome.silence_ms).max().unwrap_or(0))
    };
    let [(_, plain_ms), (clocks, clocks_ms), (sessions, sessions_ms)] =
        [Aftermath::Nothing, Aftermath::Clocks, Aftermath::Sessions].map(worst);
    let taken_ms = all.iter().map(|outcome| outcome.taken_ms).max().unwrap_or(0);
    let (fires, starts) = (sum(|outcome| outcome.fires), sum(|outcome| outcome.starts));
    println!("{} seeds, {fires} fires, {starts} starts, {simulated_s} s simulated, {rate:.0} times real time", all.len());
    // For scripts/soak.
    let elapsed_ms = started.elapsed().as_millis();
    println!(
        "total {} {fires} {starts} {simulated_s} {elapsed_ms} {plain_ms} {clocks} {clocks_ms} {sessions} {sessions_ms} {taken_ms}",
        all.len()
    );
    for (seed, outcome) in seeds(30).zip(&all) {
        let is_quick = outcome.aftermath != Aftermath::Nothing || outcome.silence_ms <= SILENCE_MS_MAX;
        assert!(is_quick, "seed {seed}: a job was silent for {} ms after the heal", outcome.silence_ms);
    }
    assert!(all.len() < 10 || fires > 50 * all.len() as u64, "the histories are too quiet to show anything");
}

#[test]
fn one_seed_gives_one_history() {
    let first = live(1_001);
    assert_eq!(first.digest, live(1_001).digest);
    assert_ne!(first.digest, live(1_002).digest);
}
