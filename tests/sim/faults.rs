//! What goes wrong: one thing at a time, two at once, and a few combinations that the rules of the protocol are there for.

use std::collections::BTreeSet;

use chrono_flow::model::{JobId, JobSpec, NodeId};
use chrono_flow::rpc::peer::MembersWish;

use crate::disk::Loss;
use crate::network::{FAIR, Place, Weather};
use crate::random::Random;
use crate::sim::{RIVAL, Sim};

/// Something that is to be mended.
pub enum Mend {
    Unblock(Place, Place),
    Weather,
    Store,
    CutOff(NodeId),
    Disk(NodeId),
    Clock(Place),
    /// A controller's clock is set by so many milliseconds.
    SetsClock(NodeId, i64),
    Spool(usize),
    /// The second process of a name goes, and doesn't come back.
    Rival,
    /// The process is started again.
    Restart(usize),
    /// Another one is to lead.
    Leader(NodeId),
    /// This one is to lead.
    LeadsAgain(NodeId),
    /// A job is written as it was.
    Job(JobId, Box<JobSpec>),
    LargeFrames,
    /// The disk of the first is exchanged; the second, whose way to it is whole again, lacks entries; the third leads.
    Wipe([NodeId; 3]),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    BadWeather,
    Delays,
    IsolatesController,
    CutsOneWay,
    CutsWorkerFromLeader,
    IsolatesWorker,
    CrashesController,
    CutsPowerAtAWrite,
    PausesController,
    KillsWorker,
    KillsWorkerAtARecord,
    PowersOffWorker,
    PausesWorker,
    ControllersClock,
    WorkersClock,
    StopsStore,
    CutsFromStore,
    FillsDisk,
    LeaderSleeps,
    FillsSpool,
    SlowsStore,
    PausesMachine,
    WorkerSleepsAtItsBeat,
    HearsOnlyTheOldLeader,
    RebootsTwice,
    DrainsWorker,
    WipesWorker,
    StartsRival,
    KillsGuardian,
    StartsByAnotherTime,
    SetsClockWhileAsking,
    DelaysAnOpening,
    CutsLeaderAtAnEdit,
    CutsLeaderAtARefusal,
    LosesLargeFrames,
    LeaderWakesLate,
    RecorderStalls,
    EditsBack,
    WipesController,
}

use Trouble::*;

/// Each as often as it is here.
const TROUBLES: [Trouble; 34] = [
    BadWeather,
    Delays,
    IsolatesController,
    IsolatesController,
    CutsOneWay,
    CutsWorkerFromLeader,
    CutsWorkerFromLeader,
    IsolatesWorker,
    IsolatesWorker,
    CrashesController,
    CrashesController,
    CutsPowerAtAWrite,
    PausesController,
    KillsWorker,
    KillsWorkerAtARecord,
    KillsWorkerAtARecord,
    PowersOffWorker,
    PausesWorker,
    ControllersClock,
    WorkersClock,
    StopsStore,
    CutsFromStore,
    FillsDisk,
    LeaderSleeps,
    FillsSpool,
    SlowsStore,
    WorkerSleepsAtItsBeat,
    HearsOnlyTheOldLeader,
    RebootsTwice,
    DrainsWorker,
    DrainsWorker,
    WipesWorker,
    StartsRival,
    KillsGuardian,
];
/// A machine that stands still as a whole excuses what its guardian can't do: not in every history.
const PAUSES_MACHINES_EVERY: u64 = 3;

/// Those that come only where they are looked for.
const PLOTS: [Trouble; 10] = [
    StartsByAnotherTime,
    SetsClockWhileAsking,
    DelaysAnOpening,
    CutsLeaderAtAnEdit,
    CutsLeaderAtARefusal,
    LosesLargeFrames,
    LeaderWakesLate,
    RecorderStalls,
    EditsBack,
    WipesController,
];

/// All that can go wrong.
pub fn kinds() -> BTreeSet<Trouble> {
    TROUBLES.into_iter().chain(PLOTS).chain([PausesMachine]).collect()
}

impl Trouble {
    /// How often it comes where it is looked for: what lasts long needs others that are well meanwhile.
    fn percent(self) -> u64 {
        match self {
            LeaderSleeps => 10,
            IsolatesWorker => 25,
            _ => 50,
        }
    }
}

impl Sim {
    pub fn some_node(&mut self) -> NodeId {
        let ids: Vec<NodeId> = self.controllers.keys().copied().collect();
        // Leaders are worth more.
        let leader = self.leader().filter(|_| self.random.chance(40));
        leader.unwrap_or_else(|| self.random.pick(&ids))
    }

    pub fn some_worker(&mut self) -> usize {
        self.random.below(RIVAL as u64) as usize
    }

    pub fn later(&mut self, ms_max: u64) -> u64 {
        self.now_ms + 200 + self.random.below(ms_max)
    }

    pub fn trouble(&mut self) {
        self.troubles_at_ms = self.now_ms + 300 + self.troubles.below(6_000);
        self.one_trouble();
        if self.troubles.chance(30) {
            self.one_trouble();
        }
    }

    /// What comes next, and the seed of all that is drawn for it: what comes after it doesn't depend on it.
    fn next_trouble(&mut self) -> (Trouble, u64) {
        let random = &mut self.troubles;
        let any = if self.seed.is_multiple_of(PAUSES_MACHINES_EVERY) && random.chance(5) { PausesMachine } else { random.pick(&TROUBLES) };
        let trouble = self.focus.filter(|focus| random.chance(focus.percent())).unwrap_or(any);
        (trouble, random.next())
    }

    fn one_trouble(&mut self) {
        let (trouble, seed) = self.next_trouble();
        if !self.kinds.contains(&trouble) {
            return;
        }
        self.trace("trouble", trouble as u64, 0);
        let others = std::mem::replace(&mut self.random, Random(seed));
        self.cause(trouble);
        self.random = others;
    }

    fn cause(&mut self, trouble: Trouble) {
        match trouble {
            BadWeather => self.weather(Weather { drop_percent: 20, duplicate_percent: 10, delay_ms_max: 60 }),
            Delays => self.weather(Weather { drop_percent: 2, duplicate_percent: 30, delay_ms_max: 250 }),
            IsolatesController => self.isolate_controller(),
            CutsOneWay => self.cut_one_way(),
            CutsWorkerFromLeader => self.cut_worker_from_leader(),
            IsolatesWorker => self.isolate_worker(),
            CrashesController => self.crash_controller(),
            CutsPowerAtAWrite => self.cut_power_at_a_write(),
            PausesController => self.pause_controller(),
            KillsWorker => self.kill_worker(),
            KillsWorkerAtARecord => {
                let index = self.some_worker();
                self.workers[index].dies_after_records = Some(self.random.below(12));
            }
            PowersOffWorker => self.power_off_worker(),
            PausesWorker => self.pause_worker(),
            ControllersClock => self.clock_trouble(),
            WorkersClock => self.worker_clock_trouble(),
            StopsStore => self.store_outage(),
            CutsFromStore => self.cut_from_store(),
            FillsDisk => self.fill_disk(),
            LeaderSleeps => self.leader_sleeps_over_its_lease(),
            FillsSpool => self.fill_spool(),
            SlowsStore => self.store_is_slow(),
            PausesMachine => self.pause_machine(),
            WorkerSleepsAtItsBeat => self.worker_sleeps_at_its_beat(),
            HearsOnlyTheOldLeader => self.hears_only_the_old_leader(),
            RebootsTwice => self.reboots_twice(),
            DrainsWorker => self.drain_worker(),
            WipesWorker => self.wipe_worker(),
            StartsRival => self.start_rival(),
            KillsGuardian => self.kill_guardian(),
            StartsByAnotherTime => self.start_by_another_time(),
            SetsClockWhileAsking => self.set_clock_while_asking(),
            DelaysAnOpening => self.delay_an_opening(),
            CutsLeaderAtAnEdit => self.cut_leader_at_an_edit(),
            CutsLeaderAtARefusal => self.cut_leader_at_a_refusal(),
            LosesLargeFrames => self.lose_large_frames(),
            LeaderWakesLate => self.leader_wakes_late(),
            RecorderStalls => self.recorder_stalls(),
            EditsBack => drop(self.edit_and_back()),
            WipesController => self.wipe_controller(),
        }
    }

    fn weather(&mut self, weather: Weather) {
        self.network.weather = weather;
        let at = self.later(8_000);
        self.mend_at(at, Mend::Weather);
    }

    pub fn cut(&mut self, from: Place, to: Place, until_ms: u64) {
        self.network.block(from, to);
        self.mend_at(until_ms, Mend::Unblock(from, to));
    }

    fn isolate_controller(&mut self) {
        let id = self.some_node();
        let (me, until_ms, is_one_way) = (Place::Controller(id), self.later(12_000), self.random.chance(30));
        let others: Vec<Place> = self.controllers.keys().filter(|other| **other != id).map(|other| Place::Controller(*other)).collect();
        for other in others {
            self.cut(me, other, until_ms);
            if !is_one_way {
                self.cut(other, me, until_ms);
            }
        }
    }

    fn cut_one_way(&mut self) {
        let (from, to, until_ms) = (self.some_node(), self.some_node(), self.later(12_000));
        self.cut(Place::Controller(from), Place::Controller(to), until_ms);
    }

    fn cut_worker_from_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let (worker, until_ms) = (Place::Worker(self.some_worker()), self.later(25_000));
        let way = self.random.below(3);
        if way != 0 {
            self.cut(Place::Controller(leader), worker, until_ms);
        }
        if way != 1 {
            self.cut(worker, Place::Controller(leader), until_ms);
        }
    }

    fn isolate_worker(&mut self) {
        let over_its_lease_ms = self.random.pick(&[0, 25_000]);
        let (worker, until_ms) = (Place::Worker(self.some_worker()), self.later(20_000) + over_its_lease_ms);
        let is_deaf = self.random.chance(60);
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            self.cut(worker, Place::Controller(id), until_ms);
            if is_deaf {
                self.cut(Place::Controller(id), worker, until_ms);
            }
        }
    }

    pub fn loss(&mut self) -> Loss {
        if self.random.chance(50) { Loss::Everything } else { Loss::Some }
    }

    fn crash_controller(&mut self) {
        let id = self.some_node();
        let loss = self.loss();
        let restarts_at_ms = self.later(10_000);
        self.crash(id, loss, restarts_at_ms);
    }

    /// At a sync, before it has an effect.
    fn cut_power_at_a_write(&mut self) {
        let id = self.some_node();
        let syncs = self.random.below(12);
        self.controllers[&id].disk.cut_after(syncs);
    }

    fn pause_controller(&mut self) {
        let id = self.some_node();
        let until_ms = self.later(20_000);
        self.controllers.get_mut(&id).expect("a known node").paused_until_ms = until_ms;
    }

    fn kill_worker(&mut self) {
        let index = self.some_worker();
        let at_ms = self.later(12_000);
        self.workers[index].die();
        self.worker_is_down(index, at_ms);
    }

    fn power_off_worker(&mut self) {
        let index = self.some_worker();
        let at_ms = self.later(25_000);
        self.workers[index].power_off();
        self.worker_is_down(index, at_ms);
    }

    /// SIGSTOP of the agent; its guardian goes on.
    fn pause_worker(&mut self) {
        let index = self.some_worker();
        self.workers[index].agent_paused_until_ms = self.later(30_000);
    }

    fn pause_machine(&mut self) {
        let index = self.some_worker();
        self.workers[index].machine_paused_until_ms = self.later(25_000);
        self.workers[index].was_machine_paused = true;
    }

    /// One controller's clock at a time: with two of three wrong, the majority is.
    pub fn is_a_clock_off(&self) -> bool {
        self.mends.values().flatten().any(|mend| matches!(mend, Mend::Clock(Place::Controller(_))))
    }

    fn clock_trouble(&mut self) {
        if self.is_a_clock_off() {
            return;
        }
        let id = self.some_node();
        let jump_ms = self.random.pick(&[-3_600_000, -60_000, -3_000, -800, 300, 800, 3_000, 30_000, 3_600_000]);
        let drift_ppm = self.random.pick(&[-20_000, -2_000, 2_000, 20_000]);
        let now_ms = self.now_ms;
        let clock = &mut self.controllers.get_mut(&id).expect("a known node").clock;
        if self.random.chance(60) {
            clock.jump(jump_ms)
        } else {
            clock.set_drift(now_ms, drift_ppm)
        }
        self.had_clock_trouble = true;
        let at = self.later(20_000);
        self.mend_at(at, Mend::Clock(Place::Controller(id)));
    }

    fn worker_clock_trouble(&mut self) {
        let index = self.some_worker();
        // By no controller's jump: where the others can't be heard, two wrong clocks that agree can't be told from right ones.
        let jump_ms = self.random.pick(&[-3_610_000, -5_000, 300, 5_000, 3_610_000]);
        self.workers[index].clock.jump(jump_ms);
        let at = self.later(20_000);
        self.mend_at(at, Mend::Clock(Place::Worker(index)));
    }

    fn store_outage(&mut self) {
        let mut store = self.store.lock().unwrap();
        if self.random.chance(60) {
            store.is_down = true
        } else {
            store.fail_percent = 40
        }
        drop(store);
        let at = self.later(25_000);
        self.mend_at(at, Mend::Store);
    }

    fn store_is_slow(&mut self) {
        self.store.lock().unwrap().latency_ms_max = 1_500;
        let at = self.later(15_000);
        self.mend_at(at, Mend::Store);
    }

    fn cut_from_store(&mut self) {
        let id = self.some_node();
        self.store.lock().unwrap().cut_off.insert(id);
        let at = self.later(30_000);
        self.mend_at(at, Mend::CutOff(id));
    }

    /// ENOSPC: the node stops, and comes back when there is room.
    fn fill_disk(&mut self) {
        let id = self.some_node();
        self.controllers[&id].disk.set_broken(Some(28));
        let at = self.later(8_000);
        self.mend_at(at, Mend::Disk(id));
    }

    fn fill_spool(&mut self) {
        let index = self.some_worker();
        self.workers[index].is_spool_full = true;
        let at = self.later(8_000);
        self.mend_at(at, Mend::Spool(index));
    }

    /// The leader is stopped, and a worker hears of no other: when it goes on, whatever it says counts no more (PROTOCOL C3).
    pub fn leader_sleeps_over_its_lease(&mut self) {
        let Some(leader) = self.leader() else { return };
        let index = self.some_worker();
        let asleep_ms = 9_000 + self.random.below(6_000);
        let until_ms = self.now_ms + asleep_ms + 10_000 + self.random.below(10_000);
        self.controllers.get_mut(&leader).expect("a known node").paused_until_ms = self.now_ms + asleep_ms;
        for id in self.controllers.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>() {
            self.cut(Place::Worker(index), Place::Controller(id), until_ms);
            self.cut(Place::Controller(id), Place::Worker(index), until_ms);
        }
    }

    /// A worker is stopped between a heartbeat and its answer, and then cut off: what it reads when it goes on is old (PROTOCOL C3).
    fn worker_sleeps_at_its_beat(&mut self) {
        let index = self.some_worker();
        self.workers[index].sleeps_at_next_beat_ms = Some(9_000 + self.random.below(5_000));
    }

    /// The worker has gone to sleep: from soon on it is cut off.
    pub fn cut_sleeping_worker(&mut self, index: usize) {
        let until_ms = self.now_ms + 30_000 + self.random.below(10_000);
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            self.cut(Place::Worker(index), Place::Controller(id), until_ms);
        }
    }

    /// A worker is heard by the leader alone, and then another one leads, which has not heard of it for long (PROTOCOL C4).
    fn hears_only_the_old_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let (index, until_ms) = (self.some_worker(), self.now_ms + 25_000 + self.random.below(10_000));
        for id in self.controllers.keys().copied().filter(|id| *id != leader).collect::<Vec<_>>() {
            self.cut(Place::Worker(index), Place::Controller(id), until_ms);
            self.cut(Place::Controller(id), Place::Worker(index), until_ms);
        }
        let at_ms = self.now_ms + 17_000 + self.random.below(3_000);
        self.mend_at(at_ms, Mend::Leader(leader));
    }

    /// A worker's machine is started anew, and its process once more before it has a session: what the journal lacks, it lacks still
    /// (PROTOCOL E1).
    fn reboots_twice(&mut self) {
        let (index, until_ms) = (self.some_worker(), self.now_ms + 2_500);
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            self.cut(Place::Worker(index), Place::Controller(id), until_ms);
        }
        self.workers[index].power_off();
        self.worker_is_down(index, self.now_ms + 300);
        self.mend_at(self.now_ms + 1_500, Mend::Restart(index));
    }

    /// SIGTERM; a second one, perhaps. It comes back.
    fn drain_worker(&mut self) {
        let (index, drain_ms) = (self.some_worker(), self.random.pick(&[0, 2_000, 8_000, 30_000]));
        self.workers[index].ask_to_stop(drain_ms);
        if self.workers[index].agent.is_none() && self.workers[index].restarts_at_ms.is_none() {
            let at_ms = self.later(12_000);
            self.worker_is_down(index, at_ms);
        }
    }

    /// A worker comes back with an empty disk, soon or late (PROTOCOL C1).
    fn wipe_worker(&mut self) {
        let index = self.some_worker();
        let at_ms = self.later(25_000);
        self.workers[index].wipe();
        self.worker_is_down(index, at_ms);
    }

    /// A second process comes that has the name of the first worker, and another disk (PROTOCOL C1). The first one may be cut off.
    fn start_rival(&mut self) {
        if self.workers[RIVAL].agent.is_some() || self.workers[RIVAL].restarts_at_ms.is_some() {
            return;
        }
        let until_ms = self.later(25_000) + 20_000;
        self.workers[RIVAL].wipe();
        self.workers[RIVAL].restarts_at_ms = Some(self.now_ms + 100);
        self.mend_at(until_ms, Mend::Rival);
        if self.random.chance(70) {
            let ends_ms = self.later(40_000);
            for id in self.controllers.keys().copied().collect::<Vec<_>>() {
                self.cut(Place::Worker(0), Place::Controller(id), ends_ms);
            }
        }
    }

    /// The guardian is killed: alone, or with its agent.
    fn kill_guardian(&mut self) {
        let (index, with_agent) = (self.some_worker(), self.random.chance(50));
        if self.workers[index].agent.is_none() {
            return;
        }
        self.workers[index].kill_guardian(with_agent);
        if with_agent {
            let at_ms = self.later(12_000);
            self.worker_is_down(index, at_ms);
        }
    }

    // ---- mending

    pub fn mend_at(&mut self, at_ms: u64, mend: Mend) {
        self.mends.entry(at_ms).or_default().push(mend);
    }

    pub fn mend_due(&mut self) {
        while let Some(entry) = self.mends.first_entry().filter(|entry| *entry.key() <= self.now_ms) {
            for mend in entry.remove() {
                self.mend(mend);
            }
        }
    }

    fn mend(&mut self, mend: Mend) {
        let now_ms = self.now_ms;
        match mend {
            Mend::Unblock(from, to) => self.network.unblock(now_ms, from, to),
            Mend::Weather => self.network.weather = FAIR,
            Mend::Store => {
                let cut_off = std::mem::take(&mut self.store.lock().unwrap().cut_off);
                self.store.lock().unwrap().heal();
                self.store.lock().unwrap().cut_off = cut_off;
            }
            Mend::CutOff(id) => drop(self.store.lock().unwrap().cut_off.remove(&id)),
            Mend::Disk(id) => self.controllers[&id].disk.set_broken(None),
            Mend::Clock(Place::Controller(id)) => self.controllers.get_mut(&id).expect("a known node").clock.set_right(now_ms),
            Mend::SetsClock(id, ms) => self.controllers.get_mut(&id).expect("a known node").clock.jump(ms),
            Mend::Clock(Place::Worker(index)) => self.workers[index].clock.set_right(now_ms),
            Mend::Leader(id) => self.wish(id, MembersWish::Transfer { to: None }),
            Mend::Rival => {
                self.workers[RIVAL].die();
                self.workers[RIVAL].restarts_at_ms = None;
                self.network.lives.remove(&Place::Worker(RIVAL));
                self.trace("rival down", RIVAL as u64, 0);
            }
            Mend::LeadsAgain(id) => self.wish(id, MembersWish::Transfer { to: Some(id) }),
            Mend::Job(id, spec) => self.write_job(id, *spec),
            Mend::LargeFrames => self.network.frame_bytes_max = usize::MAX,
            Mend::Wipe([wiped, last, leader]) => self.wipe(wiped, last, leader),
            Mend::Restart(index) => {
                self.workers[index].die();
                self.worker_is_down(index, now_ms + 300);
            }
            Mend::Spool(index) => self.workers[index].is_spool_full = false,
        }
    }

    /// Everything is well again from now on.
    pub fn heal(&mut self) {
        for mend in std::mem::take(&mut self.mends).into_values().flatten() {
            self.mend(mend);
        }
        let now_ms = self.now_ms;
        for (from, to) in self.network.blocked_ways() {
            self.network.unblock(now_ms, from, to);
        }
        self.store.lock().unwrap().heal();
        self.cuts_leader_at = None;
        for controller in self.controllers.values_mut() {
            controller.paused_until_ms = now_ms;
            controller.disk.no_cut();
            controller.disk.set_broken(None);
            controller.restarts_at_ms = controller.restarts_at_ms.map(|_| now_ms);
        }
        for worker in &mut self.workers {
            worker.agent_paused_until_ms = now_ms;
            worker.machine_paused_until_ms = now_ms;
            worker.sleeps_at_next_beat_ms = None;
            worker.dies_after_records = None;
            if worker.is_leaving() {
                worker.die();
            }
            if worker.agent.is_none() && worker.index != RIVAL {
                worker.restarts_at_ms = Some(now_ms);
            }
        }
    }
}
