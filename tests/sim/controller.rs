//! A controller: the real consensus node, engine, feed and recorder, each let go on by hand.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use chrono_flow::consensus::{Applied, Failure, Handle, Limits, NodeConfig, ProposeError, StateMachine, Status, Stepper, Work};
use chrono_flow::engine::api::Engine;
use chrono_flow::engine::clock::Reading;
use chrono_flow::engine::core::Settings;
use chrono_flow::engine::driver::{self, EngineConfig, EngineHandle, Machine, Parts, Request, Shared, Surroundings, Todo, Turns};
use chrono_flow::ledger::{Ledger, Reply};
use chrono_flow::model::{ClusterId, NodeId};
use chrono_flow::shutdown::Shutdown;
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::clocks::NodeClock;
use crate::disk::MemoryDisk;
use crate::links::Links;
use crate::network::{Ask, Message, Packet, PeerAsk, PeerTold, Told};
use crate::outside::Outside;
use crate::random::Random;
use crate::store::Client;
use crate::tasks::Tasks;

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));
pub const SKEW_MS: i64 = 500;
/// What a clock that is believed can be off by: the limit, half the longest round trip of a sample, and what the others are off by.
const AHEAD_MS_MAX: i64 = SKEW_MS + 500 + 100;
/// In histories of a store that stops; else deciding is to go on.
pub const FEW_UNRECORDED: u64 = 60;
const MANY_UNRECORDED: u64 = 2_000;

/// What the state machine of a node was given.
pub enum Seen {
    Applied { index: u64, term: u64, entry: Vec<u8> },
    Restored,
}

/// The ledger's machine, watched.
struct Watched {
    machine: Machine,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StateMachine for Watched {
    type Outcome = Vec<Reply>;

    fn apply(&mut self, index: u64, term: u64, entry: &[u8]) -> Vec<Reply> {
        self.seen.lock().unwrap().push(Seen::Applied { index, term, entry: entry.to_vec() });
        self.machine.apply(index, term, entry)
    }
    fn snapshot(&self) -> Box<dyn FnOnce() -> Vec<u8> + Send> {
        self.machine.snapshot()
    }
    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        self.seen.lock().unwrap().push(Seen::Restored);
        self.machine.restore(index, bytes)
    }
    fn publish(&mut self, status: &Status) {
        self.machine.publish(status);
    }
}

pub struct Controller {
    pub id: NodeId,
    pub disk: MemoryDisk,
    pub clock: NodeClock,
    pub life: Option<Life>,
    pub paused_until_ms: u64,
    pub restarts_at_ms: Option<u64>,
    /// What came while it was paused.
    pub arrivals: VecDeque<Packet>,
    pub config: NodeConfig,
    pub store: Client,
    pub unrecorded_max: u64,
}

pub struct Life {
    stepper: Stepper<Watched, MemoryDisk, Outside>,
    pub node: Handle<Vec<Reply>>,
    pub shared: Arc<Shared>,
    pub engine: EngineHandle,
    turns: Turns,
    inbox: mpsc::Receiver<Request>,
    pub tasks: Tasks,
    pub outside: Outside,
    in_flight: Option<oneshot::Receiver<Landed>>,
    links: Links,
    works: Vec<(u64, Work)>,
    wakes_at_ms: u64,
    /// The loop is held up, as a busy machine does.
    lags_until_ms: u64,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    random: Random,
}

type Landed = Result<Applied<Vec<Reply>>, ProposeError>;

pub fn config(id: NodeId, founders: &[NodeId], snapshot_entries: u64) -> NodeConfig {
    let members: BTreeMap<NodeId, String> = founders.iter().map(|id| (*id, format!("node-{id}:1"))).collect();
    let limits = Limits { snapshot_entries, log_keep_entries: snapshot_entries / 2, snapshot_send_timeout_ms: 10_000, ..Limits::default() };
    NodeConfig { limits, ..NodeConfig::new(id, PathBuf::from("/memory"), CLUSTER, members) }
}

impl Controller {
    pub fn new(id: NodeId, config: NodeConfig, clock: NodeClock, store: Client) -> Controller {
        Controller {
            id,
            disk: MemoryDisk::default(),
            clock,
            life: None,
            paused_until_ms: 0,
            restarts_at_ms: Some(0),
            arrivals: VecDeque::new(),
            config,
            store,
            unrecorded_max: MANY_UNRECORDED,
        }
    }

    pub fn reading(&self, now_ms: u64) -> Reading {
        Reading { wall: self.clock.wall(now_ms), boot_ms: now_ms as i64 }
    }

    /// The `number` of this life differs from all others'.
    pub fn start(&mut self, now_ms: u64, number: u64, mut random: Random) -> Result<(), Failure> {
        self.clock.show(now_ms);
        let (machine, shared) = Machine::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let outside = Outside::default();
        let watched = Watched { machine, seen: seen.clone() };
        let (seed, store) = (random.next(), Uuid::from_u128(u128::from(number)));
        let (stepper, node) = Stepper::open(self.disk.clone(), self.config.clone(), watched, outside.clone(), seed, store, now_ms)?;
        let surroundings = Surroundings {
            store: Arc::new(self.store.clone()),
            consensus: node.clone(),
            shared: shared.clone(),
            spools: Arc::new(outside.clone()),
            peers: Arc::new(outside.clone()),
            clock: self.clock.clock(),
        };
        let engine_config = EngineConfig {
            cluster: CLUSTER,
            settings: Settings { lookahead_ms: 2_000, unrecorded_max: self.unrecorded_max },
            clock_skew_ms: SKEW_MS,
            history_days: 30,
            history_runs: 1_000_000,
        };
        let Parts { handle, turns, inbox, background } = driver::assemble(engine_config, surroundings, Shutdown::default());
        let mut tasks = Tasks::default();
        background.into_iter().for_each(|task| tasks.spawn(task));
        self.life = Some(Life {
            stepper,
            node,
            shared,
            engine: handle,
            turns,
            inbox,
            tasks,
            outside,
            in_flight: None,
            links: Links::new(number),
            works: Vec::new(),
            wakes_at_ms: now_ms,
            lags_until_ms: 0,
            seen,
            random,
        });
        Ok(())
    }

    pub fn stop(&mut self) {
        self.life = None;
        self.arrivals.clear();
    }

    pub fn status(&self) -> Option<&Status> {
        self.life.as_ref().map(|life| life.stepper.core().status())
    }

    pub fn ledger(&self) -> Option<Ledger> {
        self.life.as_ref().map(|life| life.shared.ledger())
    }

    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let life = self.life.as_ref()?;
        let works = life.works.iter().map(|(due_ms, _)| *due_ms).min();
        let due = [Some(life.stepper.next_turn_ms(now_ms)), works, life.links.next_due_ms(), Some(life.wakes_at_ms)];
        due.into_iter().flatten().min().map(|due_ms| due_ms.max(self.paused_until_ms))
    }

    /// Takes in what has arrived.
    pub fn take_in(&mut self) {
        while let Some(packet) = self.arrivals.pop_front() {
            if let Some(life) = &mut self.life {
                life.receive(packet);
            }
        }
    }

    /// Lets everything go on that can.
    pub fn pump(&mut self, now_ms: u64) -> Result<(), Failure> {
        self.clock.show(now_ms);
        let reading = self.reading(now_ms);
        let Some(life) = &mut self.life else { return Ok(()) };
        for round in 0.. {
            assert!(round < 10_000, "controller {} never comes to rest", self.id);
            let has_polled = life.tasks.poll();
            let has_turned = life.step_node(now_ms)?;
            if !life.step_loop(reading) && !has_polled && !has_turned {
                break;
            }
        }
        let ahead_ms = self.clock.ahead_ms(now_ms);
        if life.engine.now().is_ok() && ahead_ms.abs() > AHEAD_MS_MAX {
            panic!("controller {} trusts its clock, which is {ahead_ms} ms ahead (PROTOCOL A3, H2)", self.id);
        }
        Ok(())
    }
}

impl Life {
    fn receive(&mut self, packet: Packet) {
        let Packet { from, message, .. } = packet;
        let (engine, outside) = (self.engine.clone(), self.outside.clone());
        match message {
            Message::Frame { bytes, .. } => drop(self.node.receive(bytes)),
            Message::Ask { call, ask } => self.tasks.spawn(async move {
                let told = match ask {
                    Ask::Open(request) => Told::Opened(engine.open_session(request).await),
                    Ask::Beat(heartbeat) => Told::Granted(engine.heartbeat(heartbeat).await),
                    Ask::Report(report) => Told::Reported(engine.report(report).await),
                    Ask::Close(request) => Told::Closed(engine.close_session(request).await),
                };
                outside.send(from, Message::Told { call, told });
            }),
            Message::PeerAsk { call, ask } => self.tasks.spawn(async move {
                let told = match ask {
                    PeerAsk::Propose(commands) => PeerTold::Proposed(engine.propose_for_peer(&commands).await),
                    PeerAsk::Members(wish) => PeerTold::Members(engine.change_members_for_peer(wish).await),
                    PeerAsk::Pulse => PeerTold::Pulse(engine.pulse()),
                    PeerAsk::Read(_) => PeerTold::Nothing,
                };
                outside.send(from, Message::PeerTold { call, told });
            }),
            Message::PeerTold { call, told } => self.outside.answered(call, told),
            Message::Done { call, session, answer } => self.links.answered(session, call, answer),
            Message::Told { .. } | Message::Order { .. } => {}
        }
    }

    /// What the node's thread would do.
    fn step_node(&mut self, now_ms: u64) -> Result<bool, Failure> {
        for (_, work) in self.works.extract_if(.., |(due_ms, _)| *due_ms <= now_ms).collect::<Vec<_>>() {
            self.stepper.done(work.run());
        }
        self.stepper.take_mail();
        if self.stepper.next_turn_ms(now_ms) > now_ms {
            return Ok(false);
        }
        self.stepper.turn(now_ms)?;
        if let Some(work) = self.stepper.take_work() {
            self.works.push((now_ms + self.random.below(30), work));
        }
        Ok(true)
    }

    /// What the driver's loop would do.
    fn step_loop(&mut self, now: Reading) -> bool {
        let now_ms = now.boot_ms as u64;
        if now_ms < self.lags_until_ms {
            return false;
        }
        let mut has_reason = now_ms >= self.wakes_at_ms;
        if self.shared.changed().now_or_never().is_some() {
            self.change(now);
            has_reason = true;
        }
        let landed = self.in_flight.as_mut().map(|result| result.try_recv());
        if let Some(landed) = landed.filter(|landed| *landed != Err(oneshot::error::TryRecvError::Empty)) {
            self.in_flight = None;
            self.change(now);
            self.turns.landed(landed.unwrap_or(Err(ProposeError::Unknown)), now);
            has_reason = true;
        }
        while self.turns.has_room()
            && let Ok(request) = self.inbox.try_recv()
        {
            self.turns.request(request);
            has_reason = true;
        }
        let (messages, events) = self.links.pump(now_ms, SKEW_MS);
        messages.into_iter().for_each(|(to, message)| self.outside.send(to, message));
        for event in events {
            self.turns.link_event(event);
            has_reason = true;
        }
        if !has_reason {
            return false;
        }
        if self.random.below(1_000) < 5 {
            self.lags_until_ms = now_ms + self.random.below(60);
        }
        let todo = self.turns.turn(now);
        self.act(todo);
        self.wakes_at_ms = now_ms + self.turns.wake_in_ms(now).max(1) as u64;
        true
    }

    fn change(&mut self, now: Reading) {
        self.turns.changed(self.shared.take(), now);
        self.links.follow(self.turns.ledger());
    }

    fn act(&mut self, todo: Todo) {
        if todo.hand_over {
            let node = self.node.clone();
            self.tasks.spawn(async move { drop(node.transfer_leadership(None).await) });
        }
        if let Some(entry) = todo.entry {
            let (reply, result) = oneshot::channel();
            let node = self.node.clone();
            self.tasks.spawn(async move {
                let _ = reply.send(node.propose(entry).await);
            });
            self.in_flight = Some(result);
        }
        if todo.must_relink {
            self.links.clear();
        }
        for batch in todo.orders {
            if let Err(unsent) = self.links.send(batch) {
                self.turns.unsent(&unsent);
            }
        }
    }
}
