//! Histories with fixed seeds, and that one seed is one history.

use chrono_flow::engine::api::Engine;
use chrono_flow::model::{JobSpec, Overlap};

use crate::checks::Outcome;
use crate::clocks::DAY;
use crate::controller::FEW_UNRECORDED;
use crate::faults::Trouble;
use crate::random::{OnPanic, seeds};
use crate::sim::Sim;

/// How long things go wrong.
const STORM_MS: u64 = 90_000;

/// From the first boot to the last check.
pub fn live(seed: u64) -> Outcome {
    live_with(seed, None)
}

/// The same, with one kind of trouble more often than the others.
pub fn live_with(seed: u64, focus: Option<Trouble>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let mut sim = Sim::new(seed, focus);
        sim.run_until(1_500).await;
        sim.run_until(STORM_MS).await;
        sim.come_to_rest().await
    })
}

impl Sim {
    async fn come_to_rest(&mut self) -> Outcome {
        self.is_calm = true;
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
        let silence_ms = self.probe().await;
        self.delete_all();
        self.run_until(self.now_ms + 10_000).await;
        for _ in 0..100 {
            if self.is_at_rest() {
                break;
            }
            self.run_until(self.now_ms + 2_000).await;
        }
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
            silence_ms,
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

    /// A job that fires every second: its longest silence from now on.
    async fn probe(&mut self) -> u64 {
        let mut spec = JobSpec::new("probe", "* * * * * *", "30 0 0");
        spec.overlap = Overlap::Allow;
        let began_ms = self.now_ms;
        let now = self.controllers[&1].clock.wall(self.now_ms);
        let job = self.store.lock().unwrap().create(spec, now);
        let (mut last_ms, mut silence_ms) = (began_ms, 0);
        while self.now_ms < began_ms + 20_000 {
            self.run_until(self.now_ms + 100).await;
            let started_ms = self.witness.last_starts.get(&job).copied().unwrap_or(began_ms);
            silence_ms = silence_ms.max(self.now_ms - last_ms);
            last_ms = last_ms.max(started_ms);
        }
        assert!(last_ms + 3_000 > self.now_ms, "the probe does not fire any more: {}", self.how_it_is());
        silence_ms
    }
}

#[test]
fn whatever_happens_every_fire_has_one_fate_and_nothing_starts_twice() {
    let started = std::time::Instant::now();
    let mut all: Vec<Outcome> = Vec::new();
    for seed in seeds(30) {
        let _name_the_seed = OnPanic(seed);
        let outcome = live(seed);
        println!("seed {seed}: {outcome:?}");
        all.push(outcome);
    }
    let sum = |of: fn(&Outcome) -> u64| all.iter().map(of).sum::<u64>();
    let simulated_s = sum(|outcome| outcome.simulated_ms) / 1_000;
    let rate = simulated_s as f64 / started.elapsed().as_secs_f64();
    let silence_ms = all.iter().map(|outcome| outcome.silence_ms).max().unwrap_or(0);
    let (fires, starts) = (sum(|outcome| outcome.fires), sum(|outcome| outcome.starts));
    println!("{} seeds, {fires} fires, {starts} starts, {simulated_s} s simulated, {rate:.0} times real time", all.len());
    // For scripts/soak.
    println!("total {} {fires} {starts} {simulated_s} {} {silence_ms}", all.len(), started.elapsed().as_millis());
    assert!(all.len() < 10 || fires > 50 * all.len() as u64, "the histories are too quiet to show anything");
}

#[test]
fn one_seed_gives_one_history() {
    let first = live(1_001);
    assert_eq!(first.digest, live(1_001).digest);
    assert_ne!(first.digest, live(1_002).digest);
}
