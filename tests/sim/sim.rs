//! The cluster, its time, and one step of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono_flow::consensus::Failure;
use chrono_flow::model::{JobId, NodeId, RunId};

use crate::clocks::NodeClock;
use crate::controller::{Controller, FEW_UNRECORDED, config};
use crate::disk::Loss;
use crate::faults::{Mend, Trouble};
use crate::network::{Message, Network, Packet, Place};
use crate::plots::Moment;
use crate::random::Random;
use crate::shrink::Storm;
use crate::store::{Client, State};
use crate::users::Users;
use crate::witness::Witness;
use crate::worker::{Event, Worker};

/// Timers inside of the nodes' tasks are looked at so often.
const STEP_MS_MAX: u64 = 20;
/// Every so many entries a replica is compared with the witness as a whole.
const COMPARE_EVERY: u64 = 32;

/// In some histories a further controller waits to become a member.
pub const SPARE: NodeId = 4;

/// Behind the workers, one that has the name of the first.
pub const RIVAL: usize = 3;

pub struct Sim {
    pub seed: u64,
    /// What goes wrong more often than anything else.
    pub focus: Option<Trouble>,
    /// All others are left out.
    pub kinds: BTreeSet<Trouble>,
    pub now_ms: u64,
    pub random: Random,
    /// When something goes wrong, and what: the same whether it is then done or not.
    pub troubles: Random,
    pub network: Network,
    pub controllers: BTreeMap<NodeId, Controller>,
    pub workers: Vec<Worker>,
    pub store: Arc<Mutex<State>>,
    pub witness: Witness,
    pub users: Users,
    pub troubles_at_ms: u64,
    pub mends: BTreeMap<u64, Vec<Mend>>,
    pub had_clock_trouble: bool,
    pub is_calm: bool,
    /// A member was asked to go.
    pub has_removed: bool,
    /// When the leader is to be cut off from the others.
    pub cuts_leader_at: Option<Moment>,
    /// Its disk was exchanged.
    pub wiped: Option<NodeId>,
    /// The highest term that each worker has heard of.
    pub terms: BTreeMap<usize, u64>,
    lives: u64,
    compared: BTreeMap<NodeId, u64>,
    trace: crc32fast::Hasher,
    is_told: bool,
    pub packets: u64,
}

impl Sim {
    pub fn new(seed: u64, storm: &Storm) -> Sim {
        let focus = storm.focus;
        let mut random = Random(seed);
        let count = if seed.is_multiple_of(5) { 5 } else { 3 };
        let founders: Vec<NodeId> = (1..=count).collect();
        let store = Arc::new(Mutex::new(State::new(random.next())));
        let snapshot_entries = random.pick(&[30, 100, 400]);
        let controller = |id: &NodeId| {
            let client = Client { state: store.clone(), node: *id };
            (*id, Controller::new(*id, config(*id, &founders, snapshot_entries), NodeClock::new(*id as i64 * 20 - 40), client))
        };
        let mut controllers: BTreeMap<NodeId, Controller> = founders.iter().map(controller).collect();
        if count == 3 && seed % 4 == 1 {
            controllers.extend([controller(&SPARE)]);
        }
        if focus == Some(Trouble::StopsStore) {
            controllers.values_mut().for_each(|it| it.unrecorded_max = FEW_UNRECORDED);
        }
        let names = ["a", "b", "c", "a"];
        let workers =
            names.iter().enumerate().map(|(index, name)| Worker::new(index, index as u128 + 1, name, random.next(), founders.clone()));
        let mut workers: Vec<Worker> = workers.collect();
        workers[RIVAL].restarts_at_ms = None;
        Sim {
            seed,
            focus,
            kinds: storm.kinds.clone(),
            now_ms: 0,
            network: Network::new(random.next()),
            controllers,
            workers,
            store,
            witness: Witness::new((focus == Some(Trouble::StopsStore)).then_some(FEW_UNRECORDED)),
            users: Users::new(random.next()),
            troubles_at_ms: 3_000,
            mends: BTreeMap::new(),
            had_clock_trouble: false,
            is_calm: false,
            has_removed: false,
            cuts_leader_at: None,
            wiped: None,
            terms: BTreeMap::new(),
            troubles: Random(random.next()),
            lives: 0,
            compared: BTreeMap::new(),
            trace: crc32fast::Hasher::new(),
            is_told: std::env::var_os("CHRONO_FLOW_TRACE").is_some(),
            packets: 0,
            random,
        }
    }

    /// One line of the history. What all lines say is its digest.
    pub fn trace(&mut self, what: &str, one: u64, other: u64) {
        self.trace.update(&self.now_ms.to_le_bytes());
        self.trace.update(what.as_bytes());
        self.trace.update(&one.to_le_bytes());
        self.trace.update(&other.to_le_bytes());
        if self.is_told {
            println!("{:>9.3} {what} {one} {other}", self.now_ms as f64 / 1_000.0);
        }
    }

    pub fn digest(&self) -> u32 {
        self.trace.clone().finalize()
    }

    /// Who leads the highest term, by its own word, and has applied an entry of it.
    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.controllers.values().filter_map(|it| Some((it.id, it.status()?)));
        leaders.filter(|(_, status)| status.first_own_applied).max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    /// Whom the leader takes for a member.
    pub fn members(&self) -> Vec<NodeId> {
        let status = self.leader().and_then(|id| self.controllers[&id].status());
        status.map_or_else(Vec::new, |status| status.members.iter().map(|member| member.id).collect())
    }

    // ---- lives

    fn start_due(&mut self) {
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            if self.controllers[&id].restarts_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
                self.start_controller(id);
            }
        }
        for index in 0..self.workers.len() {
            if self.workers[index].restarts_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
                self.lives += 1;
                let (now_ms, life) = (self.now_ms, self.lives);
                let worker = &mut self.workers[index];
                worker.restarts_at_ms = None;
                worker.start(now_ms, life);
                self.terms.remove(&index);
                self.network.lives.insert(Place::Worker(index), life);
                self.trace("worker up", index as u64, life);
            }
        }
    }

    fn start_controller(&mut self, id: NodeId) {
        self.lives += 1;
        let (now_ms, life, random) = (self.now_ms, self.lives, Random(self.random.next()));
        let controller = self.controllers.get_mut(&id).expect("a known node");
        controller.restarts_at_ms = None;
        match controller.start(now_ms, life, random) {
            Ok(()) => {
                self.network.lives.insert(Place::Controller(id), life);
                self.compared.insert(id, 0);
                self.trace("controller up", id, life);
            }
            Err(failure) => self.failed(id, failure),
        }
    }

    /// kill -9 and a power cut in one.
    pub fn crash(&mut self, id: NodeId, loss: Loss, restarts_at_ms: u64) {
        let random = &mut self.random;
        let controller = self.controllers.get_mut(&id).expect("a known node");
        controller.disk.crash(loss, random);
        controller.stop();
        controller.restarts_at_ms = Some(restarts_at_ms);
        self.network.lives.remove(&Place::Controller(id));
        self.trace("controller down", id, restarts_at_ms);
    }

    fn failed(&mut self, id: NodeId, failure: Failure) {
        let controller = self.controllers.get_mut(&id).expect("a known node");
        let restarts_at_ms = self.now_ms + 500 + self.random.below(4_000);
        let is_cut = controller.disk.is_cut();
        // What an exchanged disk has to come to (PROTOCOL G1).
        let is_told_so = self.wiped == Some(id) && matches!(failure, Failure::Refused { .. } | Failure::RolledBack { .. });
        assert!(is_cut || is_told_so || matches!(failure, Failure::Storage(_)), "node {id} failed: {failure}");
        let loss = if self.random.chance(50) { Loss::Everything } else { Loss::Some };
        self.crash(id, loss, restarts_at_ms);
        if is_told_so && self.is_calm {
            self.controllers.get_mut(&id).expect("a known node").restarts_at_ms = None;
        }
    }

    pub fn worker_is_down(&mut self, index: usize, restarts_at_ms: u64) {
        self.workers[index].restarts_at_ms = Some(restarts_at_ms);
        self.network.lives.remove(&Place::Worker(index));
        self.trace("worker down", index as u64, restarts_at_ms);
    }

    // ---- time

    pub async fn run_until(&mut self, end_ms: u64) {
        while self.now_ms < end_ms {
            self.step(end_ms).await;
        }
    }

    async fn step(&mut self, end_ms: u64) {
        let next_ms = self.next_due_ms().clamp(self.now_ms + 1, self.now_ms + STEP_MS_MAX).min(end_ms);
        tokio::time::advance(Duration::from_millis(next_ms - self.now_ms)).await;
        self.now_ms = next_ms;
        if !self.is_calm {
            if self.now_ms >= self.troubles_at_ms {
                self.trouble();
            }
            if self.now_ms >= self.users.next_ms {
                self.use_it();
            }
        }
        self.mend_due();
        self.start_due();
        self.deliver();
        for id in self.controllers.keys().copied().collect::<Vec<_>>() {
            self.pump_controller(id);
        }
        for index in 0..self.workers.len() {
            self.pump_worker(index);
        }
    }

    fn next_due_ms(&self) -> u64 {
        let now_ms = self.now_ms;
        let controllers = self.controllers.values().filter_map(|it| it.next_due_ms(now_ms));
        let workers = self.workers.iter().filter_map(|it| it.next_due_ms(now_ms));
        controllers.chain(workers).chain(self.network.next_due_ms()).min().unwrap_or(u64::MAX)
    }

    fn deliver(&mut self) {
        while let Some(packet) = self.network.deliver(self.now_ms) {
            self.packets += 1;
            self.trace(kind(&packet), place(packet.from), place(packet.to));
            match packet.to {
                Place::Controller(id) => {
                    if let (Message::Frame { is_snapshot: true, .. }, Place::Controller(from)) = (&packet.message, packet.from)
                        && let Some(life) = self.controllers.get(&from).and_then(|it| it.life.as_ref())
                    {
                        life.node.report_snapshot(id, true);
                    }
                    self.controllers.get_mut(&id).expect("a known node").arrivals.push_back(packet);
                }
                Place::Worker(index) => self.workers[index].arrivals.push_back(packet),
            }
        }
    }

    fn pump_controller(&mut self, id: NodeId) {
        let now_ms = self.now_ms;
        let controller = self.controllers.get_mut(&id).expect("a known node");
        if controller.life.is_none() || now_ms < controller.paused_until_ms {
            return;
        }
        controller.take_in();
        let result = controller.pump(now_ms);
        let Some(life) = &mut controller.life else { return };
        let seen = std::mem::take(&mut *life.seen.lock().unwrap());
        let (outgoing, ledger) = (life.outside.take(), (!seen.is_empty()).then(|| life.shared.ledger()));
        for seen in &seen {
            self.witness.seen(id, seen);
        }
        self.check_rivals();
        self.cut_leader_at_its_moment(id, &seen);
        if let Some(ledger) = ledger {
            let before = self.compared.insert(id, ledger.applied()).unwrap_or(0);
            let is_restored = seen.iter().any(|seen| matches!(seen, crate::controller::Seen::Restored));
            if is_restored || before / COMPARE_EVERY != ledger.applied() / COMPARE_EVERY {
                self.witness.compare(id, &ledger);
            }
            self.trace("applied", id, ledger.applied());
        }
        for (to, message) in outgoing {
            self.network.send(now_ms, Place::Controller(id), to, message);
        }
        if let Err(failure) = result {
            self.failed(id, failure);
        }
    }

    fn pump_worker(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let was_up = self.workers[index].agent.is_some();
        let outgoing = self.workers[index].pump(now_ms);
        for event in std::mem::take(&mut self.workers[index].events) {
            self.happened(index, event);
        }
        for (to, message) in outgoing {
            self.network.send(now_ms, Place::Worker(index), to, message);
        }
        if self.workers[index].has_fallen_asleep {
            self.workers[index].has_fallen_asleep = false;
            self.cut_sleeping_worker(index);
        }
        if was_up && self.workers[index].agent.is_none() {
            let restarts_at_ms = now_ms + 100 + self.random.below(5_000);
            self.worker_is_down(index, restarts_at_ms);
            if index == RIVAL {
                self.workers[RIVAL].restarts_at_ms = None;
            }
        }
    }

    fn happened(&mut self, index: usize, event: Event) {
        match event {
            Event::Started(started) => {
                self.trace("start", started.launch.run.0.as_u64_pair().1, started.epoch);
                let alive = self.alive();
                self.witness.started(self.now_ms, &started, &alive);
            }
            Event::NotStarted(run, epoch) => {
                self.trace("not started", run.0.as_u64_pair().1, epoch);
                self.witness.not_started(run, epoch);
            }
            Event::Obeyed(term) => self.obeyed(index, term),
            Event::Forgot(ended) => self.forgot(&ended),
        }
    }

    /// Runs that live, and whether they may overlap with their next attempt: their machine was stopped as a whole once, or nobody holds
    /// them any more.
    fn alive(&self) -> Vec<(RunId, JobId, bool)> {
        let processes = |worker: &Worker| {
            let is_excused = worker.was_machine_paused || worker.guardian.is_dead;
            let held = worker.guardian.processes.values().map(|process| (process, is_excused));
            let left = worker.leftovers.values().map(|process| (process, true));
            held.chain(left).map(|(process, is_excused)| (process.launch.run, process.launch.job, is_excused)).collect::<Vec<_>>()
        };
        self.workers.iter().flat_map(processes).collect()
    }
}

fn place(place: Place) -> u64 {
    match place {
        Place::Controller(id) => id,
        Place::Worker(index) => 100 + index as u64,
    }
}

fn kind(packet: &Packet) -> &'static str {
    match packet.message {
        Message::Frame { is_snapshot: false, .. } => "frame",
        Message::Frame { is_snapshot: true, .. } => "snapshot",
        Message::Ask { .. } => "ask",
        Message::Told { .. } => "told",
        Message::Order { .. } => "order",
        Message::Done { .. } => "done",
        Message::PeerAsk { .. } => "peer ask",
        Message::PeerTold { .. } => "peer told",
    }
}
